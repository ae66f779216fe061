//! `on_fatal = "restart"`: a device needs a new process, and gets one, without a query lost.

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    assert_all_answered, beside,
    daemon::{Daemon, config},
    load::{Load, send},
};

const FATAL: &str = r#"{"kind": "fatal"}"#;
const STUCK: &str = r#"{"kind": "stuck"}"#;

fn restarting() -> String {
    config("config.toml", &[("fence_ms = 30000", "fence_ms = 300"), ("on_fatal = \"fence\"", "on_fatal = \"restart\"")])
}

/// As under systemd; nobody listens.
fn start() -> Daemon {
    Daemon::start_with(&restarting(), &[("NOTIFY_SOCKET", "/nowhere/notify")])
}

fn told(daemon: &Daemon, words: &str) -> bool {
    daemon.log().iter().any(|line| line.contains(words))
}

/// The lane's next job is its last; a few queries see to it that there is one.
fn break_lane(daemon: &Daemon, lane: usize) {
    daemon.fault(lane, FATAL);
    assert_all_answered(&send(&daemon.url, Load::new(100, Duration::from_millis(500))), "a lane that breaks");
}

/// 200 queries a second on connections that are kept, a fatal error, and a second one in the process that took over.
#[test]
fn another_process_takes_over_and_no_query_fails() {
    let _beside = beside();
    let mut daemon = start();
    let first = daemon.process();
    let load = Load::new(200, Duration::from_secs(5));
    let (replies, exit, taken_over) = thread::scope(|scope| {
        let url = daemon.url.clone();
        let replies = scope.spawn(move || send(&url, load));
        thread::sleep(Duration::from_secs(1));
        daemon.fault(0, FATAL);
        let broken = Instant::now();
        daemon.wait_until("taken over", |daemon| told(daemon, "another process has taken over"));
        let taken_over = broken.elapsed();
        let exit = daemon.succeeded();
        (replies.join().unwrap(), exit, taken_over)
    });
    assert_eq!(exit, Some(0), "the process before ended as one that was stopped");
    assert_all_answered(&replies, "a process that was succeeded");
    assert_ne!(daemon.process(), first);
    let (ms, decoded) = (taken_over.as_millis(), replies.iter().filter(|reply| reply.is_decoded()).count());
    println!(
        "TABLE | fatal error, on_fatal = \"restart\" | another process has the port | {ms} | {} | 0 | {decoded} |",
        replies.len()
    );
    // The device is well in the new process.
    daemon.wait_healed();
    assert_eq!(daemon.status("/v2/health/ready"), Some(200));
    // It can be succeeded, too, and stopped like any daemon.
    let second = daemon.process();
    break_lane(&daemon, 1);
    daemon.wait_until("taken over again", |daemon| {
        daemon.log().iter().filter(|line| line.contains("another process has taken over")).count() == 2
    });
    daemon.follow();
    assert_ne!(daemon.process(), second);
    daemon.wait_healed();
    let replies = send(&daemon.url, Load::new(100, Duration::from_secs(1)));
    assert_all_answered(&replies, "the third process");
    daemon.signal();
    daemon.wait_until("gone", |daemon| daemon.status("/v2/health/live").is_none());
}

const TOO_MANY: &str = "too many of the lane's threads are stuck";

fn count(daemon: &Daemon, words: &str) -> usize {
    daemon.log().iter().filter(|line| line.contains(words)).count()
}

/// Four jobs of lane 0 never come back: three threads are left, and none is tried in place of the fourth.
fn swallow_four(daemon: &Daemon) {
    let under_load = |what: &str, holds: &dyn Fn() -> bool| {
        daemon.wait_until(what, |daemon| {
            send(&daemon.url, Load::new(100, Duration::from_millis(100)));
            holds()
        });
    };
    for left in 1..=3 {
        daemon.fault(0, STUCK);
        under_load("on another thread", &|| count(daemon, "another thread runs the lane") >= left);
        under_load("working again", &|| ["healthy", "straggler"].contains(&daemon.lane_states()[0].as_str()));
    }
    daemon.fault(0, STUCK);
    under_load("out of threads", &|| count(daemon, TOO_MANY) > 0);
}

/// A device that swallows jobs may be well for another process: it is only this one's threads that are stuck in it.
#[test]
fn a_lane_that_has_no_thread_left_needs_another_process() {
    let _beside = beside();
    // A device takes its time to open, and a thread that takes longer than this for it counts as stuck, too.
    let config = restarting().replace("fence_ms = 300", "fence_ms = 1500");
    let mut daemon = Daemon::start_with(&config, &[("NOTIFY_SOCKET", "/nowhere/notify")]);
    let first = daemon.process();
    swallow_four(&daemon);
    assert_eq!(daemon.succeeded(), Some(0));
    assert_ne!(daemon.process(), first);
    daemon.wait_healed();
    assert_all_answered(&send(&daemon.url, Load::new(100, Duration::from_secs(1))), "no thread is stuck any more");
}

