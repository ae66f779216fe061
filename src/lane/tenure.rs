//! Which thread runs a lane: the one that started it, or one that took its place while it was stuck in a call of the device.
//!
//! A thread cannot be ended from outside, so one that is stuck is left where it is. What must not happen is that it comes back and speaks for
//! the lane beside the one that replaced it. Hence one atomic word: a thread is replaced only *inside* a call, and what it does first when
//! it is back is to find that out. One of the two steps comes first, and decides.

use std::sync::atomic::{AtomicU8, Ordering};

/// It is not in a call.
const OUTSIDE: u8 = 0;
/// It is in a call, which may never return.
const INSIDE: u8 = 1;
/// Another thread runs the lane.
const OVER: u8 = 2;

/// A thread's right to run a lane.
#[derive(Debug, Default)]
pub(super) struct Tenure(AtomicU8);

impl Tenure {
    /// A call that may never return begins.
    pub(super) fn enter(&self) {
        self.0.store(INSIDE, Ordering::Release);
    }

    /// The call has returned; `false` if another thread runs the lane by now, and this one must not say anything more.
    pub(super) fn leave(&self) -> bool {
        self.0.compare_exchange(INSIDE, OUTSIDE, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes the lane from a thread that is inside a call; `false` if it is not.
    pub(super) fn take_from(&self) -> bool {
        self.0.compare_exchange(INSIDE, OVER, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether another thread runs the lane.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OVER
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn a_thread_is_replaced_inside_a_call_alone_and_finds_it_out() {
        let tenure = Tenure::default();
        assert!(!tenure.take_from(), "it would speak for the lane at any moment");
        tenure.enter();
        assert!(tenure.leave());
        tenure.enter();
        assert!(tenure.take_from() && !tenure.take_from());
        assert!(tenure.is_over() && !tenure.leave());
    }

    #[test]
    fn of_a_return_and_a_replacement_at_once_one_comes_first() {
        for _ in 0..1_000 {
            let tenure = Arc::new(Tenure::default());
            tenure.enter();
            let other = Arc::clone(&tenure);
            let taken = thread::spawn(move || other.take_from());
            let left = tenure.leave();
            assert_ne!(left, taken.join().unwrap());
        }
    }
}
