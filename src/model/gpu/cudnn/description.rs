//! What describes something for cuDNN: pictures, filters, how a convolution goes over them, what follows it, and poolings. All of it is in host memory.
//!
//! The wrappers of cudarc end the program where cuDNN cannot free a description, as it cannot on a broken GPU; so they are freed here, and what is said of that is left
//! unheard.

use std::ffi::c_int;

use cudarc::cudnn::{result, sys};

use super::Outcome;
use crate::model::{
    Precision, Window,
    lowered::{Layout, Sides},
};

/// What is freed on a broken GPU is gone with it.
pub(super) fn unheard(outcome: Outcome<()>) {
    if let Err(error) = outcome {
        tracing::debug!(%error, "cuDNN did not free what it had made");
    }
}

/// Something of cuDNN's that describes something, in host memory.
macro_rules! description {
    ($name:ident, $raw:ty, $create:path, $destroy:path) => {
        #[derive(Debug)]
        pub(super) struct $name(pub(super) $raw);

        impl $name {
            fn new() -> Outcome<Self> {
                $create().map(Self)
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: `new` made it, and nothing else frees it.
                unheard(unsafe { $destroy(self.0) });
            }
        }
    };
}

description!(
    Pictures,
    sys::cudnnTensorDescriptor_t,
    result::create_tensor_descriptor,
    result::destroy_tensor_descriptor
);
description!(
    Filters,
    sys::cudnnFilterDescriptor_t,
    result::create_filter_descriptor,
    result::destroy_filter_descriptor
);
description!(
    Way,
    sys::cudnnConvolutionDescriptor_t,
    result::create_convolution_descriptor,
    result::destroy_convolution_descriptor
);
description!(Activation, sys::cudnnActivationDescriptor_t, result::create_activation_descriptor, destroy_activation);
description!(Pooling, sys::cudnnPoolingDescriptor_t, result::create_pooling_descriptor, destroy_pooling);

/// cudarc leaves it, and the next, to its own wrappers.
unsafe fn destroy_activation(raw: sys::cudnnActivationDescriptor_t) -> Outcome<()> {
    // SAFETY: as of this function: it was made, and is freed once.
    unsafe { sys::cudnnDestroyActivationDescriptor(raw) }.result()
}

unsafe fn destroy_pooling(raw: sys::cudnnPoolingDescriptor_t) -> Outcome<()> {
    // SAFETY: as above.
    unsafe { sys::cudnnDestroyPoolingDescriptor(raw) }.result()
}

pub(super) const KEEPS_NAN: sys::cudnnNanPropagation_t = sys::cudnnNanPropagation_t::CUDNN_PROPAGATE_NAN;
/// What a convolution's own activation must do (cuDNN API, `cudnnConvolutionBiasActivationForward`).
pub(super) const LOSES_NAN: sys::cudnnNanPropagation_t = sys::cudnnNanPropagation_t::CUDNN_NOT_PROPAGATE_NAN;

pub(super) fn int(value: usize) -> c_int {
    c_int::try_from(value).expect("sides of pictures and counts of rows are small")
}

impl Pictures {
    pub(super) fn of(
        values: Precision,
        rows: usize,
        [channels, height, width]: Sides,
        layout: Layout,
    ) -> Outcome<Self> {
        let pictures = Pictures::new()?;
        let sides = [rows, channels, height, width].map(int);
        // SAFETY: it has just been made.
        unsafe { result::set_tensor4d_descriptor(pictures.0, format_of(layout), kind_of(values), sides) }?;
        Ok(pictures)
    }
}

impl Filters {
    /// Square ones, which write and read so many channels.
    pub(super) fn of(values: Precision, [written, read]: [usize; 2], kernel: usize, layout: Layout) -> Outcome<Self> {
        let filters = Filters::new()?;
        let sides = [written, read, kernel, kernel].map(int);
        // SAFETY: it has just been made.
        unsafe { result::set_filter4d_descriptor(filters.0, kind_of(values), format_of(layout), sides) }?;
        Ok(filters)
    }
}

impl Way {
    pub(super) fn of(window: Window, dilation: usize) -> Outcome<Self> {
        let way = Way::new()?;
        let [padding, stride, dilation] = [window.padding, window.stride, dilation].map(int);
        let mode = sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        // Sums are of single precision, whatever they are made of.
        let sums = sys::cudnnDataType_t::CUDNN_DATA_FLOAT;
        // SAFETY: it has just been made.
        unsafe {
            result::set_convolution2d_descriptor(
                way.0, padding, padding, stride, stride, dilation, dilation, mode, sums,
            )
        }?;
        Ok(way)
    }
}

impl Pooling {
    /// Heights and widths of windows, paddings and strides.
    pub(super) fn of(mode: sys::cudnnPoolingMode_t, numbers: [[usize; 2]; 3]) -> Outcome<Self> {
        let pooling = Pooling::new()?;
        let [windows, paddings, strides] = numbers.map(|pair| pair.map(int));
        // SAFETY: it has just been made; each of the lists is of two numbers.
        unsafe { result::set_pooling_descriptor(pooling.0, mode, KEEPS_NAN, 2, &windows, &paddings, &strides) }?;
        Ok(pooling)
    }
}

impl Activation {
    pub(super) fn of(mode: sys::cudnnActivationMode_t, nan: sys::cudnnNanPropagation_t) -> Outcome<Self> {
        let activation = Activation::new()?;
        // SAFETY: it has just been made.
        unsafe { result::set_activation_descriptor(activation.0, mode, nan, 0.0) }?;
        Ok(activation)
    }
}

/// cuDNN's name of an order. The sides are told in one and the same, whatever it is.
const fn format_of(layout: Layout) -> sys::cudnnTensorFormat_t {
    match layout {
        Layout::ChannelsFirst => sys::cudnnTensorFormat_t::CUDNN_TENSOR_NCHW,
        Layout::ChannelsLast => sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC,
    }
}

/// cuDNN's name of what tensors are made of.
const fn kind_of(values: Precision) -> sys::cudnnDataType_t {
    match values {
        Precision::Single | Precision::TensorFloat => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        Precision::Half => sys::cudnnDataType_t::CUDNN_DATA_HALF,
        Precision::Bfloat => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
    }
}
