//! Rows on their way to a GPU, through pinned memory.
//!
//! Two blocks, so that one is copied while the other is written. A block is neither written nor dropped while a copy reads it.

use candle_core::{CudaDevice, CudaStorage, Error, Result, Storage, Tensor, op::BackpropOp};
use cudarc::driver::{CudaEvent, CudaSlice, CudaViewMut, DevicePtrMut, DriverError, PinnedHostSlice, result};

use super::twice;

/// Values of a block of pinned memory, where a row is not larger: 64 KiB, of which a batch of 32 small pictures has two. Which size is best is not measured.
const BLOCK: usize = 1 << 14;

/// Two blocks of pinned memory: one is copied while the other is written.
#[derive(Debug)]
pub(in crate::model) struct Pinned {
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
    pub(in crate::model) fn new(device: &CudaDevice, width: usize) -> Result<Self> {
        let values = width.max(BLOCK);
        Ok(Pinned { blocks: [Block::new(device, values)?, Block::new(device, values)?], values })
    }

    pub(in crate::model) const fn holds(&self, width: usize) -> bool {
        width <= self.values
    }

    /// Has `fill` write so many rows of this width, each once and whole, and sends them on their way to the device that the memory was made for.
    /// What is done on the device from now on finds them there.
    pub(in crate::model) fn take(
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

/// Waits for a copy, whatever the device says: where it is broken, there is nothing under way any more.
fn wait(waits: impl Fn() -> std::result::Result<(), DriverError>) {
    if let Err(error) = twice(waits) {
        tracing::debug!(%error, "a device did not say that it had read its rows");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gpu::tests::gpu;

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
