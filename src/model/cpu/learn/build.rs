//! From a plan to the steps of a net that learns.
//!
//! Each value is a picture with as many zeros around it as the convolutions that read it need; `ReLU` works in place and hands that wish on.

use candle_core::{Error, Result, Tensor};

use super::{
    convolution::Convolution,
    dense::Dense,
    norm::BatchNorm,
    pool::MaxPool,
    step::{Residual, Step},
};
use crate::model::{Bias, Layer, Parameters, Plan, cpu::Picture, plan};

/// The steps of `plan` and the picture that they read.
pub(super) fn steps(plan: &Plan, parameters: &Parameters) -> Result<(Vec<Step>, Picture)> {
    let input = Picture { halo: halo(plan.layers(), 0), ..picture(plan.input(), 0) };
    let (mut steps, last) = all(plan.layers(), parameters, input, 0)?;
    if last.values() != last.channels {
        steps.push(Step::Flatten { from: last });
    }
    Ok((steps, input))
}

/// The picture that a row of this shape is.
fn picture(shape: &[usize], halo: usize) -> Picture {
    match *shape {
        [channels, height, width] => Picture { height, width, channels, halo },
        _ => Picture { height: 1, width: 1, channels: shape.iter().product(), halo: 0 },
    }
}

/// Zeros that `layers` want around what they read, if what comes after them wants `after`.
fn halo(layers: &[Layer], after: usize) -> usize {
    match layers.split_first() {
        None => after,
        Some((Layer::Convolution(convolution), _)) => convolution.window.padding,
        Some((Layer::Relu, rest)) => halo(rest, after),
        Some((Layer::Residual { body, shortcut }, _)) => halo(body, 0).max(halo(shortcut, 0)),
        Some((
            Layer::BatchNorm { .. }
            | Layer::MaxPool(_)
            | Layer::AveragePool
            | Layer::Flatten
            | Layer::Unflatten(_)
            | Layer::Dense { .. },
            _,
        )) => 0,
    }
}

/// Steps of `layers` from a picture `from`; what they make has `after` zeros around it.
fn all(layers: &[Layer], parameters: &Parameters, from: Picture, after: usize) -> Result<(Vec<Step>, Picture)> {
    let (mut steps, mut read) = (Vec::new(), from);
    for (place, layer) in layers.iter().enumerate() {
        let (step, written) = one(layer, parameters, read, halo(&layers[place + 1..], after))?;
        steps.extend(step);
        read = written;
    }
    Ok((steps, read))
}

fn one(layer: &Layer, parameters: &Parameters, from: Picture, halo: usize) -> Result<(Option<Step>, Picture)> {
    let get = |name: &str, part: &str, shape: &[usize]| tensor(parameters, &format!("{name}.{part}"), shape);
    Ok(match layer {
        Layer::Convolution(plan::Convolution { name, channels, filters, window, dilation, bias }) => {
            let weight = get(name, "weight", &[*filters, *channels, window.kernel, window.kernel])?;
            let bias = (*bias == Bias::With).then(|| get(name, "bias", &[*filters])).transpose()?;
            let sides = window.along(from.height, *dilation).zip(window.along(from.width, *dilation));
            let (height, width) = sides.ok_or_else(no_plan)?;
            let to = Picture { height, width, channels: *filters, halo };
            let step = Convolution::new((weight, bias), *window, *dilation, (from, to));
            (Some(Step::Convolution(step)), to)
        }
        Layer::BatchNorm { name, channels } => {
            let get = |part| get(name, part, &[*channels]);
            let to = Picture { halo, ..from };
            let step = BatchNorm {
                name: name.to_string(),
                weight: get("weight")?,
                bias: get("bias")?,
                mean: get("running_mean")?,
                variance: get("running_var")?,
                from,
                to,
            };
            (Some(Step::BatchNorm(step)), to)
        }
        Layer::MaxPool(window) => {
            let sides = window.along(from.height, 1).zip(window.along(from.width, 1));
            let (height, width) = sides.ok_or_else(no_plan)?;
            let to = Picture { height, width, halo, ..from };
            (Some(Step::MaxPool(MaxPool { window: *window, from, to })), to)
        }
        Layer::AveragePool => (Some(Step::AveragePool { from }), picture(&[from.channels], 0)),
        Layer::Relu => (Some(Step::Relu), from),
        Layer::Flatten => {
            let flat = picture(&[from.values()], 0);
            ((from != flat).then_some(Step::Flatten { from }), flat)
        }
        Layer::Unflatten(shape) => {
            let to = picture(shape, halo);
            (Some(Step::Unflatten { to }), to)
        }
        Layer::Dense { name, inputs, outputs, bias } => {
            let weight = get(name, "weight", &[*outputs, *inputs])?;
            let bias = (*bias == Bias::With).then(|| get(name, "bias", &[*outputs])).transpose()?;
            (Some(Step::Dense(Dense { weight, bias, inputs: *inputs, outputs: *outputs })), picture(&[*outputs], 0))
        }
        Layer::Residual { body, shortcut } => {
            let (body, to) = all(body, parameters, from, halo)?;
            let (shortcut, short) = all(shortcut, parameters, from, halo)?;
            (Some(Step::Residual(Residual { body, shortcut, from, short, to })), to)
        }
    })
}

fn tensor(parameters: &Parameters, name: &str, shape: &[usize]) -> Result<Tensor> {
    let tensor = parameters.get(name).ok_or_else(|| Error::Msg(format!("tensor `{name}` is missing")))?;
    if tensor.dims() == shape {
        Ok(tensor.clone())
    } else {
        Err(Error::Msg(format!("tensor `{name}` has shape {:?}, not {shape:?}", tensor.dims())))
    }
}

fn no_plan() -> Error {
    Error::Msg("these layers cannot follow each other".to_owned())
}
