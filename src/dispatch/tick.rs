//! The passage of time: deadlines, graces, stripes that stay short, lanes that hang, canaries that are due.
//!
//! One timer thread calls [`Dispatch::tick`] about once a millisecond. Nothing here depends on a lane making progress, so a deadline
//! behind a hung lane is met like any other.

use std::{sync::atomic::Ordering, time::Duration};

use super::{Dispatch, Effect, ladder::Seen, pull::wanted_or_passed_over, run::Run, straggler::Help, timers::Due};
use crate::{
    clock::Time,
    health::{LaneHealth, State},
    query::LaneId,
    queue::Call,
};

impl Dispatch {
    /// Nothing of this process ran for so long, until now: batches that were in flight are not blamed for it.
    pub fn stood_still(&self, lasted: Duration, now: Time) {
        self.metrics.standstill.inc_by(lasted.as_secs_f64());
        self.standstills.lock().add(lasted, now);
    }

    /// It is `now`.
    pub fn tick(&self, now: Time, effects: &mut Vec<Effect>) {
        self.timers.collect();
        while let Some(due) = self.timers.due(now) {
            match due {
                Due::Grace(stripe, slot) => self.reconstruct(&stripe, slot, now, effects),
                Due::Patience(query, place) => self.rescue(query, place, effects),
                Due::Deadline(query) => self.expire(&query, now),
            }
        }
        self.advise(now);
        self.watch_late(now, effects);
        self.fill_stripes(now, effects);
        for lane in self.lane_ids() {
            self.watch(lane, now, effects);
        }
        self.reap(effects);
        self.hand_over(now, effects);
        // Reaping hides jobs for a moment, and a parity job may wait for a stripe-mate to leave a fault domain: either could send a lane
        // to rest although there is work, and neither calls it back.
        if !self.parity.is_empty() && self.parity_may_run(self.parity_role()) {
            self.call(Call::Parity, effects);
        }
        if !self.backup.is_empty() {
            self.call(Call::Parity, effects);
        }
        let waits = !self.rescue.is_empty() || !self.data.is_empty() || !self.hedge.is_empty();
        if waits || !self.idle_copy.is_empty() && self.redundancy_may_run() {
            self.call(Call::Base, effects);
        }
        self.metrics.queue_jobs.set(self.waiting_jobs());
    }

    /// Asks the ladder what is affordable now.
    fn advise(&self, now: Time) {
        let seen =
            Seen { healthy: self.occupancy.healthy(), at_work: self.occupancy.at_work(), waiting: self.data.len() };
        let advice = self.ladder.lock().advise(seen, now);
        self.step.store(advice.step as u8, Ordering::Relaxed);
        self.budget.store(advice.budget, Ordering::Relaxed);
        self.urgent.store(advice.urgent, Ordering::Relaxed);
    }

    /// Calls a lane whose canary is due, and declares a lane hung whose batch is too old.
    fn watch(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) {
        let seat = self.seat(lane);
        if !seat.is_healthy() {
            let health = seat.health();
            let idle = seat.in_flight(now).is_none();
            let worth = || seat.is_straggler() && (health.probe_due(now) || self.help_of(seat) != Help::None);
            if health.canary_due(now) || idle && worth() {
                effects.push(Effect::Wake(lane));
            }
            self.watch_thread(lane, &health, now, effects);
            if !seat.is_usable() {
                return;
            }
        }
        let Some(hang) = self.settings.health.hang else { return };
        // `hang_limit` is never below `hang`, so a younger batch needs no further look.
        let Some(age) = seat.in_flight(now).filter(|age| *age > hang) else { return };
        let limit = seat.hang_limit(hang);
        if age <= limit {
            return;
        }
        let limit = limit + self.standstills.lock().within(age, now);
        if age <= limit {
            return;
        }
        self.give_up_batch(lane, Some(limit), now, |health| health.in_flight(age, limit, now), effects);
    }

    /// A canary of a lane that is out of work hangs, too; and a thread that has been stuck for long is to be replaced.
    fn watch_thread(&self, lane: LaneId, health: &LaneHealth, now: Time, effects: &mut Vec<Effect>) {
        let (seat, rules) = (self.seat(lane), &self.settings.health);
        if matches!(health.state(), State::Probation { .. }) {
            self.change(lane, |health| health.canary_in_flight(rules, now), effects);
        }
        if health.replacement_due(seat.in_flight(now), rules, now) {
            seat.with_health(|health| health.replacement_tried(rules, now));
            effects.push(Effect::Replace(lane));
        }
    }

    /// Takes work that nobody waits for any more out of queues that no lane empties. It holds permits: without this, a parity lane
    /// that hangs would in time take every place that admission has.
    fn reap(&self, effects: &mut Vec<Effect>) {
        // A full turn of the data queue is worth its while only if it frees much, or if no lane is left that passes over what nobody waits for.
        if self.data.len() >= self.settings.queue_max / 2 || self.occupancy.healthy() == 0 {
            for displaced in self.data.retain(wanted_or_passed_over) {
                self.push_data(displaced);
            }
        }
        for displaced in self.rescue.retain(|run| wanted_or_passed_over(&run.query)) {
            self.push_rescue(displaced);
        }
        drop(self.idle_copy.retain(|run| wanted_or_passed_over(&run.query)));
        self.hedge.retain(|run| wanted_or_passed_over(&run.query)).iter().for_each(Run::end);
        for job in self.backup.retain(|job| job.stripe.wants_parity() && !job.stripe.parity_has_started(job.row)) {
            self.drop_parity(&job, effects);
        }
        for job in self.parity.retain(|job| job.stripe.wants_parity()) {
            self.drop_parity(&job, effects);
        }
    }
}
