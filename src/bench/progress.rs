//! How the run goes, on standard error: a line that is redrawn on a terminal, else a log line every few seconds.
//!
//! Never on standard output, which belongs to the result.

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use super::tally::Tally;

/// How often it is shown on a terminal.
pub(super) const REDRAW: Duration = Duration::from_millis(250);

/// How often it is logged elsewhere.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// The display.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    length: Duration,
    logged: Duration,
}

impl Progress {
    /// Of a run of this length.
    pub(super) fn new(length: Duration) -> Self {
        let bar = || {
            let style = ProgressStyle::with_template("{bar:24} {msg}");
            let style = style.expect("the template is a literal of this file");
            ProgressBar::new(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)).with_style(style)
        };
        Progress { bar: io::stderr().is_terminal().then(bar), length, logged: Duration::ZERO }
    }

    /// Shows where the run is.
    pub(super) fn show(&mut self, elapsed: Duration, sent: u64, tally: &Tally) {
        let p99 = tally.latencies.value_at_quantile(0.99) as f64 / 1e3;
        let (answered, failed) = (tally.answered, tally.sent() - tally.answered);
        let (now, length) = (elapsed.as_secs(), self.length.as_secs_f64());
        let text = format!("{now}/{length} s, {sent} sent, {answered} answered, {failed} failed, p99 {p99} ms");
        if let Some(bar) = &self.bar {
            bar.set_position(u64::try_from(elapsed.min(self.length).as_millis()).unwrap_or(u64::MAX));
            bar.set_message(text);
        } else if elapsed >= self.logged + LOG_EVERY {
            self.logged = elapsed;
            tracing::info!("{text}");
        }
    }

    /// Removes it.
    pub(super) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
