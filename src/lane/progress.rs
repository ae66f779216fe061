//! In-job progress: which parts of a lane's batch are over.
//!
//! A network tells of each of its steps which share of the work it was; here the shares are added up, and each time another eighth is full the
//! lane's feed hears of it. That costs an addition a step and a call an eighth, so it is always on. An injected slowness acts here, part by
//! part, so that a slow lane reports slowly, as a slow device would.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{FaultSwitch, tenure::Tenure};
use crate::{
    clock::{Clock, Time},
    job::{Feed, PARTS},
    query::LaneId,
};

/// Shares are added as whole numbers, which many threads can do at once.
const WHOLE: f32 = 1e6;

/// The progress of one batch.
pub(super) struct Progress<'l> {
    lane: LaneId,
    feed: &'l dyn Feed,
    faults: &'l FaultSwitch,
    clock: Clock,
    tenure: &'l Tenure,
    done: AtomicU32,
    /// Up to when an injected slowness has been seen to.
    stretched: Mutex<Time>,
}

impl<'l> Progress<'l> {
    /// A batch starts now.
    pub(super) fn start(
        lane: LaneId,
        (feed, tenure): (&'l dyn Feed, &'l Tenure),
        faults: &'l FaultSwitch,
        clock: Clock,
    ) -> Self {
        let stretched = Mutex::new(clock.now());
        Progress { lane, feed, faults, clock, tenure, done: AtomicU32::new(0), stretched }
    }

    /// Another share (0..1) of the work is over.
    pub(super) fn told(&self, share: f32) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is from 0 to 1")]
        let share = (share * WHOLE) as u32;
        let before = self.done.fetch_add(share, Ordering::Relaxed);
        let (told, over) = (parts(before), parts(before + share));
        if over <= told {
            return;
        }
        self.stretch();
        self.over(over);
    }

    /// So many parts of the work are over. Of a job that was stuck nobody wants to hear any more: the lane is in another by now.
    pub(super) fn over(&self, parts: usize) {
        if !self.tenure.is_over() {
            self.feed.progress(self.lane, parts);
        }
    }

    /// Makes what has run since the last time longer, if the lane is slow.
    pub(super) fn stretch(&self) {
        if !self.faults.is_slow() {
            return;
        }
        let mut stretched = self.stretched.lock();
        let ran = self.clock.now().since(*stretched);
        if ran > Duration::ZERO {
            self.faults.stretch(ran);
        }
        *stretched = self.clock.now();
    }
}

/// Parts that are over when so much is. The last is told by the batch coming back.
fn parts(done: u32) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number of eighths")]
    let parts = (done as f32 / WHOLE * PARTS as f32) as usize;
    parts.min(PARTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::tests::Heard;

    #[test]
    fn eighths_are_told_once_each_and_large_steps_skip_some() {
        let (heard, tenure, faults) = (Heard::default(), Tenure::default(), FaultSwitch::default());
        let progress = Progress::start(LaneId(0), (&heard, &tenure), &faults, Clock::start());
        for share in [0.1, 0.1, 0.02, 0.3, 0.3, 0.17] {
            progress.told(share);
        }
        assert_eq!(*heard.parts.lock(), [1, 4, 6, 7], "0.2, 0.52, 0.82 and all but the end");
    }
}
