//! Where the processor's time went between two moments, by `/proc/stat`.

use std::{fs, time::Duration};

use super::{Finding, STEAL_VOID, STEAL_WARN, Verdict, finding};
use crate::clock::{Clock, Time};

/// Sleeps of a millisecond by which timers are judged.
const SLEEPS: usize = 1_000;

/// Fewer ticks than this, about a second of one processor, are not judged.
const TICKS_MIN: u64 = 100;

/// Clock ticks of all processors by what they went to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ticks {
    all: u64,
    idle: u64,
    stolen: u64,
}

/// Looks at a machine from now on.
#[derive(Clone, Debug)]
pub struct Watch {
    clock: Clock,
    since: Option<Ticks>,
}

impl Watch {
    /// Starts looking.
    pub fn start() -> Self {
        Watch { clock: Clock::start(), since: ticks() }
    }

    /// How much too long a sleep of a millisecond is, at the 99th percentile, in microseconds.
    pub(super) fn sleep_lateness_us(&self) -> f64 {
        let mut late: Vec<Duration> = (0..SLEEPS)
            .map(|_| {
                let from = self.clock.now();
                self.clock.pause(Duration::from_millis(1));
                self.clock.now().since(from + Duration::from_millis(1))
            })
            .collect();
        late.sort_unstable();
        late[SLEEPS * 99 / 100].as_secs_f64() * 1e6
    }

    /// Share of all processors' time since the start that was not idle.
    pub(super) fn busy(&self) -> Option<f64> {
        let (before, now) = (self.since?, ticks()?);
        let all = now.all.saturating_sub(before.all);
        (all > 0).then(|| 1.0 - now.idle.saturating_sub(before.idle) as f64 / all as f64)
    }

    /// What can be said of the time since the start.
    pub fn findings(&self) -> Option<Finding> {
        let (before, now) = (self.since?, ticks()?);
        let all = now.all.saturating_sub(before.all);
        // A single tick of a short moment proves nothing.
        let stolen = (all >= TICKS_MIN).then(|| now.stolen.saturating_sub(before.stolen) as f64 / all as f64)?;
        let verdict = match stolen {
            share if share > STEAL_VOID => Verdict::Void,
            share if share > STEAL_WARN => Verdict::Warn,
            _ => Verdict::Good,
        };
        let seconds = self.clock.now().since(Time::ZERO).as_secs_f64();
        let found = format!("{:.2} % in {seconds:.0} s", 100.0 * stolen);
        let advice = "the host ran others on these processors: measure on a machine of your own, or again later";
        Some(finding("steal", found, verdict, advice))
    }
}

fn ticks() -> Option<Ticks> {
    parse(&fs::read_to_string("/proc/stat").ok()?)
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal, and guests, which are in user already.
fn parse(text: &str) -> Option<Ticks> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let [_, _, _, idle, waiting, _, _, stolen] = ticks[..] else { return None };
    Some(Ticks { all: ticks.iter().sum(), idle: idle + waiting, stolen })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_all_processors_is_read() {
        let text = "cpu  10 1 5 80 2 0 1 1 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(parse(text), Some(Ticks { all: 100, idle: 82, stolen: 1 }));
        assert_eq!(parse("cpu 1 2 3\n"), None);
        assert_eq!(parse(""), None);
    }
}