/// Nobody may come for weeks; each wait of the fence would bring one more line.
#[test]
fn a_lane_that_has_no_thread_left_is_fenced_and_is_told_ten_times() {
    let _beside = beside();
    let daemon = Daemon::start(&config("config.toml", &[("fence_ms = 30000", "fence_ms = 100")]));
    swallow_four(&daemon);
    daemon.wait_until("fenced", |daemon| daemon.lane_states()[0] == "fenced");
    // A device that takes longer to open than `fence_ms` has some of the lines.
    let count = |daemon: &Daemon| count(daemon, TOO_MANY) + count(daemon, "so is the one that is to open its device");
    daemon.wait_until("tired of saying so", |daemon| count(daemon) >= 8);
    thread::sleep(Duration::from_secs(6));
    let lines = count(&daemon);
    assert!((8..=11).contains(&lines), "{lines} lines");
    assert_eq!(daemon.status("/v2/health/ready"), Some(200));
}

/// While some lane serves on, a succession may wait for `fence_ms` after the last start; where none does, it does not.
#[test]
fn where_no_lane_is_left_a_successor_starts_at_once() {
    let _beside = beside();
    let mut daemon = Daemon::start_with(
        &config(
            "config.toml",
            &[("fence_ms = 30000", "fence_ms = 600000"), ("on_fatal = \"fence\"", "on_fatal = \"restart\"")],
        ),
        &[("NOTIFY_SOCKET", "/nowhere/notify")],
    );
    for lane in [0, 1] {
        daemon.fault(lane, FATAL);
    }
    // Whatever becomes of these.
    send(&daemon.url, Load::new(100, Duration::from_millis(500)));
    assert_eq!(daemon.succeeded(), Some(0));
    daemon.wait_healed();
    assert_all_answered(&send(&daemon.url, Load::new(100, Duration::from_secs(1))), "all devices are back");
}

/// A successor that cannot start costs a line in the log; the lanes that are left serve on, and the next one may start.
#[test]
fn a_successor_that_fails_changes_nothing() {
    let _beside = beside();
    let mut daemon = start();
    daemon.configure("nonsense");
    break_lane(&daemon, 0);
    daemon.wait_until("told of it", |daemon| told(daemon, "no other process took over"));
    assert_eq!(daemon.status("/v2/health/ready"), Some(200));
    let replies = send(&daemon.url, Load::new(100, Duration::from_secs(1)));
    assert_all_answered(&replies, "a daemon whose successor failed");
    // It takes the port over as it is, whatever its configuration says by now.
    daemon.configure(&restarting().replacen("listen = \"127.0.0.1:0\"", "listen = \"127.0.0.1:9\"", 1));
    assert_eq!(daemon.succeeded(), Some(0));
    daemon.wait_healed();
    assert!(told(&daemon, "the port stays that of the process before until a restart"));
}

/// Where nobody could be told of another process, a daemon that ends is taken for one that failed.
#[test]
fn without_a_supervisor_that_understands_a_broken_device_is_fenced() {
    let _beside = beside();
    // A variable that is set to nothing is not set.
    let daemon = Daemon::start_with(&restarting(), &[("NOTIFY_SOCKET", "")]);
    assert!(told(&daemon, "no successor can start"));
    break_lane(&daemon, 0);
    daemon.wait_until("fenced", |daemon| daemon.lane_states()[0] == "fenced");
    thread::sleep(Duration::from_secs(1));
    assert!(!told(&daemon, "a successor starts"));
    assert_eq!(daemon.status("/v2/health/ready"), Some(200));
}

/// A stop ends whoever is about to take over, too. The successor waits for a configuration that comes from a pipe, and meanwhile its predecessor ends.
#[test]
fn a_stop_during_a_succession_ends_both() {
    let _beside = beside();
    let mut daemon = start();
    let folder = daemon.folder();
    let processes = || {
        let list = Command::new("pgrep").args(["-f", &folder]).output().unwrap();
        String::from_utf8_lossy(&list.stdout).lines().count()
    };
    assert_eq!(processes(), 1);
    let pipe = format!("{folder}/config.toml");
    fs::remove_file(&pipe).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    break_lane(&daemon, 0);
    daemon.wait_until("about to be succeeded", |daemon| told(daemon, "a successor starts"));
    assert_eq!(daemon.terminate(), Some(0));
    // Waits for a reader, for ever if that was ended before it read.
    thread::spawn(move || drop(fs::write(pipe, restarting())));
    daemon.wait_until("gone", |_| processes() == 0);
}
