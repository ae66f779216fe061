//! The timer thread: the passage of time, applied to the core.
//!
//! It notices, too, when there was none for the process: [`STANDSTILL`].

use std::{sync::atomic::Ordering, time::Duration};

use super::Engine;
use crate::{
    clock::{Time, nanos},
    job::AbortOnPanic,
    repeat::{Line, Repeats},
};

/// How often the timer thread applies the passage of time: the slack of every deadline.
const TICK: Duration = Duration::from_millis(1);
/// About so many ticks make a second.
const TICKS_A_SECOND: u64 = 1000;
/// A busy machine may keep the timer waiting for so long. What it is late beyond that is time that nothing of this process ran for.
const STANDSTILL: Duration = Duration::from_millis(20);
/// A standstill that an operator should know of: clients wait for so long, whatever lanes do.
const WORTH_A_LINE: Duration = Duration::from_millis(100);

impl Engine {
    /// Applies the passage of time until the engine has stopped and nobody waits for an answer any more. Runs on a thread of its own: neither a hung lane nor
    /// a busy HTTP worker may keep a deadline waiting.
    pub fn run_timer(&self) {
        let _abort = AbortOnPanic;
        let (mut last, mut lines) = (self.clock.now(), Repeats::default());
        let mut end = None;
        loop {
            self.clock.pause(TICK);
            let now = self.clock.now();
            if self.stopped.load(Ordering::Acquire) {
                // What lanes have left is answered at its deadline, as ever.
                let end = *end.get_or_insert(now + self.limits.deadline + TICK);
                if self.requests.admitted() == 0 || now > end {
                    return;
                }
            }
            let stood_still = now.since(last).saturating_sub(STANDSTILL);
            last = now;
            if !stood_still.is_zero() {
                self.dispatch.stood_still(stood_still, now);
                tell_standstill(stood_still, now, &mut lines);
            }
            self.event(|effects| self.dispatch.tick(now, effects));
            if self.ticks.fetch_add(1, Ordering::Relaxed).is_multiple_of(TICKS_A_SECOND) {
                self.tell_left_out();
            }
        }
    }

    /// How often the timer has applied the passage of time; stands still if the timer does.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }
}

fn tell_standstill(lasted: Duration, now: Time, lines: &mut Repeats) {
    if lasted < WORTH_A_LINE {
        return;
    }
    if let Line::Told { left_out } = lines.next(now) {
        tracing::warn!(
            ms = nanos(lasted) / 1_000_000,
            left_out,
            "nothing ran for a while: the process or its machine was stopped"
        );
    }
}
