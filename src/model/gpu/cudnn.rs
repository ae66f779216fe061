//! cuDNN, as far as networks ask for it: what a stage is for so many rows, described once and called as often as wanted.
//!
//! `cudnnConvolutionBiasActivationForward` does a convolution with all that follows it; candle has cuDNN do the convolution alone, describes it anew each
//! time, and asks each time which algorithm is best.

mod description;

use std::{ffi::c_void, ptr};

use cudarc::{
    cudnn::{
        result::{self, CudnnError},
        sys::{self, cudnnConvolutionFwdAlgo_t as Algorithm, cudnnMathType_t as Arithmetic},
    },
    driver::{CudaStream, sys::CUdeviceptr},
};

use description::{Activation, Filters, KEEPS_NAN, LOSES_NAN, Pictures, Pooling, Way, int, unheard};

use super::alone;
use crate::model::{
    Precision, Window,
    lowered::{Layout, Sides},
};

pub(super) type Outcome<T> = Result<T, CudnnError>;

/// Memory that an algorithm may take to work in. Several lanes may share a GPU, and some algorithms would take gigabytes. Which bound is best is not measured.
const WORKSPACE_MAX: usize = 512 << 20;

/// Memory that is there to work in at least: with all that follows it, an algorithm may want a little more than cuDNN guesses for the convolution alone.
pub(super) const WORKSPACE_MIN: usize = 4 << 20;

/// All algorithms that there are, with tensor cores and without.
const ALGORITHMS: usize = 2 * Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_COUNT as usize;

/// The algorithm that takes all that may follow a convolution, and the only one where no rectifier does.
const TAKES_ALL: Algorithm = Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;

/// Whether there is such a library. One that cannot start says the same as what stands for one that is not there (scripts/cuda-toolchain); that has no version.
pub(super) fn is_installed() -> bool {
    result::get_version() != sys::cudnnStatus_t::CUDNN_STATUS_NOT_INITIALIZED as usize
}

/// Whether cuDNN refuses what it was asked, now and ever: a parameter that it does not take, or a case that it has nothing for.
pub(super) fn is_refusal(error: CudnnError) -> bool {
    matches!(error.0 as u32 / 1000, 2 | 3)
}

/// cuDNN on one stream, of a GPU of that number.
#[derive(Debug)]
pub(super) struct Handle(sys::cudnnHandle_t, usize);

impl Handle {
    /// Fails where the library is not installed, too: see [`is_installed`].
    pub(super) fn new(stream: &CudaStream) -> Outcome<Self> {
        let ordinal = stream.context().ordinal();
        // What it has the device do while it starts is its own affair.
        let _alone = alone(ordinal);
        let handle = Handle(result::create_handle()?, ordinal);
        // SAFETY: both are open.
        unsafe { result::set_stream(handle.0, stream.cu_stream().cast()) }?;
        Ok(handle)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // It waits for the device.
        let _alone = alone(self.1);
        // SAFETY: `new` made it, and nothing else frees it.
        unheard(unsafe { result::destroy_handle(self.0) });
    }
}

/// What a call reads and writes: values of what kind and order, how many rows of which sides, and where they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    pub(super) values: Precision,
    /// Of what is read, and of filters; of what is written, too, unless it is reordered.
    pub(super) layout: Layout,
    pub(super) rows: usize,
    pub(super) from: (CUdeviceptr, Sides),
    pub(super) to: (CUdeviceptr, Sides),
}

/// What a convolution does beyond that.
#[derive(Clone, Copy, Debug)]
pub(super) struct Convolving {
    pub(super) filters: CUdeviceptr,
    /// A value for each channel that it writes.
    pub(super) bias: CUdeviceptr,
    pub(super) window: Window,
    pub(super) dilation: usize,
    /// What is added, of the sides of what is written.
    pub(super) added: Option<CUdeviceptr>,
    pub(super) rectified: bool,
}

/// A stage for so many rows at fixed places.
#[derive(Debug)]
pub(super) struct Call {
    ends: Ends,
    x: Pictures,
    y: Pictures,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Convolution(Box<Convolution>),
    Pooling(Pooling),
    Relu(Activation),
    Reorder,
}

#[derive(Debug)]
struct Convolution {
    what: Convolving,
    filters: Filters,
    way: Way,
    bias: Pictures,
    activation: Activation,
    /// The fastest first, as cuDNN guesses; the one that is used, once [`Call::settle`] has tried them.
    algorithms: Vec<(Algorithm, Arithmetic, usize)>,
}

