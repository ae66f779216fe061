//! The `replica` code: parity slot j is data slot j once more, on the base model. Exact, and it doubles the work.
//!
//! Not a code that saves anything, but the yardstick for those that do: the same stripes, lanes and rules, with copies in place of
//! parity queries. Its answers are the base model's own, so they are direct.

use super::{Code, CodeError, Kind, Reading, RunsOn, SlotSet, present, spec};
use crate::query::Provenance;

/// Every row twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replica {
    k: usize,
}

impl Replica {
    /// k rows and k copies.
    pub fn new(k: usize) -> Result<Self, CodeError> {
        spec::check_size(k, k)?;
        Ok(Replica { k })
    }
}

impl Code for Replica {
    fn kind(&self) -> Kind {
        Kind::Replica
    }

    fn k(&self) -> usize {
        self.k
    }

    fn r(&self) -> usize {
        self.k
    }

    fn runs_on(&self) -> RunsOn {
        RunsOn::Base
    }

    fn reading(&self) -> Reading {
        Reading::Row
    }

    fn provenance(&self) -> Provenance {
        Provenance::Direct
    }

    fn encode(&self, parity: usize, rows: &[&[f32]], parity_query: &mut [f32]) {
        parity_query.copy_from_slice(rows[parity]);
    }

    fn target(&self, parity: usize, outputs: &[&[f32]], target: &mut [f32]) -> bool {
        target.copy_from_slice(outputs[parity]);
        true
    }

    fn recoverable(&self, present: SlotSet) -> SlotSet {
        let copies = SlotSet::from_bits(present.bits() >> self.k).and(SlotSet::below(self.k));
        copies.without(present)
    }

    fn decode(&self, slot: usize, outputs: &[Option<&[f32]>]) -> Option<Vec<f32>> {
        let mut decoded = Vec::new();
        self.decode_into(slot, outputs, &mut decoded).then_some(decoded)
    }

    fn decode_into(&self, slot: usize, outputs: &[Option<&[f32]>], decoded: &mut Vec<f32>) -> bool {
        assert_eq!(outputs.len(), 2 * self.k, "one entry a slot");
        if !self.recoverable(present(outputs)).has(slot) {
            return false;
        }
        let Some(copy) = outputs[self.k + slot] else { return false };
        decoded.clear();
        decoded.extend_from_slice(copy);
        true
    }
}
