//! The largest of each square, and where its gradient goes: to the largest, of equals to the first.
//!
//! A window is taken apart into its places: all values that stand at one place of their squares make a picture as large as the output, and so
//! does the gradient of that place. Candle's own gradient knows neither squares that overlap nor padding.

use candle_core::{DType, Result, Tensor};

use super::convolution::spread;
use crate::model::Window;

/// What the gradient needs.
#[derive(Debug)]
pub(super) struct Pooled {
    /// The input, padded with what is never the largest.
    padded: Tensor,
    output: Tensor,
}

pub(super) fn forward(window: Window, x: &Tensor) -> Result<(Tensor, Pooled)> {
    let padded = framed(&framed(x, 2, window.padding)?, 3, window.padding)?;
    let output = padded.max_pool2d_with_stride(window.kernel, window.stride)?;
    Ok((output.clone(), Pooled { padded, output }))
}

/// The gradient of the input, from that of the output.
pub(super) fn backward(window: Window, Pooled { padded, output }: &Pooled, gradient: &Tensor) -> Result<Tensor> {
    let Window { kernel, stride, padding } = window;
    let (_, _, height, width) = padded.dims4()?;
    let (_, _, down, across) = output.dims4()?;
    let (tall, wide) = ((down - 1) * stride + 1, (across - 1) * stride + 1);
    let mut of_padded = padded.zeros_like()?;
    // Squares whose largest value has been met.
    let mut met = output.zeros_like()?;
    for (y, x) in (0..kernel).flat_map(|y| (0..kernel).map(move |x| (y, x))) {
        let values = apart(&padded.narrow(2, y, tall)?.narrow(3, x, wide)?, stride)?;
        let is_largest = values.eq(output)?.to_dtype(DType::F32)?;
        let is_first = (&is_largest * (1.0 - &met)?)?;
        met = (met + &is_first)?;
        let of_place = spread(&(gradient * is_first)?, stride, (tall, wide))?;
        let of_place = of_place.pad_with_zeros(2, y, height - y - tall)?.pad_with_zeros(3, x, width - x - wide)?;
        of_padded = (of_padded + of_place)?;
    }
    of_padded.narrow(2, padding, height - 2 * padding)?.narrow(3, padding, width - 2 * padding)?.contiguous()
}

/// `x` with `padding` values before and after it along `dim` that are smaller than any other.
fn framed(x: &Tensor, dim: usize, padding: usize) -> Result<Tensor> {
    if padding == 0 {
        return Ok(x.clone());
    }
    let mut shape = x.dims().to_vec();
    shape[dim] = padding;
    let smallest = Tensor::full(f32::NEG_INFINITY, shape, x.device())?;
    Tensor::cat(&[&smallest, x, &smallest], dim)
}

/// Every `stride`-th value of each line and column, from the first on.
fn apart(values: &Tensor, stride: usize) -> Result<Tensor> {
    let values = values.contiguous()?;
    if stride == 1 {
        return Ok(values);
    }
    let (rows, channels, tall, wide) = values.dims4()?;
    let (down, across) = (tall.div_ceil(stride), wide.div_ceil(stride));
    let full = values.pad_with_zeros(2, 0, down * stride - tall)?.pad_with_zeros(3, 0, across * stride - wide)?;
    let lines = full.reshape((rows, channels, down, stride, across * stride))?.narrow(3, 0, 1)?.contiguous()?;
    lines.reshape((rows, channels, down, across, stride))?.narrow(4, 0, 1)?.contiguous()?.squeeze(4)
}
