//! Codes: how k data slots get r parity slots, and how missing outputs come back.
//!
//! A code is arithmetic on host slices. It knows nothing of stripes, lanes, candle or time, and it is the same code that trained the
//! parity models (the trainer encodes with it) and that serves them. It says which slots are recoverable from which present set, and
//! nothing is decoded outside that. An erasure code does not *detect* errors: a wrong output that is called present spoils what is
//! decoded from it, which is why lanes check that outputs are finite before a slot becomes present.

mod berrut;
mod concat;
mod confidence;
mod learned;
mod matrix;
mod replica;
pub mod residual;
mod spec;
mod stacked;
mod sum;

use std::fmt::Debug;

use crate::query::Provenance;
pub use berrut::Berrut;
pub use concat::Concat;
pub use confidence::{Calibration, Temperature};
pub use learned::{Decoder, Learned, Matrix};
pub use replica::Replica;
pub use spec::{CodeError, Kind, Spec};
pub use stacked::Stacked;
pub use sum::{Coefficients, Sum};

/// k + r of a code, at most.
pub const SPREAD_MAX: usize = 16;

/// Data slots of one stripe, at most.
pub const DATA_MAX: usize = SPREAD_MAX - 1;

/// Slots of one stripe, at most: k + r, and another k where no data slot runs its own row.
pub const SLOTS_MAX: usize = 20;

/// A set of slots: data slots are `0..k`, parity slots `k..k+r`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SlotSet(u32);

impl SlotSet {
    /// No slot.
    pub const EMPTY: SlotSet = SlotSet(0);

    /// The set whose bit pattern is `bits`, lowest slot first.
    pub const fn from_bits(bits: u32) -> Self {
        SlotSet(bits)
    }

    /// The bit pattern.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The slots below `count`.
    pub const fn below(count: usize) -> Self {
        assert!(count <= SLOTS_MAX, "a stripe has at most SLOTS_MAX slots");
        SlotSet((1 << count) - 1)
    }

    /// The set of one slot.
    pub const fn only(slot: usize) -> Self {
        assert!(slot < SLOTS_MAX, "a stripe has at most SLOTS_MAX slots");
        SlotSet(1 << slot)
    }

    /// Whether `slot` is in it.
    pub const fn has(self, slot: usize) -> bool {
        slot < SLOTS_MAX && self.0 & (1 << slot) != 0
    }

    /// Slots in either.
    #[must_use]
    pub const fn with(self, other: SlotSet) -> Self {
        SlotSet(self.0 | other.0)
    }

    /// Slots in both.
    #[must_use]
    pub const fn and(self, other: SlotSet) -> Self {
        SlotSet(self.0 & other.0)
    }

    /// Slots of this set that are not in `other`.
    #[must_use]
    pub const fn without(self, other: SlotSet) -> Self {
        SlotSet(self.0 & !other.0)
    }

    /// How many slots.
    pub const fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is no slot.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The slots in order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..SLOTS_MAX).filter(move |&slot| self.has(slot))
    }
}

/// What parity queries run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunsOn {
    /// A parity model, trained for its parity row.
    ParityModel,
    /// The base model itself.
    Base,
}

/// How the model that runs a parity query reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reading {
    /// As one row of the base model's shape; it gives one output row.
    Row,
    /// As one row with k times the channels; it gives k output rows, one after the other.
    Channels,
    /// As k rows of the base model's shape, one after the other; it gives one output row for each.
    Rows,
    /// As one row with k times the channels, of which its encoder makes one row for the base model behind it; it gives one output row.
    Encoded,
}

/// An encoder and a decoder over k data and r parity slots.
pub trait Code: Send + Sync + Debug {
    /// Its kind.
    fn kind(&self) -> Kind;

    /// Data slots.
    fn k(&self) -> usize;

    /// Parity slots.
    fn r(&self) -> usize;

    /// Whether data slots run their rows as they are. If not, their outputs come from parity slots alone, and `r` counts every worker.
    fn is_systematic(&self) -> bool {
        true
    }

    /// What its parity queries run on.
    fn runs_on(&self) -> RunsOn {
        RunsOn::ParityModel
    }

    /// How that model reads them.
    fn reading(&self) -> Reading;

    /// How many slots may be lost, whichever they are (parity slots, if it is not systematic), and all data slots still be had.
    fn losses_max(&self) -> usize {
        1
    }

    /// What its decoded predictions are.
    fn provenance(&self) -> Provenance {
        Provenance::Reconstructed
    }

