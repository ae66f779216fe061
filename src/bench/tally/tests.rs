//! Counts against outcomes made by hand.

use std::path::Path;

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::json;

use super::*;
use crate::bench::{Arrivals, target::Target};

pub(in crate::bench) fn load(rows: u32) -> Load {
    let deadline = Duration::from_secs(2);
    Load { rate: 100.0, seconds: 2.0, seed: 1, arrivals: Arrivals::Poisson, rows, deadline, allow_reconstructed: true }
}

pub(in crate::bench) fn images() -> Source {
    let (path, input) = (String::new(), String::new());
    let target = Target { path, input, row: vec![1, 28, 28], classes: Some(10), version: None };
    Source::open(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")), "m", &target, 1).unwrap()
}

/// A reply that says class `classes[i]` of row i.
pub(in crate::bench) fn reply(classes: &[u8], provenance: Option<&str>) -> Reply {
    let one = |class: &u8| (0..10).map(|place| f64::from(u8::from(place == *class))).collect::<Vec<_>>();
    let data: Vec<f64> = classes.iter().flat_map(one).collect();
    let mut body = json!({"model_name": "m", "outputs": [{"name": "logits", "data": data}]});
    if let Some(words) = provenance {
        body["parameters"] = json!({"provenance": words});
    }
    Reply { status: StatusCode::OK, body: Bytes::from(body.to_string()) }
}

pub(in crate::bench) fn outcome(at: u64, millis: u64, received: Result<Reply, Silence>) -> Outcome {
    let (at, latency) = (Duration::from_millis(at), Duration::from_millis(millis));
    Outcome { at, lateness: Duration::from_micros(100), latency, received }
}

fn failed(status: StatusCode) -> Reply {
    Reply { status, body: Bytes::from_static(b"{\"error\": \"full\"}") }
}

#[test]
fn failures_count_as_the_deadline_at_least() {
    let (mut tally, source) = (Tally::new(&load(1)), images());
    let right = |row| source.label(row).unwrap();
    for request in 0..6 {
        tally.add(&outcome(request * 100, 4, Ok(reply(&[right(0)], Some("direct")))), &[0], &source);
    }
    // At once refused, silent for longer, late, and a 200 that says nothing.
    tally.add(&outcome(1100, 1, Ok(failed(StatusCode::TOO_MANY_REQUESTS))), &[0], &source);
    tally.add(&outcome(1200, 2500, Err(Silence::TooLate)), &[0], &source);
    tally.add(&outcome(1300, 2100, Ok(reply(&[right(0)], Some("direct")))), &[0], &source);
    tally.add(&outcome(1400, 3, Ok(Reply { status: StatusCode::OK, body: Bytes::from_static(b"{}") })), &[0], &source);

    assert_eq!((tally.sent(), tally.answered), (10, 6));
    let counts = [("200", 7), ("429", 1), ("none", 1), ("unreadable", 1)];
    assert_eq!(tally.statuses, counts.map(|(word, count)| (word.to_owned(), count)).into());
    let millis = |share| tally.latencies.value_at_quantile(share).div_ceil(1000);
    assert_eq!(tally.latencies.value_at_quantile(0.6) / 1000, 4);
    assert!(millis(0.7) >= 2000 && millis(0.8) >= 2000 && millis(1.0) >= 2500, "the failed four are at the top");

    let windows = tally.windows();
    assert_eq!(windows.iter().map(|window| (window.sent, window.answered)).collect::<Vec<_>>(), [(6, 6), (4, 0)]);
    let counted = |window: &Window| window.latency_us.iter().map(|(_, count)| count).sum::<u64>();
    assert_eq!(windows.iter().map(counted).collect::<Vec<_>>(), [6, 4]);
}

#[test]
fn rows_are_counted_by_provenance_and_label() {
    let (mut tally, source) = (Tally::new(&load(2)), images());
    let label = |row| source.label(row).unwrap();
    let classes = [label(3), (label(4) + 1) % 10];
    tally.add(&outcome(0, 1, Ok(reply(&classes, Some("direct,reconstructed")))), &[3, 4], &source);
    tally.add(&outcome(0, 1, Ok(reply(&classes, None))), &[3, 4], &source);
    tally.add(&outcome(0, 1, Ok(reply(&classes, Some("direct")))), &[3, 4], &source);
    let rows = |count, right| Rows { count, right };
    let expected = [("direct", rows(1, 1)), ("reconstructed", rows(1, 0)), (UNLABELLED, rows(4, 2))];
    assert_eq!(tally.provenance, expected.map(|(word, rows)| (word.to_owned(), rows)).into());
    assert_eq!((tally.windows()[0].rows, tally.windows()[0].right), (6, 3));
}

#[test]
fn nested_outputs_and_nulls_are_read() {
    let body = br#"{"outputs": [{"data": [[0.1, null, 0.7], [1e9, 2, 3]]}]}"#;
    let answer = Answer::read(body, 2).unwrap();
    assert_eq!(answer.classes, [Some(2), Some(0)]);
    for broken in [
        &b""[..],
        b"{}",
        br#"{"outputs": []}"#,
        br#"{"outputs": [{"data": []}]}"#,
        br#"{"outputs": [{"data": [1, 2, 3]}]}"#,
    ] {
        assert!(Answer::read(broken, 2).is_none());
    }
}

#[test]
fn a_row_speaks_for_the_first_of_its_largest_numbers() {
    let nothing = f64::NEG_INFINITY;
    for (row, class) in [
        (&[1.0, 3.0, 3.0][..], Some(1)),
        (&[nothing, -7.0, -7.0], Some(1)),
        (&[f64::NAN, 0.5], Some(1)),
        (&[nothing, nothing], None),
    ] {
        assert_eq!(largest(row.iter().copied()), class, "{row:?}");
    }
}
