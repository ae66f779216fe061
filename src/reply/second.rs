//! The exact second run of a query, of which there is one at a time: a hedge or a rescue.
//!
//! | | may begin | ends |
//! |---|---|---|
//! | hedge | where there is no second run | when it is lost or late, or dropped before it starts |
//! | rescue | there, and in place of a hedge that only waits, which may take long | when it is lost, late or hangs |
//!
//! Each has a number, its [`Claim`], which alone ends it: a batch that was given up as hung may come back and lose the same run once more, and must
//! not end the one that has taken its place. So a query waits for a rescue once, and as many places as there are queries are enough.

use std::sync::atomic::{AtomicU32, Ordering};

/// Which second run of its query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim(u32);

/// The low two bits: what the latest second run is. The rest: its number.
#[derive(Debug, Default)]
pub(super) struct SecondRun(AtomicU32);

const NONE: u32 = 0;
const HEDGE_WAITS: u32 = 1;
const HEDGE_RUNS: u32 = 2;
const RESCUE: u32 = 3;
const STATES: u32 = 4;
/// After so many, numbers begin anew.
const NUMBERS: u32 = u32::MAX / STATES + 1;

impl SecondRun {
    /// Another query's from now on.
    pub(super) fn reset(&mut self) {
        *self.0.get_mut() = NONE;
    }

    /// `None` if one waits or runs, or a hedge runs, which does as well.
    pub(super) fn begin_rescue(&self) -> Option<Claim> {
        self.begin(RESCUE, |state| matches!(state, NONE | HEDGE_WAITS))
    }

    /// `None` if there is a second run.
    pub(super) fn begin_hedge(&self) -> Option<Claim> {
        self.begin(HEDGE_WAITS, |state| state == NONE)
    }

    fn begin(&self, what: u32, over: impl Fn(u32) -> bool) -> Option<Claim> {
        let next = |word: u32| over(word % STATES).then(|| (word - word % STATES).wrapping_add(STATES) + what);
        let before = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).ok()?;
        Some(Claim((before / STATES + 1) % NUMBERS))
    }

    /// A lane takes a hedge; `false` if a rescue has taken its place.
    pub(super) fn start_hedge(&self, Claim(number): Claim) -> bool {
        let waits = number * STATES + HEDGE_WAITS;
        self.0.compare_exchange(waits, number * STATES + HEDGE_RUNS, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// There is none, if this one is the latest.
    pub(super) fn end(&self, Claim(number): Claim) {
        let ended = |word: u32| (word / STATES == number).then_some(number * STATES + NONE);
        // It may have ended before.
        let _ended = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_at_a_time_and_a_rescue_takes_the_place_of_a_hedge_that_waits() {
        let run = SecondRun::default();
        let hedge = run.begin_hedge().expect("there is none");
        assert_eq!(run.begin_hedge(), None);
        let rescue = run.begin_rescue().expect("the hedge only waits");
        assert!(!run.start_hedge(hedge));
        assert_eq!((run.begin_rescue(), run.begin_hedge()), (None, None));
        run.end(rescue);
        let hedge = run.begin_hedge().expect("there is none any more");
        assert!(run.start_hedge(hedge) && !run.start_hedge(hedge));
        assert_eq!(run.begin_rescue(), None, "the hedge runs");
    }

    #[test]
    fn a_run_that_is_over_ends_no_other() {
        let run = SecondRun::default();
        let first = run.begin_rescue().unwrap();
        run.end(first);
        let second = run.begin_rescue().unwrap();
        run.end(first);
        assert_eq!(run.begin_rescue(), None, "the second is under way");
        run.end(second);
        assert!(run.begin_rescue().is_some_and(|third| ![first, second].contains(&third)));
    }

    #[test]
    fn numbers_begin_anew() {
        let run = SecondRun(AtomicU32::new(u32::MAX - (STATES - 1)));
        let first = run.begin_hedge().unwrap();
        assert!(run.start_hedge(first));
        run.end(first);
        assert!(run.begin_hedge().is_some_and(|second| second != first));
    }
}
