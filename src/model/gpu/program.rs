//! A network as a program of cuDNN's calls: memory, descriptions and algorithms are there before the first row, and the calls for so many rows are CUDA graphs.
//!
//! For each size of a batch that comes (or is told beforehand, [`Program::prepare`]) its calls are made ready (`bound`); from then on a batch is a copy to where the
//! program reads, a launch of each graph, and a copy from where it writes. Large batches are run as the next of a few sizes ([`size_of`]): to make calls ready takes
//! longer than some rows too many, whose outputs nobody reads. A batch with much work is several graphs, with a mark between them ([`Marks`]); one
//! with little is one and tells nothing before its end, for what a launch costs is what graphs are there to spare.
//!
//! A net belongs to its lane, and so does the stream: what another thread handed to it while a graph is captured would be in the graph.
//!
//! What cuDNN does not take, candle's kernels run: found out before it is served, as everything that can fail here but the device.

use std::{collections::BTreeSet, fmt, sync::Arc};

use candle_core::{CudaDevice, Device, Error, Result, Storage, Tensor};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result, sys::CUdeviceptr};
use half::{bf16, f16};
use parking_lot::Mutex;

use super::{
    bound::{Bound, Calls, Part},
    cudnn::{Handle, is_installed},
    twice,
};
use crate::model::{
    Precision,
    lowered::{Kind, Lowered},
    marks::Marks,
    step::Step,
};

/// Numbers of rows up to this one are sizes of their own.
const EXACT: usize = 32;
/// Sizes beyond, for each doubling.
const A_DOUBLING: usize = 8;

/// The size of a batch that so many rows are run as: less than an eighth more than they are.
fn size_of(rows: usize) -> usize {
    if rows <= EXACT { rows } else { rows.next_multiple_of(rows.next_power_of_two() / (2 * A_DOUBLING)) }
}

/// A network for one GPU.
pub(in crate::model) struct Program {
    pub(super) lowered: Lowered,
    pub(super) values: Precision,
    pub(super) device: CudaDevice,
    bound: Mutex<Bound>,
}

impl Program {
    /// Of layers that are served in `precision`; none where cuDNN is not installed or does not start, or where there is a layer that it has no call for.
    ///
    /// Fails when the device does.
    pub(in crate::model) fn new(
        input: &[usize],
        steps: &[Step],
        precision: Precision,
        device: &Device,
    ) -> Result<Option<Self>> {
        let Device::Cuda(cuda) = device else { return Ok(None) };
        let stream = cuda.cuda_stream();
        stream.context().bind_to_thread().map_err(Error::wrap)?;
        let cudnn = match Handle::new(&stream) {
            Ok(cudnn) => cudnn,
            Err(error) => {
                // Unless it is the device that is at fault, which is told here.
                stream.synchronize().map_err(Error::wrap)?;
                if is_installed() {
                    tracing::warn!(%error, "cuDNN does not start: candle's kernels run what it would");
                }
                return Ok(None);
            }
        };
        // What overflows is found by the outputs that are no numbers. In half precision that happens to well networks, too.
        let keeps_nan = precision == Precision::Half;
        let Some(mut lowered) = Lowered::new(input, steps, keeps_nan)? else { return Ok(None) };
        for stage in &mut lowered.stages {
            if let Kind::Convolution { filters, bias, .. } = &mut stage.kind {
                *filters = filters.contiguous()?;
                let found = match bias.take() {
                    Some(bias) => bias.contiguous()?,
                    None => Tensor::zeros(filters.dim(0)?, precision.dtype(), device)?,
                };
                *bias = Some(found);
            }
        }
        let (device, bound) = (cuda.clone(), Mutex::new(Bound::new(cudnn)));
        Ok(Some(Program { lowered, values: precision, device, bound }))
    }

    /// Has everything ready for batches of so many rows, each of `rows`. Fails when the device does.
    pub(in crate::model) fn prepare(&self, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        let mut bound = self.bound.lock();
        let sizes: BTreeSet<_> = rows.into_iter().map(size_of).collect();
        // The largest first, which take the most memory; where a smaller one takes more, what pointed to the old is made again.
        for _ in 0..2 {
            for &size in sizes.iter().rev() {
                bound.ready(self, size)?;
            }
        }
        self.device.cuda_stream().synchronize().map_err(Error::wrap)
    }

