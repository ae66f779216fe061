//! What a completion means: outputs settle slots and answer queries, losses erase slots and call for rescue.

use std::time::Duration;

use super::{
    Dispatch, Effect, LaneSeat,
    lanes::Finished,
    pull::{push_wanted, wanted_or_passed_over},
    run::{Run, RunningJob, Why},
    straggler::Sample,
    timers::Due,
};
use crate::{
    clock::Time,
    code::SlotSet,
    config::Rerun,
    job::{Batch, Completion, Loss},
    pool::Shared,
    query::{Accepts, Failure, LaneId, Values},
    queue::Call,
    reply::Admitted,
    stripe::{Place, Settled, Stripe},
};

/// A batch came back from a lane.
#[derive(Debug)]
pub struct Completed<'c> {
    /// The lane.
    pub lane: LaneId,
    /// The batch itself, whose memory is used again.
    pub batch: Batch,
    /// One completion a job, in the batch's order; they are taken out.
    pub completions: &'c mut Vec<Completion>,
    /// How long the batch ran, without queueing.
    pub service: Duration,
}

impl Dispatch {
    /// A batch came back.
    pub fn complete(&self, completed: Completed<'_>, now: Time, effects: &mut Vec<Effect>) {
        let Completed { lane, batch, completions, service } = completed;
        self.spare.give(batch);
        let seat = self.seat(lane);
        let Finished { mut running, was_given_up } = seat.finish();
        assert_eq!(running.jobs.len(), completions.len(), "a lane reports each job of its batch");
        self.metrics.served(lane, service);
        self.count_jobs(&running.jobs);
        let (pass, marks) = (running.pass(), seat.take_marks());
        let query = running.jobs.iter().find_map(RunningJob::query);
        if was_given_up {
            self.change(lane, |health| health.returned(&self.settings.health, now), effects);
        } else if completions.iter().any(|completion| matches!(completion, Completion::Output(_))) {
            // Losses come quickly and would teach a lane to expect too little.
            self.paced(lane, Sample { pass, service, marks, query }, now, effects);
        }
        seat.end(&running, self.occupancy_of(seat));
        seat.unchecked.ran(completions.len(), self.settings.health.canary_every);
        // What a fenced device gives is believed no more than the device; its jobs were given up when it was fenced.
        let is_fenced = was_given_up && seat.health().state().is_fenced();
        let mut jobs = std::mem::take(&mut running.jobs);
        seat.keep(running);
        for (job, completion) in jobs.drain(..).zip(completions.drain(..)) {
            match completion {
                Completion::Output(_) if is_fenced => {}
                Completion::Output(output) => self.output(job, output, now, effects),
                Completion::Lost(loss) => {
                    if loss == Loss::Fatal {
                        self.broken(lane, now, effects);
                    }
                    self.change(lane, |health| health.lost(loss, &self.settings.health, now), effects);
                    self.lost(lane, loss, job, now, effects);
                }
            }
        }
        self.spare.jobs.give(jobs);
    }

    fn output(&self, job: RunningJob, output: Values, now: Time, effects: &mut Vec<Effect>) {
        match job {
            RunningJob::Query(Run { why, query, place }) => {
                self.answer_direct(&query, &output, now);
                // The first run alone, so that each query counts once.
                if matches!(why, Why::Data) {
                    self.compare(&query, place.as_ref(), &output, effects);
                }
                if let Some(stripes) = self.stripes.as_ref().filter(|_| query.query.in_range) {
                    stripes.remember(&query.query.row, &output);
                }
                if let Some(Place { stripe, slot }) = place {
                    self.settle(&stripe, slot, output, now, effects);
                }
            }
            RunningJob::Parity { stripe, row } => {
                self.settle(&stripe, stripe.parity_slot(row), output, now, effects);
            }
        }
    }

    fn settle(&self, stripe: &Shared<Stripe>, slot: usize, output: Values, now: Time, effects: &mut Vec<Effect>) {
        let settled = stripe.settle(slot, output);
        self.decode_ready(stripe, now, effects);
        if settled == Settled::Complete {
            self.check_residual(stripe, effects);
        }
    }

