//! What is known of a lane's device, carried out: what its driver tells (fences, proofs, suspicions), devices that are opened late or by another thread, and
//! the canaries of lanes that seem well.
//!
//! A fence erases what is in flight then and there. That is what makes the driver's word worth having: whatever the code can bring back is
//! decoded, and the rest is run elsewhere, before any timer would have noticed.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::{Dispatch, Effect, RunningJob, lane_id, lanes::LaneSeat};
use crate::{
    clock::Time,
    config::Hedge,
    health::{
        LaneHealth, Move,
        device::{self, Sign, Told},
        pace::Pass,
    },
    query::LaneId,
};

/// Jobs of a lane since its last canary.
#[derive(Debug, Default)]
pub(super) struct Unchecked(AtomicU32);

impl Unchecked {
    /// So many more.
    pub(super) fn ran(&self, jobs: usize) {
        let jobs = u32::try_from(jobs).unwrap_or(u32::MAX);
        // It wraps after four billion jobs without a canary, where canaries are off.
        self.0.fetch_add(jobs, Ordering::Relaxed);
    }

    /// A canary is due at once.
    pub(super) fn ask(&self) {
        self.0.store(u32::MAX / 2, Ordering::Relaxed);
    }

    /// Whether a canary is due, where one is every so many jobs; `waits` if nothing better is to do. Forgotten if so.
    pub(super) fn is_due(&self, every: Option<u32>, waits: bool) -> bool {
        // One that was asked for is due even where they are off.
        let every = every.unwrap_or(u32::MAX / 4);
        let limit = if waits { every } else { every.saturating_mul(2) };
        let due = self.0.load(Ordering::Relaxed) >= limit;
        if due {
            self.0.store(0, Ordering::Relaxed);
        }
        due
    }
}

impl Dispatch {
    /// The lane runs, but has not opened its device, which its first canary does.
    pub fn left_out(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) {
        self.change(lane, |health| Some(health.left_out(now)), effects);
        self.loading.fetch_sub(1, Ordering::AcqRel);
    }

    /// The lane has opened its device, and one row takes `expected` on it; of no interest if more is known already.
    pub fn opened(&self, lane: LaneId, expected: Duration) {
        let seat = self.seat(lane);
        let pass = Pass { model: seat.main_model(), jobs: 1 };
        if seat.pace.expected(pass).is_none() {
            seat.pace.expect(pass, expected);
        }
    }

    /// Whether another process could use the lane's device and this one cannot.
    pub fn needs_new_process(&self, lane: LaneId) -> bool {
        self.seat(lane).health().needs_new_process()
    }

    /// How many lanes can run data jobs now, and are not stuck in a batch for longer than `patience`. A policy without health leaves a lane
    /// that hangs in the healthy state; this does not.
    pub fn moving_lanes(&self, now: Time, patience: Duration) -> usize {
        let moves = |lane: &&LaneSeat| lane.in_flight(now).is_none_or(|age| age <= patience);
        let usable = self.lanes.iter().filter(|lane| lane.settings.role.runs_base() && lane.is_usable());
        usable.filter(moves).count()
    }

    /// The driver tells something of a lane's device.
    pub fn told(&self, lane: LaneId, told: Told, now: Time, effects: &mut Vec<Effect>) {
        let seat = self.seat(lane);
        let rules = &self.settings.health;
        match told {
            Told::Happened(sign) | Told::Begins(sign) => match device::effect(sign) {
                device::Effect::Fence => self.fence(lane, (sign, matches!(told, Told::Begins(_))), now, effects),
                device::Effect::Prove => {
                    seat.unchecked.ask();
                    effects.push(Effect::Wake(lane));
                }
                device::Effect::Suspect => {
                    seat.pace.suspect(true);
                    if self.settings.policy.hedge != Hedge::None {
                        self.treat_as_late(lane, now, effects);
                    }
                }
                device::Effect::Note => {}
            },
            Told::Ends(sign) => match device::effect(sign) {
                device::Effect::Fence => seat.with_health(|health| health.release(rules, now)),
                device::Effect::Suspect => seat.pace.suspect(false),
                device::Effect::Prove | device::Effect::Note => {}
            },
        }
    }

