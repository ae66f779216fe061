//! The log of a daemon whose lane fails all the time: for machines if they ask, and short enough to be kept.

use std::time::Duration;

use serde_json::Value;

use crate::{
    assert_all_answered, beside,
    daemon::{Daemon, agent, config},
    load::{Load, send},
};

/// Canaries every other millisecond: what months of a dead device would log, in a second.
const IMPATIENT: [(&str, &str); 2] =
    [("canary_first_ms = 100", "canary_first_ms = 1"), ("canary_max_ms = 5000", "canary_max_ms = 2")];

#[test]
fn json_lines_are_json_to_the_last_panic_and_a_fault_that_repeats_is_told_ten_times() {
    let _beside = beside();
    let daemon = Daemon::start_with(&config("config.toml", &IMPATIENT), &[("PARITYD_LOG_FORMAT", "json")]);
    daemon.fault(1, r#"{"kind": "panic"}"#);
    daemon.fault(0, r#"{"kind": "error"}"#);
    send(&daemon.url, Load::new(100, Duration::from_secs(2)));
    let lines: Vec<Value> = daemon.log().iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    let told = |message: &str, lane: &str| {
        let told = lines.iter().filter(|line| {
            let fields = &line["fields"];
            fields["message"] == message && (lane.is_empty() || fields["lane"] == lane)
        });
        told.count()
    };
    assert_eq!(told("panic", ""), 1, "a panic is a line like the others");
    for line in &lines {
        let at = line["timestamp"].as_str().unwrap_or_default();
        assert!(at.starts_with("20") && at.ends_with('Z') && at.len() > 20, "{line}");
    }
    assert_eq!(told("listening", ""), 1);
    // Ten at once, and one for each minute that a slow machine may take.
    let moves = told("lane moved", "0");
    assert!((10..15).contains(&moves), "{moves} lines of a lane that moved hundreds of times");
    assert!(told("lane moved", "1") >= 2, "another lane's story is told");
}

/// A client that complains of a reply names its id, and the log has it; one that sends nothing but mistakes does not fill the log.
#[test]
fn a_refused_request_is_found_by_its_id_and_many_are_told_ten_times() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let _beside = beside();
    let daemon = Daemon::start_with(&config("config.toml", &[]), &[("PARITYD_LOG_FORMAT", "json")]);
    let agent = agent(Duration::from_secs(5));
    for number in 0..40 {
        let ask =
            agent.get(format!("{}/v2/models/nothing", daemon.url)).header("x-request-id", format!("order-{number}"));
        let reply = ask.header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01")).call().unwrap();
        assert_eq!(reply.headers()["x-request-id"], format!("order-{number}"));
    }
    let told = |lines: &[String]| -> Vec<Value> {
        let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect(line)["fields"].clone());
        lines.filter(|fields| fields["message"] == "a request is refused").collect()
    };
    daemon.wait_until("heard", |daemon| told(&daemon.log()).len() >= 10);
    let lines = told(&daemon.log());
    assert!(lines.len() < 15, "{} lines", lines.len());
    let first = &lines[0];
    assert_eq!((&first["request"], &first["trace"], &first["status"]), (&"order-0".into(), &TRACE.into(), &404.into()));
    assert_eq!((&first["reason"], &first["path"]), (&"unknown_model".into(), &"/v2/models/nothing".into()));
}

/// Whoever reads the log has stalled, and the pipe is full. That costs lines, and no lane: one that panics is back as soon as ever.
#[test]
fn a_lane_that_panics_comes_back_although_nobody_reads_the_log() {
    let _beside = beside();
    let mut daemon = Daemon::start_with(&config("config.toml", &[]), &[("PARITYD_LOG", "info,parityd::wire=debug")]);
    let unread = daemon.stall_log();
    // A line for each, of more than 100 bytes: twice what a pipe and its reader hold.
    assert_all_answered(&send(&daemon.url, Load::new(400, Duration::from_secs(4))), "a log that nobody reads");
    for lane in [0, 1] {
        let lost = format!("lane=\"{lane}\",to=\"failed\"");
        daemon.fault(lane, r#"{"kind": "panic"}"#);
        daemon.wait_until("past a panic", |daemon| {
            send(&daemon.url, Load::new(100, Duration::from_millis(100)));
            daemon.metric("parityd_lane_moves_total", &lost).unwrap_or(0.0) > 0.5
        });
    }
    daemon.wait_healed();
    assert_eq!(daemon.status("/v2/health/ready"), Some(200));
    drop(unread);
    daemon.wait_until("heard again", |daemon| {
        daemon.log().iter().filter(|line| line.contains("ERROR") && line.contains("panic=\"injected panic\"")).count()
            == 2
    });
    assert_eq!(daemon.terminate(), Some(0));
}
