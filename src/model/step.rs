//! Layers with their parameters, as tensors and candle's kernels: what runs on a GPU, and what the CPU's own code is tested against.

use candle_core::{DType, Result, Tensor};
use candle_nn::{Linear, Module, VarBuilder};

use super::{Bias, Convolution, Layer, Plan, Window, plan::Name};

/// What batch norm adds to a variance, as `PyTorch` does.
pub(super) const EPSILON: f64 = 1e-5;

/// A layer with its parameters.
#[derive(Debug)]
pub(super) enum Step {
    Convolution { filters: Tensor, bias: Option<Tensor>, window: Window, dilation: usize },
    BatchNorm(BatchNorm),
    MaxPool(Window),
    AveragePool,
    Relu,
    Flatten,
    Unflatten(Vec<usize>),
    Dense(Linear),
    Residual { body: Vec<Step>, shortcut: Vec<Step> },
}

/// What batch norm does to each channel.
#[derive(Debug)]
pub(super) struct BatchNorm {
    /// Prefix of its parameters' names.
    pub(super) name: Name,
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    mean: Tensor,
    variance: Tensor,
}

impl Step {
    pub(super) fn all(layers: &[Layer], parameters: &VarBuilder<'_>) -> Result<Vec<Self>> {
        layers.iter().map(|layer| Step::new(layer, parameters)).collect()
    }

    fn new(layer: &Layer, parameters: &VarBuilder<'_>) -> Result<Self> {
        Ok(match layer {
            Layer::Convolution(Convolution { name, channels, filters, window, dilation, bias }) => {
                let parameters = parameters.pp(name);
                Step::Convolution {
                    filters: parameters.get((*filters, *channels, window.kernel, window.kernel), "weight")?,
                    bias: match bias {
                        Bias::With => Some(parameters.get(*filters, "bias")?),
                        Bias::Without => None,
                    },
                    window: *window,
                    dilation: *dilation,
                }
            }
            Layer::BatchNorm { name, channels } => {
                let get = |part| parameters.pp(name).get(*channels, part);
                Step::BatchNorm(BatchNorm {
                    name: name.clone(),
                    weight: get("weight")?,
                    bias: get("bias")?,
                    mean: get("running_mean")?,
                    variance: get("running_var")?,
                })
            }
            Layer::MaxPool(window) => Step::MaxPool(*window),
            Layer::AveragePool => Step::AveragePool,
            Layer::Relu => Step::Relu,
            Layer::Flatten => Step::Flatten,
            Layer::Unflatten(shape) => Step::Unflatten(shape.clone()),
            Layer::Dense { name, inputs, outputs, bias } => {
                let parameters = parameters.pp(name);
                let bias = match bias {
                    Bias::With => Some(parameters.get(*outputs, "bias")?),
                    Bias::Without => None,
                };
                Step::Dense(Linear::new(parameters.get((*outputs, *inputs), "weight")?, bias))
            }
            Layer::Residual { body, shortcut } => {
                Step::Residual { body: Step::all(body, parameters)?, shortcut: Step::all(shortcut, parameters)? }
            }
        })
    }

    /// The same layers, to be run and never trained: batch norms that follow a convolution are in its filters, which spares a GPU
    /// six small kernels each; and everything is rounded to `precision`.
    pub(super) fn settled(steps: Vec<Step>, precision: DType) -> Result<Vec<Step>> {
        let mut settled: Vec<Step> = Vec::with_capacity(steps.len());
        for step in steps {
            match (step, settled.last_mut()) {
                (Step::BatchNorm(norm), Some(Step::Convolution { filters, bias, .. })) => {
                    let (scale, shift) = norm.line()?;
                    *filters = filters.broadcast_mul(&scale.reshape((scale.elem_count(), 1, 1, 1))?)?;
                    *bias = Some(match bias.take() {
                        Some(bias) => ((bias * &scale)? + shift)?,
                        None => shift,
                    });
                }
                (Step::Residual { body, shortcut }, _) => {
                    let (body, shortcut) = (Step::settled(body, DType::F32)?, Step::settled(shortcut, DType::F32)?);
                    settled.push(Step::Residual { body, shortcut });
                }
                (step, _) => settled.push(step),
            }
        }
        // Once, and last: what is folded is folded exactly.
        settled.into_iter().map(|step| step.rounded(precision)).collect()
    }

