//! The default configuration and every fault that can be injected, on a base lane and on the parity lane: no query is lost.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    alone, assert_all_answered,
    daemon::{Daemon, config, kill},
    load::{Load, Reply, argmax, images, send},
};

const LOAD: Duration = Duration::from_millis(1500);
const BASE: usize = 0;
const PARITY: usize = 2;

/// Under load, `fault` is injected into a lane again and again, so that one that fires once fires often.
fn send_while_broken(daemon: &Daemon, lane: usize, fault: &str) -> Vec<Reply> {
    thread::scope(|scope| {
        let replies = scope.spawn(|| send(&daemon.url, Load::new(100, LOAD)));
        while !replies.is_finished() {
            daemon.fault(lane, fault);
            thread::sleep(Duration::from_millis(250));
        }
        replies.join().unwrap()
    })
}

/// Each fault, and the lanes that are sure to be found broken under the load below.
const FAULTS: [(&str, &[usize]); 6] = [
    (r#"{"kind": "panic"}"#, &[BASE, PARITY]),
    (r#"{"kind": "error"}"#, &[BASE, PARITY]),
    (r#"{"kind": "nan"}"#, &[BASE, PARITY]),
    (r#"{"kind": "hang"}"#, &[BASE, PARITY]),
    // There is no second parity lane that the one could be slower than.
    (r#"{"kind": "slow", "factor": 300}"#, &[BASE]),
    // A canary shows it, after a hundred jobs.
    (r#"{"kind": "garbage"}"#, &[]),
];

/// Whether something was found to be wrong with a lane since then.
fn was_found(daemon: &Daemon, lane: usize, since: Instant) -> bool {
    let passed = since.elapsed();
    let events = daemon.json("/admin/events");
    let found = |event: &Value| {
        let is_new = event["seconds_ago"].as_f64().is_some_and(|age| age < passed.as_secs_f64());
        is_new && event["lane"] == lane && ["failed", "hung", "straggler"].contains(&event["to"].as_str().unwrap())
    };
    events.as_array().unwrap().iter().any(found)
}

/// Every query is answered while a lane is broken, nothing that is not finite reaches a client, and every lane works again when it no longer is.
#[test]
fn no_fault_of_a_lane_costs_a_query() {
    let _alone = alone();
    let images = images();
    for lane in [BASE, PARITY] {
        let daemon = Daemon::start(&config("config.toml", &[]));
        for (fault, found_on) in FAULTS {
            let before = Instant::now();
            let replies = send_while_broken(&daemon, lane, fault);
            assert_all_answered(&replies, &format!("{fault} on lane {lane}"));
            assert!(
                !found_on.contains(&lane) || was_found(&daemon, lane, before),
                "{fault} did nothing to lane {lane}"
            );
            assert!(replies.iter().flat_map(|reply| &reply.logits).flatten().all(|value| value.is_finite()), "{fault}");
            let is_right =
                |reply: &&Reply| argmax(&reply.logits[0]) == Some(usize::from(images.labels[reply.images[0]]));
            let right = replies.iter().filter(is_right).count();
            assert!(
                right * 100 >= replies.len() * 75 || fault.contains("garbage"),
                "{fault} on lane {lane}: {right} of {} are right",
                replies.len()
            );
            daemon.clear(lane);
            daemon.wait_healed();
        }
        let after = send(&daemon.url, Load::new(50, Duration::from_millis(200)));
        assert_all_answered(&after, &format!("after all faults of lane {lane}"));
    }
}

/// A process that gets no turn for a while, because it or its machine is stopped, finds its lanes as well as before.
#[test]
fn a_daemon_that_was_stopped_blames_no_lane() {
    let _alone = alone();
    let daemon = Daemon::start(&config("config.toml", &[("threads = 1", "threads = 1\nservice_ms = 40")]));
    let replies = thread::scope(|scope| {
        let replies = scope.spawn(|| send(&daemon.url, Load::new(100, 2 * LOAD)));
        for _ in 0..3 {
            thread::sleep(LOAD / 5);
            assert!(kill("-STOP", daemon.process()), "it is there");
            thread::sleep(LOAD / 3);
            assert!(kill("-CONT", daemon.process()), "it still is");
        }
        replies.join().unwrap()
    });
    assert_all_answered(&replies, "stopped three times");
    let events = daemon.json("/admin/events");
    assert!(events.as_array().unwrap().iter().all(|event| event["to"] != "hung"), "{events}");
    let stopped = daemon.metric("parityd_standstill_seconds_total", "").unwrap_or(0.0);
    assert!(stopped > 1.0, "three times half a second, less what a busy machine may be late: {stopped}");
    assert!(
        daemon.log().iter().any(|line| line.contains("nothing ran for a while")),
        "the log says why clients waited"
    );
}

/// A lane that is slower than its peer is found by its own jobs, gets no more queries, and comes back by itself when it is fast again.
#[test]
fn a_slow_lane_is_found_spared_and_taken_back() {
    let _alone = alone();
    let daemon = Daemon::start(&config("config.toml", &[]));
    daemon.fault(BASE, r#"{"kind": "slow", "factor": 300}"#);
    let replies = thread::scope(|scope| {
        let replies = scope.spawn(|| send(&daemon.url, Load::new(100, 2 * LOAD)));
        daemon.wait_until("lane 0 is found slow", |daemon| daemon.lane_states()[BASE] == "straggler");
        daemon.wait_until("it is probed", |daemon| daemon.metric("parityd_jobs_total", "kind=\"probe\"") > Some(0.0));
        replies.join().unwrap()
    });
    assert_all_answered(&replies, "a slow lane");
    let hedged = daemon.metric("parityd_jobs_total", "kind=\"hedge\"") > Some(0.0);
    assert!(hedged || replies.iter().any(Reply::is_decoded), "its late jobs were run again, unless they were decoded");
    assert_eq!(daemon.lane_states()[BASE], "straggler", "it was slow to the end");
    daemon.clear(BASE);
    daemon.wait_healed();
    // Where the machine is slow, too, a job may have been in flight for so long that the lane was taken to hang first.
    let says_why = |line: &String| ["slow: the last job took", "in flight"].iter().any(|why| line.contains(why));
    assert!(daemon.log().iter().any(says_why), "the log says why");
}

/// Every query has a small model besides, on a lane of its own.
#[test]
fn while_no_base_lane_is_left_the_small_model_answers() {
    let _alone = alone();
    let daemon = Daemon::start(&config("config.toml", &[]));
    // One after the other: a query that is lost on both is taken to be the cause.
    for lane in [BASE, BASE + 1] {
        daemon.fault(lane, r#"{"kind": "fatal"}"#);
        daemon.wait_until("fenced", |daemon| {
            assert_all_answered(&send(&daemon.url, Load::new(50, Duration::from_millis(100))), "it breaks");
            daemon.lane_states()[lane] == "fenced"
        });
    }
    let replies = send(&daemon.url, Load::new(50, Duration::from_secs(1)));
    assert_all_answered(&replies, "both base lanes are fenced");
    assert!(replies.iter().all(Reply::is_decoded), "and labelled as what they are");
    assert_eq!(daemon.status("/v2/health/ready"), Some(503), "balancers find others that answer directly");
}
