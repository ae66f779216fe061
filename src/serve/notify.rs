//! What systemd is told: that the daemon is ready, how it fares, that it lives, that it stops. Without systemd, nothing.
//!
//! The watchdog is fed from progress, never from a timer that runs whatever happens. A word goes out only if the runtime that carries
//! the sockets got to send it, the timer thread has ticked since the last one, and some lane that holds the base model is healthy and not
//! stuck, or, where a small model answers while none is, a lane of that one. So a daemon that cannot answer for `WatchdogSec` is restarted, which is the cure
//! for devices that need a new process, and one whose *other* lanes still answer is left alone, though it is not ready. NVML has no say: a driver call may hang while inference is well.

use std::time::Duration;

use super::{Running, systemd::Systemd};
use crate::{http::Lanes, metrics::Metrics, query::Provenance};

/// How often the status line is renewed.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// A word goes out so many times in `WatchdogSec`: one that is lost or late is no restart.
const FEEDS: u32 = 4;

/// Says that the daemon is ready, then feeds watchdog and status line; never resolves. Whoever has been succeeded should not be heard any more, so this
/// is dropped then.
pub(super) async fn report(systemd: &Systemd, running: &Running) {
    let line = Some(status(running));
    systemd.tell(|words| (words.ready, words.status) = (true, line));
    let limit = sd_notify::watchdog_enabled();
    let every = limit.map_or(STATUS_EVERY, |limit| (limit / FEEDS).min(STATUS_EVERY));
    let mut progress = Progress::default();
    loop {
        // No interval: the beats that a machine missed while it slept are not made up for, one after the other, without any progress between them.
        tokio::time::sleep(every).await;
        let line = Some(status(running));
        systemd.tell(|words| words.status = line);
        let Some(limit) = limit else { continue };
        let can_answer = running.engine.can_answer(limit / 2) || running.engine.is_draining();
        if progress.since_last(running.engine.ticks(), can_answer) {
            systemd.tell(|words| words.alive = true);
        } else {
            tracing::error!(ticks = running.engine.ticks(), can_answer, "no progress: the watchdog is not fed");
        }
    }
}

/// Lanes and answers in one line; `systemctl status` shows it.
fn status(running: &Running) -> String {
    let lanes = running.crew.report();
    let healthy = lanes.iter().filter(|lane| lane.state == "healthy").count();
    let others = lanes.iter().filter(|lane| lane.state != "healthy");
    let others: Vec<_> = others.map(|lane| format!(", lane {} {}", lane.id, lane.state)).collect();
    let verb = if running.engine.is_draining() { "stopping: " } else { "" };
    format!("{verb}{healthy} of {} lanes healthy{}; {}", lanes.len(), others.concat(), answered(&running.metrics))
}

fn answered(metrics: &Metrics) -> String {
    let told =
        metrics.answers().into_iter().filter(|&(provenance, count)| provenance == Provenance::Direct || count > 0);
    let told: Vec<_> = told.map(|(provenance, count)| format!("{count} {}", provenance.as_str())).collect();
    format!("answered {}", told.join(", "))
}

/// What had happened when the watchdog was last fed.
#[derive(Default)]
struct Progress {
    ticks: u64,
}

impl Progress {
    /// Whether the timer has ticked since this was last asked, and queries can be answered.
    fn since_last(&mut self, ticks: u64, can_answer: bool) -> bool {
        let ticked = std::mem::replace(&mut self.ticks, ticks) != ticks;
        ticked && can_answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_progress_feeds_the_watchdog() {
        let mut progress = Progress::default();
        assert!(progress.since_last(5, true));
        assert!(!progress.since_last(5, true), "the timer stands still");
        assert!(!progress.since_last(6, false), "no lane can answer");
        assert!(progress.since_last(7, true), "one has come back");
    }

    #[test]
    fn the_status_line_counts_answers_by_provenance() {
        let metrics = Metrics::new("m", 1);
        assert_eq!(answered(&metrics), "answered 0 direct");
        metrics.answered(Provenance::Direct, Duration::ZERO);
        metrics.answered(Provenance::Reconstructed, Duration::ZERO);
        assert_eq!(answered(&metrics), "answered 1 direct, 1 reconstructed");
    }
}
