//! A network in GPU memory: its weights, slots, a workspace, and the calls for each number of rows.
//!
//! Slots and workspace are shared by all numbers of rows, since a lane runs one batch at a time. Calls point to them, so they are forgotten before either is replaced by a
//! larger one, and made again when they are asked for. For each number of rows every stage is described, an engine of cuDNN's is found by trying, and the calls are captured as
//! graphs.

use std::{collections::HashMap, fmt, ops::Range, sync::Arc};

use candle_core::{CudaDevice, Device, Error, Result, Storage, Tensor};
use cudarc::{
    cudnn::result::CudnnError,
    driver::{
        CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError, result,
        sys::{CUdeviceptr, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode, CUstreamCaptureStatus},
    },
};
use half::{bf16, f16};

use super::{
    alone,
    cudnn::{Call, Convolving, Ends, Handle, is_refusal},
    twice,
};
use crate::model::{
    Precision,
    lowered::{Kind, Layout, Lowered, Slot, Stage},
    marks,
};

/// Multiply-adds of a graph that another one follows. By estimate, not by measurement: in single precision tens of microseconds on the fastest GPUs there are, where a launch
/// is some five.
pub(super) const GRAPH_WORK: usize = 2 << 30;

/// How often a program is not ready for reasons that may pass, until it is not asked again for that number of rows.
const PATIENCE: usize = 8;

/// What a program has of its GPU.
pub(super) struct Gpu {
    pub(super) cudnn: Handle,
    pub(super) device: CudaDevice,
    pub(super) stream: Arc<CudaStream>,
    /// What all that it computes with is made of.
    pub(super) values: Precision,
}

/// A network in GPU memory, in one layout.
pub(super) struct Bound {
    pub(super) lowered: Lowered,
    /// By number of rows; none for one that cuDNN does not take. Before what their calls point to: dropped first.
    sizes: HashMap<usize, Option<Calls>>,
    /// Rows that there is room for.
    room: usize,
    slots: Vec<CudaSlice<u8>>,
    workspace: Option<CudaSlice<u8>>,
    captures: bool,
    patience: usize,
}

/// All calls for one number of rows.
pub(super) struct Calls {
    pub(super) calls: Vec<Call>,
    pub(super) parts: Vec<Part>,
}

impl Calls {
    /// Hands some of them to the stream.
    pub(super) fn launch(&self, gpu: &Gpu, part: &Part) -> Result<()> {
        if let Some(graph) = &part.graph {
            return graph.launch().map_err(Error::wrap);
        }
        for call in &self.calls[part.calls.clone()] {
            // SAFETY: calls point to slots, weights and workspace, which are the network's, and sized for as many rows.
            if let Err(error) = unsafe { call.launch(&gpu.cudnn) } {
                // What CUDA says of it says more: whether this process has lost the device.
                gpu.stream.synchronize().map_err(Error::wrap)?;
                return Err(Error::wrap(error));
            }
        }
        Ok(())
    }
}

/// Some of them, one after the other.
pub(super) struct Part {
    pub(super) calls: Range<usize>,
    /// Of the whole work.
    pub(super) share: f32,
    /// None where they are handed over one by one.
    pub(super) graph: Option<CudaGraph>,
}

/// Why there are no calls for some number of rows.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// What cuDNN says.
    #[error(transparent)]
    Library(#[from] CudnnError),
    /// The device has too little memory left for them.
    #[error(transparent)]
    Room(DriverError),
    /// The device.
    #[error(transparent)]
    Device(Error),
}

pub(super) type Made<T> = std::result::Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Device(error)
    }
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        match error {
            DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => Failure::Room(error),
            DriverError(_) => Failure::Device(Error::wrap(error)),
        }
    }
}