    fn rounded(self, to: DType) -> Result<Step> {
        let round = |tensor: Tensor| tensor.to_dtype(to);
        let all = |steps: Vec<Step>| steps.into_iter().map(|step| step.rounded(to)).collect::<Result<_>>();
        Ok(match self {
            Step::Convolution { filters, bias, window, dilation } => {
                Step::Convolution { filters: round(filters)?, bias: bias.map(round).transpose()?, window, dilation }
            }
            Step::BatchNorm(BatchNorm { name, weight, bias, mean, variance }) => Step::BatchNorm(BatchNorm {
                name,
                weight: round(weight)?,
                bias: round(bias)?,
                mean: round(mean)?,
                variance: round(variance)?,
            }),
            Step::Dense(linear) => {
                let bias = linear.bias().map(|bias| bias.to_dtype(to)).transpose()?;
                Step::Dense(Linear::new(linear.weight().to_dtype(to)?, bias))
            }
            Step::Residual { body, shortcut } => Step::Residual { body: all(body)?, shortcut: all(shortcut)? },
            step @ (Step::MaxPool(_) | Step::AveragePool | Step::Relu | Step::Flatten | Step::Unflatten(_)) => step,
        })
    }

    /// Whether multiply-adds are counted of it, as [`Plan::work`] does.
    const fn has_work(&self) -> bool {
        match self {
            Step::Convolution { .. } | Step::Dense(_) | Step::Residual { .. } => true,
            Step::BatchNorm(_)
            | Step::MaxPool(_)
            | Step::AveragePool
            | Step::Relu
            | Step::Flatten
            | Step::Unflatten(_) => false,
        }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Step::Convolution { filters, bias, window, dilation } => {
                let convolved = x.conv2d(filters, window.padding, window.stride, *dilation, 1)?;
                match bias {
                    Some(bias) => convolved.broadcast_add(&bias.reshape((1, bias.elem_count(), 1, 1))?),
                    None => Ok(convolved),
                }
            }
            Step::BatchNorm(norm) => norm.forward(x),
            Step::MaxPool(window) => max_pool(x, *window),
            Step::AveragePool => x.mean_keepdim((2, 3)),
            Step::Relu => x.relu(),
            Step::Flatten => x.flatten_from(1),
            Step::Unflatten(shape) => {
                let shape: Vec<usize> = [x.dim(0)?].iter().chain(shape).copied().collect();
                x.reshape(shape)
            }
            Step::Dense(linear) => linear.forward(x),
            Step::Residual { body, shortcut } => forward(body, x)? + forward(shortcut, x)?,
        }
    }
}

/// The largest of each square. What is padded is never the largest.
pub(super) fn max_pool(rows: &Tensor, Window { kernel, stride, padding }: Window) -> Result<Tensor> {
    // Candle pads with zeros, which may be the largest; the values at the edge once more never change a maximum.
    let padded = rows.pad_with_same(2, padding, padding)?.pad_with_same(3, padding, padding)?;
    padded.max_pool2d_with_stride(kernel, stride)
}

/// Which share of a plan's multiply-adds each of its steps is, settled or not: those that have any keep their order.
pub(super) fn shares(steps: &[Step], plan: &Plan) -> Vec<f32> {
    let all = plan.multiply_adds().max(1) as f32;
    let mut work = plan.work().into_iter().filter(|&work| work > 0);
    let share = |step: &Step| if step.has_work() { work.next().unwrap_or(0) as f32 / all } else { 0.0 };
    steps.iter().map(share).collect()
}

/// Through all of `steps`.
pub(super) fn forward(steps: &[Step], x: &Tensor) -> Result<Tensor> {
    steps.iter().try_fold(x.clone(), |x, step| step.forward(&x))
}

impl BatchNorm {
    /// What each channel is multiplied by, and what is added to it then.
    pub(super) fn line(&self) -> Result<(Tensor, Tensor)> {
        let scale = (&self.weight / (&self.variance + EPSILON)?.sqrt()?)?;
        let shift = (&self.bias - (&self.mean * &scale)?)?;
        Ok((scale, shift))
    }

    /// By running averages: what is served.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (scale, shift) = self.line()?;
        let of_channels = |tensor: Tensor| tensor.reshape((1, tensor.elem_count(), 1, 1));
        x.broadcast_mul(&of_channels(scale)?)?.broadcast_add(&of_channels(shift)?)
    }
}
