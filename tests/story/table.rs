//! The table of README.md and `docs/benchmarks/faults.md`: every fault, what clients got, how long they waited.
//!
//!     cargo test --release --test story -- --ignored --nocapture fault_table
//!
//! 100 requests a second, one image each, open loop; latency counts from the intended time. The fault is there from the first second to
//! the last but one.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    alone,
    daemon::{Daemon, config},
    load::{Load, Reply, argmax, images, send},
    parm::compare_with_direct,
};

const RATE: u32 = 100;

/// One row: how a lane is broken and for how long the load runs.
struct Scenario {
    name: &'static str,
    config: &'static str,
    seconds: u64,
    allow_reconstructed: bool,
    /// Lane, fault, and after how long it is set again (faults that fire once) or cleared and set again (`pulse`).
    fault: Option<(usize, &'static str)>,
    pulse: bool,
}

impl Scenario {
    const fn default(name: &'static str, fault: Option<(usize, &'static str)>) -> Self {
        Scenario { name, config: "config.toml", seconds: 10, allow_reconstructed: true, fault, pulse: false }
    }

    const fn parm(name: &'static str, allow_reconstructed: bool) -> Self {
        let fault = Some((0, r#"{"kind": "hang"}"#));
        Scenario { name, config: "examples/parm.toml", seconds: 20, allow_reconstructed, fault, pulse: true }
    }

    fn run(&self) {
        let daemon = Daemon::start(&config(self.config, &[]));
        let duration = Duration::from_secs(self.seconds);
        let load = Load { allow_reconstructed: self.allow_reconstructed, ..Load::new(RATE, duration) };
        let start = Instant::now();
        let replies = thread::scope(|scope| {
            let replies = scope.spawn(|| send(&daemon.url, load));
            if let Some((lane, fault)) = self.fault {
                thread::sleep(Duration::from_secs(1));
                while start.elapsed() < duration.checked_sub(Duration::from_secs(1)).unwrap() {
                    daemon.fault(lane, fault);
                    thread::sleep(Duration::from_millis(100));
                    if self.pulse {
                        daemon.clear(lane);
                        thread::sleep(Duration::from_millis(100));
                    }
                }
                daemon.clear(lane);
            }
            replies.join().unwrap()
        });
        self.print(&daemon, &replies);
    }

    fn print(&self, daemon: &Daemon, replies: &[Reply]) {
        let images = images();
        let count = |holds: &dyn Fn(&Reply) -> bool| replies.iter().filter(|reply| holds(reply)).count();
        let answered = count(&|reply| reply.status == 200);
        let late = count(&|reply| reply.status == 504);
        let right = count(&|reply| {
            reply.status == 200 && argmax(&reply.logits[0]) == Some(usize::from(images.labels[reply.images[0]]))
        });
        let direct = count(&|reply| reply.provenance == ["direct"]);
        let decoded: Vec<&Reply> = replies.iter().filter(|reply| reply.is_decoded()).collect();
        let agree = compare_with_direct(daemon, &decoded);
        let agree = if decoded.is_empty() { "–".to_owned() } else { format!("{agree}") };
        let mut waits: Vec<Duration> = replies.iter().map(|reply| reply.latency).collect();
        waits.sort_unstable();
        let wait = |share: f64| {
            let index = ((waits.len() as f64 * share) as usize).min(waits.len() - 1);
            format!("{:.1}", waits[index].as_secs_f64() * 1e3)
        };
        println!(
            "TABLE | {} | {} | {answered} | {late} | {} | {direct} | {} | {agree} | {:.1} % | {} | {} | {} |",
            self.name,
            replies.len(),
            replies.len() - answered - late,
            decoded.len(),
            100.0 * right as f64 / answered.max(1) as f64,
            wait(0.5),
            wait(0.99),
            wait(1.0),
        );
    }
}

#[test]
#[ignore = "takes three minutes; makes the table of docs/benchmarks/faults.md"]
fn fault_table() {
    let _alone = alone();
    println!(
        "TABLE | fault | sent | 200 | 504 | other | direct | decoded | of these, same class as direct | right | p50 ms | p99 ms | \
         max ms |\nTABLE |---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    Scenario::default("none", None).run();
    Scenario::parm("ParM: lane 0 hangs 100 ms of every 200", true).run();
    Scenario::parm("the same, `allow_reconstructed = false`", false).run();
    for (lane, place) in [(0, "a base lane"), (2, "the parity lane")] {
        for (name, fault) in [
            ("panic", r#"{"kind": "panic"}"#),
            ("error", r#"{"kind": "error"}"#),
            ("NaN", r#"{"kind": "nan"}"#),
            ("garbage", r#"{"kind": "garbage"}"#),
            ("slow x10", r#"{"kind": "slow", "factor": 10}"#),
            ("hang", r#"{"kind": "hang"}"#),
        ] {
            let name = Box::leak(format!("{name} on {place}").into_boxed_str());
            Scenario::default(name, Some((lane, fault))).run();
        }
    }
}