impl Bound {
    /// With filters as the network's layout has them, and a bias for each convolution.
    ///
    /// Fails when the device does, or has no memory for them.
    pub(super) fn new(mut lowered: Lowered, gpu: &Gpu) -> Result<Self> {
        for stage in &mut lowered.stages {
            if let Kind::Convolution { filters, bias, .. } = &mut stage.kind {
                *filters = match lowered.layout {
                    Layout::ChannelsFirst => filters.contiguous()?,
                    Layout::ChannelsLast => filters.permute((0, 2, 3, 1))?.contiguous()?,
                };
                let found = match bias.take() {
                    Some(bias) => bias.contiguous()?,
                    None => Tensor::zeros(filters.dim(0)?, gpu.values.dtype(), &Device::Cuda(gpu.device.clone()))?,
                };
                *bias = Some(found);
            }
        }
        let (sizes, slots, workspace) = Default::default();
        Ok(Bound { lowered, sizes, room: 0, slots, workspace, captures: true, patience: PATIENCE })
    }

    /// Those for so many rows, if they are ready.
    pub(super) fn calls(&self, rows: usize) -> Option<&Calls> {
        self.sizes.get(&rows)?.as_ref()
    }

    /// Whether there are calls for so many rows, which are made if they are not known yet. Fails when the device does.
    pub(super) fn ready(&mut self, gpu: &Gpu, rows: usize) -> Result<bool> {
        match self.made(gpu, rows) {
            Ok(there) => return Ok(there),
            Err(Failure::Device(error)) => return Err(error),
            Err(Failure::Room(error)) => self.is_not_now(rows, &error),
            Err(Failure::Library(error)) => {
                // Unless it is the device that is at fault, which is told here.
                gpu.stream.synchronize().map_err(Error::wrap)?;
                if is_refusal(error) {
                    tracing::warn!(rows, %error, "cuDNN does not take this network: candle's kernels run it");
                    self.sizes.insert(rows, None);
                } else {
                    self.is_not_now(rows, &error);
                }
            }
        }
        Ok(false)
    }

    /// The same; says why there are none yet.
    pub(super) fn made(&mut self, gpu: &Gpu, rows: usize) -> Made<bool> {
        gpu.stream.context().bind_to_thread()?;
        if let Some(known) = self.sizes.get(&rows) {
            return Ok(known.is_some());
        }
        let made = self.make(gpu, rows)?;
        self.sizes.insert(rows, Some(made));
        Ok(true)
    }

    /// What fails may not fail the next time; but each time takes time.
    fn is_not_now(&mut self, rows: usize, error: &dyn fmt::Display) {
        tracing::warn!(rows, %error, "cuDNN is not ready for this batch: candle's kernels run it");
        self.patience = self.patience.saturating_sub(1);
        if self.patience == 0 {
            self.sizes.insert(rows, None);
        }
    }

    fn make(&mut self, gpu: &Gpu, rows: usize) -> Made<Calls> {
        let (size, stream) = (gpu.values.dtype().size_in_bytes(), &gpu.stream);
        if rows > self.room {
            // What points to the old ones goes first.
            self.forget(stream)?;
            self.slots.clear();
            self.room = 0;
            for values in &self.lowered.slots {
                // Zeros, because a batch may be of fewer rows than are run.
                self.slots.push(stream.alloc_zeros(values * rows * size)?);
            }
            self.room = rows;
        }
        let stages = self.lowered.stages.iter();
        let mut calls = stages.map(|stage| self.call(gpu, stage, rows)).collect::<Made<Vec<_>>>()?;
        let wanted = calls.iter().map(Call::workspace).max().unwrap_or(0);
        if wanted > self.workspace.as_ref().map_or(0, CudaSlice::len) {
            self.forget(stream)?;
            self.workspace = None;
            // SAFETY: an engine writes what it reads there.
            self.workspace = Some(unsafe { stream.alloc(wanted) }?);
        }
        let workspace = self.workspace.as_ref().map_or(0, |memory| place_of(memory, stream));
        for call in &mut calls {
            // SAFETY: calls point to slots, weights and workspace, which are the program's, and sized for as many rows. What is in them now is of no worth.
            unsafe { call.settle(&gpu.cudnn, workspace) }?;
        }
        let ranges = parts(&self.lowered, rows);
        let part = |(range, share): (Range<usize>, f32)| {
            let graph = self.graph(&calls[range.clone()], gpu);
            Part { calls: range, share, graph }
        };
        let parts = ranges.into_iter().map(part).collect();
        Ok(Calls { calls, parts })
    }

