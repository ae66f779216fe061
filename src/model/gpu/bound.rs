//! What a program keeps on its GPU: slots, a workspace, and the calls for each number of rows.
//!
//! Slots and workspace are shared by all numbers of rows, since a lane runs one batch at a time. Calls point to them, so they are forgotten before either is replaced by a
//! larger one, and made again when they are asked for. For each number of rows every stage is described, an algorithm is found by trying, and the calls are captured as
//! graphs.

use std::{collections::HashMap, fmt, ops::Range, sync::Arc};

use candle_core::{Error, Result, Tensor};
use cudarc::{
    cudnn::result::CudnnError,
    driver::{
        CudaGraph, CudaSlice, CudaStream, DriverError,
        sys::{CUdeviceptr, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode, CUstreamCaptureStatus},
    },
};

use super::{
    alone,
    cudnn::{Call, Convolving, Ends, Handle, WORKSPACE_MIN, is_refusal},
    program::{Program, address_of, place_of, room_of},
    twice,
};
use crate::model::{
    lowered::{Kind, Lowered, Slot, Stage},
    marks,
};

/// Multiply-adds of a graph that another one follows. By estimate, not by measurement: in single precision tens of microseconds on the fastest GPUs there are, where a launch
/// is some five.
pub(super) const GRAPH_WORK: usize = 2 << 30;

/// How often a program is not ready for reasons that may pass, until it is not asked again for that number of rows.
const PATIENCE: usize = 8;

/// What belongs to the thread that runs.
pub(super) struct Bound {
    /// By number of rows; none for one that cuDNN does not take. Before what their calls point to: dropped first.
    sizes: HashMap<usize, Option<Calls>>,
    pub(super) cudnn: Handle,
    /// Rows that there is room for.
    room: usize,
    pub(super) slots: Vec<CudaSlice<u8>>,
    pub(super) workspace: Option<CudaSlice<u8>>,
    captures: bool,
    patience: usize,
}

// SAFETY: cuDNN's handles and descriptions, and CUDA's graphs, are for any thread that has bound the context, one at a time (cuDNN, "Thread safety"; CUDA driver
// API, "Graph object thread safety"). Each use binds it, and the program's lock lets one in.
unsafe impl Send for Bound {}

/// All calls for one number of rows.
pub(super) struct Calls {
    pub(super) calls: Vec<Call>,
    pub(super) parts: Vec<Part>,
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
enum Failure {
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

type Made<T> = std::result::Result<T, Failure>;

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        match error {
            DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => Failure::Room(error),
            DriverError(_) => Failure::Device(Error::wrap(error)),
        }
    }
}

impl Bound {
    pub(super) fn new(cudnn: Handle) -> Self {
        Bound {
            sizes: HashMap::new(),
            cudnn,
            room: 0,
            slots: Vec::new(),
            workspace: None,
            captures: true,
            patience: PATIENCE,
        }
    }

    /// Those for so many rows, if they are ready.
    pub(super) fn calls(&self, rows: usize) -> Option<&Calls> {
        self.sizes.get(&rows)?.as_ref()
    }

    /// Whether there are calls for so many rows, which are made if they are not known yet. Fails when the device does.
    pub(super) fn ready(&mut self, program: &Program, rows: usize) -> Result<bool> {
        let stream = program.device.cuda_stream();
        stream.context().bind_to_thread().map_err(Error::wrap)?;
        if let Some(known) = self.sizes.get(&rows) {
            return Ok(known.is_some());
        }
        match self.make(program, rows, &stream) {
            Ok(made) => {
                self.sizes.insert(rows, Some(made));
                return Ok(true);
            }
            Err(Failure::Device(error)) => return Err(error),
            Err(Failure::Room(error)) => self.is_not_now(rows, &error),
            Err(Failure::Library(error)) => {
                // Unless it is the device that is at fault, which is told here.
                stream.synchronize().map_err(Error::wrap)?;
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

    /// What fails may not fail the next time; but each time takes time.
    fn is_not_now(&mut self, rows: usize, error: &dyn fmt::Display) {
        tracing::warn!(rows, %error, "cuDNN is not ready for this batch: candle's kernels run it");
        self.patience = self.patience.saturating_sub(1);
        if self.patience == 0 {
            self.sizes.insert(rows, None);
        }
    }

    fn make(&mut self, program: &Program, rows: usize, stream: &Arc<CudaStream>) -> Made<Calls> {
        let size = program.values.dtype().size_in_bytes();
        if rows > self.room {
            // What points to the old ones goes first.
            self.sizes.clear();
            self.slots.clear();
            self.room = 0;
            for values in &program.lowered.slots {
                // Zeros, because a batch may be of fewer rows than are run.
                self.slots.push(stream.alloc_zeros(values * rows * size)?);
            }
            self.room = rows;
        }
        let stages = program.lowered.stages.iter();
        let mut calls = stages.map(|stage| self.call(program, stage, rows)).collect::<Made<Vec<_>>>()?;
        let wanted = calls.iter().map(Call::workspace).max().unwrap_or(0).max(WORKSPACE_MIN);
        if wanted > self.workspace.as_ref().map_or(0, CudaSlice::len) {
            self.sizes.clear();
            self.workspace = None;
            // SAFETY: an algorithm writes what it reads there.
            self.workspace = Some(unsafe { stream.alloc(wanted) }?);
        }
        let workspace = room_of(self.workspace.as_ref(), stream);
        for call in &mut calls {
            // SAFETY: calls point to slots, weights and workspace, which are the program's, and sized for as many rows. What is in them now is of no worth.
            unsafe { call.settle(&self.cudnn, workspace) }?;
        }
        let part = |(range, share): (Range<usize>, f32)| {
            let graph = self.graph(&calls[range.clone()], workspace, stream);
            Part { calls: range, share, graph }
        };
        let parts = parts(&program.lowered, rows).into_iter().map(part).collect();
        Ok(Calls { calls, parts })
    }

    /// How one stage is called for so many rows.
    fn call(&self, program: &Program, stage: &Stage, rows: usize) -> Made<Call> {
        let stream = program.device.cuda_stream();
        let place = |slot: Slot| place_of(&self.slots[slot], &stream);
        let address = |tensor: &Tensor| address_of(tensor, program.values, &stream).map_err(Failure::Device);
        let Stage { kind, from, to, .. } = stage;
        let ends = Ends { values: program.values, rows, from: (place(from.0), from.1), to: (place(to.0), to.1) };
        Ok(match kind {
            Kind::Convolution { filters, bias, window, dilation, added, rectified } => {
                let bias = bias.as_ref().expect("`Program::new` gave each one");
                let (window, dilation, rectified) = (*window, *dilation, *rectified);
                let (filters, bias, added) = (address(filters)?, address(bias)?, added.map(place));
                let what = Convolving { filters, bias, window, dilation, added, rectified };
                Call::convolution(&self.cudnn, ends, what)?
            }
            Kind::MaxPool(window) => Call::max_pool(ends, *window)?,
            Kind::AveragePool => Call::average_pool(ends)?,
            Kind::Relu => Call::relu(ends)?,
        })
    }

    /// Calls as one graph; none where the driver does not make one. It is asked three times: what others have the device do may end a capture.
    fn graph(
        &mut self,
        calls: &[Call],
        workspace: (CUdeviceptr, usize),
        stream: &Arc<CudaStream>,
    ) -> Option<CudaGraph> {
        const REFUSED: &str = "CUDA captures no graph: batches are handed over call by call";
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
            let launched = calls.iter().try_for_each(|call| unsafe { call.launch(&self.cudnn, workspace) });
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
