//! Every kind of code served by the real daemon, in place of ParM's: a base lane hangs again and again, and clients see what the code
//! calls its answers.

use std::{collections::BTreeMap, path::Path, time::Duration};

use crate::{
    alone, assert_all_answered,
    daemon::{Daemon, config},
    load::{Load, Reply, argmax, images, send},
    parm::send_while_lane_0_hangs,
};

/// Replies while lane 0 hangs half of the time, under `examples/parm.toml` with another code.
fn replies(kind: &str, r: usize) -> Vec<Reply> {
    let (kind_line, r_line) = (format!("kind = {kind:?}"), format!("r = {r}"));
    let edits = [("kind = \"sum\"", kind_line.as_str()), ("r = 1", r_line.as_str())];
    let daemon = Daemon::start(&config("examples/parm.toml", &edits));
    send_while_lane_0_hangs(&daemon, Load::new(100, Duration::from_secs(2)))
}

fn words(replies: &[Reply]) -> BTreeMap<&str, usize> {
    let mut words = BTreeMap::new();
    for word in replies.iter().flat_map(|reply| &reply.provenance) {
        *words.entry(word.as_str()).or_insert(0) += 1;
    }
    words
}

#[test]
fn answers_bear_the_label_of_their_code() {
    let _alone = alone();
    for (kind, r, label) in [("concat", 1, "reconstructed"), ("mux", 1, "reconstructed"), ("compact", 1, "approximate")]
    {
        let replies = replies(kind, r);
        assert_all_answered(&replies, kind);
        let words = words(&replies);
        assert!(words.get(label).is_some_and(|&count| count >= 4), "{kind}: {words:?}");
        assert!(words.keys().all(|word| [label, "direct"].contains(word)), "{kind}: {words:?}");
    }
}

/// Each query has a backup of its own in a small model: nobody waits for a stripe-mate.
#[test]
fn approximate_backups_stand_in_one_by_one() {
    let _alone = alone();
    let edits = [("kind = \"sum\"", "kind = \"compact\""), ("kind = \"coded\"", "kind = \"approximate\"")];
    let daemon = Daemon::start(&config("examples/parm.toml", &edits));
    // So far apart that no two queries would share a stripe.
    let replies = send_while_lane_0_hangs(&daemon, Load::new(20, Duration::from_secs(3)));
    assert_all_answered(&replies, "approximate");
    let words = words(&replies);
    assert!(words.get("approximate").is_some_and(|&count| count >= 4), "{words:?}");
    assert!(words.keys().all(|word| ["approximate", "direct"].contains(word)), "{words:?}");
}

/// Encoder and decoder are networks; the decoder's numbers are part of the weights.
#[test]
fn learned_answers_are_reconstructed() {
    let _alone = alone();
    let weights = |deployment: &str| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights").join(deployment).join("1");
        format!("weights = {:?}", folder.display().to_string())
    };
    let (usual, learned) = (weights("fashion-mnist"), weights("fashion-mnist-mlp-learned-conv"));
    let edits = [("kind = \"sum\"", "kind = \"learned\""), (usual.as_str(), learned.as_str())];
    let daemon = Daemon::start(&config("examples/parm.toml", &edits));
    let replies = send_while_lane_0_hangs(&daemon, Load::new(100, Duration::from_secs(2)));
    assert_all_answered(&replies, "learned");
    let words = words(&replies);
    assert!(words.get("reconstructed").is_some_and(|&count| count >= 4), "{words:?}");
    assert!(words.keys().all(|word| ["reconstructed", "direct"].contains(word)), "{words:?}");
}

/// Copies are the base model's own answers: direct, and welcome to clients that refuse anything else.
#[test]
fn copies_are_direct() {
    let _alone = alone();
    let edits = [("kind = \"sum\"", "kind = \"replica\""), ("r = 1", "r = 2")];
    let daemon = Daemon::start(&config("examples/parm.toml", &edits));
    let load = Load { allow_reconstructed: false, ..Load::new(100, Duration::from_secs(2)) };
    let replies = send_while_lane_0_hangs(&daemon, load);
    assert_all_answered(&replies, "replica");
    assert_eq!(words(&replies).keys().copied().collect::<Vec<_>>(), ["direct"]);
    let copies = daemon.metric("parityd_stripes_total", "reconstructed").unwrap_or(0.0);
    assert!(copies >= 4.0, "{copies} stripes stood in for the lane that hung");
}

/// Interpolated: every query runs as a mixture on all three lanes, so one that hangs costs nothing, and a client that wants direct answers
/// gets runs of its own.
#[test]
fn interpolated_answers_do_not_miss_a_lane() {
    let _alone = alone();
    let edits = [
        ("kind = \"sum\"", "kind = \"berrut\""),
        ("role = \"base\"", "role = \"both\""),
        ("role = \"parity\"", "role = \"both\""),
        ("placement = \"dedicated\"", "placement = \"pooled\""),
    ];
    let daemon = Daemon::start(&config("examples/parm.toml", &edits));
    let replies = send_while_lane_0_hangs(&daemon, Load::new(100, Duration::from_secs(2)));
    assert_all_answered(&replies, "berrut");
    let words = words(&replies);
    assert!(words.get("reconstructed").is_some_and(|&count| count >= 100), "{words:?}");
    let load = Load { allow_reconstructed: false, ..Load::new(50, Duration::from_secs(1)) };
    let replies = send(&daemon.url, load);
    assert_all_answered(&replies, "berrut, direct only");
    assert_eq!(self::words(&replies).keys().copied().collect::<Vec<_>>(), ["direct"]);
}

/// A lane that returns finite, wrong values is found out by the four others, and the answers are hardly worse for it.
#[test]
fn a_lane_that_returns_garbage_is_found_out() {
    let _alone = alone();
    let share_right = |errors: usize| {
        let edits = [
            ("kind = \"sum\"", "kind = \"berrut\""),
            ("r = 1", "r = 3"),
            ("role = \"base\"", "role = \"both\""),
            ("role = \"parity\"", "role = \"both\""),
            ("placement = \"dedicated\"", "placement = \"pooled\""),
        ];
        let two_lanes = "[[lane]]\ndevice = \"cpu\"\nrole = \"both\"\n\n".repeat(2);
        let text = config("examples/parm.toml", &edits).replacen("[[lane]]", &format!("{two_lanes}[[lane]]"), 1);
        let daemon =
            Daemon::start(&text.replace("[deployment.policy]", &format!("errors = {errors}\n[deployment.policy]")));
        daemon.fault(0, r#"{"kind": "garbage"}"#);
        let replies = send(&daemon.url, Load::new(100, Duration::from_secs(3)));
        assert_all_answered(&replies, "garbage");
        let images = images();
        let right = |reply: &&Reply| argmax(&reply.logits[0]) == Some(usize::from(images.labels[reply.images[0]]));
        replies.iter().filter(right).count() as f64 / replies.len() as f64
    };
    let (found_out, trusted) = (share_right(1), share_right(0));
    println!("right: {found_out:.2} with errors = 1, {trusted:.2} with 0");
    assert!(found_out > 0.6 && found_out > trusted + 0.1, "{found_out} with errors = 1, {trusted} with 0");
}
