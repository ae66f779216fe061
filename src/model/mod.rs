//! Networks: from raw rows to output rows, on any device.
//!
//! A [`Net`] is an architecture's [`Plan`] with [`Parameters`] on one device. It takes rows as clients send them: its preprocessing is
//! part of it, so what is served is what was trained. A net is never changed by running it, gives the same output for the same row on
//! the same device, and is `Send + Sync`; whether two threads may *use* it at once is the device's affair (a CUDA net belongs to its
//! lane). Candle stays in here, in the lanes and in the trainer; others run a net on host slices with [`Net::predict`].

mod conv;
mod encoder;
mod parameters;
mod plan;
mod pool;

use candle_core::Result;
pub use candle_core::{Device, Error as TensorError, Tensor};
use candle_nn::{Linear, Module, VarBuilder};
use conv::Reach;

pub use encoder::{Encoder, decoder_plan};
pub use parameters::Parameters;
pub use plan::{Architecture, Bias, Layer, NoFit, Plan};

/// Rows that [`Net::predict`] runs at once: enough to keep the matrix products long, little memory.
const PREDICT_ROWS: usize = 64;

/// How raw values become what the layers read: `(x - mean * weight) / std`.
///
/// `weight` is 1 for a base model. A parity query is Σ cᵢ Xᵢ of *raw* rows, so the parity model of coefficients c has `weight` Σ cᵢ:
/// the result is exactly Σ cᵢ (Xᵢ - mean) / std, the sum of what the base model would have read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preprocessing {
    /// Mean of one raw value over the training set.
    pub mean: f64,
    /// Standard deviation of one raw value over the training set; not zero.
    pub std: f64,
    /// Sum of the coefficients with which raw rows were added.
    pub weight: f64,
}

impl Preprocessing {
    /// The same for rows that are sums of raw rows with these coefficients.
    #[must_use]
    pub fn of_sum(self, coefficients: &[f32]) -> Self {
        Preprocessing { weight: coefficients.iter().copied().map(f64::from).sum(), ..self }
    }

    fn apply(&self, rows: &Tensor) -> Result<Tensor> {
        rows.affine(1.0 / self.std, -self.mean * self.weight / self.std)
    }
}

/// A network on one device.
#[derive(Debug)]
pub struct Net {
    plan: Plan,
    preprocessing: Preprocessing,
    steps: Vec<Step>,
    device: Device,
}

/// A layer with its parameters.
#[derive(Debug)]
enum Step {
    Convolution { filters: Tensor, bias: Tensor, reach: Reach },
    MaxPool,
    Relu,
    Flatten,
    Unflatten(Vec<usize>),
    Dense(Linear),
}

impl Step {
    fn new(layer: &Layer, parameters: &VarBuilder<'_>) -> Result<Self> {
        Ok(match *layer {
            Layer::Convolution { name, channels, filters, kernel, padding, dilation, .. } => {
                let parameters = parameters.pp(name);
                Step::Convolution {
                    filters: parameters.get((filters, channels, kernel, kernel), "weight")?,
                    bias: parameters.get(filters, "bias")?,
                    reach: Reach { padding, dilation },
                }
            }
            Layer::MaxPool => Step::MaxPool,
            Layer::Relu => Step::Relu,
            Layer::Flatten => Step::Flatten,
            Layer::Unflatten(ref shape) => Step::Unflatten(shape.clone()),
            Layer::Dense { name, inputs, outputs, bias } => {
                let parameters = parameters.pp(name);
                let bias = match bias {
                    Bias::With => Some(parameters.get(outputs, "bias")?),
                    Bias::Without => None,
                };
                Step::Dense(Linear::new(parameters.get((outputs, inputs), "weight")?, bias))
            }
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Step::Convolution { filters, bias, reach } => conv::convolve(x, filters, bias, *reach),
            Step::MaxPool => pool::max_pool(x),
            Step::Relu => x.relu(),
            Step::Flatten => x.flatten_from(1),
            Step::Unflatten(shape) => {
                let shape: Vec<usize> = [x.dim(0)?].iter().chain(shape).copied().collect();
                x.reshape(shape)
            }
            Step::Dense(linear) => linear.forward(x),
        }
    }
}

impl Net {
    /// Builds the net of `plan` on `device`. On the CPU it shares the memory of `parameters`.
    ///
    /// Fails when a parameter is missing or misshapen, or the device refuses.
    pub fn new(plan: &Plan, preprocessing: Preprocessing, parameters: &Parameters, device: &Device) -> Result<Self> {
        let builder = parameters.builder(device);
        let steps = plan.layers.iter().map(|layer| Step::new(layer, &builder)).collect::<Result<_>>()?;
        Ok(Net { plan: plan.clone(), preprocessing, steps, device: device.clone() })
    }

    /// Runs raw rows `[n, ..input shape]` on the net's device; gives `[n, outputs]`.
    pub fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let read = self.preprocessing.apply(rows)?;
        self.steps.iter().try_fold(read, |x, step| step.forward(&x))
    }

    /// Puts host rows, one after the other, on the net's device as `[n, ..input shape]`.
    ///
    /// Fails unless `rows` is a whole number of rows.
    pub fn rows(&self, rows: &[f32]) -> Result<Tensor> {
        let count = rows.len() / self.width();
        let shape: Vec<usize> = [count].iter().chain(&self.plan.input).copied().collect();
        Tensor::from_slice(rows, shape, &self.device)
    }

    /// Runs host rows, one after the other, in batches; gives their output rows, one after the other, in host memory.
    pub fn predict(&self, rows: &[f32]) -> Result<Vec<f32>> {
        let mut outputs = Vec::with_capacity(rows.len() / self.width() * self.plan.outputs);
        for batch in rows.chunks(PREDICT_ROWS * self.width()) {
            outputs.extend(self.forward(&self.rows(batch)?)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(outputs)
    }

    /// Values in one input row.
    pub fn width(&self) -> usize {
        self.plan.input.iter().product()
    }

    /// The layers, sizes and costs.
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Where it runs.
    pub const fn device(&self) -> &Device {
        &self.device
    }
}

#[cfg(test)]
mod tests;
