//! When the parity of a stripe is asked for, queued and dropped.
//!
//! A query joins a stripe when it starts. A full stripe queues its parity jobs, at once or when a member is late, as the policy has it; one that stays short gets partners
//! that are known, or does without. Whatever is dropped leaves nobody waiting: what hoped for it is rescued.

use super::{Dispatch, Effect, LaneSeat, ladder::Step};
use crate::{
    clock::Time,
    config::{ParityWhen, Placement},
    pool::Shared,
    query::{Accepts, FaultDomain},
    queue::{Bounded, Call},
    reply::Admitted,
    stripe::{Overdue, Place, Stripe},
};

/// A parity job that waits: row `row` of a full stripe.
#[derive(Debug)]
pub(super) struct ParityJob {
    pub(super) stripe: Shared<Stripe>,
    pub(super) row: usize,
}

impl Dispatch {
    /// Gives a query that starts now a place in a stripe; full stripes make their parity jobs runnable.
    pub(super) fn give_place(
        &self,
        query: &Shared<Admitted>,
        domain: FaultDomain,
        now: Time,
        effects: &mut Vec<Effect>,
    ) -> Option<Place> {
        let stripes = self.stripes.as_ref()?;
        if !self.is_systematic() || !query.query.in_range {
            self.metrics.unprotected.inc();
            return None;
        }
        let (place, over) = stripes.place(query, domain, now);
        if let Some(stripe) = over {
            self.takes_no_more(&stripe, effects);
        }
        Some(place)
    }

    /// Under a code that is not systematic, a query has no run of its own: it joins a stripe, and waits for what the parity slots bring.
    /// `false` if it must be run as it is.
    pub(super) fn join_only(&self, query: &Shared<Admitted>, effects: &mut Vec<Effect>) -> bool {
        let coded = query.query.accepts == Accepts::Any && query.query.in_range;
        let Some(stripes) = self.stripes.as_ref().filter(|_| coded && !self.is_systematic()) else { return false };
        query.start();
        if let Some(stripe) = stripes.place_erased(query) {
            self.takes_no_more(&stripe, effects);
        }
        true
    }

    /// A stripe is full, or was closed before it was.
    pub(super) fn takes_no_more(&self, stripe: &Shared<Stripe>, effects: &mut Vec<Effect>) {
        if !stripe.is_full() {
            self.rescue_hopeless(stripe, effects);
        } else if self.is_systematic() {
            self.stripe_is_full(stripe, effects);
        } else {
            self.queue_parity(stripe, effects);
        }
    }

    /// Stripes that stayed short get known partners, or an exact idle copy of each member that still waits.
    pub(super) fn fill_stripes(&self, now: Time, effects: &mut Vec<Effect>) {
        let Some(stripes) = &self.stripes else { return };
        for overdue in stripes.overdue(now, self.is_pooled() || !self.is_systematic()) {
            match overdue {
                Overdue::Filled(stripe) => self.stripe_is_full(&stripe, effects),
                Overdue::Closed(stripe) => {
                    self.rescue_hopeless(&stripe, effects);
                    // Under `copies` each of them has one already.
                    if self.is_pooled() && self.is_systematic() && self.step() != Step::Copies {
                        self.copy_waiting(&stripe, effects);
                    }
                }
            }
        }
    }

    fn copy_waiting(&self, stripe: &Shared<Stripe>, effects: &mut Vec<Effect>) {
        for slot in 0..stripe.k() {
            let Some(query) = stripe.open(slot) else { continue };
            let place = Place { stripe: stripe.clone(), slot };
            self.queue_copy(query, Some(&place), effects);
        }
    }

    /// A stripe is full: its parity jobs are queued, unless the policy waits for a late member, or has no lane to spare. A query's own backup
    /// is then left for the case that its run is late; other parity is dropped.
    fn stripe_is_full(&self, stripe: &Shared<Stripe>, effects: &mut Vec<Effect>) {
        let policy = &self.settings.policy;
        let dedicated = policy.placement == Placement::Dedicated;
        if policy.parity == ParityWhen::Late && !stripe.erased().iter().any(|slot| stripe.waiting(slot).is_some()) {
            return;
        }
        if dedicated || policy.parity == ParityWhen::Late || self.step() == Step::Parity {
            self.queue_parity(stripe, effects);
        } else if self.step() == Step::Copies || !self.has_backups() {
            for row in 0..stripe.r() {
                stripe.drop_parity(row);
            }
            self.rescue_hopeless(stripe, effects);
        }
    }

    /// Queues the parity jobs of a full stripe with an erased member, if the policy waits for one.
    pub(super) fn ask_late_parity(&self, stripe: &Shared<Stripe>, effects: &mut Vec<Effect>) {
        if self.settings.policy.parity == ParityWhen::Late
            && stripe.is_full()
            && stripe.erased().iter().next().is_some()
        {
            self.queue_parity(stripe, effects);
        }
    }

    /// Queues the parity jobs of a full stripe, once; if there is no room, the stripe does without.
    fn queue_parity(&self, stripe: &Shared<Stripe>, effects: &mut Vec<Effect>) {
        if !stripe.ask_parity() {
            return;
        }
        for row in 0..stripe.r() {
            if let Err(job) = self.parity.push(ParityJob { stripe: stripe.clone(), row }) {
                self.drop_parity(&job, effects);
                continue;
            }
            self.call(Call::Parity, effects);
        }
    }

    pub(super) fn put_parity_back(&self, to: &Bounded<ParityJob>, job: ParityJob, effects: &mut Vec<Effect>) {
        if let Err(job) = to.push(job) {
            self.drop_parity(&job, effects);
        }
    }

    /// The stripe does without this parity job; what hoped for it is rescued.
    pub(super) fn drop_parity(&self, job: &ParityJob, effects: &mut Vec<Effect>) {
        job.stripe.drop_parity(job.row);
        self.rescue_hopeless(&job.stripe, effects);
    }

    /// Whether a parity job that may not start in `domain` now could start there later, or elsewhere. Lanes that are out of work may be so for ever, and
    /// so does a lost slot keep its domain; one that is in flight, perhaps in the very batch that is being made, does not.
    pub(super) fn parity_could_run(&self, stripe: &Stripe, domain: FaultDomain) -> bool {
        let mut lanes = self.lanes.iter().filter(|lane| lane.settings.role.runs_parity());
        let is_open = |lane: &LaneSeat| lane.is_healthy() && !stripe.has_erased_in(lane.settings.domain);
        lanes.clone().any(|lane| lane.settings.domain != domain) && lanes.any(is_open)
    }
}
