//! A batch that is being made: what the lane is told to run, and what of it dispatch knows, job by job.

use super::{
    run::{Run, RunningJob},
    spare::Spare,
};
use crate::{
    job::{BaseInput, Batch, ParityInput},
    pool::Shared,
    query::Row,
    stripe::Stripe,
};

/// Inputs of a batch and its jobs, in step.
#[derive(Debug)]
pub(super) struct Draft {
    batch: Batch,
    jobs: Vec<RunningJob>,
}

impl Draft {
    /// Runs of queries, none yet.
    pub(super) fn base(spare: &Spare) -> Self {
        Draft { batch: Batch::Base(spare.base.take()), jobs: spare.jobs.take() }
    }

    /// Parity jobs, none yet.
    pub(super) fn parity(spare: &Spare) -> Self {
        Draft { batch: Batch::Parity(spare.parity.take()), jobs: spare.jobs.take() }
    }

    /// Adds a run of a query.
    pub(super) fn run(&mut self, run: Run) {
        let Batch::Base(inputs) = &mut self.batch else { unreachable!("parity models run no queries") };
        let query = &run.query.query;
        inputs.push(BaseInput { row: query.row.clone(), must_be_finite: query.in_range });
        self.jobs.push(RunningJob::Query(run));
    }

    /// Adds the parity job of a row of a stripe; `rows` is memory at hand.
    pub(super) fn encode(&mut self, stripe: Shared<Stripe>, row: usize, mut rows: Vec<Row>) {
        let Batch::Parity(inputs) = &mut self.batch else { unreachable!("the base model runs no parity jobs") };
        rows.extend(stripe.rows().cloned());
        inputs.push(ParityInput { row, rows });
        self.jobs.push(RunningJob::Parity { stripe, row });
    }

    /// Its jobs so far.
    pub(super) fn jobs(&self) -> &[RunningJob] {
        &self.jobs
    }

    /// The parity row of its first job.
    pub(super) fn parity_row(&self) -> Option<usize> {
        match self.jobs.first() {
            Some(RunningJob::Parity { row, .. }) => Some(*row),
            Some(RunningJob::Query(_)) | None => None,
        }
    }

    /// The draft, if it has a job; its memory is kept otherwise.
    pub(super) fn unless_empty(self, spare: &Spare) -> Option<Self> {
        if !self.jobs.is_empty() {
            return Some(self);
        }
        spare.give(self.batch);
        spare.jobs.give(self.jobs);
        None
    }

    /// What the lane gets, and what is known of it.
    pub(super) fn done(self) -> (Batch, Vec<RunningJob>) {
        (self.batch, self.jobs)
    }
}
