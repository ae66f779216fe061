//! The passage of time: deadlines, graces, stripes that stay short, lanes that hang, canaries that are due.
//!
//! One timer thread calls [`Dispatch::tick`] about once a millisecond. Nothing here depends on a lane making progress, so a deadline
//! behind a hung lane is met like any other.

use std::sync::Arc;

use super::{Dispatch, Effect, Exact, Seat, lane_id, timers::Due};
use crate::{
    clock::Time,
    query::LaneId,
    queue::Call,
    stripe::{Overdue, Place, Stripe},
};

impl Dispatch {
    /// It is `now`.
    pub fn tick(&self, now: Time, effects: &mut Vec<Effect>) {
        for due in self.timers.due(now) {
            match due {
                Due::Grace(stripe, slot) => {
                    if let Some(stripe) = stripe.upgrade() {
                        self.reconstruct(&stripe, slot, now, effects);
                    }
                }
                Due::Patience(Exact { query, place }) => self.rescue(query, place, effects),
                Due::Deadline(query) => {
                    if let Some(query) = query.upgrade().filter(|query| query.answered().is_none()) {
                        self.expire(&query, now);
                    }
                }
            }
        }
        self.fill_stripes(now, effects);
        for lane in (0..self.lanes.len()).map(lane_id) {
            self.watch(lane, now, effects);
        }
        self.reap(effects);
        // Reaping hides jobs for a moment, and a parity job may wait for a stripe-mate to leave a fault domain: either could send a lane
        // to rest although there is work, and neither calls it back.
        if !self.parity.is_empty() {
            self.call(Call::Parity, effects);
        }
        if !self.rescue.is_empty() || !self.data.is_empty() || !self.idle_copy.is_empty() {
            self.call(Call::Base, effects);
        }
        self.metrics.queue_jobs.set(self.waiting_jobs());
    }

    /// Stripes that stayed short get known partners, or an exact idle copy of each member that still waits.
    fn fill_stripes(&self, now: Time, effects: &mut Vec<Effect>) {
        let Some(stripes) = &self.stripes else { return };
        for overdue in stripes.overdue(now, self.is_pooled() || !self.is_systematic()) {
            match overdue {
                Overdue::Filled(stripe) => self.queue_parity(&stripe, effects),
                Overdue::Closed(stripe) => {
                    self.rescue_hopeless(&stripe, effects);
                    if self.is_pooled() && self.is_systematic() {
                        self.copy_waiting(&stripe, effects);
                    }
                }
            }
        }
    }

    fn copy_waiting(&self, stripe: &Arc<Stripe>, effects: &mut Vec<Effect>) {
        for slot in 0..stripe.k() {
            let Some(query) = stripe.open(slot) else { continue };
            let place = Some(Place { stripe: Arc::clone(stripe), slot });
            // Redundancy that finds its queue full is dropped.
            if self.idle_copy.push(Exact { query: Arc::clone(query), place }).is_ok() {
                self.call(Call::Base, effects);
            }
        }
    }

    /// Calls a lane whose canary is due, and declares a lane hung whose batch is too old.
    fn watch(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) {
        let seat = self.seat(lane);
        if !seat.is_healthy() {
            if seat.health().canary_due(now) {
                effects.push(Effect::Wake(lane));
            }
            return;
        }
        let Some(limit) = self.settings.health.hang.map(|hang| seat.hang_limit(hang)) else { return };
        let Some(age) = seat.in_flight(now).filter(|age| *age > limit) else { return };
        // The state moves before the lane can find its batch overdue, so that its return is seen as one.
        let jobs = seat.declare_overdue(limit, now, |running| {
            self.change(lane, |health| health.in_flight(age, limit), effects);
            running.seats.clone()
        });
        for job in jobs.into_iter().flatten() {
            match job {
                Seat::Query(run) => self.give_up_run(run, now, effects),
                Seat::Parity { stripe, row } => self.erase(&stripe, stripe.k() + row, now, effects),
            }
        }
    }

    /// Takes work that nobody waits for any more out of queues that no lane empties. It holds permits: without this, a parity lane
    /// that hangs would in time take every place that admission has.
    fn reap(&self, effects: &mut Vec<Effect>) {
        // A full turn of the data queue is worth its while only if it frees much.
        if 2 * self.data.len() >= self.settings.queue_max {
            let displaced = self.data.retain(|query| query.is_open());
            assert!(displaced.is_empty(), "a query's permit keeps its place in the queue");
        }
        for exact in self.rescue.retain(|exact| exact.query.is_open()) {
            self.push_rescue(exact);
        }
        drop(self.idle_copy.retain(|exact| exact.query.is_open()));
        for job in self.parity.retain(|job| job.stripe.wants_parity()) {
            self.drop_parity(&job, effects);
        }
    }
}
