//! The `mux` and `compact` codes: all k rows stand in the parity query, one after the other, and the model gives k output rows.
//!
//! Nothing is added up, so nothing has to be told apart again: the answer of a slot is its part of the one parity output. It waits
//! for no stripe-mate's output, and brings back any number of losses at once. On one machine the longer parity query costs little, since
//! bandwidth to a device is cheap; where parity queries cross a network, `sum` sends a k-th of it.
//!
//! The two differ in the model. `mux` reads the rows as channels of one image and has one head a row (multi-input networks: Havasi et
//! al., ICLR 2021; `DataMUX`, `NeurIPS` 2022). `compact` runs each row by itself through a model of about 1/k of the base model's cost,
//! distilled from it. That is the approximate backup which ParM's authors compare with (SOSP 2019, section 5.2.6), k rows to a job, and its
//! answers are called approximate.

use super::{Code, CodeError, Kind, Reading, SlotSet, present, spec, stack};
use crate::query::Provenance;

/// Rows one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stacked {
    k: usize,
    model: Model,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Model {
    Mux,
    Compact,
}

impl Stacked {
    /// Rows as channels.
    pub fn mux(k: usize) -> Result<Self, CodeError> {
        spec::check_size(k, 1)?;
        Ok(Stacked { k, model: Model::Mux })
    }

    /// Rows through a small model.
    pub fn compact(k: usize) -> Result<Self, CodeError> {
        spec::check_size(k, 1)?;
        Ok(Stacked { k, model: Model::Compact })
    }

    /// Each row by itself through the small model: a stripe of one, full at once. The approximate backup as `ParM`'s authors have it.
    pub const fn backup() -> Self {
        Stacked { k: 1, model: Model::Compact }
    }
}

impl Code for Stacked {
    fn kind(&self) -> Kind {
        match self.model {
            Model::Mux => Kind::Mux,
            Model::Compact => Kind::Compact,
        }
    }

    fn k(&self) -> usize {
        self.k
    }

    fn r(&self) -> usize {
        1
    }

    fn reading(&self) -> Reading {
        match self.model {
            Model::Mux => Reading::Channels,
            Model::Compact => Reading::Rows,
        }
    }

    fn provenance(&self) -> Provenance {
        match self.model {
            Model::Mux => Provenance::Reconstructed,
            Model::Compact => Provenance::Approximate,
        }
    }

    fn encode(&self, parity: usize, rows: &[&[f32]], parity_query: &mut [f32]) {
        assert_eq!((parity, rows.len()), (0, self.k), "one parity row of a full stripe");
        stack(rows, parity_query);
    }

    fn target(&self, parity: usize, outputs: &[&[f32]], target: &mut [f32]) -> bool {
        assert_eq!((parity, outputs.len()), (0, self.k), "one parity row of a full stripe");
        stack(outputs, target);
        true
    }

    fn recoverable(&self, present: SlotSet) -> SlotSet {
        if present.has(self.k) { SlotSet::below(self.k).without(present) } else { SlotSet::EMPTY }
    }

    fn decode(&self, slot: usize, outputs: &[Option<&[f32]>]) -> Option<Vec<f32>> {
        let mut decoded = Vec::new();
        self.decode_into(slot, outputs, &mut decoded).then_some(decoded)
    }

    fn decode_into(&self, slot: usize, outputs: &[Option<&[f32]>], decoded: &mut Vec<f32>) -> bool {
        assert_eq!(outputs.len(), self.k + 1, "one entry a slot");
        let recoverable = self.recoverable(present(outputs)).has(slot);
        let Some(parity) = outputs[self.k].filter(|_| recoverable) else { return false };
        let width = parity.len() / self.k;
        decoded.clear();
        decoded.extend_from_slice(&parity[slot * width..(slot + 1) * width]);
        true
    }
}