    fn lost(&self, lane: LaneId, loss: Loss, job: RunningJob, now: Time, effects: &mut Vec<Effect>) {
        // Whoever takes a device's memory, it is not the query.
        if let Some(query) = job.query().filter(|_| loss != Loss::Memory)
            && let Some(first) = query.lose(lane)
            && self.blames_query(first, lane)
        {
            self.fail(query, Failure::QueryFault);
            for lane in [first, lane] {
                self.change(lane, |health| health.excuse(now), effects);
                effects.push(Effect::Wake(lane));
            }
        }
        self.give_up(job, now, effects);
    }

    /// A job is lost or hangs.
    pub(super) fn give_up(&self, job: RunningJob, now: Time, effects: &mut Vec<Effect>) {
        match job {
            RunningJob::Query(run) => self.give_up_run(run, now, effects),
            RunningJob::Parity { stripe, row } => self.do_without(&stripe, stripe.parity_slot(row), now, effects),
        }
    }

    /// A slot is lost or declared late: it is erased, what waited only for that is decoded, and what hoped for it is rescued.
    pub(super) fn do_without(&self, stripe: &Shared<Stripe>, slot: usize, now: Time, effects: &mut Vec<Effect>) {
        stripe.mark_erased(SlotSet::only(slot));
        self.ask_late_parity(stripe, effects);
        if slot < stripe.k() {
            self.back_up(stripe, slot, effects);
        }
        self.decode_ready(stripe, now, effects);
        self.rescue_hopeless(stripe, effects);
    }

    /// Whether a query that `first` and now `second` have lost is at fault. What one fault domain loses twice proves nothing while another
    /// domain is healthy.
    fn blames_query(&self, first: LaneId, second: LaneId) -> bool {
        let domain = self.seat(second).settings.domain;
        let elsewhere =
            |lane: &LaneSeat| lane.settings.role.runs_base() && lane.settings.domain != domain && lane.is_usable();
        self.seat(first).settings.domain != domain || !self.lanes.iter().any(elsewhere)
    }

    /// A run of a query is lost or hangs: its slot is erased, and the query is run elsewhere.
    fn give_up_run(&self, run: Run, now: Time, effects: &mut Vec<Effect>) {
        run.end();
        let Run { query, place, .. } = run;
        if let Some(Place { stripe, slot }) = &place {
            self.do_without(stripe, *slot, now, effects);
        }
        self.rescue_erased(query, place, now, effects);
    }

    /// A query's slot is erased: run it again now, or only if its stripe does not bring it back soon.
    fn rescue_erased(&self, query: Shared<Admitted>, place: Option<Place>, now: Time, effects: &mut Vec<Effect>) {
        let may_decode = query.query.accepts == Accepts::Any
            && place.as_ref().is_some_and(|place| place.stripe.has_hope(place.slot));
        if self.settings.policy.rerun == Rerun::AtOnce || !may_decode {
            self.rescue(query, place, effects);
        } else {
            self.rescue_later(query, place, now);
        }
    }

    /// Runs a query again if its stripe does not bring it back soon: the parity job may be queued behind others for ever, or its lane may be dead.
    pub(super) fn rescue_later(&self, query: Shared<Admitted>, place: Option<Place>, now: Time) {
        let patience = self.settings.stripe_fill + 2 * self.expected();
        self.timers.add(now + patience, Due::Patience(query, place));
    }

    /// Runs a query again, exactly, before all other work.
    pub(super) fn rescue(&self, query: Shared<Admitted>, place: Option<Place>, effects: &mut Vec<Effect>) {
        if wanted_or_passed_over(&query)
            && let Some(claim) = query.begin_rescue()
        {
            self.push_rescue(Run { why: Why::Rescue(claim), query, place });
            self.call(Call::Base, effects);
        }
    }

    /// Puts a rescue on its queue. Those that are open hold permits and are there once each.
    pub(super) fn push_rescue(&self, rescue: Run) {
        push_wanted(&self.rescue, rescue, |run| &run.query);
    }

    /// Rescues the erased members of a stripe that it can no longer decode.
    pub(super) fn rescue_hopeless(&self, stripe: &Shared<Stripe>, effects: &mut Vec<Effect>) {
        for slot in stripe.erased().iter().filter(|&slot| !stripe.has_hope(slot)) {
            if let Some(query) = stripe.open(slot) {
                let place = Place { stripe: stripe.clone(), slot };
                self.rescue(query.clone(), Some(place), effects);
            }
        }
    }
}
