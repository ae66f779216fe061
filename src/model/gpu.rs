//! What a GPU needs beyond candle: a device that keeps its memory and has one stream, and pinned memory for rows on their way there.
//!
//! The only unsafe code of the crate (docs/decisions/0027), and no more of it than the driver's own functions ask for. What it rests on: a device
//! that [`open`] gives has one stream, on which all its memory is allocated, used and freed, whatever thread asks for it; and tensors go from one
//! device to another through host memory, which `tests/tidy.rs` sees to. `scripts/check-cuda` runs it on emulated GPUs, where a copy reads pinned memory when its turn comes,
//! device memory begins as NaN, and memory of one stream that is used on another ends the program: what is not waited for shows.

#![expect(unsafe_code, reason = "the driver's interface is; docs/decisions/0027")]

use candle_core::{
    CudaDevice, CudaStorage, Device, Error, Result, Storage, Tensor,
    cuda_backend::cudarc::driver::{
        CudaEvent, CudaSlice, CudaViewMut, DevicePtrMut, DriverError, PinnedHostSlice, result, sys,
    },
    op::BackpropOp,
};

/// Values of a block of pinned memory, where a row is not larger: 64 KiB, of which a batch of 32 small pictures has two. Which size is best is not measured.
const BLOCK: usize = 1 << 14;

/// Opens the GPU that CUDA counts as `ordinal`, with a stream of its own.
///
/// # Errors
/// There is none of that number, or it does not open.
pub fn open(ordinal: usize) -> Result<Device> {
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

/// Two blocks of pinned memory: one is copied while the other is written.
#[derive(Debug)]
pub(super) struct Pinned {
    blocks: [Block; 2],
    /// Values of each.
    values: usize,
}

#[derive(Debug)]
struct Block {
    memory: PinnedHostSlice<f32>,
    /// Behind the last copy from it. The slice has one of its own, and cudarc a safe way to copy from it, but records that event only where it keeps events for tensors.
    copied: CudaEvent,
}

impl Pinned {
    /// For rows of `width` values.
    pub(super) fn new(device: &CudaDevice, width: usize) -> Result<Self> {
        let values = width.max(BLOCK);
        Ok(Pinned { blocks: [Block::new(device, values)?, Block::new(device, values)?], values })
    }

    pub(super) const fn holds(&self, width: usize) -> bool {
        width <= self.values
    }

    /// Has `fill` write so many rows of this width, each once and whole, and sends them on their way to the device that the memory was made for.
    /// What is done on the device from now on finds them there.
    pub(super) fn take(
        &mut self,
        device: &CudaDevice,
        (rows, width): (usize, usize),
        fill: &mut dyn FnMut(usize, &mut [f32]),
    ) -> Result<Tensor> {
        // SAFETY: every value is written below, by copies that come before whatever reads it in the one stream; if a copy fails or `fill` panics, nobody reads it.
        let mut there: CudaSlice<f32> = unsafe { device.alloc(rows * width)? };
        let at_once = self.values / width;
        for first in (0..rows).step_by(at_once) {
            let block = &mut self.blocks[0];
            let values = &mut block.values()?[..at_once.min(rows - first) * width];
            for (row, into) in values.chunks_exact_mut(width).enumerate() {
                fill(first + row, into);
            }
            let count = values.len();
            block.copy(device, count, &mut there.slice_mut(first * width..first * width + count))?;
            self.blocks.reverse();
        }
        let storage = Storage::Cuda(CudaStorage::wrap_cuda_slice(there, device.clone()));
        Ok(Tensor::from_storage(storage, (rows, width), BackpropOp::none(), false))
    }
}

impl Block {
    fn new(device: &CudaDevice, values: usize) -> Result<Self> {
        let stream = device.cuda_stream();
        // Not write-combined: encoders read what they have written.
        // SAFETY: what is there before it is written is bytes of a foreign call, any of which are an f32.
        let memory = unsafe { stream.context().alloc_pinned_with_flags(values, 0) }.map_err(Error::wrap)?;
        Ok(Block { memory, copied: stream.context().new_event(None).map_err(Error::wrap)? })
    }

    /// Its values, once the last copy from them is over.
    fn values(&mut self) -> Result<&mut [f32]> {
        self.copied.synchronize().map_err(Error::wrap)?;
        self.memory.as_mut_slice().map_err(Error::wrap)
    }

    /// Copies its first `count` values to `to`, when the stream comes to it.
    fn copy(&mut self, device: &CudaDevice, count: usize, to: &mut CudaViewMut<'_, f32>) -> Result<()> {
        let stream = device.cuda_stream();
        let from = &self.memory.as_slice().map_err(Error::wrap)?[..count];
        assert!(to.len() == count, "as much room as there are values");
        let (address, _guard) = to.device_ptr_mut(&stream);
        // SAFETY: both sides hold `count` values. The stream is the one that `to` was allocated on, and frees it there, after the copy. `from` stays where it is
        // until the block is dropped, and is neither written nor dropped before the event behind the copy, which `values` and `drop` wait for.
        let copied = unsafe { result::memcpy_htod_async(address, from, stream.cu_stream()) };
        let marked = copied.and_then(|()| self.copied.record(&stream));
        if marked.is_err() {
            // There is no event behind a copy that may be under way.
            wait(|| stream.synchronize());
        }
        marked.map_err(Error::wrap)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        wait(|| self.copied.synchronize());
    }
}

/// Waits for a copy, whatever the device says: where it is broken, there is nothing under way any more. An error may be that of a tensor which was dropped before,
/// which is told instead of waiting, and once.
fn wait(waits: impl Fn() -> std::result::Result<(), DriverError>) {
    if let Err(error) = waits().or_else(|_| waits()) {
        tracing::debug!(%error, "a device did not say that it had read its rows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_device;

    fn gpu() -> CudaDevice {
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

    /// What is freed is written over there.
    #[test]
    #[ignore = "scripts/check-cuda runs it"]
    fn rows_arrive_from_memory_that_is_gone() {
        let device = gpu();
        let mut pinned = Pinned::new(&device, 8).unwrap();
        let rows = pinned.take(&device, (3, 8), &mut |row, into| into.fill(row as f32)).unwrap();
        drop(pinned);
        let found: Vec<Vec<f32>> = rows.to_vec2().unwrap();
        assert_eq!(found, [[0.0; 8], [1.0; 8], [2.0; 8]]);
    }
}
