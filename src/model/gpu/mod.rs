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
#[cfg(feature = "cudnn")]
mod order;
mod pinned;
#[cfg(feature = "cudnn")]
mod program;

use candle_core::{CudaDevice, Device, DeviceLocation, Error, Result};
use cudarc::driver::{DriverError, result, sys};
use parking_lot::{ReentrantMutex, ReentrantMutexGuard};

pub(super) use pinned::Pinned;
#[cfg(feature = "cudnn")]
pub(super) use program::Program;

/// By GPU: held by whoever waits for a whole device, and by whoever captures a graph. CUDA ends a capture, and refuses the wait, where one meets the other, and lanes open at the
/// same time. A GPU that hangs may hold its lock for good, and no other's.
static ALONE: [ReentrantMutex<()>; 64] = [const { ReentrantMutex::new(()) }; 64];

/// Until it is dropped, no other thread of this process waits for the whole of this GPU, or captures a graph there.
fn alone(ordinal: usize) -> ReentrantMutexGuard<'static, ()> {
    ALONE[ordinal % ALONE.len()].lock()
}

/// The same, for who frees what it has of a GPU: the libraries wait for the device when they are closed. None on a CPU.
pub fn alone_on(device: &Device) -> Option<ReentrantMutexGuard<'static, ()>> {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => Some(alone(gpu_id)),
        DeviceLocation::Cpu | DeviceLocation::Metal { .. } => None,
    }
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
    let device = Device::new_cuda_with_stream(ordinal).map_err(|error| older_driver().unwrap_or(error))?;
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

/// That the driver is for an older CUDA than this build. Its libraries fail for that in other words: cuBLAS only says that it did not start.
fn older_driver() -> Option<Error> {
    let mut version = 0;
    // SAFETY: the driver writes one int.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().ok()?;
    let (here, built) = (u32::try_from(version).ok()? / 1000, sys::CUDA_VERSION / 1000);
    (here < built).then(|| Error::msg(format!("the driver is for CUDA {here}, and this was built with CUDA {built}")))
}

/// Has the driver keep what is freed for who allocates next. It would give all of it back to the system whenever the stream is waited for, which is
/// once a batch, and map it anew in the next one. And it would give one stream what another is about to free, and have it wait: lanes of one GPU for each
/// other.
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
    unsafe { result::mem_pool::set_attribute(pool, threshold, (&raw mut all).cast()) }.map_err(Error::wrap)?;
    let mut no = 0_i32;
    let waits = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES;
    // SAFETY: the same, and this one is an int.
    unsafe { result::mem_pool::set_attribute(pool, waits, (&raw mut no).cast()) }.map_err(Error::wrap)
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
    fn a_device_keeps_its_memory_for_whoever_is_next_without_waiting() {
        let device = gpu();
        assert!(!device.is_event_tracking());
        let (mut kept, mut waits) = (0_u64, 1_i32);
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: as in `keep_memory`.
        let pool = unsafe { result::device::get_default_mem_pool(device.cuda_stream().context().cu_device()) }.unwrap();
        // SAFETY: the attribute is a u64, which is written during the call.
        unsafe { result::mem_pool::get_attribute(pool, threshold, (&raw mut kept).cast()) }.unwrap();
        let dependencies = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES;
        // SAFETY: the attribute is an int.
        unsafe { result::mem_pool::get_attribute(pool, dependencies, (&raw mut waits).cast()) }.unwrap();
        assert_eq!((kept, waits), (u64::MAX, 0));
    }
}
