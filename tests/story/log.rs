//! The log of a daemon whose lane fails all the time: for machines if they ask, and short enough to be kept.

use std::time::Duration;

use serde_json::Value;

use crate::{
    alone,
    daemon::{Daemon, config},
    load::{Load, send},
};

/// Canaries every other millisecond: what months of a dead device would log, in a second.
const IMPATIENT: [(&str, &str); 2] =
    [("canary_first_ms = 100", "canary_first_ms = 1"), ("canary_max_ms = 5000", "canary_max_ms = 2")];

#[test]
fn json_lines_are_json_to_the_last_panic_and_a_fault_that_repeats_is_told_ten_times() {
    let _alone = alone();
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
    assert_eq!(told("listening", ""), 1);
    // Ten at once, and one for each minute that a slow machine may take.
    let moves = told("lane moved", "0");
    assert!((10..15).contains(&moves), "{moves} lines of a lane that moved hundreds of times");
    assert!(told("lane moved", "1") >= 2, "another lane's story is told");
}
