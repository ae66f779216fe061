//! What describes something for cuDNN where a call says what is done: pictures, rectifiers and poolings. All of it is in host memory.
//!
//! The wrappers of cudarc end the program where cuDNN cannot free a description, as it cannot on a broken GPU; so they are freed here, and what is said of that is left
//! unheard.

use std::ffi::c_int;

use cudarc::cudnn::{result, sys};

use super::Outcome;
use crate::model::{
    Precision,
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

const KEEPS_NAN: sys::cudnnNanPropagation_t = sys::cudnnNanPropagation_t::CUDNN_PROPAGATE_NAN;

fn int(value: usize) -> c_int {
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
    /// What is below zero becomes zero, and NaN stays.
    pub(super) fn rectifier() -> Outcome<Self> {
        let (activation, mode) = (Activation::new()?, sys::cudnnActivationMode_t::CUDNN_ACTIVATION_RELU);
        // SAFETY: it has just been made.
        unsafe { result::set_activation_descriptor(activation.0, mode, KEEPS_NAN, 0.0) }?;
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
pub(super) const fn kind_of(values: Precision) -> sys::cudnnDataType_t {
    match values {
        Precision::Single | Precision::TensorFloat => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        Precision::Half => sys::cudnnDataType_t::CUDNN_DATA_HALF,
        Precision::Bfloat => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
    }
}
