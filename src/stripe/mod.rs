//! Stripes: k queries coded together, and what is known of their k + r slots.
//!
//! A stripe knows rows, outputs and a code; it knows nothing of candle, lanes' threads, queues of jobs, policy or time. Its slots only
//! ever gain knowledge: a member joins, an output arrives, a slot is erased. All of it is told by one atomic word and by cells that
//! are set once, so lanes settle slots without a lock and every reader sees a state that was true at some moment. Of two lanes that
//! settle the last two slots at once, at least the later sees both, so a possible decode is never missed.
//!
//! Stripes are shared by reference count, and used again only when nobody holds them any more ([`crate::pool`]), so a completion that comes
//! years late still finds its own stripe, and needs no generation number to be told from a newer one. Joining is not lock-free but owned: a [`Filling`] token, of which there is
//! one a stripe, moves through a queue, and only its holder may add members.

mod open;
mod word;

use std::{
    fmt,
    sync::{Arc, OnceLock, atomic::AtomicU64},
};

pub use open::{OpenStripes, Overdue};
use word::{Snapshot, Word};

use crate::{
    code::{Code, SLOTS_MAX, SlotSet},
    metrics::{Metrics, StripeOutcome},
    pool::{Pool, Reuse, Shared},
    query::{Accepts, FaultDomain, Provenance, Row, Values},
    reply::Admitted,
};

/// A data slot's row, and who waits for its output.
#[derive(Debug)]
pub struct Member {
    /// The input row.
    pub row: Row,
    /// The query, or `None` for a known partner that fills a short stripe.
    pub query: Option<Shared<Admitted>>,
    /// Where it runs; `None` for a known partner.
    pub domain: Option<FaultDomain>,
}

/// Everything known of k + r slots.
pub struct Stripe {
    code: Arc<dyn Code>,
    members: Box<[OnceLock<Member>]>,
    parity_domains: Box<[OnceLock<FaultDomain>]>,
    outputs: Box<[OnceLock<Values>]>,
    /// What was decoded for a data slot and held back.
    held: Box<[OnceLock<Values>]>,
    word: Word,
    /// Whether it waits to be used again.
    idle: bool,
    metrics: Arc<Metrics>,
}

impl fmt::Debug for Stripe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stripe").field("word", &self.word.load()).finish_non_exhaustive()
    }
}

/// A place in a stripe: one of its data slots.
#[derive(Clone, Debug)]
pub struct Place {
    /// The stripe.
    pub stripe: Shared<Stripe>,
    /// The data slot, `0..k`.
    pub slot: usize,
}

/// What an output was to its stripe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Settled {
    /// The slot had one already.
    Late,
    /// Others are missing.
    Open,
    /// The last that was missing.
    Complete,
}

/// The right to add members to a stripe that is not full. One a stripe; not clonable.
#[derive(Debug)]
pub struct Filling(Shared<Stripe>);

/// What a stripe is after a member joined.
#[derive(Debug)]
pub enum Joined {
    /// Members are still missing.
    Short(Filling),
    /// All k members are there, so parity can be encoded.
    Full(Shared<Stripe>),
}

/// All stripes of a code, and the memory of those that are over.
#[derive(Debug)]
pub struct Stripes {
    code: Arc<dyn Code>,
    metrics: Arc<Metrics>,
    pool: Pool<Stripe>,
}

impl Stripes {
    /// No stripes yet; the memory of `kept` at most is kept for use again.
    pub fn new(code: Arc<dyn Code>, metrics: Arc<Metrics>, kept: usize) -> Self {
        Stripes { code, metrics, pool: Pool::new(kept) }
    }

    /// A stripe without members.
    pub fn open(&self) -> Filling {
        self.metrics.stripes_open.inc();
        Filling(self.pool.take(|| Stripe::idle(&self.code, &self.metrics), |stripe| stripe.idle = false))
    }
}

impl Filling {
    /// Adds a member in the next data slot.
    pub fn join(self, member: Member) -> (Place, Joined) {
        let stripe = self.0;
        let mate_there = member.domain.is_some_and(|domain| stripe.in_flight_in(domain));
        assert!(!mate_there, "stripe-mates are never in flight together in one fault domain");
        let slot = stripe.word.load().filled();
        stripe.members[slot].set(member).expect("only the holder of the token adds members");
        stripe.word.fill();
        let place = Place { stripe: stripe.clone(), slot };
        let full = slot + 1 == stripe.code.k();
        (place, if full { Joined::Full(stripe) } else { Joined::Short(Filling(stripe)) })
    }

    /// Adds a row whose output is known already.
    pub fn join_known(self, row: Row, output: Values) -> Joined {
        let (place, joined) = self.join(Member { row, query: None, domain: None });
        place.stripe.settle(place.slot, output);
        joined
    }

