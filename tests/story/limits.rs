//! Overload: what is too much is refused at once, what was admitted is answered, and memory stays where it was.

use std::time::Duration;

use crate::{
    alone,
    daemon::{Daemon, config},
    load::{Load, send},
    statuses,
};

#[test]
fn overload_is_refused_at_once_and_loses_nothing() {
    let _alone = alone();
    let edits = [("queue_max = 1024", "queue_max = 32"), ("batch_max = 8", "batch_max = 1")];
    let daemon = Daemon::start(&config("config.toml", &edits));
    // Hung rather than slow: how much is too much then does not depend on this machine's speed.
    for lane in 0..3 {
        daemon.fault(lane, r#"{"kind": "hang"}"#);
    }
    let load = Load::new(200, Duration::from_secs(2));
    let warm = send(&daemon.url, load);
    let before = daemon.memory_kib();
    let replies = send(&daemon.url, Load { seed: 2, ..load });
    let grown = daemon.memory_kib().saturating_sub(before);
    for replies in [&warm, &replies] {
        let counts = statuses(replies);
        assert!(counts.keys().all(|status| [200, 429, 504].contains(status)), "{counts:?}");
        assert!(counts.get(&429).is_some_and(|&refused| refused > replies.len() / 2), "{counts:?}");
    }
    for refused in replies.iter().filter(|reply| reply.status == 429) {
        assert!(refused.retry_after, "a 429 says when to come back");
        assert_eq!(refused.reason, "full");
    }
    let mut waits: Vec<_> = replies.iter().filter(|reply| reply.status == 429).map(|reply| reply.latency).collect();
    waits.sort_unstable();
    // Not when their deadline comes, after two seconds.
    assert!(waits[waits.len() / 2] < Duration::from_secs(1), "refusals took {:?}", waits[waits.len() / 2]);
    assert!(grown < 16 * 1024, "memory grew by {grown} KiB under overload");
    (0..3).for_each(|lane| daemon.clear(lane));
    daemon.wait_healthy();
    let after = send(&daemon.url, Load::new(50, Duration::from_secs(1)));
    assert_eq!(statuses(&after).get(&200), Some(&after.len()), "once the overload is over");
}
