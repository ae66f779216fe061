//! Timers of the core: deadlines and graces, in order.
//!
//! Adding one is a push to a bounded queue, so that the path of a query takes no lock; the timer thread moves them to a heap. If nobody ticks for
//! so long that the queue fills, whoever adds the next timer moves some.
//!
//! Timers hold what they are for. Most are moot long before they are due, so they are swept out: whenever there are twice as many as the last sweep
//! left, which costs each timer little and keeps few queries that are over; and now and then in any case, so that a burst does not keep its own for
//! long. (Weak references would hold nothing, but who is held weakly is not held alone, and could not be used again.)

use std::{cmp::Ordering, collections::BinaryHeap};

use parking_lot::Mutex;

use crate::{
    clock::Time,
    pool::Shared,
    queue::Bounded,
    reply::Admitted,
    stripe::{Place, Stripe},
};

/// What is due. At one and the same time graces come before deadlines, so that a last reconstruction is not missed.
#[derive(Debug)]
pub(super) enum Due {
    /// A reconstruction of this data slot may be served.
    Grace(Shared<Stripe>, usize),
    /// The stripe has not brought this query back; run it again.
    Patience(Shared<Admitted>, Option<Place>),
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
            Due::Patience(query, _) => !query.is_open(),
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

/// Timers that one who adds to a full queue moves: it waits for them, and they make room for as many.
const MOVED: usize = 8;

/// Ticks after which timers are swept, however many there are.
const SWEEP: u32 = 50;

/// Timers in order.
#[derive(Debug, Default)]
struct Heap {
    timers: BinaryHeap<Timer>,
    /// What the last sweep left, and how many ticks ago it was.
    left: usize,
    ticks: u32,
}

impl Heap {
    /// Puts these in order, but for those that are moot already.
    fn extend(&mut self, timers: impl Iterator<Item = Timer>) {
        self.timers.extend(timers.filter(|timer| !timer.is_moot()));
    }

    fn sweep(&mut self) {
        if self.timers.len() >= 2 * self.left || self.ticks >= SWEEP {
            self.timers.retain(|timer| !timer.is_moot());
            (self.left, self.ticks) = (self.timers.len(), 0);
        }
    }
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
            let mut heap = self.heap.lock();
            heap.extend((0..MOVED).map_while(|_| self.added.pop()));
            heap.timers.push(timer);
            heap.sweep();
        }
    }

    /// Puts those that were added in order.
    pub(super) fn collect(&self) {
        let mut heap = self.heap.lock();
        heap.extend(std::iter::from_fn(|| self.added.pop()));
        heap.ticks += 1;
        heap.sweep();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        query::{Accepts, Confidence, Failure, Query, Row},
        reply::{Pending, Requests},
    };

    fn ms(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    fn admit(requests: &Requests, timers: &Timers, deadline: Time) -> (Shared<Admitted>, Pending) {
        let (row, accepts, min_confidence) = (Row::whole(vec![0.0]), Accepts::Any, Confidence::NONE);
        let query = Query { row, admitted: Time::ZERO, deadline, accepts, min_confidence, in_range: true };
        let (mut entering, pending) = requests.admit([query]).unwrap();
        let query = entering.next().unwrap();
        timers.add(deadline, Due::Deadline(query.clone()));
        (query, pending)
    }

    #[test]
    fn queries_that_are_over_are_not_kept_until_their_deadline() {
        let (requests, timers) = (Requests::new(100), Timers::new(4));
        let open: Vec<_> = (0..20).map(|_| admit(&requests, &timers, ms(2_000))).collect();
        timers.collect();
        for (query, _pending) in &open[..15] {
            query.answer(Err(Failure::Deadline)).unwrap();
        }
        for _ in 0..SWEEP {
            timers.collect();
        }
        assert!(open[..15].iter().all(|(query, _)| query.is_sole()), "their timers have let go of them");
        assert!(open[15..].iter().all(|(query, _)| !query.is_sole()));
        assert!(timers.due(ms(1_999)).is_none());
        let due = std::iter::from_fn(|| timers.due(ms(2_000)));
        assert_eq!(due.filter(|due| matches!(due, Due::Deadline(_))).count(), 5);
    }

    #[test]
    fn a_query_that_everybody_has_passed_over_is_not_due() {
        let (requests, timers) = (Requests::new(1), Timers::new(4));
        let (query, pending) = admit(&requests, &timers, ms(1));
        timers.collect();
        drop((query, pending));
        assert!(timers.due(ms(1)).is_none());
        assert_eq!(requests.admitted(), 0);
    }
}
