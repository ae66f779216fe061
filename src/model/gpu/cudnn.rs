//! cuDNN, as far as networks ask for it: what a stage is for so many rows, described once and called as often as wanted.
//!
//! A convolution with all that follows it is one of its graphs, planned once; candle has cuDNN do the convolution alone, describes it anew each time, and asks each time which
//! algorithm is best.

mod convolution;
mod description;
mod graph;

use std::{ffi::c_void, ptr};

use cudarc::{
    cudnn::{
        result::{self, CudnnError},
        sys,
    },
    driver::{CudaStream, sys::CUdeviceptr},
};

use convolution::Convolution;
use description::{Activation, Pictures, Pooling, unheard};
use graph::{Gpu, Place};

use super::alone;
use crate::model::{
    Precision, Window,
    lowered::{Layout, Sides},
};

pub(super) type Outcome<T> = Result<T, CudnnError>;

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
pub(super) struct Call(Way);

#[derive(Debug)]
enum Way {
    /// A graph of cuDNN's.
    Convolution(Box<Convolution>),
    /// A function of cuDNN's.
    Plain(Plain),
}

/// What is read, what is written, and what becomes of it.
#[derive(Debug)]
struct Plain {
    ends: Ends,
    x: Pictures,
    y: Pictures,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Pooling(Pooling),
    Relu(Activation),
    Reorder,
}

impl Call {
    pub(super) fn convolution(handle: &Handle, ends: Ends, what: Convolving) -> Outcome<Self> {
        Ok(Call(Way::Convolution(Box::new(Convolution::new(Gpu::There(handle), ends, what)?))))
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
        Call::plain(ends, ends.layout, Kind::Relu(Activation::rectifier()?))
    }

    fn pooling(ends: Ends, mode: sys::cudnnPoolingMode_t, numbers: [[usize; 2]; 3]) -> Outcome<Self> {
        Call::plain(ends, ends.layout, Kind::Pooling(Pooling::of(mode, numbers)?))
    }

    /// What was in one order, in the other, `to`.
    pub(super) fn reorder(ends: Ends, to: Layout) -> Outcome<Self> {
        Call::plain(ends, to, Kind::Reorder)
    }

    fn plain(ends: Ends, written: Layout, kind: Kind) -> Outcome<Self> {
        let of = |sides, layout| Pictures::of(ends.values, ends.rows, sides, layout);
        let (x, y) = (of(ends.from.1, ends.layout)?, of(ends.to.1, written)?);
        Ok(Call(Way::Plain(Plain { ends, x, y, kind })))
    }

    /// Bytes that it wants to work in.
    pub(super) fn workspace(&self) -> usize {
        match &self.0 {
            Way::Convolution(convolution) => convolution.workspace(),
            Way::Plain(_) => 0,
        }
    }

    /// Calls it, with one plan after the other until cuDNN takes one. It works in this workspace from now on.
    ///
    /// # Safety
    /// As of [`Call::launch`].
    pub(super) unsafe fn settle(&mut self, handle: &Handle, workspace: CUdeviceptr) -> Outcome<()> {
        match &mut self.0 {
            // SAFETY: as of this function.
            Way::Convolution(convolution) => unsafe { convolution.settle(handle, Place(workspace)) },
            // SAFETY: as of this function.
            Way::Plain(plain) => unsafe { plain.launch(handle) },
        }
    }

    /// Hands it to the stream.
    ///
    /// # Safety
    /// Where it reads and writes there is memory of the stream for as many values as it was described with, and the workspace has as many bytes as said,
    /// until the stream has done it.
    pub(super) unsafe fn launch(&self, handle: &Handle) -> Outcome<()> {
        match &self.0 {
            // SAFETY: as of this function.
            Way::Convolution(convolution) => unsafe { convolution.launch(handle) },
            // SAFETY: as of this function.
            Way::Plain(plain) => unsafe { plain.launch(handle) },
        }
    }
}

impl Plain {
    /// # Safety
    /// As of [`Call::launch`].
    unsafe fn launch(&self, handle: &Handle) -> Outcome<()> {
        let (one, none) = (1.0_f32, 0.0_f32);
        let (one, none): (*const c_void, *const c_void) = (ptr::from_ref(&one).cast(), ptr::from_ref(&none).cast());
        let (from, to) = (self.ends.from.0 as *const c_void, self.ends.to.0 as *mut c_void);
        match &self.kind {
            // SAFETY: descriptions are ours and of what the caller promises to be there; factors are read during the call. So it is with the others.
            Kind::Pooling(pooling) => unsafe {
                result::pooling_forward(handle.0, pooling.0, one, self.x.0, from, none, self.y.0, to)
            },
            // SAFETY: as above.
            Kind::Relu(activation) => unsafe {
                result::activation_forward(handle.0, activation.0, one, self.x.0, from, none, self.y.0, to)
            },
            Kind::Reorder => {
                // SAFETY: as above.
                unsafe { sys::cudnnTransformTensor(handle.0, one, self.x.0, from, none, self.y.0, to) }.result()
            }
        }
    }
}
