//! Canaries: a known input, whose outputs show whether a lane is what it seems.
//!
//! A lane that is out of work passes one to come back. One that seems well runs one after so many jobs: finite, wrong values look like any others. That one is in flight like a batch, and
//! watched like one. The other may take as long as a fence, since it may have to open the device first.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{
    Dispatch, Effect,
    lanes::{Finished, LaneSeat, Start},
    occupancy::Occupancy,
};
use crate::{
    clock::Time,
    health::Rules,
    job::{JobKind, Loss, Work},
    query::LaneId,
};

/// Whether a lane has nothing better to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// It would be idle.
    Yes,
    /// There may be work.
    No,
}

/// Jobs of a lane since its last canary.
#[derive(Debug, Default)]
pub(super) struct Unchecked(AtomicU32);

impl Unchecked {
    /// So many more. Nobody counts where no canary is due `every` so many jobs, or one would be in the end.
    pub(super) fn ran(&self, jobs: usize, every: Option<u32>) {
        if every.is_some() {
            let jobs = u32::try_from(jobs).unwrap_or(u32::MAX);
            self.0.fetch_add(jobs, Ordering::Relaxed);
        }
    }

    /// A canary is due at once.
    pub(super) fn ask(&self) {
        self.0.store(u32::MAX / 2, Ordering::Relaxed);
    }

    /// Whether a canary is due, where one is every so many jobs, and twice as many while there is work to do. Forgotten if so.
    pub(super) fn take_due(&self, every: Option<u32>, rests: Rest) -> bool {
        // One that was asked for is due even where they are off.
        let every = every.unwrap_or(u32::MAX / 4);
        let limit = match rests {
            Rest::Yes => every,
            Rest::No => every.saturating_mul(2),
        };
        let due = self.0.load(Ordering::Relaxed) >= limit;
        if due {
            self.0.store(0, Ordering::Relaxed);
        }
        due
    }
}

impl LaneSeat {
    /// A lane that seems well starts a canary.
    fn start_check(&self, occupancy: &Occupancy, now: Time) {
        self.start(Start::Canary, occupancy, now);
    }

    /// Whether it runs such a canary.
    fn is_checking(&self, now: Time) -> bool {
        self.in_flight(now).is_some() && self.runs_canary()
    }
}

impl Dispatch {
    /// A lane that seems well proves it. While its canary is in flight it is watched like any batch.
    pub(super) fn check(&self, seat: &LaneSeat, now: Time) -> Work {
        seat.start_check(self.occupancy_of(seat), now);
        Work::Canary
    }

    /// A canary came back.
    pub fn canary(&self, lane: LaneId, outcome: Result<(), Loss>, now: Time, effects: &mut Vec<Effect>) {
        self.count_job(JobKind::Canary);
        let is_fatal = outcome == Err(Loss::Fatal);
        if self.seat(lane).is_checking(now) {
            self.check_is_over(lane, outcome, now, effects);
        } else {
            self.probation_is_over(lane, outcome, now, effects);
        }
        if is_fatal {
            self.broken(lane, now, effects);
        }
    }

    /// The canary of a lane that seemed well, and was to prove it.
    fn check_is_over(&self, lane: LaneId, outcome: Result<(), Loss>, now: Time, effects: &mut Vec<Effect>) {
        let (seat, rules) = (self.seat(lane), &self.settings.health);
        let Finished { running, was_given_up } = seat.finish();
        seat.end(&running, self.occupancy_of(seat));
        seat.keep(running);
        // One that hung is to pass a canary anyway, whatever came of this one.
        match outcome {
            _ if was_given_up => self.change(lane, |health| health.returned(rules, now), effects),
            Ok(()) => None,
            Err(loss) => self.change(lane, |health| health.lost(loss, rules, now), effects),
        };
    }

    /// The canary of a lane that was out of work.
    fn probation_is_over(&self, lane: LaneId, outcome: Result<(), Loss>, now: Time, effects: &mut Vec<Effect>) {
        // A lane without a base model could not be probed, so it is not put on trial.
        let base = self.seat(lane).settings.role.runs_base();
        let rules = Rules { stragglers: self.settings.health.stragglers && base, ..self.settings.health };
        self.change(lane, |health| health.canary(outcome, &rules, now), effects);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canaries_wait_for_an_idle_moment_and_not_for_ever() {
        let unchecked = Unchecked::default();
        unchecked.ran(99, Some(100));
        assert!(!unchecked.take_due(Some(100), Rest::Yes));
        unchecked.ran(1, Some(100));
        assert!(!unchecked.take_due(Some(100), Rest::No), "there is work to do");
        assert!(unchecked.take_due(Some(100), Rest::Yes));
        assert!(!unchecked.take_due(Some(100), Rest::Yes), "once");
        unchecked.ran(200, Some(100));
        assert!(unchecked.take_due(Some(100), Rest::No), "it has waited for long enough");
        // A year of jobs, at a hundred a second.
        unchecked.ran(3_000_000_000, None);
        assert!(!unchecked.take_due(None, Rest::Yes), "they are off");
        unchecked.ask();
        assert!(unchecked.take_due(None, Rest::No), "this one was asked for");
    }
}