    /// Who runs batches of so many rows, as far as is known.
    pub(in crate::model) fn kernels(&self, rows: usize) -> &'static str {
        match self.bound.lock().calls(size_of(rows)) {
            Some(Calls { parts, .. }) if parts.iter().all(|part| part.graph.is_some()) => "cudnn graphs",
            Some(_) => "cudnn",
            None => "candle",
        }
    }

    /// Runs rows that are preprocessed and of the program's precision; `outputs` hold what they gave then. Whether it did: cuDNN may not take so many rows.
    ///
    /// Fails when the device does.
    pub(in crate::model) fn run(&self, rows: &Tensor, outputs: &mut Vec<f32>, marks: &mut Marks<'_>) -> Result<bool> {
        let (count, stream) = (rows.dim(0)?, self.device.cuda_stream());
        assert!(rows.dtype() == self.values.dtype(), "rows are of the program's precision");
        let (mut bound, size) = (self.bound.lock(), size_of(count));
        if count == 0 || !bound.ready(self, size)? {
            return Ok(false);
        }
        let Bound { cudnn, slots, workspace, .. } = &*bound;
        let Some(Calls { calls, parts }) = bound.calls(size) else { return Ok(false) };
        let (from, bytes) =
            (address_of(rows, self.values, &stream)?, rows.elem_count() * self.values.dtype().size_in_bytes());
        assert!(bytes <= slots[0].len(), "as many values as rows were prepared for");
        // SAFETY: both are memory of this stream, of as many bytes as are copied.
        unsafe { result::memcpy_dtod_async(place_of(&slots[0], &stream), from, bytes, stream.cu_stream()) }
            .map_err(Error::wrap)?;
        for Part { calls: range, share, graph } in parts {
            if let Some(graph) = graph {
                graph.launch().map_err(Error::wrap)?;
            } else {
                let workspace = room_of(workspace.as_ref(), &stream);
                for call in &calls[range.clone()] {
                    // SAFETY: calls point to slots, weights and workspace, which are the program's, and sized for as many rows.
                    if let Err(error) = unsafe { call.launch(cudnn, workspace) } {
                        // What CUDA says of it says more: whether this process has lost the device.
                        stream.synchronize().map_err(Error::wrap)?;
                        return Err(Error::wrap(error));
                    }
                }
            }
            // The last is over with the outputs.
            if range.end < calls.len() {
                marks.step(*share)?;
            }
        }
        marks.wait()?;
        let (slot, width) = self.lowered.outputs();
        self.read(place_of(&slots[slot], &stream), count * width, outputs)?;
        Ok(true)
    }

    /// Copies so many values to the host, and waits for them.
    fn read(&self, from: CUdeviceptr, count: usize, outputs: &mut Vec<f32>) -> Result<()> {
        fn copied<T: Clone + Default>(stream: &CudaStream, from: CUdeviceptr, count: usize) -> Result<Vec<T>> {
            let mut values = vec![T::default(); count];
            // SAFETY: the slot holds as many values, and the host's memory is waited for before anybody reads or drops it.
            let copied = unsafe { result::memcpy_dtoh_async(&mut values, from, stream.cu_stream()) };
            let waited = twice(|| stream.synchronize());
            copied.and(waited).map_err(Error::wrap)?;
            Ok(values)
        }
        let stream = self.device.cuda_stream();
        outputs.clear();
        match self.values {
            Precision::Half => outputs.extend(copied::<f16>(&stream, from, count)?.into_iter().map(f16::to_f32)),
            Precision::Bfloat => outputs.extend(copied::<bf16>(&stream, from, count)?.into_iter().map(bf16::to_f32)),
            Precision::Single | Precision::TensorFloat => *outputs = copied(&stream, from, count)?,
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // What is dropped next belongs to the context; where it is broken, nothing of it is left to free.
        if let Err(error) = self.device.cuda_stream().context().bind_to_thread() {
            tracing::debug!(%error, "a program is dropped without its GPU");
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("lowered", &self.lowered).field("values", &self.values).finish_non_exhaustive()
    }
}

pub(super) fn place_of(memory: &CudaSlice<u8>, stream: &Arc<CudaStream>) -> CUdeviceptr {
    memory.device_ptr(stream).0
}

/// A workspace's address and bytes.
pub(super) fn room_of(workspace: Option<&CudaSlice<u8>>, stream: &Arc<CudaStream>) -> (CUdeviceptr, usize) {
    workspace.map_or((0, 0), |memory| (place_of(memory, stream), memory.len()))
}

/// Where the values of a tensor are, one after the other.
pub(super) fn address_of(tensor: &Tensor, values: Precision, stream: &Arc<CudaStream>) -> Result<CUdeviceptr> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cuda(storage), Some((first, _))) = (&*storage, layout.contiguous_offsets()) else {
        return Err(Error::Msg("a program reads whole tensors of its GPU".to_owned()));
    };
    let start = match values {
        Precision::Half => storage.as_cuda_slice::<f16>()?.device_ptr(stream).0,
        Precision::Bfloat => storage.as_cuda_slice::<bf16>()?.device_ptr(stream).0,
        Precision::Single | Precision::TensorFloat => storage.as_cuda_slice::<f32>()?.device_ptr(stream).0,
    };
    Ok(start + (first * values.dtype().size_in_bytes()) as CUdeviceptr)
}

#[cfg(test)]
mod tests;
