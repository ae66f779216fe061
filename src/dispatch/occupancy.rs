//! How many lanes are idle, and who may take one for redundancy.
//!
//! A lane counts as *free* while it is healthy and runs nothing. Redundancy must leave some lanes free ([`Occupancy::reserve`]): that is one
//! conditional decrement of one atomic number, not a look and then a step, so that of two lanes that see one free lane too many only one
//! takes redundancy. Data jobs take what they need and are never refused.
//!
//! Each lane's share of the number follows from two flags of its own that change in one atomic operation each, so the number is exact
//! whatever the order in which a lane starts, ends, falls and comes back.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicUsize, Ordering};

/// The lane may be given queries like any other.
pub(super) const HEALTHY: u8 = 1;
/// The lane runs a batch.
pub(super) const BUSY: u8 = 2;
/// The lane is slower than its peers.
pub(super) const STRAGGLER: u8 = 4;

/// The flags of one lane.
#[derive(Debug, Default)]
pub(super) struct Flags(AtomicU8);

const fn is_free(flags: u8) -> bool {
    flags & (HEALTHY | BUSY) == HEALTHY
}

impl Flags {
    pub(super) fn has_any(&self, flags: u8) -> bool {
        self.0.load(Ordering::Acquire) & flags != 0
    }
}

/// The lanes that run data jobs, counted.
#[derive(Debug, Default)]
pub(super) struct Occupancy {
    /// Healthy lanes that run nothing.
    free: AtomicI64,
    /// Healthy lanes.
    healthy: AtomicI64,
    /// Lanes that run redundancy.
    redundant: AtomicUsize,
}

impl Occupancy {
    /// Turns a flag of a lane on or off, and counts what that changes.
    pub(super) fn set(&self, flags: &Flags, flag: u8, on: bool) {
        let before =
            if on { flags.0.fetch_or(flag, Ordering::AcqRel) } else { flags.0.fetch_and(!flag, Ordering::AcqRel) };
        let after = if on { before | flag } else { before & !flag };
        let change = i64::from(is_free(after)) - i64::from(is_free(before));
        if change != 0 {
            self.free.fetch_add(change, Ordering::AcqRel);
        }
        let change = i64::from(after & HEALTHY) - i64::from(before & HEALTHY);
        if change != 0 {
            self.healthy.fetch_add(change, Ordering::AcqRel);
        }
    }

    /// Takes the lane itself for redundancy, if that leaves `reserve` lanes free and no more than `budget` lanes run redundancy. It is then
    /// started ([`Occupancy::start_reserved`]) or given back ([`Occupancy::give_back`]).
    pub(super) fn reserve(&self, reserve: usize, budget: usize) -> bool {
        let within = |running: usize| (running < budget).then_some(running + 1);
        if self.redundant.fetch_update(Ordering::AcqRel, Ordering::Acquire, within).is_err() {
            return false;
        }
        let reserve = i64::try_from(reserve).unwrap_or(i64::MAX);
        let leaves = |free: i64| (free > reserve).then(|| free - 1);
        let taken = self.free.fetch_update(Ordering::AcqRel, Ordering::Acquire, leaves).is_ok();
        if !taken {
            self.redundant.fetch_sub(1, Ordering::AcqRel);
        }
        taken
    }

    /// Nothing was found to run on a lane that was reserved.
    pub(super) fn give_back(&self) {
        self.free.fetch_add(1, Ordering::AcqRel);
        self.redundant.fetch_sub(1, Ordering::AcqRel);
    }

    /// The reserved lane starts its batch. Its place among the free ones was taken by the reservation, unless it fell meanwhile.
    pub(super) fn start_reserved(&self, flags: &Flags) {
        let before = flags.0.fetch_or(BUSY, Ordering::AcqRel);
        if !is_free(before) {
            self.free.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A lane that ran redundancy is done.
    pub(super) fn end_reserved(&self) {
        self.redundant.fetch_sub(1, Ordering::AcqRel);
    }

    /// Whether redundancy could start now; by the time it asks, it may not.
    pub(super) fn has_room(&self, reserve: usize, budget: usize) -> bool {
        let free = usize::try_from(self.free.load(Ordering::Acquire)).unwrap_or(0);
        free > reserve && self.redundant.load(Ordering::Acquire) < budget
    }

    pub(super) fn free(&self) -> usize {
        usize::try_from(self.free.load(Ordering::Acquire)).unwrap_or(0)
    }

    pub(super) fn healthy(&self) -> usize {
        usize::try_from(self.healthy.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// Healthy lanes at work on anything but redundancy, about.
    pub(super) fn at_work(&self) -> usize {
        self.healthy().saturating_sub(self.free()).saturating_sub(self.redundant.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_lanes_that_want_redundancy_at_once_enough_stay_free() {
        let (occupancy, flags) = (Occupancy::default(), [const { Flags(AtomicU8::new(0)) }; 8]);
        for flags in &flags {
            occupancy.set(flags, HEALTHY, true);
        }
        let taken = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for flags in &flags {
                let (occupancy, taken) = (&occupancy, &taken);
                scope.spawn(move || {
                    if occupancy.reserve(3, 100) {
                        occupancy.start_reserved(flags);
                        taken.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!((taken.load(Ordering::SeqCst), occupancy.free()), (5, 3));
    }

    #[test]
    fn the_count_is_exact_in_any_order_of_falling_and_finishing() {
        let (occupancy, flags) = (Occupancy::default(), Flags::default());
        occupancy.set(&flags, HEALTHY, true);
        occupancy.set(&flags, BUSY, true);
        assert_eq!((occupancy.free(), occupancy.healthy(), occupancy.at_work()), (0, 1, 1));
        occupancy.set(&flags, HEALTHY, false);
        occupancy.set(&flags, HEALTHY, false);
        occupancy.set(&flags, BUSY, false);
        assert_eq!((occupancy.free(), occupancy.healthy()), (0, 0), "it fell while it was busy");
        occupancy.set(&flags, HEALTHY, true);
        assert_eq!(occupancy.free(), 1);
    }

    #[test]
    fn a_budget_bounds_what_runs_and_what_is_given_back_is_free_again() {
        let (occupancy, flags) = (Occupancy::default(), [const { Flags(AtomicU8::new(0)) }; 4]);
        for flags in &flags {
            occupancy.set(flags, HEALTHY, true);
        }
        assert!(occupancy.reserve(0, 1) && !occupancy.reserve(0, 1));
        occupancy.give_back();
        assert_eq!(occupancy.free(), 4);
        assert!(occupancy.reserve(0, 1));
        occupancy.start_reserved(&flags[0]);
        assert!(!occupancy.has_room(0, 1) && occupancy.has_room(2, 2));
        occupancy.set(&flags[0], BUSY, false);
        occupancy.end_reserved();
        assert!(occupancy.reserve(3, 1));
    }
}
