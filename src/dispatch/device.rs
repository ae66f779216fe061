//! What is known of a lane's device, carried out: what its driver tells (fences, proofs, suspicions), and devices that are opened late or by another thread.
//!
//! A fence erases what is in flight then and there. That is what makes the driver's word worth having: whatever the code can bring back is
//! decoded, and the rest is run elsewhere, before any timer would have noticed.

use std::{
    sync::atomic::{self, Ordering},
    time::Duration,
};

use super::{Dispatch, Effect, lanes::LaneSeat};
use crate::{
    clock::Time,
    config::Hedge,
    health::{
        LaneHealth, Move,
        device::{self, Consequence, Sign, Told},
        pace::Pass,
    },
    query::LaneId,
};

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

    /// Whether another process could use the device of some lane and this one cannot.
    pub fn needs_new_process(&self) -> bool {
        self.lanes.iter().any(|lane| lane.health().needs_new_process())
    }

    /// Whether the lane takes work, be it as a straggler.
    pub fn is_usable(&self, lane: LaneId) -> bool {
        self.seat(lane).is_usable()
    }

    /// How many lanes can run data jobs now, and are not stuck in a batch for longer than `patience`. A policy without health leaves a lane
    /// that hangs in the healthy state; this does not.
    pub fn moving_lanes(&self, now: Time, patience: Duration) -> usize {
        self.base_lanes().filter(|lane| lane.is_usable() && moves(lane, now, patience)).count()
    }

    /// Whether some query could be answered: by one of those lanes, or where none is left by a small model alone.
    pub fn can_answer(&self, now: Time, patience: Duration) -> bool {
        let alone = || self.lanes.iter().any(|lane| lane.is_healthy() && moves(lane, now, patience));
        self.moving_lanes(now, patience) > 0 || (self.is_orphaned() && alone())
    }

    /// The driver tells something of a lane's device.
    pub fn told(&self, lane: LaneId, told: Told, now: Time, effects: &mut Vec<Effect>) {
        let seat = self.seat(lane);
        let rules = &self.settings.health;
        match told {
            Told::Happened(sign) | Told::Begins(sign) => match device::consequence(sign) {
                Consequence::Fence => self.fence(lane, sign, matches!(told, Told::Begins(_)), now, effects),
                Consequence::Prove => {
                    seat.unchecked.ask();
                    effects.push(Effect::Wake(lane));
                }
                Consequence::Suspect => {
                    seat.pace.suspect(true);
                    if self.settings.policy.hedge != Hedge::None {
                        self.treat_as_late(lane, now, effects);
                    }
                }
                Consequence::Note => {}
            },
            Told::Ends(sign) => match device::consequence(sign) {
                Consequence::Fence => seat.with_health(|health| health.release(rules, now)),
                Consequence::Suspect => seat.pace.suspect(false),
                Consequence::Prove | Consequence::Note => {}
            },
        }
    }

    /// A job's error says that the device of a lane is of no use any more: all lanes on it are out.
    pub(super) fn broken(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) {
        let device = self.seat(lane).settings.device;
        let of_device = self.lane_ids().filter(|other| self.seat(*other).settings.device == device);
        for lane in of_device {
            self.fence(lane, Sign::Broken, false, now, effects);
        }
    }

    fn fence(&self, lane: LaneId, sign: Sign, held: bool, now: Time, effects: &mut Vec<Effect>) {
        let rules = self.settings.health;
        let fence = |health: &mut LaneHealth| health.fence(sign, held, &rules, now);
        // First the state, then the look at what is in flight; the lane does it the other way round, so that a batch which starts meanwhile is
        // given up by one of the two.
        self.change(lane, fence, effects);
        atomic::fence(Ordering::SeqCst);
        self.give_up_batch(lane, None, now, |_| None, effects);
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
            self.give_up_batch(lane, None, now, |_| None, effects);
            let running = seat.finish().running;
            seat.end(&running, self.occupancy_of(seat));
            seat.take_marks();
        }
        self.change(lane, |health| health.replaced(now), effects);
    }

    /// A lane has started a batch although it was fenced since it looked.
    pub(super) fn give_up_if_fenced(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) {
        atomic::fence(Ordering::SeqCst);
        if !self.seat(lane).is_usable() && self.seat(lane).health().state().is_fenced() {
            self.give_up_batch(lane, None, now, |_| None, effects);
        }
    }

    /// Gives up the batch in flight on a lane, if it is older than `limit`, and moves the lane's state; `false` if there is none.
    ///
    /// The state moves before the lane can find its batch given up, so that its return is seen as one.
    pub(super) fn give_up_batch(
        &self,
        lane: LaneId,
        limit: Option<Duration>,
        now: Time,
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
            self.give_up(job, now, effects);
        }
        given_up
    }
}

/// Whether it is not stuck in a batch for longer than `patience`.
fn moves(lane: &LaneSeat, now: Time, patience: Duration) -> bool {
    lane.in_flight(now).is_none_or(|age| age <= patience)
}
