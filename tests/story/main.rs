//! Stories: the real daemon, real weights, real threads, faults injected from outside, and what clients see of them.
//!
//! Each story starts its own daemon on a free port. Those that count what is late run one at a time, because the machine may have two cores; those of
//! states, which mostly wait, by twos. Bounds are wide enough for a busy machine. What is promised here is in README.md: every query is answered, and labelled.

#![expect(clippy::unwrap_used, reason = "a harness ends the test when the unexpected happens")]
#![expect(clippy::print_stdout, reason = "what is measured and logged shows when a story fails")]
#![expect(clippy::disallowed_methods, reason = "a client outside the daemon has its own clock")]
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts, and f32 told as f64")]

mod codes;
mod control;
mod cuda;
mod daemon;
mod devices;
mod drain;
mod faults;
mod gate;
mod limits;
mod load;
mod log;
mod parm;
mod pictures;
mod restart;
#[cfg(target_os = "linux")]
mod systemd;
mod table;

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use daemon::{Daemon, config};
use load::{Load, Reply, argmax, images, send};

/// The halves of the machine that are free. Not more, however many threads the tests have: each story's client has hundreds of sockets.
static HALVES: Mutex<usize> = Mutex::new(2);
static GIVEN_BACK: Condvar = Condvar::new();

/// So many halves, given back when the story ends, whatever its end.
struct Share(usize);

impl Share {
    fn take(halves: usize) -> Self {
        let free = HALVES.lock().unwrap_or_else(PoisonError::into_inner);
        let enough = GIVEN_BACK.wait_while(free, |free| *free < halves);
        *enough.unwrap_or_else(PoisonError::into_inner) -= halves;
        Share(halves)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *HALVES.lock().unwrap_or_else(PoisonError::into_inner) += self.0;
        GIVEN_BACK.notify_all();
    }
}

/// Held while a story runs that minds others.
fn alone() -> Share {
    Share::take(2)
}

/// Held while a story runs that minds no other of its kind.
fn beside() -> Share {
    Share::take(1)
}

/// How many replies had each status; 0 is no reply at all.
fn statuses(replies: &[Reply]) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for reply in replies {
        *counts.entry(reply.status).or_insert(0) += 1;
    }
    counts
}

/// Every request got a 200.
#[track_caller]
fn assert_all_answered(replies: &[Reply], what: &str) {
    let failed = replies.iter().find(|reply| reply.status != 200);
    let failed = failed.map(|reply| (reply.sent_at, reply.latency, reply.status, &reply.reason));
    let counts = statuses(replies);
    assert_eq!(counts, BTreeMap::from([(200, replies.len())]), "{what}; the first to fail is {failed:?}");
}

#[test]
fn healthy_lanes_answer_directly_and_well() {
    let _alone = alone();
    let mut daemon = Daemon::start(&config("config.toml", &[]));
    let replies = send(&daemon.url, Load::new(100, Duration::from_secs(3)));
    assert_all_answered(&replies, "nothing is broken");
    let direct = replies.iter().filter(|reply| reply.provenance == ["direct"]).count();
    assert!(direct * 100 >= replies.len() * 90, "{direct} of {} are direct", replies.len());
    let images = images();
    let right = replies
        .iter()
        .filter(|reply| argmax(&reply.logits[0]) == Some(usize::from(images.labels[reply.images[0]])))
        .count();
    assert!(right * 100 >= replies.len() * 84, "{right} of {} are right", replies.len());
    let counted = daemon.metric("parityd_queries_total", "").unwrap_or(0.0);
    assert!((counted - replies.len() as f64).abs() < 0.5, "{counted} queries were counted");
    let parity = daemon.metric("parityd_jobs_total", "parity").unwrap_or(0.0);
    assert!(parity > 0.0, "redundancy was there, had it been needed");
    assert_eq!(daemon.terminate(), Some(0), "SIGTERM ends it in order");
}
