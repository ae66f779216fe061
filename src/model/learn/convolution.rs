//! The gradients of a convolution, each as a convolution.
//!
//! Of the filters: every value of a filter meets the input at all positions of the output, so the input (rows for channels) is convolved with the
//! output's gradient, with stride and dilation in each other's place. Of the input: the output's gradient, its values a stride apart, is convolved
//! with the filters turned round (Dumoulin and Visin: A guide to convolution arithmetic for deep learning, 2016, section 4).

use candle_core::{Result, Shape, Tensor};

use crate::model::Window;

/// The gradient of the filters, from that of the output and the input `x`.
pub(super) fn of_filters(gradient: &Tensor, x: &Tensor, window: Window, dilation: usize) -> Result<Tensor> {
    let (rows, filters) = (x.transpose(0, 1)?.contiguous()?, gradient.transpose(0, 1)?.contiguous()?);
    // What the last positions leave over makes more values than a filter has.
    let all = rows.conv2d(&filters, window.padding, dilation, window.stride, 1)?;
    all.narrow(2, 0, window.kernel)?.narrow(3, 0, window.kernel)?.transpose(0, 1)?.contiguous()
}

/// The gradient of the input, which has `shape`, from that of the output.
pub(super) fn of_input(
    gradient: &Tensor,
    filters: &Tensor,
    shape: &Shape,
    window: Window,
    dilation: usize,
) -> Result<Tensor> {
    let Window { kernel, stride, padding } = window;
    let (_, _, height, width) = shape.dims4()?;
    let reach = dilation * (kernel - 1);
    let positions = |side: usize| side + 2 * padding - reach;
    let mut apart = spread(gradient, stride, (positions(height), positions(width)))?;
    // Outputs that saw nothing but padding tell nothing.
    let cut = padding.saturating_sub(reach);
    if cut > 0 {
        apart = apart.narrow(2, cut, height + reach)?.narrow(3, cut, width + reach)?.contiguous()?;
    }
    let turned = filters.flip(&[2, 3])?.transpose(0, 1)?.contiguous()?;
    apart.conv2d(&turned, reach.saturating_sub(padding), 1, dilation, 1)
}

/// Values `stride` apart from each other, zeros between and after them, as pictures of `height` times `width`.
pub(super) fn spread(values: &Tensor, stride: usize, (height, width): (usize, usize)) -> Result<Tensor> {
    if stride == 1 {
        return Ok(values.clone());
    }
    let (rows, channels, down, across) = values.dims4()?;
    let single = values.reshape((rows, channels, down, 1, across))?.pad_with_zeros(3, 0, stride - 1)?;
    let single = single.reshape((rows, channels, down * stride, across, 1))?.pad_with_zeros(4, 0, stride - 1)?;
    let all = single.reshape((rows, channels, down * stride, across * stride))?;
    all.narrow(2, 0, height)?.narrow(3, 0, width)?.contiguous()
}