    /// Gives all calls back once none is under way: a plan may own what runs it.
    fn forget(&mut self, stream: &CudaStream) -> Made<()> {
        if !self.sizes.is_empty() {
            stream.synchronize()?;
        }
        self.sizes.clear();
        Ok(())
    }

    /// How one stage is called for so many rows.
    fn call(&self, gpu: &Gpu, stage: &Stage, rows: usize) -> Made<Call> {
        let place = |slot: Slot| place_of(&self.slots[slot], &gpu.stream);
        let address = |tensor: &Tensor| address_of(tensor, gpu);
        let Stage { kind, from, to, .. } = stage;
        let layout = if let Kind::Reorder(to) = kind { to.other() } else { self.lowered.layout };
        let ends = Ends { values: gpu.values, layout, rows, from: (place(from.0), from.1), to: (place(to.0), to.1) };
        Ok(match kind {
            Kind::Convolution { filters, bias, window, dilation, added, rectified } => {
                let bias = bias.as_ref().expect("`Bound::new` gave each one");
                let (window, dilation, rectified) = (*window, *dilation, *rectified);
                let (filters, bias, added) = (address(filters)?, address(bias)?, added.map(place));
                let what = Convolving { filters, bias, window, dilation, added, rectified };
                Call::convolution(&gpu.cudnn, ends, what)?
            }
            Kind::MaxPool(window) => Call::max_pool(ends, *window)?,
            Kind::AveragePool => Call::average_pool(ends)?,
            Kind::Relu => Call::relu(ends)?,
            Kind::Reorder(to) => Call::reorder(ends, *to)?,
        })
    }

    /// Copies rows of the program's kind of values to where the network reads. There is room for them.
    pub(super) fn load(&self, gpu: &Gpu, rows: &Tensor) -> Result<()> {
        let (from, bytes) = (address_of(rows, gpu)?, rows.elem_count() * gpu.values.dtype().size_in_bytes());
        assert!(bytes <= self.slots[0].len(), "as many values as rows were prepared for");
        // SAFETY: both are memory of this stream, of as many bytes as are copied.
        unsafe { result::memcpy_dtod_async(place_of(&self.slots[0], &gpu.stream), from, bytes, gpu.stream.cu_stream()) }
            .map_err(Error::wrap)
    }

    /// Copies what so many rows gave to the host, and waits for it.
    pub(super) fn read(&self, gpu: &Gpu, rows: usize, outputs: &mut Vec<f32>) -> Result<()> {
        fn copied<T: Clone + Default>(stream: &CudaStream, from: CUdeviceptr, count: usize) -> Result<Vec<T>> {
            let mut values = vec![T::default(); count];
            // SAFETY: the slot holds as many values, and the host's memory is waited for before anybody reads or drops it.
            let copied = unsafe { result::memcpy_dtoh_async(&mut values, from, stream.cu_stream()) };
            let waited = twice(|| stream.synchronize());
            copied.and(waited).map_err(Error::wrap)?;
            Ok(values)
        }
        let (slot, width) = self.lowered.outputs();
        let (stream, from, count) = (&gpu.stream, place_of(&self.slots[slot], &gpu.stream), rows * width);
        outputs.clear();
        match gpu.values {
            Precision::Half => outputs.extend(copied::<f16>(stream, from, count)?.into_iter().map(f16::to_f32)),
            Precision::Bfloat => outputs.extend(copied::<bf16>(stream, from, count)?.into_iter().map(bf16::to_f32)),
            Precision::Single | Precision::TensorFloat => *outputs = copied(stream, from, count)?,
        }
        Ok(())
    }

