//! What a GPU needs beyond candle: a device that keeps its memory and has one stream, pinned memory for rows on their way there, and programs of cuDNN's calls
//! (docs/decisions/0028).
//!
//! The only unsafe code of the crate (docs/decisions/0027), and no more of it than the driver's own functions and cuDNN's ask for. What it rests on: a device
//! that [`open`] gives has one stream, on which all its memory is allocated, used and freed, whatever thread asks for it; and tensors go from one
//! device to another through host memory, which `tests/tidy.rs` sees to. `scripts/check-cuda` runs it on emulated GPUs, where a copy reads pinned memory when its turn comes,
//! device memory begins as NaN, and memory of one stream that is used on another ends the program: what is not waited for shows.

#![expect(unsafe_code, reason = "the driver's interface is; docs/decisions/0027")]

#[cfg(feature = "cudnn")]
mod bound;
#[cfg(feature = "cudnn")]
mod cudnn;
mod pinned;
#[cfg(feature = "cudnn")]
mod program;

use candle_core::{CudaDevice, Device, Error, Result};
use cudarc::driver::{DriverError, result, sys};
use parking_lot::{Mutex, MutexGuard};

pub(super) use pinned::Pinned;
#[cfg(feature = "cudnn")]
pub(super) use program::Program;

/// By GPU: held by whoever waits for a whole device, and by whoever captures a graph. CUDA ends a capture, and refuses the wait, where one meets the other, and lanes open at the
/// same time. A GPU that hangs may hold its lock for good, and no other's.
static ALONE: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

/// Until it is dropped, nobody else of this process waits for the whole of this GPU, or captures a graph there.
fn alone(ordinal: usize) -> MutexGuard<'static, ()> {
    ALONE[ordinal % ALONE.len()].lock()
}

/// Calls CUDA once more where it fails: an error may be that of a tensor dropped before; CUDA tells it once, instead of doing what is asked.
fn twice<T>(call: impl Fn() -> std::result::Result<T, DriverError>) -> std::result::Result<T, DriverError> {
    call().or_else(|_| call())
}

/// Opens the GPU that CUDA counts as `ordinal`, with a stream of its own.
///
/// # Errors
/// There is none of that number, or it does not open.
pub fn open(ordinal: usize) -> Result<Device> {
    // A new stream waits for what the default one does.
    let _alone = alone(ordinal);
    // One explicit stream: candle's default is the stream of whichever thread asks, which orders nothing between threads.
    let device = Device::new_cuda_with_stream(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: events would order uses of the same memory by several streams, and there is one. They would cost two events for each tensor, and
        // two calls of the driver for each tensor that a kernel reads or writes.
        unsafe { cuda.disable_event_tracking() };
        if let Err(error) = keep_memory(cuda) {
            tracing::warn!(device = ordinal, %error, "the driver maps this GPU's memory anew for each batch, which takes time");
        }
    }
    Ok(device)
}

/// Has the driver keep what is freed for who allocates next. It would give all of it back to the system whenever the stream is waited for, which is
/// once a batch, and map it anew in the next one.
fn keep_memory(device: &CudaDevice) -> Result<()> {
    let stream = device.cuda_stream();
    if !stream.context().has_async_alloc() {
        return Ok(());
    }
    let mut all = u64::MAX;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device is one that is open.
    let pool = unsafe { result::device::get_default_mem_pool(stream.context().cu_device()) }.map_err(Error::wrap)?;
    // SAFETY: the pool is the driver's own, and this attribute of it is a u64, which is read during the call.
    unsafe { result::mem_pool::set_attribute(pool, threshold, (&raw mut all).cast()) }.map_err(Error::wrap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_device;

    pub(super) fn gpu() -> CudaDevice {
        let device = test_device();
        device.as_cuda_device().expect("scripts/check-cuda says where the GPUs are").clone()
    }

    #[test]
    #[ignore = "scripts/check-cuda runs it"]
    fn a_device_keeps_its_memory_and_no_events() {
        let device = gpu();
        assert!(!device.is_event_tracking());
        let mut kept = 0_u64;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: as in `keep_memory`.
        let pool = unsafe { result::device::get_default_mem_pool(device.cuda_stream().context().cu_device()) }.unwrap();
        // SAFETY: the attribute is a u64, which is written during the call.
        unsafe { result::mem_pool::get_attribute(pool, threshold, (&raw mut kept).cast()) }.unwrap();
        assert_eq!(kept, u64::MAX);
    }
}
