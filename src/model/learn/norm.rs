//! Batch norm (Ioffe and Szegedy, ICML 2015) in training, as tensors: by what the rows of the pass have themselves, and with the gradient of that.
//!
//! As `cpu::learn::norm`, which has the definition: a biased variance divides, the unbiased one goes into the running average.

use candle_core::{Result, Tensor, backprop::GradStore};

use crate::model::step::{BatchNorm, EPSILON};

/// An input, normed, and what was seen of it.
#[derive(Debug)]
pub(super) struct Normed {
    /// (x - mean) * spread
    values: Tensor,
    mean: Tensor,
    /// Biased.
    variance: Tensor,
    /// 1 / sqrt(variance + ε), a channel each, as what broadcasts over pictures.
    spread: Tensor,
    /// Values of each channel.
    count: usize,
}

impl Normed {
    /// Means, then unbiased variances.
    pub(super) fn moments(&self) -> Result<Tensor> {
        let unbiased = self.count as f64 / self.count.saturating_sub(1).max(1) as f64;
        Tensor::cat(&[self.mean.flatten_all()?, (&self.variance * unbiased)?.flatten_all()?], 0)
    }

    pub(super) fn channels(&self) -> usize {
        self.mean.elem_count()
    }
}

/// `x` normed, weighted and shifted, and what its gradient needs if it learns.
pub(super) fn forward(norm: &BatchNorm, x: &Tensor) -> Result<(Tensor, Option<Normed>)> {
    if !norm.weight.is_variable() {
        return Ok((norm.forward(x)?, None));
    }
    let (rows, _, height, width) = x.dims4()?;
    let mean = x.mean_keepdim((0, 2, 3))?;
    let centred = x.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim((0, 2, 3))?;
    let spread = (&variance + EPSILON)?.sqrt()?.recip()?;
    let values = centred.broadcast_mul(&spread)?;
    let (weight, bias) = (of_channels(&norm.weight.detach())?, of_channels(&norm.bias.detach())?);
    let output = values.broadcast_mul(&weight)?.broadcast_add(&bias)?;
    Ok((output, Some(Normed { values, mean, variance, spread, count: rows * height * width })))
}

/// The gradient of what it read.
pub(super) fn backward(
    norm: &BatchNorm,
    normed: Option<&Normed>,
    gradient: &Tensor,
    gradients: &mut GradStore,
) -> Result<Tensor> {
    let Some(Normed { values, spread, count, .. }) = normed else {
        return gradient.broadcast_mul(&of_channels(&norm.line()?.0)?);
    };
    let sum = gradient.sum_keepdim((0, 2, 3))?;
    let product = (gradient * values)?.sum_keepdim((0, 2, 3))?;
    gradients.insert(&norm.bias, sum.flatten_all()?);
    gradients.insert(&norm.weight, product.flatten_all()?);
    let count = *count as f64;
    let shifted = gradient.broadcast_sub(&(sum / count)?)?;
    let straight = (shifted - values.broadcast_mul(&(product / count)?)?)?;
    straight.broadcast_mul(&(of_channels(&norm.weight.detach())? * spread)?)
}

/// One value a channel, as what broadcasts over pictures.
pub(super) fn of_channels(values: &Tensor) -> Result<Tensor> {
    values.reshape((1, values.elem_count(), 1, 1))
}
