//! The contract of the JSON, what is marked, and what voids a run.

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::bench::{
    tally::{Outcome, Tally, tests as tallies},
    wire::Silence,
};

fn options() -> HttpOptions {
    HttpOptions {
        url: "http://127.0.0.1:8000".parse().unwrap(),
        model: "fashion-mnist".to_owned(),
        load: tallies::load(1),
        data: None,
        faults: vec!["1:0:slow:3".parse().unwrap()],
        command: "parityd bench http".to_owned(),
    }
}

fn report(tally: &Tally) -> Report {
    let options = options();
    let server = ("parityd".to_owned(), "0.1.0".to_owned());
    let version = Some("1".to_owned());
    let faults = &options.faults;
    let (watch, jobs) = (Watch::start(), Some(150));
    Report::new(tally, Context { options: &options, faults, version, server, watch, is_labelled: true, jobs })
}

/// 99 answers after `millis` and one 200 too late; `late` by so many microseconds.
fn tally(millis: u64, late: u64) -> Tally {
    let (mut tally, source) = (Tally::new(&tallies::load(1)), tallies::images());
    let right = source.label(0).unwrap();
    for request in 0..100 {
        let word = if request < 90 { "direct" } else { "reconstructed" };
        let millis = if request == 99 { 2001 } else { millis };
        let class = if request < 95 { right } else { (right + 1) % 10 };
        let outcome = tallies::outcome(request * 10, millis, Ok(tallies::reply(&[class], Some(word))));
        tally.add(&Outcome { lateness: Duration::from_micros(late), ..outcome }, &[0], &source);
    }
    tally
}

fn names(value: &serde_json::Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn json_has_the_fixed_names() {
    let json: serde_json::Value = serde_json::from_str(&report(&tally(4, 100)).json()).unwrap();
    let holds = |value: &serde_json::Value, fixed: &[&str]| {
        let names = names(value);
        for name in fixed {
            assert!(names.contains(*name), "{name} is missing");
        }
    };
    holds(&json, &["sent", "answered", "unanswered", "status", "provenance", "accuracy", "accuracy_reconstructed"]);
    holds(&json, &["jobs_per_query", "latency_ms", "env", "windows", "void", "percentiles_with_few_samples"]);
    holds(&json["latency_ms"], &["p50", "p90", "p99", "p999", "p9999", "max"]);
    let env = ["version", "commit", "command", "seed", "cpu", "governor", "kernel", "features", "gpu", "doctor"];
    assert_eq!(names(&json["env"]), env.map(str::to_owned).into(), "null where it is not known, never left out");
}

#[test]
fn what_is_written_is_read_back() {
    let report = report(&tally(4, 100));
    assert_eq!(serde_json::from_str::<Report>(&report.json()).unwrap(), report);
}

#[test]
fn shares_are_those_of_answered_rows() {
    let report = report(&tally(4, 100));
    assert_eq!((report.sent, report.answered, report.unanswered), (100, 99, 1));
    assert_eq!(report.status, [("200".to_owned(), 100)].into());
    let near = |value: Option<f64>, expected: f64| (value.unwrap() - expected).abs() < 1e-9;
    assert!(near(report.accuracy, 95.0 / 99.0) && near(report.accuracy_reconstructed, 5.0 / 9.0));
    assert!(near(report.jobs_per_query, 150.0 / 99.0));
    assert!((report.latency_ms.p90 - 4.0).abs() < 0.01 && report.latency_ms.max >= 2001.0);
}

#[test]
fn percentiles_with_fewer_than_ten_beyond_are_named() {
    assert_eq!(few_samples(19), ["p50", "p90", "p99", "p999", "p9999"]);
    assert_eq!(few_samples(999), ["p99", "p999", "p9999"]);
    assert_eq!(few_samples(1000), ["p999", "p9999"]);
    assert_eq!(few_samples(100_000), [""; 0]);
    let table = report(&tally(4, 100)).table();
    assert!(table.contains(" 4.00") && table.contains("~2001"), "{table}");
}

#[test]
fn percentiles_that_the_client_made_are_named() {
    let mut late = tally(4, 100);
    // One request in fifty left late by half of its latency.
    for at in 0..2 {
        let outcome = tallies::outcome(at, 2100, Err(Silence::TooLate));
        late.add(&Outcome { lateness: Duration::from_secs(1), ..outcome }, &[0], &tallies::images());
    }
    assert_eq!(report(&late).percentiles_with_late_client, ["p99", "p999", "p9999"]);
    assert_eq!(report(&tally(4, 100)).percentiles_with_late_client, [""; 0]);
}

#[test]
fn a_late_client_voids_the_run() {
    assert!(!report(&tally(4, 900)).void);
    let reason = |tally: &Tally| report(tally).void_reason.unwrap();
    assert!(reason(&tally(4, 1_100)).contains("quarter"), "a quarter of what is told is the client's");
    assert!(reason(&tally(400, 6_000)).contains("core of its own"), "the schedule was not kept");
    let mut without = tally(4, 100);
    let error = std::io::Error::from_raw_os_error(24);
    without.add(&tallies::outcome(0, 1, Err(Silence::Connect(error))), &[0], &tallies::images());
    assert!(reason(&without).contains("ulimit"));
    assert!(report(&without).table().starts_with("VOID: "));
}
