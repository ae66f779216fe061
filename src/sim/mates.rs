//! Stripe-mates and fault domains, as the world sees them: what encodes a stripe must not run beside one of its members, or beside its other parity rows.
//!
//! It knows mates by what parity jobs encode, so it trusts no word of the core's. (That members do not run beside each other, `stripe` asserts itself.) A query's
//! second run is no member that runs: it leaves the stripe's slot alone wherever that would matter.

use std::collections::HashMap;

use crate::{
    job::{Batch, Completion},
    query::{LaneId, Row},
};

/// What is in flight, and where.
#[derive(Debug)]
pub(super) struct Mates {
    /// Of each lane.
    domains: Vec<u16>,
    /// The first run of each row, by its address: the lane while it is in flight. Rows are held, so that no other takes the address.
    first: HashMap<*const f32, (Row, Option<LaneId>)>,
    /// Stripes that are being encoded, by the address of their first row.
    encoded: Vec<(*const f32, LaneId)>,
}

impl Mates {
    /// Nothing is in flight on lanes of these domains.
    pub(super) fn new(domains: Vec<u16>) -> Self {
        Mates { domains, first: HashMap::new(), encoded: Vec::new() }
    }

    /// A lane starts a batch; `false` if it stands beside a mate.
    pub(super) fn start(&mut self, lane: LaneId, batch: &Batch) -> bool {
        let mut alone = true;
        match batch {
            Batch::Base(inputs) => {
                for input in inputs {
                    self.first.entry(input.row.as_ptr()).or_insert_with(|| (input.row.clone(), Some(lane)));
                }
            }
            // Of one row there are no mates.
            Batch::Parity(inputs) => {
                for rows in inputs.iter().map(|input| &input.rows).filter(|rows| rows.len() > 1) {
                    let stripe = rows[0].as_ptr();
                    let members = rows.iter().filter_map(|row| self.first.get(&row.as_ptr())?.1);
                    let encoders = self.encoded.iter().filter(|(other, _)| *other == stripe).map(|(_, lane)| *lane);
                    alone &= !members.chain(encoders).any(|other| self.domain(other) == self.domain(lane));
                    self.encoded.push((stripe, lane));
                }
            }
        }
        alone
    }

    /// A batch came back. An output ends all runs of its row, since nothing waits for them any more.
    pub(super) fn end(&mut self, lane: LaneId, batch: &Batch, completions: &[Completion]) {
        match batch {
            Batch::Base(inputs) => {
                for (input, completion) in inputs.iter().zip(completions) {
                    let Some((_, first)) = self.first.get_mut(&input.row.as_ptr()) else { continue };
                    if matches!(completion, Completion::Output(_)) || *first == Some(lane) {
                        *first = None;
                    }
                }
            }
            Batch::Parity(_) => self.encoded.retain(|(_, other)| *other != lane),
        }
    }

    fn domain(&self, lane: LaneId) -> u16 {
        self.domains[lane.index()]
    }
}