    /// The coefficients of parity row `parity` (`0..r`), which its parity model was trained for; empty if the kind has none.
    fn coefficients(&self, _parity: usize) -> &[f32] {
        &[]
    }

    /// How many raw rows' worth of mean a value of parity query `parity` holds: the sum of the coefficients, 1 if the kind has none.
    fn weight(&self, _parity: usize) -> f64 {
        1.0
    }

    /// Values in a parity query of rows of `width` values.
    fn query_width(&self, width: usize) -> usize {
        match self.reading() {
            Reading::Row => width,
            Reading::Channels | Reading::Rows | Reading::Encoded => self.k() * width,
        }
    }

    /// Values in a parity output, where the base model gives `outputs` values a row.
    fn output_width(&self, outputs: usize) -> usize {
        match self.reading() {
            Reading::Row | Reading::Encoded => outputs,
            Reading::Channels | Reading::Rows => self.k() * outputs,
        }
    }

    /// Writes parity query `parity` (`0..r`) of `rows` into `parity_query`.
    ///
    /// Exactly k rows, equally long, in slot order; `parity_query` has [`Code::query_width`] values.
    fn encode(&self, parity: usize, rows: &[&[f32]], parity_query: &mut [f32]);

    /// Writes into `target` what the model must make of parity query `parity`, given the base model's `outputs` for the same rows.
    ///
    /// Exactly k outputs, equally long, in slot order; `target` has [`Code::output_width`] values. The trainer's side of
    /// [`Code::decode`]: from these targets and any recoverable set of outputs, decoding gives the base model's outputs. `false`, and nothing
    /// is written, if there is no such target, because model and decoder are trained together.
    #[must_use]
    fn target(&self, parity: usize, outputs: &[&[f32]], target: &mut [f32]) -> bool;

    /// The absent data slots that can be decoded when exactly `present` is at hand.
    fn recoverable(&self, present: SlotSet) -> SlotSet;

    /// Decodes the output of data slot `slot` from the outputs at hand (`None` = absent), one entry a slot; those of data slots are equally
    /// long, those of parity slots have [`Code::output_width`] values.
    ///
    /// `None` when `slot` is not in [`Code::recoverable`] of the present set.
    fn decode(&self, slot: usize, outputs: &[Option<&[f32]>]) -> Option<Vec<f32>>;

    /// The same into memory that is at hand; `false` where [`Code::decode`] gives `None`.
    fn decode_into(&self, slot: usize, outputs: &[Option<&[f32]>], decoded: &mut Vec<f32>) -> bool {
        match self.decode(slot, outputs) {
            Some(values) => {
                *decoded = values;
                true
            }
            None => false,
        }
    }
}

/// Writes `rows` one after the other.
fn stack(rows: &[&[f32]], stacked: &mut [f32]) {
    let width = stacked.len() / rows.len();
    for (row, place) in rows.iter().zip(stacked.chunks_exact_mut(width)) {
        place.copy_from_slice(row);
    }
}

/// Writes Σ `coefficients`ᵢ `rows`ᵢ.
fn add_up(coefficients: &[f32], rows: &[&[f32]], sum: &mut [f32]) {
    assert!(rows.iter().all(|row| row.len() == sum.len()), "rows of one stripe are equally long");
    // Two rows at a time, and the first two instead of zeros: the sum is written half as often and read less than that.
    for (pair, (rows, coefficients)) in rows.chunks(2).zip(coefficients.chunks(2)).enumerate() {
        match (pair, rows, coefficients) {
            (0, [a, b], &[of_a, of_b]) => {
                for ((sum, a), b) in sum.iter_mut().zip(*a).zip(*b) {
                    *sum = of_a * a + of_b * b;
                }
            }
            (_, [a, b], &[of_a, of_b]) => {
                for ((sum, a), b) in sum.iter_mut().zip(*a).zip(*b) {
                    *sum = *sum + of_a * a + of_b * b;
                }
            }
            (0, [a], &[of_a]) => sum.iter_mut().zip(*a).for_each(|(sum, a)| *sum = of_a * a),
            (_, [a], &[of_a, ..]) => sum.iter_mut().zip(*a).for_each(|(sum, a)| *sum += of_a * a),
            _ => unreachable!("a coefficient for each row, two at a time"),
        }
    }
}

/// The slots at hand.
fn present(outputs: &[Option<&[f32]>]) -> SlotSet {
    let there = outputs.iter().enumerate().filter(|(_, output)| output.is_some());
    there.fold(SlotSet::EMPTY, |set, (slot, _)| set.with(SlotSet::only(slot)))
}

#[cfg(test)]
mod tests;
