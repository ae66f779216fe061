//! The lock-free containers of the path of a query, and the bells that wake lanes.
//!
//! Owns crossbeam: no other module names it. Everything here is bounded. A [`Bounded`] queue of admitted work is sized by the limit
//! of admission, so it has room for all that is open; a queue of redundancy may be full, and then the redundancy is dropped.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use crossbeam::{
    atomic::AtomicCell,
    queue::ArrayQueue,
    sync::{Parker, Unparker},
};
use parking_lot::Mutex;

use crate::query::LaneId;

/// A bounded first-in-first-out queue that many threads push to and pop from without a lock.
#[derive(Debug)]
pub struct Bounded<T>(ArrayQueue<T>);

impl<T> Bounded<T> {
    /// An empty queue for at most `capacity` (at least 1) items.
    pub fn new(capacity: usize) -> Self {
        Bounded(ArrayQueue::new(capacity.max(1)))
    }

    /// Appends `item`, or gives it back if the queue is full.
    pub fn push(&self, item: T) -> Result<(), T> {
        self.0.push(item)
    }

    /// Appends `item`; if the queue is full, its oldest item makes room.
    pub fn push_over(&self, item: T) {
        drop(self.0.force_push(item));
    }

    /// Takes the oldest item.
    pub fn pop(&self) -> Option<T> {
        self.0.pop()
    }

    /// Drops the items that do not hold, by one full turn of the queue. Those that hold keep their order, unless others push or pop
    /// meanwhile; those that find their place taken by such a push are given back.
    #[must_use]
    pub fn retain(&self, holds: impl Fn(&T) -> bool) -> Vec<T> {
        let turn = (0..self.len()).map_while(|_| self.pop());
        turn.filter(holds).filter_map(|item| self.push(item).err()).collect()
    }

    /// How many items are in it at this moment.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is room for no more at this moment.
    pub fn is_full(&self) -> bool {
        self.0.is_full()
    }

    /// Whether it is empty at this moment.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A cell for one value that is handed over by atomic exchange: of two threads that take it, one gets it.
pub struct Handoff<T>(AtomicCell<Option<Box<T>>>);

impl<T> fmt::Debug for Handoff<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handoff")
    }
}

impl<T> Default for Handoff<T> {
    fn default() -> Self {
        Handoff(AtomicCell::new(None))
    }
}

impl<T> Handoff<T> {
    /// Puts a value in; gives back what was there.
    pub fn put(&self, value: Box<T>) -> Option<Box<T>> {
        self.0.swap(Some(value))
    }

    /// Takes the value out.
    pub fn take(&self) -> Option<Box<T>> {
        self.0.take()
    }
}

/// One bell a lane: its thread waits on it, anyone rings it. A ring before the wait is not lost.
#[derive(Debug)]
pub struct Bells {
    /// The lock is the lane's own: only its thread ever waits on the parker.
    parkers: Box<[Mutex<Parker>]>,
    unparkers: Box<[Unparker]>,
}

impl Bells {
    /// Bells for `lanes` lanes.
    pub fn new(lanes: usize) -> Self {
        let parkers: Vec<Parker> = (0..lanes).map(|_| Parker::new()).collect();
        let unparkers = parkers.iter().map(|parker| parker.unparker().clone()).collect();
        Bells { parkers: parkers.into_iter().map(Mutex::new).collect(), unparkers }
    }

    /// Waits until the lane's bell rings.
    pub fn wait(&self, lane: LaneId) {
        self.parkers[usize::from(lane.0)].lock().park();
    }

    /// Rings a lane's bell.
    pub fn ring(&self, lane: LaneId) {
        self.unparkers[usize::from(lane.0)].unpark();
    }

    /// Rings all bells.
    pub fn ring_all(&self) {
        self.unparkers.iter().for_each(Unparker::unpark);
    }
}

/// What an idle lane can be woken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Data jobs and their exact copies.
    Base,
    /// Parity jobs.
    Parity,
}

