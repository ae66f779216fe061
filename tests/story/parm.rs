//! The paper's baseline, `examples/parm.toml`: one base lane hangs again and again, and the parity lane stands in for it.

use std::{collections::BTreeMap, thread, time::Duration};

use crate::{
    alone, assert_all_answered,
    daemon::{Daemon, config},
    load::{Load, Reply, argmax, ask_direct, send},
    statuses,
};

const HANG: &str = r#"{"kind": "hang"}"#;
const LOAD: Duration = Duration::from_secs(5);

/// Sends `load` while lane 0 hangs for 100 ms and works for 100 ms in turn.
pub(crate) fn send_while_lane_0_hangs(daemon: &Daemon, load: Load) -> Vec<Reply> {
    thread::scope(|scope| {
        let replies = scope.spawn(|| send(&daemon.url, load));
        while !replies.is_finished() {
            daemon.fault(0, HANG);
            thread::sleep(Duration::from_millis(100));
            daemon.clear(0);
            thread::sleep(Duration::from_millis(100));
        }
        replies.join().unwrap()
    })
}

/// Largest difference between two rows of outputs.
fn distance(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

/// How many reconstructions are of the class that the same image gets when nothing is broken. Each must differ from what it gets then.
pub(crate) fn compare_with_direct(daemon: &Daemon, reconstructed: &[&Reply]) -> usize {
    let asked: Vec<usize> = reconstructed.iter().map(|reply| reply.images[0]).collect();
    let same_class = |(reply, later): (&&Reply, &Reply)| {
        assert_eq!(later.provenance, ["direct"]);
        let (reply, later) = (&reply.logits[0], &later.logits[0]);
        assert!(distance(reply, later) > 1e-6, "a reconstruction is an approximation: {reply:?}");
        argmax(reply) == argmax(later)
    };
    reconstructed.iter().zip(&ask_direct(daemon, &asked)).filter(|pair| same_class((pair.0, pair.1))).count()
}

#[test]
fn a_lane_that_hangs_again_and_again_costs_no_query() {
    let _alone = alone();
    let daemon = Daemon::start(&config("examples/parm.toml", &[]));
    let replies = send_while_lane_0_hangs(&daemon, Load::new(100, LOAD));
    assert_all_answered(&replies, "while lane 0 hangs");
    let reconstructed: Vec<&Reply> = replies.iter().filter(|reply| reply.is_decoded()).collect();
    assert!(reconstructed.len() >= 2 * LOAD.as_secs() as usize, "only {} were reconstructed", reconstructed.len());

    let agree = compare_with_direct(&daemon, &reconstructed);
    println!("{} of {} reconstructed, {agree} agree with direct", reconstructed.len(), replies.len());
    assert!(agree * 100 >= reconstructed.len() * 70, "{agree} of {} agree", reconstructed.len());
}

#[test]
fn a_client_may_refuse_reconstructions() {
    let _alone = alone();
    let daemon = Daemon::start(&config("examples/parm.toml", &[]));
    let load = Load { allow_reconstructed: false, ..Load::new(100, LOAD / 2) };
    let replies = send_while_lane_0_hangs(&daemon, load);
    assert!(replies.iter().all(|reply| reply.provenance.iter().all(|word| word == "direct")), "nothing but direct");
    let others: Vec<_> = replies.iter().filter(|reply| !matches!(reply.status, 200 | 504)).collect();
    assert!(others.is_empty(), "what is not answered in time is a 504: {others:?}");
    let answered = replies.iter().filter(|reply| reply.status == 200).count();
    assert!(
        2 * answered > replies.len(),
        "lane 1 works all the time, lane 0 half of it: {answered} of {}",
        replies.len()
    );
    assert!(replies.iter().filter(|reply| reply.status == 504).all(|reply| reply.reason == "deadline"));
}

#[test]
fn rows_of_one_request_keep_their_order_and_their_own_label() {
    let _alone = alone();
    let daemon = Daemon::start(&config("examples/parm.toml", &[]));
    let load = Load { rows: 2, ..Load::new(40, Duration::from_secs(3)) };
    let replies = send_while_lane_0_hangs(&daemon, load);
    assert_all_answered(&replies, "two rows a request");
    assert!(replies.iter().all(|reply| reply.provenance.len() == 2 && reply.logits.len() == 2));
    let mixed: Vec<&Reply> =
        replies.iter().filter(|reply| reply.is_decoded() && reply.provenance.contains(&"direct".to_owned())).collect();
    assert!(!mixed.is_empty(), "no request had one row lost and one not");
    for reply in mixed {
        let later = ask_direct(&daemon, &reply.images);
        for (row, word) in reply.provenance.iter().enumerate() {
            let far = distance(&reply.logits[row], &later[row].logits[0]);
            assert_eq!(word == "direct", far < 1e-4, "row {row} is {word} and {far} from its direct output");
        }
    }
}

/// Redundancy that is dead is only missed, not waited for.
#[test]
fn a_dead_parity_lane_costs_nothing() {
    let _alone = alone();
    let daemon = Daemon::start(&config("examples/parm.toml", &[]));
    daemon.fault(2, HANG);
    let replies = send(&daemon.url, Load::new(100, Duration::from_secs(2)));
    assert_all_answered(&replies, "without parity");
    assert!(replies.iter().all(|reply| reply.provenance == ["direct"]));
    let slow = replies.iter().filter(|reply| reply.latency > Duration::from_millis(250)).count();
    assert!(slow * 20 <= replies.len(), "{slow} of {} waited", replies.len());
    daemon.clear(2);
}

/// With every base lane gone nothing can be decoded: an answer by the deadline all the same, and it says why.
#[test]
fn the_deadline_holds_when_nothing_answers() {
    let _alone = alone();
    let edits = [("batch_max = 1", "batch_max = 1\ndeadline_ms = 300")];
    let daemon = Daemon::start(&config("examples/parm.toml", &edits));
    daemon.fault(0, HANG);
    daemon.fault(1, HANG);
    let replies = send(&daemon.url, Load::new(20, Duration::from_secs(1)));
    assert_eq!(statuses(&replies), BTreeMap::from([(504, replies.len())]));
    for reply in &replies {
        assert_eq!(reply.reason, "deadline");
        let told = reply.latency;
        assert!(told >= Duration::from_millis(290) && told < Duration::from_secs(1), "{told:?}");
    }
    daemon.clear(0);
    daemon.clear(1);
    let after = ask_direct(&daemon, &[1, 2, 3]);
    assert_all_answered(&after, "the lanes are back");
}
