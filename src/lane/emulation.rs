//! The device that a CPU lane may stand for: real thread, queue, code and model, but the time that another device would take.
//!
//! The lane computes its batch as always and then waits until the emulation says that the batch is over. So a machine with two cores runs what a
//! server with eighteen devices would, and only the service times are drawn. What draws them stands above: a benchmark, or a test.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    clock::Time,
    job::{Batch, Feed, Role},
    query::LaneId,
};

/// The batch was lost on the emulated device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("emulated loss")]
pub struct EmulatedLoss;

/// What a device does while a batch runs.
pub struct Meanwhile<'l> {
    /// Takes the number of parts that are over, unless another thread has the lane by now.
    pub over: &'l dyn Fn(usize),
    /// Hears of them from whoever outlives this.
    pub feed: &'l Arc<dyn Feed>,
    /// Makes what has run since its last call longer, if a fault makes the lane slow.
    pub stretch: &'l dyn Fn(),
}

impl fmt::Debug for Meanwhile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meanwhile")
    }
}

/// What the devices of a daemon's lanes take, instead of what its CPU took.
pub trait Emulation: fmt::Debug + Send + Sync {
    /// Whether it reports how far this lane's batches are; if not, the model on the CPU does.
    fn reports(&self, lane: LaneId) -> bool;

    /// The time that one job takes on this lane, which has this role; `usual` is what it took on the CPU.
    fn expected(&self, lane: LaneId, role: Role, usual: Duration) -> Duration;

    /// Blocks the lane's thread until a batch that began at `started` is over.
    fn batch(&self, lane: LaneId, batch: &Batch, started: Time, meanwhile: &Meanwhile<'_>) -> Result<(), EmulatedLoss>;

    /// The same for a known input.
    fn canary(&self, lane: LaneId, started: Time) -> Result<(), EmulatedLoss>;
}