/// The idle lanes, longest idle first.
///
/// A lane lists itself *before* it looks at the queues a last time; a submitter pushes *before* it looks for an idle lane. Whichever
/// is second sees the other, so no job is left behind with every lane asleep. The flags and the queues' own ends are sequentially
/// consistent, which that argument needs.
#[derive(Debug)]
pub struct IdleLanes {
    calls: [Bounded<LaneId>; 2],
    lanes: Box<[IdleFlags]>,
}

#[derive(Debug, Default)]
struct IdleFlags {
    /// The lane sleeps, or is about to.
    resting: AtomicBool,
    /// The lane's id is in the queue of that call; keeps it from being there twice, so that the queues cannot overflow.
    listed: [AtomicBool; 2],
}

impl IdleLanes {
    /// No lane of `lanes` is idle.
    pub fn new(lanes: usize) -> Self {
        IdleLanes {
            calls: [Bounded::new(lanes), Bounded::new(lanes)],
            lanes: (0..lanes).map(|_| IdleFlags::default()).collect(),
        }
    }

    /// Lists `lane` as idle for `call`.
    pub fn enter(&self, lane: LaneId, call: Call) {
        let flags = &self.lanes[usize::from(lane.0)];
        flags.resting.store(true, Ordering::SeqCst);
        if !flags.listed[call as usize].swap(true, Ordering::SeqCst) {
            let pushed = self.calls[call as usize].push(lane);
            pushed.expect("each lane is listed at most once a call");
        }
    }

    /// The lane is awake; what is left of its listing will be passed over.
    pub fn leave(&self, lane: LaneId) {
        self.lanes[usize::from(lane.0)].resting.store(false, Ordering::SeqCst);
    }

    /// Takes the longest-idle lane for `call` off the list, for the caller to wake.
    pub fn call(&self, call: Call) -> Option<LaneId> {
        while let Some(lane) = self.calls[call as usize].pop() {
            let flags = &self.lanes[usize::from(lane.0)];
            flags.listed[call as usize].store(false, Ordering::SeqCst);
            if flags.resting.swap(false, Ordering::SeqCst) {
                return Some(lane);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn lanes_are_called_longest_idle_first_and_once() {
        let idle = IdleLanes::new(3);
        for lane in [2, 0, 1] {
            idle.enter(LaneId(lane), Call::Base);
            idle.enter(LaneId(lane), Call::Base);
        }
        idle.leave(LaneId(0));
        assert_eq!(idle.call(Call::Base), Some(LaneId(2)));
        assert_eq!(idle.call(Call::Parity), None, "nobody listed itself for parity jobs");
        assert_eq!(idle.call(Call::Base), Some(LaneId(1)), "lane 0 is awake again");
        assert_eq!(idle.call(Call::Base), None);
    }

    #[test]
    fn of_two_takers_one_gets_the_value() {
        let cell = Arc::new(Handoff::default());
        for round in 0..2000 {
            assert!(cell.put(Box::new(round)).is_none());
            let other = Arc::clone(&cell);
            let thread = std::thread::spawn(move || other.take().is_some());
            let here = cell.take().is_some();
            assert!(here != thread.join().unwrap(), "exactly one of the two in round {round}");
        }
    }

    #[test]
    fn no_job_is_left_behind_with_every_lane_asleep() {
        const JOBS: usize = 20_000;
        let (jobs, idle, bells) = (Bounded::new(JOBS), IdleLanes::new(2), Bells::new(2));
        let done = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for lane in [LaneId(0), LaneId(1)] {
                let (jobs, idle, bells, done) = (&jobs, &idle, &bells, &done);
                scope.spawn(move || {
                    while done.load(Ordering::SeqCst) < JOBS {
                        if jobs.pop().is_some() {
                            if done.fetch_add(1, Ordering::SeqCst) + 1 == JOBS {
                                bells.ring_all();
                            }
                            continue;
                        }
                        idle.enter(lane, Call::Base);
                        if jobs.is_empty() && done.load(Ordering::SeqCst) < JOBS {
                            bells.wait(lane);
                        }
                        idle.leave(lane);
                    }
                });
            }
            for job in 0..JOBS {
                jobs.push(job).unwrap();
                if let Some(lane) = idle.call(Call::Base) {
                    bells.ring(lane);
                }
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), JOBS);
    }
}
