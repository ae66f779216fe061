//! Networks: from raw rows to output rows, on any device.
//!
//! A [`Net`] is an architecture's [`Plan`] with [`Parameters`] on one device. It takes rows as clients send them: its preprocessing is
//! part of it, so what is served is what was trained. A net is never changed by running it, gives the same output for the same row on
//! the same device, and is `Send + Sync`; whether two threads may *use* it at once is the device's affair (a CUDA net belongs to its
//! lane). Candle stays in here, in the lanes and in the trainer; others run a net on host slices with [`Net::predict`].

mod architecture;
mod cpu;
mod encoder;
#[cfg(feature = "cuda")]
mod gpu;
mod intake;
mod learn;
#[cfg(any(test, feature = "cudnn"))]
mod lowered;
mod marks;
mod parameters;
mod plan;
mod precision;
mod step;
mod tensors;

use std::sync::Arc;

use candle_core::Result;
pub use candle_core::{Device, Error as TensorError, Tensor};
use cpu::Program;
pub(crate) use cpu::learn::read;
use marks::Marks;
use tensors::Tensors;

pub use architecture::{Architecture, NoFit, Width};
pub use encoder::{Encoder, decoder_plan};
#[cfg(feature = "cuda")]
pub use gpu::{alone_on, open as open_gpu};
pub use intake::{Intake, Taken};
pub use learn::{Learner, Pass, Seen};
pub use parameters::Parameters;
pub use plan::{Bias, Convolution, Layer, Origin, Plan, Window};
pub use precision::Precision;

/// Until what it gives is dropped, nobody else of this process makes graphs on this GPU, or waits for all that is done there: for who frees a part of it.
#[cfg(not(feature = "cuda"))]
pub const fn alone_on(_: &Device) -> Option<()> {
    None
}

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

/// A network on one device. Copies share its weights.
#[derive(Clone, Debug)]
pub struct Net {
    plan: Plan,
    preprocessing: Preprocessing,
    form: Form,
    device: Device,
}

#[derive(Clone, Debug)]
enum Form {
    /// Packed for the CPU once and for all.
    Program(Program),
    /// On any device; what a net that learns is made of changes.
    Steps(Arc<Tensors>),
}

impl Net {
    /// Builds the net of `plan` on `device`, to be run: on the CPU with its weights packed, which no later change of `parameters` reaches.
    ///
    /// Fails when a parameter is missing or misshapen, or the device refuses.
    pub fn new(plan: &Plan, preprocessing: Preprocessing, parameters: &Parameters, device: &Device) -> Result<Self> {
        match device {
            Device::Cpu => {
                let form = Form::Program(cpu::program(plan, preprocessing, parameters)?);
                Ok(Net { plan: plan.clone(), preprocessing, form, device: device.clone() })
            }
            Device::Cuda(_) | Device::Metal(_) => {
                Net::settled(plan, preprocessing, parameters, device, Precision::Single)
            }
        }
    }

    /// Builds a net of tensors that computes in `precision`, to be run: what a GPU runs. No later change of `parameters` reaches it. Rows and outputs are f32
    /// all the same; an output that is too large for the precision is infinite.
    pub fn settled(
        plan: &Plan,
        preprocessing: Preprocessing,
        parameters: &Parameters,
        device: &Device,
        precision: Precision,
    ) -> Result<Self> {
        Ok(Net::of_tensors(plan, preprocessing, Tensors::settled(plan, parameters, device, precision)?, device))
    }

    /// Builds a net of tensors, which reads `parameters` as they are at each run. On the CPU it is slow but for full matrices; a network learns
    /// there as a [`Learner`].
    pub fn live(plan: &Plan, preprocessing: Preprocessing, parameters: &Parameters, device: &Device) -> Result<Self> {
        Ok(Net::of_tensors(plan, preprocessing, Tensors::live(plan, parameters, device)?, device))
    }

    fn of_tensors(plan: &Plan, preprocessing: Preprocessing, tensors: Tensors, device: &Device) -> Self {
        Net { plan: plan.clone(), preprocessing, form: Form::Steps(Arc::new(tensors)), device: device.clone() }
    }

    /// Has everything ready for batches of so many rows, so that none of them is the first of its kind.
    ///
    /// Fails when the device does.
    pub fn prepare(&self, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        match &self.form {
            Form::Program(_) => Ok(()),
            Form::Steps(tensors) => tensors.prepare(rows),
        }
    }

