//! What a completion means: outputs settle slots and answer queries, losses erase slots and call for rescue.

use std::{sync::Arc, time::Duration};

use super::{Dispatch, Effect, Exact, Seat, lanes::Finished};
use crate::{
    clock::Time,
    code::SlotSet,
    config::Rerun,
    job::{Completion, JobKind, Loss},
    query::{Accepts, Failure, LaneId, Values},
    queue::Call,
    reply::Admitted,
    stripe::{Place, Stripe},
};

/// A batch came back from a lane.
#[derive(Debug)]
pub struct Completed {
    /// The lane.
    pub lane: LaneId,
    /// One completion a job, in the batch's order.
    pub completions: Vec<Completion>,
    /// How long the batch ran, without queueing.
    pub service: Duration,
}

impl Dispatch {
    /// A batch came back.
    pub fn complete(&self, completed: Completed, now: Time, effects: &mut Vec<Effect>) {
        let Completed { lane, completions, service } = completed;
        let seat = self.seat(lane);
        let (running, was_hung) = match seat.finish() {
            Finished::InTime(running) => (running, false),
            Finished::Overdue(running) => (running, true),
        };
        assert_eq!(running.seats.len(), completions.len(), "a lane reports each job of its batch");
        self.metrics.served(lane, service);
        self.count_jobs(&running.seats);
        if was_hung {
            self.moved(lane, seat.change(|health| health.returned(&self.settings.health, now)), effects);
        } else {
            self.learn(lane, &running, service);
        }
        for (job, completion) in running.seats.into_iter().zip(completions) {
            match completion {
                Completion::Output(output) => self.output(job, output, now),
                Completion::Lost(loss) => {
                    self.moved(lane, seat.change(|health| health.lost(loss, &self.settings.health, now)), effects);
                    self.lost(lane, job, now, effects);
                }
            }
        }
    }

    /// A canary came back.
    pub fn canary(&self, lane: LaneId, outcome: Result<(), Loss>, now: Time, effects: &mut Vec<Effect>) {
        self.count_job(JobKind::Canary);
        let moved = self.seat(lane).change(|health| Some(health.canary(outcome, &self.settings.health, now)));
        self.moved(lane, moved, effects);
    }

    fn output(&self, job: Seat, output: Values, now: Time) {
        match job {
            Seat::Query { query, place, .. } => {
                self.answer_direct(&query, &output, now);
                if let Some(stripes) = self.stripes.as_ref().filter(|_| query.query.in_range) {
                    stripes.remember(&query.query.row, &output);
                }
                if let Some(Place { stripe, slot }) = place {
                    stripe.settle(slot, output);
                    self.decode_ready(&stripe, now);
                }
            }
            Seat::Parity { stripe, row } => {
                stripe.settle(stripe.k() + row, output);
                self.decode_ready(&stripe, now);
            }
        }
    }

    fn lost(&self, lane: LaneId, job: Seat, now: Time, effects: &mut Vec<Effect>) {
        match job {
            Seat::Query { query, place, .. } => {
                if let Some(Place { stripe, slot }) = &place {
                    self.erase(stripe, *slot, now, effects);
                }
                match query.lose(lane) {
                    None => self.rescue_erased(query, place, effects),
                    Some(first) => {
                        self.fail(&query, Failure::QueryFault);
                        for blamed in [first, lane] {
                            self.moved(blamed, self.seat(blamed).change(|health| health.excuse(now)), effects);
                            effects.push(Effect::Wake(blamed));
                        }
                    }
                }
            }
            Seat::Parity { stripe, row } => self.erase(&stripe, stripe.k() + row, now, effects),
        }
    }

    /// A slot is lost or declared late: whatever waited only for it is decoded, whatever hoped for it is rescued.
    pub(super) fn erase(&self, stripe: &Arc<Stripe>, slot: usize, now: Time, effects: &mut Vec<Effect>) {
        stripe.give_up(SlotSet::only(slot));
        self.decode_ready(stripe, now);
        self.rescue_hopeless(stripe, effects);
    }

    /// A query's slot is erased: run it again now, or only if its stripe cannot bring it back.
    pub(super) fn rescue_erased(&self, query: Arc<Admitted>, place: Option<Place>, effects: &mut Vec<Effect>) {
        let may_decode = query.query.accepts == Accepts::Any
            && place.as_ref().is_some_and(|place| place.stripe.has_hope(place.slot));
        if self.settings.policy.rerun == Rerun::AtOnce || !may_decode {
            self.rescue(query, place, effects);
        }
    }

    /// Runs a query again, exactly, before all other work.
    pub(super) fn rescue(&self, query: Arc<Admitted>, place: Option<Place>, effects: &mut Vec<Effect>) {
        if !query.is_open() || !query.take_rescue() {
            return;
        }
        let pushed = self.rescue.push(Exact { query, place });
        pushed.expect("a query is rescued at most twice, and the queue holds two for each that admission lets in");
        self.call(Call::Base, effects);
    }

    /// Rescues the erased members of a stripe that it can no longer decode and that nobody is running.
    pub(super) fn rescue_hopeless(&self, stripe: &Arc<Stripe>, effects: &mut Vec<Effect>) {
        for slot in stripe.erased().iter().filter(|&slot| !stripe.has_hope(slot)) {
            if let Some(query) = stripe.waiting(slot) {
                let place = Place { stripe: Arc::clone(stripe), slot };
                self.rescue(Arc::clone(query), Some(place), effects);
            }
        }
    }
}