impl Call {
    pub(super) fn convolution(handle: &Handle, ends: Ends, what: Convolving) -> Outcome<Self> {
        let (x, y) = Call::pictures(ends, ends.layout)?;
        let (read, written) = (ends.from.1[0], ends.to.1[0]);
        let filters = Filters::of(ends.values, [written, read], what.window.kernel, ends.layout)?;
        let way = Way::of(what.window, what.dilation)?;
        let how = if what.rectified {
            sys::cudnnActivationMode_t::CUDNN_ACTIVATION_RELU
        } else {
            sys::cudnnActivationMode_t::CUDNN_ACTIVATION_IDENTITY
        };
        let activation = Activation::of(how, LOSES_NAN)?;
        let bias = Pictures::of(ends.values, 1, [written, 1, 1], ends.layout)?;
        let mut convolution = Convolution { what, filters, way, bias, activation, algorithms: Vec::new() };
        convolution.algorithms = convolution.guessed(handle, ends.values, (&x, &y))?;
        Ok(Call { ends, x, y, kind: Kind::Convolution(Box::new(convolution)) })
    }

    /// The largest of each square.
    pub(super) fn max_pool(ends: Ends, window: Window) -> Outcome<Self> {
        let Window { kernel, stride, padding } = window;
        let mode = sys::cudnnPoolingMode_t::CUDNN_POOLING_MAX;
        Call::pooling(ends, mode, [[kernel, kernel], [padding, padding], [stride, stride]])
    }

    /// The mean of each channel.
    pub(super) fn average_pool(ends: Ends) -> Outcome<Self> {
        let [_, height, width] = ends.from.1;
        let mode = sys::cudnnPoolingMode_t::CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING;
        Call::pooling(ends, mode, [[height, width], [0, 0], [1, 1]])
    }

    /// What is below zero becomes zero, and NaN stays.
    pub(super) fn relu(ends: Ends) -> Outcome<Self> {
        let (x, y) = Call::pictures(ends, ends.layout)?;
        let activation = Activation::of(sys::cudnnActivationMode_t::CUDNN_ACTIVATION_RELU, KEEPS_NAN)?;
        Ok(Call { ends, x, y, kind: Kind::Relu(activation) })
    }

    fn pooling(ends: Ends, mode: sys::cudnnPoolingMode_t, numbers: [[usize; 2]; 3]) -> Outcome<Self> {
        let (x, y) = Call::pictures(ends, ends.layout)?;
        let pooling = Pooling::of(mode, numbers)?;
        Ok(Call { ends, x, y, kind: Kind::Pooling(pooling) })
    }

    /// What was in one order, in the other, `to`.
    pub(super) fn reorder(ends: Ends, to: Layout) -> Outcome<Self> {
        let (x, y) = Call::pictures(ends, to)?;
        Ok(Call { ends, x, y, kind: Kind::Reorder })
    }

    /// What is read and what is written.
    fn pictures(ends: Ends, written: Layout) -> Outcome<(Pictures, Pictures)> {
        let of = |sides, layout| Pictures::of(ends.values, ends.rows, sides, layout);
        Ok((of(ends.from.1, ends.layout)?, of(ends.to.1, written)?))
    }

    /// Bytes that it wants to work in.
    pub(super) fn workspace(&self) -> usize {
        match &self.kind {
            // What the last resort wants is there, too.
            Kind::Convolution(convolution) => {
                let first = convolution.algorithms.first();
                let last = convolution.algorithms.iter().filter(|&&(algorithm, ..)| algorithm == TAKES_ALL);
                first.into_iter().chain(last).map(|&(_, _, bytes)| bytes).max().unwrap_or(0)
            }
            Kind::Pooling(_) | Kind::Relu(_) | Kind::Reorder => 0,
        }
    }

    /// Calls it with one algorithm after the other until cuDNN takes one, and keeps that: which it takes with all that a convolution does, only trying says.
    /// Of what it says of all of them, what is no refusal counts.
    ///
    /// # Safety
    /// As of [`Call::launch`].
    pub(super) unsafe fn settle(&mut self, handle: &Handle, workspace: (CUdeviceptr, usize)) -> Outcome<()> {
        let mut other = None;
        loop {
            // SAFETY: as of this function.
            let Err(error) = (unsafe { self.launch(handle, workspace) }) else { return Ok(()) };
            other = other.or_else(|| (!is_refusal(error)).then_some(error));
            match &mut self.kind {
                Kind::Convolution(convolution) if convolution.algorithms.len() > 1 => {
                    convolution.algorithms.remove(0);
                }
                Kind::Convolution(_) | Kind::Pooling(_) | Kind::Relu(_) | Kind::Reorder => {
                    return Err(other.unwrap_or(error));
                }
            }
        }
    }

