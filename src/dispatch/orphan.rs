//! Orphans: queries whose base lanes are all out of work.
//!
//! Under `approximate` each query has a small model besides, in a stripe of one, whose answer needs no other. While no base lane is left, queries that take such an answer go
//! there at once, erased from the start, instead of to a lane that may never come back; those that take none wait, as under any policy. But the lane of the small
//! model may have many before them, or hang: a query that waits there for too long is rescued as well, by a base lane that has come back. Under other codes a stripe
//! decodes from what base lanes ran; and with pooled placement every lane holds the base model, so there is nobody to hand queries over to.

use std::sync::atomic::Ordering;

use super::{Dispatch, Effect, LaneSeat, ParityJob, pull::wanted_or_passed_over};
use crate::{clock::Time, pool::Shared, query::Accepts, queue::Call, reply::Admitted, stripe::Place};

impl Dispatch {
    /// Whether no lane is left that could run a query by itself, and one that could run its backup.
    pub(super) fn is_orphaned(&self) -> bool {
        let is_none_left = self.occupancy.healthy() == 0 && self.stragglers.load(Ordering::Relaxed) == 0;
        let answers_alone = || self.settings.policy.answers_alone() && self.has_stripes_of_one();
        is_none_left && answers_alone() && self.lanes.iter().any(LaneSeat::is_healthy)
    }

    /// Sends a query to its backup if that alone can answer it; `false` if it must wait, for a base lane or for room.
    pub(super) fn answer_alone(&self, query: &Shared<Admitted>, now: Time, effects: &mut Vec<Effect>) -> bool {
        let takes_it = query.query.accepts == Accepts::Any && query.query.in_range;
        let may = takes_it && self.is_orphaned() && !self.parity.is_full();
        let Some(stripes) = self.stripes.as_ref().filter(|_| may) else { return false };
        // A stripe of one is full with its first.
        let Some(stripe) = stripes.place_erased(query).filter(|stripe| stripe.ask_parity()) else { return false };
        if let Err(job) = self.parity.push(ParityJob { stripe: stripe.clone(), row: 0 }) {
            // Somebody else took the last place.
            job.stripe.drop_parity(job.row);
            return false;
        }
        // Not before: one that found no room is for the base lane that comes back. It may be answered by now, and whichever comes second frees its permit.
        query.start();
        self.rescue_later(query.clone(), Some(Place { stripe, slot: 0 }), now);
        self.call(Call::Parity, effects);
        true
    }

    /// What waited when the last base lane left goes to its backup, as far as there is room.
    pub(super) fn hand_over(&self, now: Time, effects: &mut Vec<Effect>) {
        if self.data.is_empty() || !self.is_orphaned() {
            return;
        }
        for _ in 0..self.data.len() {
            if self.parity.is_full() {
                return;
            }
            let Some(query) = self.data.pop() else { return };
            if wanted_or_passed_over(&query) && !self.answer_alone(&query, now, effects) {
                self.push_data(query);
            }
        }
    }
}