    /// Calls as one graph; none where the driver does not make one. It is asked three times: what others have the device do may end a capture.
    fn graph(&mut self, calls: &[Call], gpu: &Gpu) -> Option<CudaGraph> {
        const REFUSED: &str = "CUDA captures no graph: batches are handed over call by call";
        let stream = &gpu.stream;
        let _alone = alone(stream.context().ordinal());
        let mut told = None;
        for _ in 0..if self.captures { 3 } else { 0 } {
            // Not the modes that forbid this or other threads calls which allocate: none of ours does, and what cuDNN does is its own affair.
            if let Err(error) = twice(|| stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)) {
                tracing::warn!(%error, "{REFUSED}");
                self.captures = false;
                return None;
            }
            // SAFETY: as where they were tried; a graph runs in the stream, as they do.
            let launched = calls.iter().try_for_each(|call| unsafe { call.launch(&gpu.cudnn) });
            // Whatever came of that: until then the stream does nothing else.
            let graph = end_capture(stream);
            match (launched, graph) {
                (Ok(()), Ok(Some(graph))) => match graph.upload() {
                    Ok(()) => return Some(graph),
                    Err(error) => told = Some(Failure::from(error)),
                },
                (Err(error), _) => told = Some(error.into()),
                (_, Err(error)) => told = Some(error.into()),
                (_, Ok(None)) => {}
            }
        }
        if let Some(error) = told {
            tracing::warn!(%error, "{REFUSED}");
        }
        None
    }
}

/// Ends a capture; once more where that was not done for an error of before ([`twice`]). Where it was done and made no graph, the error says why: another end would be refused, and
/// that told instead.
fn end_capture(stream: &Arc<CudaStream>) -> std::result::Result<Option<CudaGraph>, DriverError> {
    let end = || stream.end_capture(CUgraphInstantiate_flags(0));
    end().or_else(|error| match twice(|| stream.capture_status()) {
        Ok(CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE) | Err(_) => Err(error),
        Ok(_) => end(),
    })
}

fn place_of(memory: &CudaSlice<u8>, stream: &Arc<CudaStream>) -> CUdeviceptr {
    memory.device_ptr(stream).0
}

/// Where the values of a tensor are, one after the other.
fn address_of(tensor: &Tensor, gpu: &Gpu) -> Result<CUdeviceptr> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cuda(storage), Some((first, _))) = (&*storage, layout.contiguous_offsets()) else {
        return Err(Error::Msg("a program reads whole tensors of its GPU".to_owned()));
    };
    let (values, stream) = (gpu.values, &gpu.stream);
    let start = match values {
        Precision::Half => storage.as_cuda_slice::<f16>()?.device_ptr(stream).0,
        Precision::Bfloat => storage.as_cuda_slice::<bf16>()?.device_ptr(stream).0,
        Precision::Single | Precision::TensorFloat => storage.as_cuda_slice::<f32>()?.device_ptr(stream).0,
    };
    Ok(start + (first * values.dtype().size_in_bytes()) as CUdeviceptr)
}

/// Stages that one launch does, with their share of the whole work.
fn parts(lowered: &Lowered, rows: usize) -> Vec<(Range<usize>, f32)> {
    let (stages, all) = (&lowered.stages, lowered.work.max(1) as f32);
    let (mut parts, mut first, mut work) = (Vec::new(), 0, 0);
    for (number, stage) in stages.iter().enumerate() {
        work += stage.work;
        let share = work as f32 / all;
        let is_enough = share >= marks::SHARE && rows.saturating_mul(work) >= GRAPH_WORK;
        if is_enough || number + 1 == stages.len() {
            parts.push((first..number + 1, share));
            (first, work) = (number + 1, 0);
        }
    }
    parts
}
