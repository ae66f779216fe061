//! Orphans: queries whose base lanes are all out of work.
//!
//! Under `approximate` each query has a small model besides, in a stripe of one, whose answer needs no other. While no base lane is left, queries that take such an answer go
//! there at once, erased from the start, instead of to a lane that may never come back; those that take none wait, as under any policy. Under other codes a stripe
//! decodes from what base lanes ran, and where all lanes hold both models the last base lane is the last of all.

use std::sync::{Arc, atomic::Ordering};

use super::{Dispatch, Effect, LaneSeat, pull::wanted_or_passed_over};
use crate::code::Code;

impl Dispatch {
    /// Whether no lane is left that could run a query by itself, and one that could run its backup.
    pub(super) fn is_orphaned(&self) -> bool {
        let is_none_left = self.occupancy.healthy() == 0 && self.stragglers.load(Ordering::Relaxed) == 0;
        is_none_left && self.has_small_model() && self.lanes.iter().any(LaneSeat::is_healthy)
    }

    fn has_small_model(&self) -> bool {
        let alone = |code: &Arc<dyn Code>| code.is_systematic() && code.k() == 1;
        self.settings.policy.answers_alone() && self.settings.code.as_ref().is_some_and(alone)
    }

    /// What waited when the last base lane left goes to its backup.
    pub(super) fn hand_over(&self, effects: &mut Vec<Effect>) {
        if self.data.is_empty() || !self.is_orphaned() {
            return;
        }
        for _ in 0..self.data.len() {
            let Some(query) = self.data.pop() else { break };
            if wanted_or_passed_over(&query) && !self.join_only(&query, effects) {
                self.push_data(query);
            }
        }
    }
}
