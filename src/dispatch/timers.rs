//! Timers of the core: deadlines and graces, in order.
//!
//! Adding one is a push to a bounded queue, so that the path of a query takes no lock; the timer thread moves them to a heap. Long ones hold
//! weak references: a query that has been answered is freed at once and its timer finds nothing. If nobody ticks for so long that the
//! queue fills, whoever adds the next timer moves them.

use std::{cmp::Ordering, collections::BinaryHeap, sync::Weak};

use parking_lot::Mutex;

use super::Exact;
use crate::{clock::Time, queue::Bounded, reply::Admitted, stripe::Stripe};

/// What is due. At one and the same time graces come before deadlines, so that a last reconstruction is not missed.
#[derive(Debug)]
pub(super) enum Due {
    /// A reconstruction of this data slot may be served.
    Grace(Weak<Stripe>, usize),
    /// The stripe has not brought this query back; run it again. Holds it strongly: between a loss and this, nobody else may.
    Patience(Exact),
    /// The query must be answered.
    Deadline(Weak<Admitted>),
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
            Due::Grace(stripe, _) => stripe.strong_count() == 0,
            Due::Patience(exact) => !exact.query.is_open(),
            Due::Deadline(query) => query.strong_count() == 0,
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

/// All timers that are set.
#[derive(Debug)]
pub(super) struct Timers {
    added: Bounded<Timer>,
    heap: Mutex<BinaryHeap<Timer>>,
    heap_max: usize,
}

impl Timers {
    /// No timers. `expected` is how many live ones there may be at once; moot ones are swept out beyond twice that.
    pub(super) fn new(expected: usize) -> Self {
        Timers { added: Bounded::new(expected), heap: Mutex::new(BinaryHeap::new()), heap_max: 2 * expected }
    }

    pub(super) fn add(&self, at: Time, due: Due) {
        if let Err(timer) = self.added.push(Timer { at, due }) {
            let mut heap = self.heap.lock();
            self.collect(&mut heap);
            heap.push(timer);
        }
    }

    fn collect(&self, heap: &mut BinaryHeap<Timer>) {
        while let Some(timer) = self.added.pop() {
            heap.push(timer);
        }
        if heap.len() > self.heap_max {
            heap.retain(|timer| !timer.is_moot());
        }
    }

    /// Takes out everything that is due by `now`, earliest first.
    pub(super) fn due(&self, now: Time) -> Vec<Due> {
        let mut heap = self.heap.lock();
        self.collect(&mut heap);
        let mut due = Vec::new();
        while heap.peek().is_some_and(|timer| timer.at <= now) {
            due.extend(heap.pop().map(|timer| timer.due));
        }
        due
    }
}
