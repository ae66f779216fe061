//! Backups of late queries: the small model's answer now, instead of the base model's later.
//!
//! *Intuition.* Where each query has a backup of its own (the small model of `compact`, in a stripe of one), a query whose run is late needs no
//! second run on the base model. Its backup costs a k-th of one, is done in a k-th of the time, and leaves the lane to those that wait. What
//! it gives is approximate; so it is kept for those who would wait for long otherwise.
//!
//! *Rule, for `adaptive`.* Where the ladder affords no backup of every query, the backup is left unasked instead of dropped. When the query's run is
//! late, hangs or is lost, its backup is asked for, or moved up if it waits already, and runs before data jobs like a hedge. No hedge runs besides; if
//! the backup is late or lost, too, the query is run again exactly, before everything else. Queries that take no approximate answer are hedged
//! as ever.
//!
//! *Slow lanes.* A straggler may then help earlier: it takes a query as soon as no lane is free, and the query counts as late from the start. What the
//! straggler takes off the queue is more work than what the backup puts on. When waiting for its peers takes even longer than a run on the
//! straggler, it takes queries without asking for their backups: they are no worse off than others, and near saturation nothing is to run twice.
//!
//! *Rejected.* Backups on the stragglers themselves, which idle otherwise: at k = 2 a lane three times slower takes one and a half service
//! times for a backup, and holds up others (A at 38 %, three runs: p99.9 of 45 ± 7 ms instead of 39 ± 1). A hedge besides the backup: a job more for each
//! late one, nearly always in vain (two runs of E at 83 %: 81 ms instead of 72).

use std::sync::Arc;

use super::{
    Dispatch, Effect, ParityJob, RunningJob,
    run::{Run, Why},
};
use crate::{
    code::{Code, SlotSet},
    config::PolicyKind,
    pool::Shared,
    queue::Call,
    stripe::{Place, Stripe},
};

impl Dispatch {
    /// Whether each query has a backup of its own, which waits until its run is late where the ladder affords no more.
    pub(super) fn has_backups(&self) -> bool {
        self.settings.policy.kind == PolicyKind::Adaptive && self.is_pooled() && self.has_stripes_of_one()
    }

    /// Whether what a query's parity gives needs the output of no other.
    pub(super) fn has_stripes_of_one(&self) -> bool {
        let alone = |code: &Arc<dyn Code>| code.is_systematic() && code.k() == 1;
        self.settings.code.as_ref().is_some_and(alone)
    }

    /// The run of the query in this slot is late, or worse: its backup is urgent. `false` if no backup could answer it.
    pub(super) fn back_up(&self, stripe: &Shared<Stripe>, slot: usize, effects: &mut Vec<Effect>) -> bool {
        if !self.has_backups() || stripe.waiting(slot).is_none() || !stripe.has_hope(slot) {
            return false;
        }
        // What comes of the backup is served at once; if nothing does, the query is rescued.
        stripe.mark_erased(SlotSet::only(slot));
        // One that waits among the others is queued once more: whoever comes second finds that it has started.
        let is_first = stripe.ask_parity();
        for row in (0..stripe.r()).filter(|&row| !stripe.parity_has_started(row)) {
            match self.backup.push(ParityJob { stripe: stripe.clone(), row }) {
                Ok(()) => self.call(Call::Parity, effects),
                Err(job) if is_first => self.drop_parity(&job, effects),
                Err(_) => {}
            }
        }
        true
    }

    /// The same for a query in its place, if it has one.
    pub(super) fn back_up_at(&self, place: Option<&Place>, effects: &mut Vec<Effect>) -> bool {
        place.is_some_and(|Place { stripe, slot }| self.back_up(stripe, *slot, effects))
    }

    /// A straggler starts queries that its peers would have answered sooner: they are late from the start. Their backups are free: they run instead of
    /// the queries themselves.
    pub(super) fn late_from_the_start(&self, jobs: &[RunningJob], effects: &mut Vec<Effect>) {
        for job in jobs {
            if let RunningJob::Query(Run { why: Why::Data, query, place }) = job
                && !self.back_up_at(place.as_ref(), effects)
                && self.credit.spend()
            {
                self.hedge(query.clone(), place.clone(), effects);
            }
        }
    }
}