    /// Hands it to the stream.
    ///
    /// # Safety
    /// Where it reads and writes there is memory of the stream for as many values as it was described with, and the workspace has as many bytes as said,
    /// until the stream has done it.
    pub(super) unsafe fn launch(&self, handle: &Handle, workspace: (CUdeviceptr, usize)) -> Outcome<()> {
        let (one, none) = (1.0_f32, 0.0_f32);
        let (from, to) = (self.ends.from.0 as *const c_void, self.ends.to.0 as *mut c_void);
        match &self.kind {
            Kind::Convolution(convolution) => {
                let Convolution { what, filters, way, bias, activation, algorithms } = &**convolution;
                let &(algorithm, arithmetic, bytes) =
                    algorithms.first().ok_or(CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED))?;
                if bytes > workspace.1 {
                    return Err(CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT));
                }
                // cuDNN wants something to add; times zero it may be what is written.
                let (share, added) = what.added.map_or((none, to.cast_const()), |added| (one, added as *const _));
                // SAFETY: it is ours.
                unsafe { result::set_convolution_math_type(way.0, arithmetic) }?;
                // SAFETY: descriptions are ours and of what the caller promises to be there; factors are read during the call.
                unsafe {
                    result::convolution_bias_activation_forward(
                        handle.0,
                        ptr::from_ref(&one).cast(),
                        self.x.0,
                        from,
                        filters.0,
                        what.filters as *const _,
                        way.0,
                        algorithm,
                        workspace.0 as *mut _,
                        workspace.1,
                        ptr::from_ref(&share).cast(),
                        self.y.0,
                        added,
                        bias.0,
                        what.bias as *const _,
                        activation.0,
                        self.y.0,
                        to,
                    )
                }
            }
            Kind::Pooling(pooling) => {
                let (one, none) = (ptr::from_ref(&one).cast(), ptr::from_ref(&none).cast());
                // SAFETY: as above.
                unsafe { result::pooling_forward(handle.0, pooling.0, one, self.x.0, from, none, self.y.0, to) }
            }
            Kind::Relu(activation) => {
                let (one, none) = (ptr::from_ref(&one).cast(), ptr::from_ref(&none).cast());
                // SAFETY: as above.
                unsafe { result::activation_forward(handle.0, activation.0, one, self.x.0, from, none, self.y.0, to) }
            }
            Kind::Reorder => {
                let (one, none) = (ptr::from_ref(&one).cast(), ptr::from_ref(&none).cast());
                // SAFETY: as above.
                unsafe { sys::cudnnTransformTensor(handle.0, one, self.x.0, from, none, self.y.0, to) }.result()
            }
        }
    }
}

impl Convolution {
    /// Algorithms that cuDNN has for it, the fastest first as it guesses; at least the one that takes all.
    fn guessed(
        &self,
        handle: &Handle,
        values: Precision,
        (x, y): (&Pictures, &Pictures),
    ) -> Outcome<Vec<(Algorithm, Arithmetic, usize)>> {
        let arithmetic = match values {
            // Without TensorFloat, which multiplies eleven bits: single precision is that.
            Precision::Single => Arithmetic::CUDNN_FMA_MATH,
            // With it, where the GPU has it (cuDNN API, `cudnnMathType_t`).
            Precision::TensorFloat => Arithmetic::CUDNN_DEFAULT_MATH,
            Precision::Half | Precision::Bfloat => Arithmetic::CUDNN_TENSOR_OP_MATH,
        };
        let exact = values == Precision::Single;
        // SAFETY: it is ours.
        unsafe { result::set_convolution_math_type(self.way.0, arithmetic) }?;
        let unknown = sys::cudnnConvolutionFwdAlgoPerf_t {
            algo: Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_COUNT,
            status: sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED,
            time: 0.0,
            memory: 0,
            determinism: sys::cudnnDeterminism_t::CUDNN_NON_DETERMINISTIC,
            mathType: arithmetic,
            reserved: [0; 3],
        };
        let (mut found, mut guesses) = (0, [unknown; ALGORITHMS]);
        // SAFETY: all are ours, and there is room for as many guesses as there are algorithms.
        unsafe {
            result::get_convolution_forward_algorithm(
                handle.0,
                x.0,
                self.filters.0,
                self.way.0,
                y.0,
                int(ALGORITHMS),
                &raw mut found,
                guesses.as_mut_ptr(),
            )
        }?;
        let mut usable = Vec::new();
        for guess in guesses.into_iter().take(usize::try_from(found).unwrap_or(0)) {
            let takes = self.what.rectified || guess.algo == TAKES_ALL;
            if guess.status != sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS || !takes {
                continue;
            }
            let guess = if !exact || guess.mathType == arithmetic {
                (guess.algo, guess.mathType, guess.memory)
            } else if let Ok(bytes) = self.bytes(handle, (x, y), guess.algo) {
                // It is listed once for each arithmetic, with what that wants to work in.
                (guess.algo, arithmetic, bytes)
            } else {
                continue;
            };
            if guess.2 <= WORKSPACE_MAX && !usable.contains(&guess) {
                usable.push(guess);
            }
        }
        if usable.is_empty() {
            // Better one that takes much memory than none.
            usable.push((TAKES_ALL, arithmetic, self.bytes(handle, (x, y), TAKES_ALL)?));
        }
        Ok(usable)
    }

    /// What an algorithm wants to work in, with the arithmetic that it is described with.
    fn bytes(&self, handle: &Handle, (x, y): (&Pictures, &Pictures), algorithm: Algorithm) -> Outcome<usize> {
        let (filters, way) = (self.filters.0, self.way.0);
        // SAFETY: all are ours.
        unsafe { result::get_convolution_forward_workspace_size(handle.0, x.0, filters, way, y.0, algorithm) }
    }
}