    /// A job's error says that the device of a lane is of no use any more: all lanes on it are out.
    pub(super) fn broken(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) {
        let device = self.seat(lane).settings.device;
        let of_device = (0..self.lanes.len()).map(lane_id).filter(|other| self.seat(*other).settings.device == device);
        for lane in of_device {
            self.fence(lane, (Sign::Broken, false), now, effects);
        }
    }

    fn fence(&self, lane: LaneId, (sign, held): (Sign, bool), now: Time, effects: &mut Vec<Effect>) {
        let rules = self.settings.health;
        let fence = |health: &mut LaneHealth| health.fence(sign, held, &rules, now);
        // First the state, then the look at what is in flight; the lane does it the other way round, so that a batch which starts meanwhile is
        // given up by one of the two.
        self.change(lane, fence, effects);
        std::sync::atomic::fence(Ordering::SeqCst);
        self.give_up_batch(lane, (None, now), |_| None, effects);
    }

    /// Whether the lane's thread is still stuck; it may have come back since that was found.
    pub fn is_stuck(&self, lane: LaneId, now: Time) -> bool {
        let seat = self.seat(lane);
        seat.health().is_stuck(seat.in_flight(now), &self.settings.health, now)
    }

    /// Another thread runs the lane from now on: its own was stuck, and will say nothing more.
    pub fn replaced(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) {
        let seat = self.seat(lane);
        if seat.in_flight(now).is_some() {
            // Given up when the lane was declared hung or fenced; or now.
            self.give_up_batch(lane, (None, now), |_| None, effects);
            let (running, _) = seat.finish();
            seat.end(&running, self.occupancy_of(seat));
            seat.take_marks();
        }
        self.change(lane, |health| health.replaced(now), effects);
    }

    /// A lane has started a batch although it was fenced since it looked.
    pub(super) fn give_up_if_fenced(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if !self.seat(lane).is_usable() && self.seat(lane).health().state().is_fenced() {
            self.give_up_batch(lane, (None, now), |_| None, effects);
        }
    }

    /// Gives up the batch in flight on a lane, if it is older than `limit`, and moves the lane's state; `false` if there is none.
    ///
    /// The state moves before the lane can find its batch given up, so that its return is seen as one.
    pub(super) fn give_up_batch(
        &self,
        lane: LaneId,
        (limit, now): (Option<Duration>, Time),
        rule: impl FnOnce(&mut LaneHealth) -> Option<Move>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let jobs = self.seat(lane).give_up_older(limit, now, |running| {
            self.change(lane, rule, effects);
            if std::mem::take(&mut running.reserved) {
                self.occupancy.end_reserved();
            }
            running.jobs.clone()
        });
        let given_up = jobs.is_some();
        for job in jobs.into_iter().flatten() {
            match job {
                RunningJob::Query(run) => self.give_up_run(run, now, effects),
                RunningJob::Parity { stripe, row } => self.do_without(&stripe, stripe.k() + row, now, effects),
            }
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canaries_wait_for_an_idle_moment_and_not_for_ever() {
        let unchecked = Unchecked::default();
        unchecked.ran(99);
        assert!(!unchecked.is_due(Some(100), true));
        unchecked.ran(1);
        assert!(!unchecked.is_due(Some(100), false), "there is work to do");
        assert!(unchecked.is_due(Some(100), true));
        assert!(!unchecked.is_due(Some(100), true), "once");
        unchecked.ran(200);
        assert!(unchecked.is_due(Some(100), false), "it has waited for long enough");
        unchecked.ran(5_000);
        assert!(!unchecked.is_due(None, true), "they are off");
        unchecked.ask();
        assert!(unchecked.is_due(None, false), "this one was asked for");
    }
}
