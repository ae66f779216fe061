//! Codes: how k data slots get r parity slots, and how missing outputs come back.
//!
//! A code is arithmetic on host slices. It knows nothing of stripes, lanes, candle or time, and it is the same code that trained the
//! parity models (the trainer encodes with it) and that serves them. It says which slots are recoverable from which present set, and
//! nothing is decoded outside that. An erasure code does not *detect* errors: a wrong output that is called present spoils what is
//! decoded from it, which is why lanes check that outputs are finite before a slot becomes present.

mod matrix;
mod sum;

use std::fmt::Debug;

pub use sum::{Coefficients, CoefficientsError, Sum};

/// Slots of one stripe, at most; data and parity together.
pub const SLOTS_MAX: usize = 16;

/// A set of slots: data slots are `0..k`, parity slots `k..k+r`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SlotSet(u16);

impl SlotSet {
    /// No slot.
    pub const EMPTY: SlotSet = SlotSet(0);

    /// The set whose bit pattern is `bits`, lowest slot first.
    pub const fn from_bits(bits: u16) -> Self {
        SlotSet(bits)
    }

    /// The bit pattern.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The slots below `count`.
    pub const fn below(count: usize) -> Self {
        assert!(count <= SLOTS_MAX, "a stripe has at most SLOTS_MAX slots");
        if count == SLOTS_MAX { SlotSet(u16::MAX) } else { SlotSet((1 << count) - 1) }
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

/// An encoder and a decoder over k data and r parity slots.
pub trait Code: Send + Sync + Debug {
    /// Data slots.
    fn k(&self) -> usize;

    /// Parity slots.
    fn r(&self) -> usize;

    /// Writes parity query `parity` (`0..r`) of `rows` into `parity_query`.
    ///
    /// Exactly k rows, all as long as `parity_query`, in slot order.
    fn encode(&self, parity: usize, rows: &[&[f32]], parity_query: &mut [f32]);

    /// The absent data slots that can be decoded when exactly `present` is at hand.
    fn recoverable(&self, present: SlotSet) -> SlotSet;

    /// Decodes the output of data slot `slot` from the outputs at hand (`None` = absent), one entry a slot, all equally long.
    ///
    /// `None` when `slot` is not in [`Code::recoverable`] of the present set.
    fn decode(&self, slot: usize, outputs: &[Option<&[f32]>]) -> Option<Vec<f32>>;
}
