//! A network as a program of cuDNN's calls: memory, descriptions and plans are there before the first row, and the calls for so many rows are CUDA graphs.
//!
//! For each size of a batch that comes (or is told beforehand, [`Program::prepare`]) its calls are made ready (`bound`); from then on a batch is a copy to where the
//! program reads, a launch of each graph, and a copy from where it writes. Large batches are run as the next of a few sizes ([`size_of`]): to make calls ready takes
//! longer than some rows too many, whose outputs nobody reads. A batch with much work is several graphs, with a mark between them ([`Marks`]); one
//! with little is one and tells nothing before its end, for what a launch costs is what graphs are there to spare.
//!
//! Whether pictures are convolved channels first or last is tried where tensor cores may multiply ([`order`]).
//!
//! A net belongs to its lane, and so does the stream: what another thread handed to it while a graph is captured would be in the graph.
//!
//! What cuDNN does not take, candle's kernels run: found out before it is served, as everything that can fail here but the device.

use std::{collections::BTreeSet, fmt};

use candle_core::{CudaDevice, Device, Error, Result, Tensor};
use parking_lot::Mutex;

use super::{
    bound::{Bound, Calls, Gpu},
    cudnn::{Handle, is_installed},
    order,
};
use crate::model::{
    Precision,
    lowered::{Layout, Lowered},
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
    values: Precision,
    device: CudaDevice,
    state: Mutex<State>,
}

/// What belongs to the thread that runs.
struct State {
    bound: Bound,
    /// The same network in the other layout, until it is known which of the two is faster here.
    untried: Option<Lowered>,
    gpu: Gpu,
}

// SAFETY: cuDNN's handles and descriptions, and CUDA's graphs, are for any thread that has bound the context, one at a time (cuDNN, "Thread safety"; CUDA driver
// API, "Graph object thread safety"). Each use binds it, and the program's lock lets one in.
unsafe impl Send for State {}

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
        let (device, stream) = (cuda.clone(), cuda.cuda_stream());
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
        let lowered = |layout| Lowered::new(input, steps, keeps_nan, layout);
        let Some(first) = lowered(Layout::ChannelsFirst)? else { return Ok(None) };
        // Tensor cores read pictures channels last, and cuDNN reorders what it gets otherwise, for each convolution anew. Without them there is nothing to gain.
        let may_gain = precision != Precision::Single && first.has_orders();
        let untried = if may_gain { lowered(Layout::ChannelsLast)? } else { None };
        let gpu = Gpu { cudnn, device: device.clone(), stream, values: precision };
        let bound = Bound::new(first, &gpu)?;
        Ok(Some(Program { values: precision, device, state: Mutex::new(State { bound, untried, gpu }) }))
    }

    /// Has everything ready for batches of so many rows, each of `rows`. Fails when the device does.
    pub(in crate::model) fn prepare(&self, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        let State { bound, untried, gpu } = &mut *self.state.lock();
        let sizes: BTreeSet<_> = rows.into_iter().map(size_of).filter(|&size| size > 0).collect();
        if let (Some(&least), Some(&most)) = (sizes.first(), sizes.last())
            && let Some(other) = untried.take()
        {
            order::settle(gpu, bound, other, [least, most])?;
        }
        // The largest first, which take the most memory; where a smaller one takes more, what pointed to the old is made again.
        for _ in 0..2 {
            for &size in sizes.iter().rev() {
                bound.ready(gpu, size)?;
            }
        }
        gpu.stream.synchronize().map_err(Error::wrap)
    }

    /// Who runs batches of so many rows, as far as is known.
    pub(in crate::model) fn kernels(&self, rows: usize) -> &'static str {
        let bound = &self.state.lock().bound;
        let Some(Calls { parts, .. }) = bound.calls(size_of(rows)) else { return "candle" };
        match (parts.iter().all(|part| part.graph.is_some()), bound.lowered.layout) {
            (true, Layout::ChannelsFirst) => "cudnn graphs",
            (true, Layout::ChannelsLast) => "cudnn graphs, channels last",
            (false, Layout::ChannelsFirst) => "cudnn",
            (false, Layout::ChannelsLast) => "cudnn, channels last",
        }
    }

    /// Runs rows that are preprocessed and of the program's precision; `outputs` hold what they gave then. Whether it did: cuDNN may not take so many rows.
    ///
    /// Fails when the device does.
    pub(in crate::model) fn run(&self, rows: &Tensor, outputs: &mut Vec<f32>, marks: &mut Marks<'_>) -> Result<bool> {
        let count = rows.dim(0)?;
        assert!(rows.dtype() == self.values.dtype(), "rows are of the program's precision");
        let State { bound, gpu, .. } = &mut *self.state.lock();
        let size = size_of(count);
        if count == 0 || !bound.ready(gpu, size)? {
            return Ok(false);
        }
        let Some(calls) = bound.calls(size) else { return Ok(false) };
        bound.load(gpu, rows)?;
        for part in &calls.parts {
            calls.launch(gpu, part)?;
            // The last is over with the outputs.
            if part.calls.end < calls.calls.len() {
                marks.step(part.share)?;
            }
        }
        marks.wait()?;
        bound.read(gpu, count, outputs)?;
        Ok(true)
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
        f.debug_struct("Program").field("values", &self.values).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
