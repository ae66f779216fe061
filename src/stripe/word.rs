//! The one atomic word of a stripe: which slots are present, lost and claimed for decoding, how many members joined, how it ended.
//!
//! Bits only ever turn on and the count of members only grows, so no compare-and-swap loop is needed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::code::{DATA_MAX, SLOTS_MAX, SlotSet};

// Present and lost have a bit a slot, claims one a data slot.
const LOST: u32 = 20;
const CLAIMED: u32 = 40;
const FILLED: u32 = 55;
const FILLED_BITS: u64 = 0xf;
/// Its parity jobs were asked for.
pub(super) const ASKED: u64 = 1 << 59;
/// A reconstruction was served.
pub(super) const SERVED: u64 = 1 << 60;
/// It was closed before it had k members.
pub(super) const SHORT: u64 = 1 << 61;
/// Its parity was dropped.
pub(super) const DROPPED: u64 = 1 << 62;
/// Something that it decoded was held back.
pub(super) const HELD: u64 = 1 << 63;

const _: () = assert!(SLOTS_MAX <= 20 && DATA_MAX <= 15, "the word has room for them");

#[derive(Debug)]
pub(super) struct Word(pub(super) AtomicU64);

impl Word {
    pub(super) fn load(&self) -> Snapshot {
        Snapshot(self.0.load(Ordering::SeqCst))
    }

    /// Turns bits on; gives the word before.
    pub(super) fn mark(&self, bits: u64) -> Snapshot {
        Snapshot(self.0.fetch_or(bits, Ordering::SeqCst))
    }

    /// The word before.
    pub(super) fn set_present(&self, slots: SlotSet) -> Snapshot {
        self.mark(u64::from(slots.bits()))
    }

    pub(super) fn set_lost(&self, slots: SlotSet) {
        self.mark(u64::from(slots.bits()) << LOST);
    }

    /// Claims the decoding of `slot`; `true` for the first claim only.
    pub(super) fn claim(&self, slot: usize) -> bool {
        assert!(slot < DATA_MAX, "only data slots are decoded");
        let bit = u64::from(SlotSet::only(slot).bits()) << CLAIMED;
        self.mark(bit).0 & bit == 0
    }

    /// One more member. Only the holder of the stripe's token calls this.
    pub(super) fn fill(&self) {
        self.0.fetch_add(1 << FILLED, Ordering::SeqCst);
    }
}

/// The word at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot(u64);

impl Snapshot {
    #[expect(clippy::cast_possible_truncation, reason = "takes some bits of the word on purpose")]
    const fn slots(self, shift: u32) -> SlotSet {
        SlotSet::from_bits((self.0 >> shift) as u32).and(SlotSet::below(SLOTS_MAX))
    }

    pub(super) const fn present(self) -> SlotSet {
        self.slots(0)
    }

    /// Lost or declared late, and not present.
    pub(super) const fn erased(self) -> SlotSet {
        self.slots(LOST).without(self.present())
    }

    pub(super) const fn filled(self) -> usize {
        ((self.0 >> FILLED) & FILLED_BITS) as usize
    }

    pub(super) const fn marked(self, mark: u64) -> bool {
        self.0 & mark != 0
    }
}