    /// Whose kernels run so many rows: `parityd` on CPUs; elsewhere `candle`, or of what was prepared `cudnn graphs`, or `cudnn` where the driver makes no graphs;
    /// with `, channels last` where that is faster.
    pub fn kernels(&self, rows: usize) -> &'static str {
        match &self.form {
            Form::Program(_) => "parityd",
            Form::Steps(tensors) => tensors.kernels(rows),
        }
    }

    /// Runs raw rows `[n, ..input shape]` on the net's device; gives `[n, outputs]`, with a gradient if the net is live.
    pub fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        match &self.form {
            Form::Program(program) => {
                let mut outputs = Vec::new();
                program.run(&rows.flatten_all()?.to_vec1::<f32>()?, &mut outputs, &|_| ());
                Tensor::from_vec(outputs, (rows.dim(0)?, self.plan.outputs()), &self.device)
            }
            Form::Steps(tensors) => tensors.forward(&self.preprocessing.apply(rows)?),
        }
    }

    /// Puts host rows, one after the other, on the net's device as `[n, ..input shape]`.
    ///
    /// Fails unless `rows` is a whole number of rows.
    pub fn rows(&self, rows: &[f32]) -> Result<Tensor> {
        Tensor::from_slice(rows, self.shape(rows.len() / self.width()), &self.device)
    }

    fn there(&self, rows: Taken<'_>) -> Result<(Tensor, Vec<usize>)> {
        match rows {
            Taken::Host(rows) => Ok((self.rows(rows)?, intake::blank(rows, self.width()).collect())),
            Taken::There(rows, blanks) => Ok((rows, blanks)),
        }
    }

    /// Of a tensor of so many rows.
    fn shape(&self, rows: usize) -> Vec<usize> {
        [rows].iter().chain(self.plan.input()).copied().collect()
    }

    /// Runs host rows, one after the other, as one batch; gives their output rows, one after the other, in host memory.
    ///
    /// Fails unless `rows` is a whole number of rows, or when the device does.
    pub fn run(&self, rows: &[f32]) -> Result<Vec<f32>> {
        let mut outputs = Vec::new();
        self.run_into(Taken::Host(rows), &mut outputs, &|_| ())?;
        Ok(outputs)
    }

    /// The same, into memory that is kept, instead of what it held; `told` hears of each step of it, as soon as that is over, which share (0..1) of the whole work it was. On several threads at once,
    /// if the calling thread belongs to a pool of several. A net of tensors tells of several small steps at once, and of the last ones never: they are over with the outputs.
    /// Outputs of a row with NaN in it are NaN, whatever the network.
    ///
    /// Fails as [`Net::run`] does.
    pub fn run_into(&self, rows: Taken<'_>, outputs: &mut Vec<f32>, told: &(dyn Fn(f32) + Sync)) -> Result<()> {
        match (&self.form, rows) {
            (Form::Program(program), Taken::Host(rows)) if rows.len().is_multiple_of(self.width()) => {
                program.run(rows, outputs, told);
            }
            (Form::Program(_), rows) => *outputs = self.forward(&self.there(rows)?.0)?.flatten_all()?.to_vec1()?,
            (Form::Steps(tensors), rows) => {
                let mut marks = Marks::new(&self.device, told);
                let (rows, blanks) = self.there(rows)?;
                tensors.run(&self.preprocessing.apply(&rows)?, outputs, &mut marks)?;
                // The larger of NaN and a number is the number, to candle's kernels.
                let width = self.plan.outputs();
                for row in blanks {
                    outputs[row * width..][..width].fill(f32::NAN);
                }
            }
        }
        Ok(())
    }

    /// The same for any number of rows, in batches.
    pub fn predict(&self, rows: &[f32]) -> Result<Vec<f32>> {
        let mut outputs = Vec::with_capacity(rows.len() / self.width() * self.plan.outputs());
        for batch in rows.chunks(PREDICT_ROWS * self.width()) {
            outputs.extend(self.run(batch)?);
        }
        Ok(outputs)
    }

    /// Whether both read the same memory.
    #[cfg(test)]
    pub(crate) fn shares_weights(&self, other: &Net) -> bool {
        match (&self.form, &other.form) {
            (Form::Program(one), Form::Program(other)) => one.shares_weights(other),
            (Form::Steps(one), Form::Steps(other)) => Arc::ptr_eq(one, other),
            (Form::Program(_), Form::Steps(_)) | (Form::Steps(_), Form::Program(_)) => false,
        }
    }

    /// Values in one input row.
    pub fn width(&self) -> usize {
        self.plan.input().iter().product()
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

/// Where tests run tensors: on a CPU, or on the GPU that `PARITYD_TEST_DEVICE` names (`scripts/check-cuda`). One device for all of them.
#[cfg(test)]
pub(crate) fn test_device() -> Device {
    static DEVICE: std::sync::LazyLock<Device> =
        std::sync::LazyLock::new(|| match std::env::var("PARITYD_TEST_DEVICE").as_deref() {
            Err(_) => Device::Cpu,
            #[cfg(feature = "cuda")]
            Ok("cuda:0") => open_gpu(0).expect("the device opens"),
            Ok(other) => panic!("PARITYD_TEST_DEVICE={other} is no device of this build"),
        });
    DEVICE.clone()
}

#[cfg(test)]
mod tests;
