//! Late jobs: finding them, and what follows.
//!
//! A job is late when a report that it should have made has not come ([`crate::health::pace`]), or, where it makes none, some time after its start. Then a
//! reconstruction of its slot may be served at once, its parity job is queued if the policy waited for this, and its query is run a second
//! time, exactly, on the next healthy lane; or its backup is run, where it has one of its own ([`super::backup`]).
//!
//! Two limits keep hedges from doing harm. When half of the jobs are late that have run for long enough to be so, all lanes are slow, and a second run
//! would only be another late job (and, being young, would make the others look fewer). And hedges are paid for: each data job earns a tenth of one ([`Credit`]), so that whatever fools the detector costs at
//! most a tenth more work.

use std::sync::atomic::{AtomicI64, Ordering};

use super::{
    Dispatch, Effect, RunningJob,
    run::{Run, Why},
};
use crate::{
    clock::Time,
    code::SlotSet,
    config::{Hedge, ParityWhen},
    pool::Shared,
    query::LaneId,
    queue::Call,
    reply::Admitted,
    stripe::{Place, Stripe},
};

/// What a data job earns, in thousandths of a hedge.
const EARNED: i64 = 100;
/// What a hedge costs.
const COST: i64 = 1000;
/// So few late jobs at once say nothing of all lanes.
const FEW: usize = 3;

/// What has been earned and not yet spent, in thousandths of a hedge.
#[derive(Debug)]
pub(super) struct Credit {
    left: AtomicI64,
    most: i64,
}

impl Credit {
    /// Enough to hedge all of `in_flight` jobs, which is also the most that can be saved.
    pub(super) fn new(in_flight: usize) -> Self {
        let most = COST.saturating_mul(i64::try_from(in_flight).unwrap_or(i64::MAX));
        Credit { left: AtomicI64::new(most), most }
    }

    /// A data job started.
    pub(super) fn earn(&self) {
        if self.left.load(Ordering::Relaxed) < self.most {
            self.left.fetch_add(EARNED, Ordering::Relaxed);
        }
    }

    /// Pays for a hedge; `false` if there is too little left.
    pub(super) fn spend(&self) -> bool {
        let enough = |left: i64| (left >= COST).then(|| left - COST);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_ok()
    }
}

impl Dispatch {
    /// Looks for late jobs on all lanes.
    pub(super) fn watch_late(&self, now: Time, effects: &mut Vec<Effect>) {
        let policy = &self.settings.policy;
        if policy.hedge == Hedge::None {
            return;
        }
        let base = || self.lane_ids().filter(|lane| self.seat(*lane).settings.role.runs_base());
        let is_late = |lane: &LaneId| {
            let seat = self.seat(*lane);
            seat.is_usable() && seat.is_late(policy.hedge, policy.hedge_after, now)
        };
        if !base().any(|lane| self.seat(lane).is_unseen() && is_late(&lane)) {
            return;
        }
        let late: Vec<_> = base().filter(is_late).collect();
        let judged = base().filter(|lane| self.seat(*lane).can_be_judged(policy.hedge, now)).count();
        if late.len() >= FEW && 2 * late.len() > judged {
            return;
        }
        for lane in late {
            self.treat_as_late(lane, now, effects);
        }
    }

    /// What is in flight on a lane is late, or will be.
    pub(super) fn treat_as_late(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) {
        let jobs = self.seat(lane).look_late(now, |running| running.jobs.clone());
        for job in jobs.into_iter().flatten() {
            match job {
                RunningJob::Query(run) => self.run_is_late(run, now, effects),
                // Whoever is late himself and hoped for this backup is run again.
                RunningJob::Parity { stripe, row } if self.has_backups() => {
                    self.do_without(&stripe, stripe.parity_slot(row), now, effects);
                }
                RunningJob::Parity { .. } => {}
            }
        }
    }

    /// A run of a query is late.
    fn run_is_late(&self, run: Run, now: Time, effects: &mut Vec<Effect>) {
        // On a probe nothing depends, and a copy has a first run that is judged by itself.
        if matches!(run.why, Why::Probe | Why::IdleCopy | Why::Replica) {
            return;
        }
        run.end();
        let Run { query, place, .. } = run;
        if let Some(Place { stripe, slot }) = &place {
            self.release(stripe, *slot, now, effects);
        }
        if query.is_open() && self.credit.spend() && !self.back_up_at(place.as_ref(), effects) {
            self.hedge(query, place, effects);
        }
    }

    /// A data slot is late: what can be decoded for it by now is served at once. The slot is not given up, since its first run may end well, and a
    /// stripe without hope would rescue it as if lost. Only where parity waits for late members is it marked erased, because that is what asks for the parity job.
    fn release(&self, stripe: &Shared<Stripe>, slot: usize, now: Time, effects: &mut Vec<Effect>) {
        if self.settings.policy.parity == ParityWhen::Late {
            stripe.mark_erased(SlotSet::only(slot));
            self.ask_late_parity(stripe, effects);
        }
        if stripe.recoverable().has(slot) {
            self.reconstruct(stripe, slot, now, effects);
        }
    }

    pub(super) fn hedge(&self, query: Shared<Admitted>, place: Option<Place>, effects: &mut Vec<Effect>) {
        let Some(claim) = query.begin_hedge() else { return };
        match self.hedge.push(Run { why: Why::Hedge(claim), query, place }) {
            Ok(()) => self.call(Call::Base, effects),
            // Redundancy that finds its queue full is dropped.
            Err(hedge) => hedge.end(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hedges_are_paid_for_by_data_jobs() {
        let credit = Credit::new(2);
        assert!(credit.spend() && credit.spend() && !credit.spend());
        (0..9).for_each(|_| credit.earn());
        assert!(!credit.spend());
        credit.earn();
        assert!(credit.spend());
        (0..1000).for_each(|_| credit.earn());
        assert!(credit.spend() && credit.spend() && !credit.spend(), "no more is saved than for the jobs in flight");
    }
}
