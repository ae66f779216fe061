//! Lists that batches were written in: kept when a batch is over, for one to come.

use super::RunningJob;
use crate::{
    job::{BaseInput, Batch, ParityInput},
    pool::Lists,
    query::Row,
};

/// The lists. Each lane has one batch in flight, and so one list of each kind, or one a job.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) base: Lists<BaseInput>,
    pub(super) parity: Lists<ParityInput>,
    /// The rows of a parity job.
    pub(super) rows: Lists<Row>,
    pub(super) jobs: Lists<RunningJob>,
    /// What lanes take over what was expected, of which a median is taken.
    pub(super) ratios: Lists<f64>,
}

impl Spare {
    /// No lists yet.
    pub(super) fn new(lanes: usize, in_flight_max: usize) -> Self {
        Spare {
            base: Lists::new(lanes),
            parity: Lists::new(lanes),
            rows: Lists::new(in_flight_max),
            jobs: Lists::new(lanes),
            ratios: Lists::new(2 * lanes),
        }
    }

    /// A batch is over.
    pub(super) fn give(&self, batch: Batch) {
        match batch {
            Batch::Base(inputs) => self.base.give(inputs),
            Batch::Parity(mut inputs) => {
                for input in inputs.drain(..) {
                    self.rows.give(input.rows);
                }
                self.parity.give(inputs);
            }
        }
    }
}