    /// Gives up on more members: what is missing now stays missing.
    pub fn close(self) {
        let k = self.0.code.k();
        let filled = SlotSet::below(self.0.word.load().filled());
        self.0.mark_erased(SlotSet::below(k + self.0.code.r()).without(filled));
        self.0.word.mark(word::SHORT);
    }

    /// The stripe.
    pub fn stripe(&self) -> &Shared<Stripe> {
        &self.0
    }
}

impl Stripe {
    /// One that has not been opened yet.
    fn idle(code: &Arc<dyn Code>, metrics: &Arc<Metrics>) -> Self {
        let (k, r) = (code.k(), code.r());
        Stripe {
            code: Arc::clone(code),
            members: (0..k).map(|_| OnceLock::new()).collect(),
            parity_domains: (0..r).map(|_| OnceLock::new()).collect(),
            outputs: (0..k + r).map(|_| OnceLock::new()).collect(),
            held: (0..k).map(|_| OnceLock::new()).collect(),
            word: Word(AtomicU64::new(0)),
            idle: true,
            metrics: Arc::clone(metrics),
        }
    }

    /// Data slots.
    pub fn k(&self) -> usize {
        self.code.k()
    }

    /// Parity slots.
    pub fn r(&self) -> usize {
        self.code.r()
    }

    /// The slot of parity row `row`.
    pub fn parity_slot(&self, row: usize) -> usize {
        self.k() + row
    }

    /// The member in data slot `slot`, once it has joined.
    pub fn member(&self, slot: usize) -> Option<&Member> {
        self.members[slot].get()
    }

