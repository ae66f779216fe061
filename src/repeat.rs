//! Which of many like log lines are told.
//!
//! A lane whose device is dead fails a canary every few seconds for as long as nobody comes, and an unattended machine's log should still
//! be readable, and its disk still be free, when somebody does. The first lines are told in full, because they hold the story; after
//! that one a minute, with the number of those left out. A token bucket, told the time, rather than "the same text only once": texts
//! differ in a number, and a lane that comes and goes is as loud as one that stays away.

use std::time::Duration;

use crate::clock::Time;

/// Lines that are told at once.
const BURST: u32 = 10;
/// How often one more may be told.
const EVERY: Duration = Duration::from_mins(1);
/// Silence after which the number of lines left out is told at once: the story is over, and its end must not wait.
const SETTLED: Duration = Duration::from_secs(3);

/// Whether one more line may be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    /// It may, and should say how many before it were left out, if any were.
    Told {
        /// How many.
        left_out: Option<u64>,
    },
    /// It is left out, too.
    LeftOut,
}

/// The lines of one kind, such as all moves of one lane.
#[derive(Clone, Copy, Debug)]
pub struct Repeats {
    left: u32,
    refilled: Time,
    left_out: u64,
    /// When the last line was at hand.
    last: Time,
    /// When a number was told because it was quiet; that may be once in [`EVERY`], too.
    settled: Option<Time>,
}

impl Default for Repeats {
    fn default() -> Self {
        Repeats { left: BURST, refilled: Time::ZERO, left_out: 0, last: Time::ZERO, settled: None }
    }
}

impl Repeats {
    /// A line of this kind is at hand.
    pub fn next(&mut self, now: Time) -> Line {
        self.refill(now);
        self.last = now;
        if self.left == 0 {
            self.left_out += 1;
            return Line::LeftOut;
        }
        self.left -= 1;
        Line::Told { left_out: self.take() }
    }

    /// The number of lines that were left out, once that may be told: when it has been quiet for a moment, or a minute is over.
    pub fn left_out(&mut self, now: Time) -> Option<u64> {
        self.refill(now);
        if self.left == 0 {
            let rested = self.settled.is_none_or(|told| now.since(told) >= EVERY);
            if now.since(self.last) < SETTLED || !rested {
                return None;
            }
            let left_out = self.take()?;
            self.settled = Some(now);
            return Some(left_out);
        }
        let left_out = self.take()?;
        self.left -= 1;
        Some(left_out)
    }

    fn take(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.left_out)).filter(|&left_out| left_out > 0)
    }

    fn refill(&mut self, now: Time) {
        let every = u64::try_from(EVERY.as_nanos()).unwrap_or(u64::MAX);
        let periods = now.nanos().saturating_sub(self.refilled.nanos()) / every;
        if periods > 0 {
            self.left = BURST.min(self.left.saturating_add(u32::try_from(periods).unwrap_or(u32::MAX)));
            self.refilled = Time::from_nanos(self.refilled.nanos() + periods * every);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn the_first_ten_are_told_and_then_one_a_minute_with_what_was_left_out() {
        let mut lines = Repeats::default();
        let told: Vec<_> = (0..3600)
            .filter_map(|second| match lines.next(s(second)) {
                Line::Told { left_out } => Some((second, left_out)),
                Line::LeftOut => None,
            })
            .collect();
        assert_eq!(told[..10], (0..10).map(|second| (second, None)).collect::<Vec<_>>()[..]);
        assert_eq!(told[10..13], [(60, Some(50)), (120, Some(59)), (180, Some(59))]);
        assert_eq!(told.len(), 10 + 59);
    }

    #[test]
    fn the_last_of_many_is_told_although_nothing_follows_it() {
        let mut lines = Repeats::default();
        for _ in 0..17 {
            lines.next(s(1));
        }
        assert_eq!(lines.left_out(s(3)), None, "there may be more");
        assert_eq!(lines.left_out(s(4)), Some(7), "it has been quiet");
        assert_eq!(lines.left_out(s(200)), None, "nothing new");
        assert_eq!(lines.next(s(200)), Line::Told { left_out: None });
    }

    /// A dead device: two moves with every canary, five seconds apart, and silence in between.
    #[test]
    fn a_story_that_never_ends_is_told_twice_a_minute_at_most() {
        let mut lines = Repeats::default();
        let mut told = 0;
        for second in 0..3600 {
            for _ in 0..if second % 5 == 0 { 2 } else { 0 } {
                told += u32::from(lines.next(s(second)) != Line::LeftOut);
            }
            told += u32::from(lines.left_out(s(second)).is_some());
        }
        assert!((60..=10 + 120).contains(&told), "{told} lines in an hour");
    }

    #[test]
    fn a_line_a_day_is_always_told() {
        let mut lines = Repeats::default();
        assert!((0..1000).all(|day| lines.next(s(day * 86_400)) == Line::Told { left_out: None }));
    }
}
