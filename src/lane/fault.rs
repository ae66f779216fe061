//! Faults that can be injected into a lane, for tests and demonstrations.
//!
//! They act where a real fault would: inside the job, on the lane's own thread, under its `catch_unwind`. A healthy lane pays a few
//! loads of an atomic a job for them.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{RunError, STRETCH_STEP, outputs::Outputs};
use crate::job::{Fault, Garbage};

/// What a slow lane's factor is cut to: longer than any deadline, short enough to be a duration.
const FACTOR_MAX: f64 = 1e6;

/// The fault of one lane, set from outside while it runs.
#[derive(Debug, Default)]
pub struct FaultSwitch {
    held: Mutex<Held>,
    changed: Condvar,
    /// Whether there is a fault: what a healthy job looks at instead of the lock.
    any: AtomicBool,
    /// The lane's jobs are of no interest any more.
    ended: AtomicBool,
}

/// A fault, and how many there were before: a job that waits for the end of one must not take the next, equal one for it.
#[derive(Debug, Default)]
struct Held {
    fault: Option<Fault>,
    before: u64,
}

impl Held {
    fn put(&mut self, fault: Option<Fault>) {
        self.before += u64::from(self.fault != fault);
        self.fault = fault;
    }
}

impl FaultSwitch {
    /// Sets, replaces or clears the fault. A job that hangs goes on as soon as its fault is gone, also where another one follows at once.
    pub fn set(&self, fault: Option<Fault>) {
        let mut held = self.held.lock();
        held.put(fault);
        self.any.store(fault.is_some(), Ordering::Release);
        drop(held);
        self.changed.notify_all();
    }

    /// The fault, if there is one.
    pub fn get(&self) -> Option<Fault> {
        if self.any.load(Ordering::Acquire) { self.held.lock().fault } else { None }
    }

    /// What happens before a job runs: it may block here, panic, or fail; `poison` breaks the device.
    pub(super) fn before(&self, poison: impl FnOnce() -> RunError) -> Result<(), RunError> {
        match self.get() {
            None | Some(Fault::Slow { .. } | Fault::Nan | Fault::Garbage(_)) => Ok(()),
            Some(Fault::Error) => Err(RunError::Injected),
            Some(Fault::Fatal) => Err(RunError::InjectedFatal),
            Some(Fault::Poison) => {
                self.clear_once(Fault::Poison);
                Err(poison())
            }
            Some(Fault::OutOfMemory) => Err(RunError::InjectedMemory),
            Some(Fault::Hang) => {
                self.await_answer();
                Ok(())
            }
            Some(Fault::Stuck) => {
                self.clear_once(Fault::Stuck);
                let mut held = self.held.lock();
                self.changed.wait_while(&mut held, |_| !self.ended.load(Ordering::Acquire));
                Ok(())
            }
            Some(Fault::Panic) => {
                self.clear_once(Fault::Panic);
                #[expect(
                    clippy::panic,
                    reason = "the fault that was asked for; the lane catches it like any other panic"
                )]
                {
                    panic!("injected panic")
                }
            }
        }
    }

    /// A fault that acts once has acted.
    fn clear_once(&self, once: Fault) {
        let mut held = self.held.lock();
        if held.fault == Some(once) {
            held.put(None);
            self.any.store(false, Ordering::Release);
        }
    }

    /// Waits until the device would answer: while the hang that there is now lasts.
    pub(super) fn await_answer(&self) {
        let mut held = self.held.lock();
        let before = held.before;
        self.changed.wait_while(&mut held, |held| held.fault == Some(Fault::Hang) && held.before == before);
    }

    /// Clears the fault for good, and lets go of jobs that never come back.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.set(None);
    }

    /// What happens to the outputs of a batch.
    pub(super) fn after(&self, outputs: &mut Outputs) {
        match self.get() {
            Some(Fault::Nan) => outputs.values.fill(f32::NAN),
            Some(Fault::Garbage(how)) => spoil(outputs, how),
            None
            | Some(
                Fault::Slow { .. }
                | Fault::Hang
                | Fault::Stuck
                | Fault::Panic
                | Fault::Error
                | Fault::Fatal
                | Fault::Poison
                | Fault::OutOfMemory,
            ) => {}
        }
    }

    /// Whether the lane is made slow.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self.get(), Some(Fault::Slow { .. }))
    }

    /// Makes what took `time` longer, if the lane is slow.
    pub(super) fn stretch(&self, time: Duration) {
        let Some(Fault::Slow { factor }) = self.get() else { return };
        let mut left = time.mul_f64((factor - 1.0).clamp(0.0, FACTOR_MAX));
        let mut held = self.held.lock();
        let before = held.before;
        while matches!(held.fault, Some(Fault::Slow { .. })) && held.before == before && left > Duration::ZERO {
            let step = left.min(STRETCH_STEP);
            self.changed.wait_for(&mut held, step);
            left -= step;
        }
    }
}

/// Makes outputs wrong in a way that a check for finite values cannot see.
fn spoil(outputs: &mut Outputs, how: Garbage) {
    if how == Garbage::Swapped {
        outputs.reverse();
    } else {
        outputs.rows_mut().for_each(|row| spoil_row(row, how));
    }
}

/// The same for one output row, which is right under faults that change the order of rows.
pub fn spoil_row(row: &mut [f32], how: Garbage) {
    match how {
        Garbage::Wrong => row.iter_mut().for_each(|value| *value = 1.0 - *value),
        Garbage::Scaled => row.iter_mut().for_each(|value| *value *= 1.25),
        Garbage::BitFlip(place) => {
            let at = place as usize / 32 % row.len();
            row[at] = f32::from_bits(row[at].to_bits() ^ (1 << (place % 32)));
        }
        Garbage::Swapped => {}
        Garbage::Layer => row.rotate_left(1),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_hang_that_is_over_is_over_although_the_next_one_follows_at_once() {
        let switch = FaultSwitch::default();
        switch.set(Some(Fault::Hang));
        thread::scope(|scope| {
            let job = scope.spawn(|| switch.before(|| unreachable!("nobody asked for poison")));
            // Only who waits can be woken, and it waits again, since the hang lasts.
            while !switch.changed.notify_one() {
                thread::yield_now();
            }
            let mut held = switch.held.lock();
            held.put(Some(Fault::Hang));
            held.put(None);
            held.put(Some(Fault::Hang));
            drop(held);
            switch.changed.notify_all();
            assert!(job.join().unwrap().is_ok());
        });
        assert_eq!(switch.get(), Some(Fault::Hang), "for the jobs that follow");
    }
}