    /// The rows of a full stripe, in slot order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.members.iter().filter_map(OnceLock::get).map(|member| &member.row)
    }

    /// Whether some slot of it is being worked on in `domain` (stripe-mates are never in flight together there).
    pub fn in_flight_in(&self, domain: FaultDomain) -> bool {
        // A slot that is erased may still run on a lane that hangs, so only an output ends its flight.
        let over = self.word.load().present();
        self.slots_in(domain).any(|slot| !over.has(slot))
    }

    /// Whether what waits for the end of its flights in `domain` may wait for ever: a slot that ran there is erased.
    pub fn has_erased_in(&self, domain: FaultDomain) -> bool {
        let erased = self.word.load().erased();
        self.slots_in(domain).any(|slot| erased.has(slot))
    }

    fn slots_in(&self, domain: FaultDomain) -> impl Iterator<Item = usize> {
        (0..self.k() + self.r()).filter(move |&slot| self.domain(slot) == Some(domain))
    }

    /// A parity job starts in `domain`; `false` if it has started before: one that became urgent is queued twice.
    #[must_use]
    pub fn parity_starts(&self, row: usize, domain: FaultDomain) -> bool {
        self.parity_domains[row].set(domain).is_ok()
    }

    /// Whether a parity job has started.
    pub fn parity_has_started(&self, row: usize) -> bool {
        self.parity_domains[row].get().is_some()
    }

    /// An output arrived.
    pub fn settle(&self, slot: usize, output: Values) -> Settled {
        if self.outputs[slot].set(output).is_err() {
            return Settled::Late;
        }
        let present = self.word.set_present(SlotSet::only(slot)).present().with(SlotSet::only(slot));
        if present == SlotSet::below(self.outputs.len()) { Settled::Complete } else { Settled::Open }
    }

    /// How well the outputs of a complete stripe fit together, with the code and with them; `None` while some are missing.
    pub fn checked<T>(&self, check: impl FnOnce(&dyn Code, &[&[f32]]) -> T) -> Option<T> {
        let mut outputs: [&[f32]; SLOTS_MAX] = [&[]; SLOTS_MAX];
        for (place, output) in outputs.iter_mut().zip(&self.outputs) {
            *place = output.get()?;
        }
        Some(check(&*self.code, &outputs[..self.outputs.len()]))
    }

    /// Where `slot` runs or ran first; `None` for what was known before.
    pub fn domain(&self, slot: usize) -> Option<FaultDomain> {
        match slot.checked_sub(self.k()) {
            None => self.member(slot)?.domain,
            Some(row) => self.parity_domains[row].get().copied(),
        }
    }

    /// Slots are lost or will not come in time; an output that comes all the same is still taken.
    pub fn mark_erased(&self, slots: SlotSet) {
        self.word.set_lost(slots);
    }

    /// Whether all members have joined.
    pub fn is_full(&self) -> bool {
        self.word.load().filled() == self.k()
    }

    /// Its parity jobs are to be queued; `true` for whoever says so first.
    pub fn ask_parity(&self) -> bool {
        !self.word.mark(word::ASKED).marked(word::ASKED)
    }

    /// The parity job of row `row` will not run.
    pub fn drop_parity(&self, row: usize) {
        self.mark_erased(SlotSet::only(self.parity_slot(row)));
        self.word.mark(word::DROPPED);
    }

    /// Whether `slot` is erased: lost or declared late, and no output came.
    pub fn is_erased(&self, slot: usize) -> bool {
        self.word.load().erased().has(slot)
    }

    /// The erased data slots.
    pub fn erased(&self) -> SlotSet {
        self.word.load().erased().and(SlotSet::below(self.k()))
    }

    /// Absent data slots that can be decoded from what has arrived.
    pub fn recoverable(&self) -> SlotSet {
        self.code.recoverable(self.word.load().present())
    }

    /// Whether `slot` could still be decoded if everything that is not erased arrived. Each is decoded once, so not if that was held back.
    pub fn has_hope(&self, slot: usize) -> bool {
        if self.held(slot).is_some() {
            return false;
        }
        let all = SlotSet::below(self.k() + self.r());
        let best = all.without(self.word.load().erased()).without(SlotSet::only(slot));
        self.code.recoverable(best).has(slot)
    }

    /// Whether a parity output could still answer somebody.
    pub fn wants_parity(&self) -> bool {
        let present = self.word.load().present();
        (0..self.k()).filter(|&slot| !present.has(slot)).any(|slot| self.waiting(slot).is_some())
    }

    /// The query of `slot` if it is open.
    pub fn open(&self, slot: usize) -> Option<&Shared<Admitted>> {
        self.member(slot)?.query.as_ref().filter(|query| query.is_open())
    }

    /// The query of `slot` if it is open and takes what this stripe decodes, which is not yet known to be too little.
    pub fn waiting(&self, slot: usize) -> Option<&Shared<Admitted>> {
        let exact = self.provenance() == Provenance::Direct;
        let takes = |query: &&Shared<Admitted>| exact || query.query.accepts == Accepts::Any;
        self.open(slot).filter(takes).filter(|_| self.held(slot).is_none())
    }

    /// What its decoded predictions are.
    pub fn provenance(&self) -> Provenance {
        self.code.provenance()
    }

    /// Decodes the output of `slot`, which may have overflowed; `None` if it is not recoverable, or if someone else has begun to.
    pub fn decode(&self, slot: usize) -> Option<Values> {
        if !self.recoverable().has(slot) || !self.word.claim(slot) {
            return None;
        }
        let mut outputs = [None; SLOTS_MAX];
        for (place, output) in outputs.iter_mut().zip(&self.outputs) {
            *place = output.get().map(|values| &**values);
        }
        // The slot's own output may have come meanwhile; then there is nothing to decode.
        self.code.decode(slot, &outputs[..self.outputs.len()]).map(Values::from)
    }

    /// A reconstruction of one of its members was served.
    pub fn served(&self) {
        self.word.mark(word::SERVED);
    }

    /// What was decoded for `slot` is not served: its query has no hope but a run of its own. Whether `slot` is erased by now; if it is not,
    /// whoever erases it later sees that there is no hope.
    pub fn hold_back(&self, slot: usize, decoded: Values) -> bool {
        assert!(self.held[slot].set(decoded).is_ok(), "a slot is decoded once");
        // Of this and the erasure, the later in the word's order sees the other.
        let before = self.word.mark(word::HELD);
        before.erased().has(slot)
    }

    /// What was decoded for the data slot `slot` and held back.
    pub fn held(&self, slot: usize) -> Option<&Values> {
        self.held.get(slot).and_then(OnceLock::get)
    }
}

impl Reuse for Stripe {
    fn empty(&mut self) {
        if std::mem::replace(&mut self.idle, true) {
            return;
        }
        self.metrics.stripe_over(self.word.load().outcome(self.k()));
        self.members.iter_mut().for_each(|member| drop(member.take()));
        self.parity_domains.iter_mut().for_each(|domain| _ = domain.take());
        self.outputs.iter_mut().chain(&mut self.held).for_each(|output| drop(output.take()));
        self.word = Word(AtomicU64::new(0));
    }
}

impl Drop for Stripe {
    fn drop(&mut self) {
        self.empty();
    }
}

impl Snapshot {
    /// Of a stripe of so many members.
    fn outcome(self, k: usize) -> StripeOutcome {
        if self.marked(word::SERVED) {
            StripeOutcome::Reconstructed
        } else if self.marked(word::SHORT) {
            StripeOutcome::Short
        } else if self.marked(word::DROPPED) {
            StripeOutcome::Dropped
        } else if self.erased().and(SlotSet::below(k)).is_empty() {
            StripeOutcome::Complete
        } else {
            StripeOutcome::Lost
        }
    }
}

#[cfg(test)]
mod tests;
