//! `on_fatal = "restart"`: a device needs a new process, and gets one, without a query lost.

use std::{thread, time::Duration};

use crate::{
    alone, assert_all_answered,
    daemon::{Daemon, config},
    load::{Load, send},
};

const FATAL: &str = r#"{"kind": "fatal"}"#;

fn restarting() -> String {
    config("config.toml", &[("fence_ms = 30000", "fence_ms = 300"), ("on_fatal = \"fence\"", "on_fatal = \"restart\"")])
}

fn told(daemon: &Daemon, words: &str) -> bool {
    daemon.log().iter().any(|line| line.contains(words))
}

/// The lane's next job is its last; a few queries see to it that there is one.
fn break_lane(daemon: &Daemon, lane: usize) {
    daemon.fault(lane, FATAL);
    assert_all_answered(&send(&daemon.url, Load::new(100, Duration::from_millis(200))), "a lane that breaks");
}

/// 200 queries a second on connections that are kept, a fatal error, and a second one in the process that took over.
#[test]
fn another_process_takes_over_and_no_query_fails() {
    let _alone = alone();
    let mut daemon = Daemon::start(&restarting());
    let first = daemon.process();
    let load = Load::new(200, Duration::from_secs(5));
    let (replies, exit) = thread::scope(|scope| {
        let url = daemon.url.clone();
        let replies = scope.spawn(move || send(&url, load));
        thread::sleep(Duration::from_secs(1));
        daemon.fault(0, FATAL);
        let exit = daemon.succeeded();
        (replies.join().unwrap(), exit)
    });
    assert_eq!(exit, Some(0), "the process before ended as one that was stopped");
    assert_all_answered(&replies, "a process that was succeeded");
    assert_ne!(daemon.process(), first);
    println!("TABLE | fatal error, on_fatal = \"restart\" | another process | - | {} | 0 | - |", replies.len());
    // The device is well in the new process.
    daemon.wait_healthy();
    assert_eq!(daemon.status("/v2/health/ready"), Some(200));
    // It can be succeeded, too, and stopped like any daemon.
    let second = daemon.process();
    break_lane(&daemon, 1);
    daemon.wait_until("taken over again", |daemon| {
        daemon.log().iter().filter(|line| line.contains("another process has taken over")).count() == 2
    });
    daemon.follow();
    assert_ne!(daemon.process(), second);
    daemon.wait_healthy();
    let replies = send(&daemon.url, Load::new(100, Duration::from_secs(1)));
    assert_all_answered(&replies, "the third process");
    daemon.signal();
    daemon.wait_until("gone", |daemon| daemon.status("/v2/health/live").is_none());
}

/// A successor that cannot start costs a line in the log; the lanes that are left serve on, and the next one may start.
#[test]
fn a_successor_that_fails_changes_nothing() {
    let _alone = alone();
    let mut daemon = Daemon::start(&restarting());
    daemon.configure("nonsense");
    break_lane(&daemon, 0);
    daemon.wait_until("told of it", |daemon| told(daemon, "no other process took over"));
    assert_eq!(daemon.status("/v2/health/ready"), Some(200));
    let replies = send(&daemon.url, Load::new(100, Duration::from_secs(1)));
    assert_all_answered(&replies, "a daemon whose successor failed");
    daemon.configure(&restarting());
    assert_eq!(daemon.succeeded(), Some(0));
    daemon.wait_healthy();
}
