//! What runs: runs of queries on the base model and why, and parity jobs.

use crate::{
    job::JobKind,
    pool::Shared,
    reply::{Admitted, Claim},
    stripe::{Place, Stripe},
};

/// Why a query runs. Of hedges and rescues a query has one at a time, for which they have a claim.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why {
    /// For the first time.
    Data,
    /// For the second time, under a policy that runs each query twice from the start.
    Replica,
    /// Exactly, for a stripe that stays short, or because a lane is idle.
    IdleCopy,
    /// To show how slow a straggler is.
    Probe,
    /// Its first run is late.
    Hedge(Claim),
    /// Its first run is lost or hangs, or its stripe has not brought it back.
    Rescue(Claim),
}

impl Why {
    /// The word for metrics.
    pub(super) const fn kind(self) -> JobKind {
        match self {
            Why::Data => JobKind::Data,
            Why::Replica => JobKind::Replica,
            Why::IdleCopy => JobKind::IdleCopy,
            Why::Probe => JobKind::Probe,
            Why::Hedge(_) => JobKind::Hedge,
            Why::Rescue(_) => JobKind::Rescue,
        }
    }

    /// That of a hedge or a rescue.
    const fn claim(self) -> Option<Claim> {
        match self {
            Why::Hedge(claim) | Why::Rescue(claim) => Some(claim),
            Why::Data | Why::Replica | Why::IdleCopy | Why::Probe => None,
        }
    }
}

/// A run of a query on the base model, which waits or is in flight. It knows its place, so that a stripe may use what comes out.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) why: Why,
    pub(super) query: Shared<Admitted>,
    /// Its place in a stripe, if it is protected.
    pub(super) place: Option<Place>,
}

impl Run {
    /// Whether a lane may take it now: a rescue may have taken the place of a hedge that waited.
    pub(super) fn may_start(&self) -> bool {
        match self.why {
            Why::Hedge(claim) => self.query.start_hedge(claim),
            Why::Data | Why::Replica | Why::IdleCopy | Why::Probe | Why::Rescue(_) => true,
        }
    }

    /// It is lost, late or hangs, or will not run: its query may have another second run.
    pub(super) fn end(&self) {
        if let Some(claim) = self.why.claim() {
            self.query.end_second_run(claim);
        }
    }
}

/// One job of a running batch, as dispatch sees it.
#[derive(Clone, Debug)]
pub(super) enum RunningJob {
    /// A run of a query on the base model.
    Query(Run),
    /// A parity job.
    Parity {
        /// The stripe.
        stripe: Shared<Stripe>,
        /// The parity row.
        row: usize,
    },
}

impl RunningJob {
    /// The query that it is a run of.
    pub(super) const fn query(&self) -> Option<&Shared<Admitted>> {
        match self {
            RunningJob::Query(run) => Some(&run.query),
            RunningJob::Parity { .. } => None,
        }
    }

    /// Whether it is a run of this query.
    pub(super) fn runs(&self, query: &Shared<Admitted>) -> bool {
        self.query().is_some_and(|mine| mine.is_same(query))
    }

    /// The word for metrics.
    pub(super) const fn kind(&self) -> JobKind {
        match self {
            RunningJob::Query(run) => run.why.kind(),
            RunningJob::Parity { .. } => JobKind::Parity,
        }
    }
}
