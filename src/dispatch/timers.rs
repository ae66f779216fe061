//! Timers of the core: deadlines and graces, in order.
//!
//! Adding one is a push to a bounded queue, so that the path of a query takes no lock; the timer thread moves them to a heap. If nobody ticks for
//! so long that the queue fills, whoever adds the next timer moves them.
//!
//! Timers hold what they are for. Most are moot long before they are due, so they are swept out: whenever there are twice as many as the last sweep
//! left, which costs each timer little, and keeps no more queries that are over than are open. (Weak references would hold nothing, but
//! who is held weakly is not held alone, and could not be used again.)

use std::{cmp::Ordering, collections::BinaryHeap};

use parking_lot::Mutex;

use super::Exact;
use crate::{clock::Time, pool::Shared, queue::Bounded, reply::Admitted, stripe::Stripe};

/// What is due. At one and the same time graces come before deadlines, so that a last reconstruction is not missed.
#[derive(Debug)]
pub(super) enum Due {
    /// A reconstruction of this data slot may be served.
    Grace(Shared<Stripe>, usize),
    /// The stripe has not brought this query back; run it again.
    Patience(Exact),
    /// The query must be answered.
    Deadline(Shared<Admitted>),
}

#[derive(Debug)]
struct Timer {
    at: Time,
    due: Due,
}

impl Timer {
    /// Later things are smaller: `BinaryHeap` gives the largest first.
    fn key(&self) -> (std::cmp::Reverse<Time>, bool) {
        (std::cmp::Reverse(self.at), matches!(self.due, Due::Grace(..)))
    }

    fn is_moot(&self) -> bool {
        match &self.due {
            Due::Grace(stripe, slot) => stripe.waiting(*slot).is_none(),
            Due::Patience(exact) => !exact.query.is_open(),
            // Its client has left, and everybody has passed it over.
            Due::Deadline(query) => query.answered().is_some() || query.is_sole(),
        }
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

/// Timers in order.
#[derive(Debug, Default)]
struct Heap {
    timers: BinaryHeap<Timer>,
    /// So many are swept.
    sweep: usize,
}

/// All timers that are set.
#[derive(Debug)]
pub(super) struct Timers {
    added: Bounded<Timer>,
    heap: Mutex<Heap>,
}

impl Timers {
    /// No timers. `expected` is how many may be added between two ticks.
    pub(super) fn new(expected: usize) -> Self {
        Timers { added: Bounded::new(expected), heap: Mutex::default() }
    }

    pub(super) fn add(&self, at: Time, due: Due) {
        if let Err(timer) = self.added.push(Timer { at, due }) {
            self.collect();
            self.heap.lock().timers.push(timer);
        }
    }

    /// Puts those that were added in order.
    pub(super) fn collect(&self) {
        let mut heap = self.heap.lock();
        while let Some(timer) = self.added.pop() {
            if !timer.is_moot() {
                heap.timers.push(timer);
            }
        }
        if heap.timers.len() >= heap.sweep {
            heap.timers.retain(|timer| !timer.is_moot());
            heap.sweep = 2 * heap.timers.len();
        }
    }

    /// Takes out the earliest that is due by `now`.
    pub(super) fn due(&self, now: Time) -> Option<Due> {
        let mut heap = self.heap.lock();
        while heap.timers.peek().is_some_and(|timer| timer.at <= now) {
            let timer = heap.timers.pop()?;
            if !timer.is_moot() {
                return Some(timer.due);
            }
        }
        None
    }
}
