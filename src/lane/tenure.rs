//! Which thread runs a lane: the one that started it, or one that took its place while it was stuck in a call of the device.
//!
//! A thread cannot be ended from outside, so one that is stuck is left where it is. What must not happen is that it comes back and speaks for
//! the lane beside the one that replaced it. Hence one atomic word, which counts its calls: it is odd *inside* a call. A thread is replaced in the very call in which it was
//! found stuck, not in a later one, and what it does first when it is back is to find that out. One of the two steps comes first, and decides.
//! `lane::replace` starts the other thread; `serve/lanes` says when, and how often.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::loss::Unknown;

/// Another thread runs the lane, and this one has not come back.
const LEFT: u64 = u64::MAX;
/// Another thread runs the lane, and this one has ended.
const ENDED: u64 = u64::MAX - 1;

/// A thread's right to run a lane.
#[derive(Debug, Default)]
pub(super) struct Tenure(AtomicU64);

/// One call of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Call(u64);

impl Tenure {
    /// A call that may never return begins.
    pub(super) fn enter(&self) {
        // Nobody else writes while it is even.
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// The call has returned; `false` if another thread runs the lane by now, and this one must not say anything more, and end.
    pub(super) fn leave(&self) -> bool {
        let inside = self.0.load(Ordering::Acquire);
        let is_back =
            inside < ENDED && self.0.compare_exchange(inside, inside + 1, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if !is_back {
            self.0.store(ENDED, Ordering::Release);
        }
        is_back
    }

    /// The call that it is inside, if it is.
    pub(super) fn call(&self) -> Option<Call> {
        let word = self.0.load(Ordering::Acquire);
        (word < ENDED && word % 2 == 1).then_some(Call(word))
    }

    /// Takes the lane from a thread that is inside this call; `false` if it has come back meanwhile.
    pub(super) fn take_from(&self, Call(inside): Call) -> bool {
        self.0.compare_exchange(inside, LEFT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether another thread runs the lane.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= ENDED
    }

    /// Whether it was replaced and has not come back.
    pub(super) fn is_left(&self) -> bool {
        self.0.load(Ordering::Relaxed) == LEFT
    }
}

/// A lane's thread, as whoever started it sees it.
#[derive(Clone, Debug)]
pub struct Held {
    pub(super) tenure: Arc<Tenure>,
    /// The lane's.
    pub(super) unknown: Arc<Unknown>,
    /// Closed when the thread ends.
    ended: Arc<Mutex<Receiver<Infallible>>>,
}

/// A thread in one of its calls, in which it may be stuck.
#[derive(Debug)]
pub struct Inside {
    tenure: Arc<Tenure>,
    call: Call,
    /// The lane's.
    pub(super) unknown: Arc<Unknown>,
}

impl Inside {
    /// Whether both are one call of one thread.
    pub fn is(&self, other: &Inside) -> bool {
        Arc::ptr_eq(&self.tenure, &other.tenure) && self.call == other.call
    }

    /// Takes the lane from the thread; `false` if it has come back meanwhile.
    pub(super) fn take_lane(&self) -> bool {
        self.tenure.take_from(self.call)
    }
}

impl Held {
    /// A thread of a lane that is about to start, and what it drops when it ends, after all else.
    pub(super) fn new(unknown: Arc<Unknown>) -> (Self, SyncSender<Infallible>) {
        let (ends, ended) = mpsc::sync_channel(0);
        (Held { tenure: Arc::default(), unknown, ended: Arc::new(Mutex::new(ended)) }, ends)
    }

    /// The call that it is inside, if it is. Whoever finds after this that the thread is stuck knows that it is so in this call.
    pub fn inside(&self) -> Option<Inside> {
        let inside = |call| Inside { tenure: Arc::clone(&self.tenure), call, unknown: Arc::clone(&self.unknown) };
        self.tenure.call().map(inside)
    }

    /// Whether it was replaced and has not come back.
    pub fn is_left(&self) -> bool {
        self.tenure.is_left()
    }

    /// Waits until it has ended and let go of its device; `false` if that takes longer than `limit`.
    pub fn ends_within(&self, limit: Duration) -> bool {
        match self.ended.lock().recv_timeout(limit) {
            Ok(never) => match never {},
            Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::job::Loss;

    #[test]
    fn a_thread_is_replaced_inside_the_call_in_which_it_is_stuck_and_finds_it_out() {
        let tenure = Tenure::default();
        assert_eq!(tenure.call(), None, "it would speak for the lane at any moment");
        tenure.enter();
        let first = tenure.call().unwrap();
        assert!(tenure.leave());
        tenure.enter();
        assert!(!tenure.take_from(first), "it has come back since, and is in another call");
        let second = tenure.call().unwrap();
        assert!(tenure.take_from(second) && !tenure.take_from(second));
        assert!(tenure.is_over() && tenure.is_left());
        assert!(!tenure.leave());
        assert!(tenure.is_over() && !tenure.is_left() && tenure.call().is_none());
    }

    /// A device that does not open for it twice is of no use to this process, whichever thread was told.
    #[test]
    fn an_error_without_a_name_is_known_to_whoever_replaces_a_thread() {
        let (held, _ends) = Held::new(Arc::default());
        held.unknown.opened();
        held.unknown.job("CUDA_ERROR_UNKNOWN");
        held.tenure.enter();
        let stuck = held.inside().unwrap();
        assert_eq!(stuck.unknown.not_open("CUDA_ERROR_UNKNOWN", Loss::Device), Loss::Fatal);
    }

    #[test]
    fn of_a_return_and_a_replacement_at_once_one_comes_first() {
        for _ in 0..1_000 {
            let tenure = Arc::new(Tenure::default());
            tenure.enter();
            let (other, call) = (Arc::clone(&tenure), tenure.call().unwrap());
            let taken = thread::spawn(move || other.take_from(call));
            let left = tenure.leave();
            assert_ne!(left, taken.join().unwrap());
        }
    }
}
