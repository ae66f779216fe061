//! Layers of tensors, one after the other, forward and backward.

use candle_core::{Result, Shape, Tensor, backprop::GradStore};

use super::{
    Seen, convolution,
    norm::{self, Normed},
    pool::{self, Pooled},
};
use crate::model::step::Step;

/// What a layer's gradient needs of its forward pass.
#[derive(Debug)]
pub(super) enum Saved {
    /// Its input.
    Input(Tensor),
    /// Its input's shape.
    Shape(Shape),
    /// Its input normed, and what was seen of it; none if it went by the running averages.
    Normed(Option<Normed>),
    Pooled(Pooled),
    /// Its output.
    Output(Tensor),
    Ways(Vec<Saved>, Vec<Saved>),
}

/// Through all of `steps`.
pub(super) fn forward(steps: &[Step], input: Tensor) -> Result<(Tensor, Vec<Saved>)> {
    let (mut values, mut saved) = (input, Vec::with_capacity(steps.len()));
    for step in steps {
        let (output, of_step) = forward_one(step, &values)?;
        saved.push(of_step);
        values = output;
    }
    Ok((values, saved))
}

/// Back through all of `steps`, with the gradient of what they made; gives that of what they read if it is wanted, and goes no further than
/// something learns.
pub(super) fn backward(
    steps: &[Step],
    saved: &[Saved],
    gradient: Tensor,
    wanted: bool,
    gradients: &mut GradStore,
) -> Result<Option<Tensor>> {
    let first = if wanted { 0 } else { steps.iter().position(learns).unwrap_or(steps.len()) };
    let mut gradient = Some(gradient);
    for (place, (step, saved)) in steps.iter().zip(saved).enumerate().skip(first).rev() {
        let Some(of_output) = gradient else { return Ok(None) };
        gradient = backward_one(step, saved, of_output, wanted || place > first, gradients)?;
    }
    Ok(gradient.filter(|_| wanted))
}

/// What batch norms saw, read from the device at once.
pub(super) fn seen(steps: &[Step], saved: &[Saved]) -> Result<Vec<Seen>> {
    let mut norms = Vec::new();
    collect(steps, saved, &mut norms);
    if norms.is_empty() {
        return Ok(Vec::new());
    }
    let moments = norms.iter().map(|(_, normed)| normed.moments()).collect::<Result<Vec<_>>>()?;
    let all: Vec<f32> = Tensor::cat(&moments, 0)?.to_vec1()?;
    let mut rest = all.as_slice();
    let mut take = |count| {
        let (taken, left) = rest.split_at(count);
        rest = left;
        taken.to_vec()
    };
    let seen = |(name, normed): &(&str, &Normed)| {
        let channels = normed.channels();
        Seen { name: (*name).to_owned(), mean: take(channels), variance: take(channels) }
    };
    Ok(norms.iter().map(seen).collect())
}

/// Batch norms that learn, in the order of the layers.
fn collect<'a>(steps: &'a [Step], saved: &'a [Saved], norms: &mut Vec<(&'a str, &'a Normed)>) {
    for (step, saved) in steps.iter().zip(saved) {
        match (step, saved) {
            (Step::BatchNorm(norm), Saved::Normed(Some(normed))) => norms.push((&*norm.name, normed)),
            (Step::Residual { body, shortcut }, Saved::Ways(of_body, of_shortcut)) => {
                collect(body, of_body, norms);
                collect(shortcut, of_shortcut, norms);
            }
            _ => {}
        }
    }
}

/// Whether it has parameters that learn.
fn learns(step: &Step) -> bool {
    match step {
        Step::Convolution { filters, .. } => filters.is_variable(),
        Step::Dense(linear) => linear.weight().is_variable(),
        Step::BatchNorm(norm) => norm.weight.is_variable(),
        Step::Residual { body, shortcut } => body.iter().chain(shortcut).any(learns),
        Step::MaxPool(_) | Step::AveragePool | Step::Relu | Step::Flatten | Step::Unflatten(_) => false,
    }
}

/// Inputs are no part of a graph and parameters are taken out of theirs, so that no operation in here remembers what it was made of.
fn forward_one(step: &Step, x: &Tensor) -> Result<(Tensor, Saved)> {
    Ok(match step {
        Step::Convolution { filters, bias, window, dilation } => {
            let mut output = x.conv2d(&filters.detach(), window.padding, window.stride, *dilation, 1)?;
            if let Some(bias) = bias {
                output = output.broadcast_add(&norm::of_channels(&bias.detach())?)?;
            }
            (output, Saved::Input(x.clone()))
        }
        Step::Dense(linear) => {
            let mut output = x.matmul(&linear.weight().detach().t()?)?;
            if let Some(bias) = linear.bias() {
                output = output.broadcast_add(&bias.detach())?;
            }
            (output, Saved::Input(x.clone()))
        }
        Step::BatchNorm(norm) => {
            let (output, normed) = norm::forward(norm, x)?;
            (output, Saved::Normed(normed))
        }
        Step::MaxPool(window) => {
            let (output, pooled) = pool::forward(*window, x)?;
            (output, Saved::Pooled(pooled))
        }
        Step::Relu => {
            // Not by a maximum, which would hide what is no number, and with it that a training has diverged.
            let output = (x * x.gt(0.0)?.to_dtype(x.dtype())?)?;
            (output.clone(), Saved::Output(output))
        }
        Step::AveragePool | Step::Flatten | Step::Unflatten(_) => (step.forward(x)?, Saved::Shape(x.shape().clone())),
        Step::Residual { body, shortcut } => {
            let (short, of_shortcut) = forward(shortcut, x.clone())?;
            let (long, of_body) = forward(body, x.clone())?;
            ((long + short)?, Saved::Ways(of_body, of_shortcut))
        }
    })
}

fn backward_one(
    step: &Step,
    saved: &Saved,
    gradient: Tensor,
    wanted: bool,
    gradients: &mut GradStore,
) -> Result<Option<Tensor>> {
    Ok(match (step, saved) {
        (Step::Convolution { filters, bias, window, dilation }, Saved::Input(x)) => {
            if filters.is_variable() {
                gradients.insert(filters, convolution::of_filters(&gradient, x, *window, *dilation)?);
            }
            if let Some(bias) = bias.as_ref().filter(|bias| bias.is_variable()) {
                gradients.insert(bias, gradient.sum((0, 2, 3))?);
            }
            let of_input = || convolution::of_input(&gradient, &filters.detach(), x.shape(), *window, *dilation);
            wanted.then(of_input).transpose()?
        }
        (Step::Dense(linear), Saved::Input(x)) => {
            if linear.weight().is_variable() {
                gradients.insert(linear.weight(), gradient.t()?.matmul(x)?);
            }
            if let Some(bias) = linear.bias().filter(|bias| bias.is_variable()) {
                gradients.insert(bias, gradient.sum(0)?);
            }
            wanted.then(|| gradient.matmul(&linear.weight().detach())).transpose()?
        }
        (Step::BatchNorm(norm), Saved::Normed(normed)) => {
            Some(norm::backward(norm, normed.as_ref(), &gradient, gradients)?)
        }
        (Step::MaxPool(window), Saved::Pooled(pooled)) => Some(pool::backward(*window, pooled, &gradient)?),
        (Step::Relu, Saved::Output(output)) => Some((&gradient * output.gt(0.0)?.to_dtype(gradient.dtype())?)?),
        (Step::AveragePool, Saved::Shape(shape)) => {
            let (_, _, height, width) = shape.dims4()?;
            Some((gradient / (height * width) as f64)?.broadcast_as(shape)?.contiguous()?)
        }
        (Step::Flatten | Step::Unflatten(_), Saved::Shape(shape)) => Some(gradient.reshape(shape)?),
        (Step::Residual { body, shortcut }, Saved::Ways(of_body, of_shortcut)) => {
            let short = backward(shortcut, of_shortcut, gradient.clone(), wanted, gradients)?;
            let long = backward(body, of_body, gradient, wanted, gradients)?;
            long.zip(short).map(|(long, short)| long + short).transpose()?
        }
        _ => unreachable!("a step saves what it needs"),
    })
}
