//! Nets that learn: one forward pass that keeps what its gradient needs, and that gradient.
//!
//! A [`Learner`] is the programs of `cpu::learn` or, on any device, tensors (`step`). Both are told the same and give the same, up to
//! rounding; tests hold one against the other. Neither builds candle's graph inside the net: it begins where the net ends, with the loss. On a GPU that spares
//! candle's gradient of a convolution, a transposed convolution that its kernels compute value by value, where ours is one more convolution (a
//! matrix product); on the CPU `cpu::learn` says what it spares.
//!
//! Which layers learn is told by which tensors are variables: the others are constants that gradients pass through, and their batch norm
//! goes by its running averages.

mod convolution;
mod norm;
mod pool;
mod step;
#[cfg(test)]
mod tests;

use candle_core::{Device, Error, Result, Tensor, Var, backprop::GradStore};

use self::step::Saved;
use super::{Parameters, Plan, Preprocessing, cpu, step::Step};

/// A net that reads its parameters as they are at each pass.
#[derive(Debug)]
pub struct Learner(Form);

#[derive(Debug)]
enum Form {
    Program(cpu::learn::Learner),
    Tensors(Tensors),
}

#[derive(Debug)]
struct Tensors {
    steps: Vec<Step>,
    input: Vec<usize>,
    preprocessing: Preprocessing,
    device: Device,
}

/// One pass of some rows, with all that its gradient needs.
#[derive(Debug)]
pub struct Pass<'a>(Way<'a>);

#[derive(Debug)]
enum Way<'a> {
    Program(cpu::learn::Pass<'a>),
    Tensors { steps: &'a [Step], saved: Vec<Saved>, outputs: Var },
}

/// What batch norm saw of each channel in one pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Prefix of the layer's parameters' names.
    pub name: String,
    /// Means.
    pub mean: Vec<f32>,
    /// Variances, unbiased.
    pub variance: Vec<f32>,
}

impl Learner {
    /// The net of `plan` on the CPU; `parameters` that are variables learn.
    ///
    /// Fails when a parameter is missing or misshapen.
    pub fn new(plan: &Plan, preprocessing: Preprocessing, parameters: &Parameters) -> Result<Self> {
        Ok(Learner(Form::Program(cpu::learn::Learner::new(plan, preprocessing, parameters)?)))
    }

    /// The same of tensors on `device`, where the variables are. On the CPU it is far slower than [`Learner::new`].
    ///
    /// Fails when a parameter is missing or misshapen, or the device does.
    pub fn of_tensors(
        plan: &Plan,
        preprocessing: Preprocessing,
        parameters: &Parameters,
        device: &Device,
    ) -> Result<Self> {
        let steps = Step::all(plan.layers(), &parameters.builder(device))?;
        let input = plan.input().to_vec();
        Ok(Learner(Form::Tensors(Tensors { steps, input, preprocessing, device: device.clone() })))
    }

    /// Runs raw rows, one after the other, from host memory.
    ///
    /// Fails unless `rows` is a whole number of rows, or when the device does.
    pub fn forward(&self, rows: &[f32]) -> Result<Pass<'_>> {
        match &self.0 {
            Form::Program(learner) => Ok(Pass(Way::Program(learner.forward(rows)?))),
            Form::Tensors(learner) => learner.forward(rows),
        }
    }
}

impl Tensors {
    fn forward(&self, rows: &[f32]) -> Result<Pass<'_>> {
        let width: usize = self.input.iter().product();
        let n = rows.len() / width;
        if n == 0 || rows.len() != n * width {
            return Err(Error::Msg(format!("{} values are no rows of {width}", rows.len())));
        }
        let shape: Vec<usize> = [n].iter().chain(&self.input).copied().collect();
        let rows = self.preprocessing.apply(&Tensor::from_slice(rows, shape, &self.device)?)?;
        let (outputs, saved) = step::forward(&self.steps, rows)?;
        let outputs = Var::from_tensor(&outputs.flatten_from(1)?)?;
        Ok(Pass(Way::Tensors { steps: &self.steps, saved, outputs }))
    }
}

impl Pass<'_> {
    /// `[rows, outputs]`, where the net is; what a loss is made of.
    pub fn outputs(&self) -> &Tensor {
        match &self.0 {
            Way::Program(pass) => pass.outputs(),
            Way::Tensors { outputs, .. } => outputs.as_tensor(),
        }
    }

    /// Takes up the gradient of the outputs among `gradients`, and puts those of the parameters there.
    ///
    /// Fails if the loss does not depend on the outputs, or when the device does.
    pub fn backward(&self, gradients: &mut GradStore) -> Result<()> {
        match &self.0 {
            Way::Program(pass) => pass.backward(gradients),
            Way::Tensors { steps, saved, outputs } => {
                let Some(gradient) = gradients.remove(outputs) else {
                    return Err(Error::Msg("the loss does not depend on the outputs of the pass".to_owned()));
                };
                step::backward(steps, saved, gradient.detach(), false, gradients).map(|_| ())
            }
        }
    }

    /// What each batch norm that learns saw, in the order of the layers, in host memory.
    ///
    /// Fails when the device does.
    pub fn seen(&self) -> Result<Vec<Seen>> {
        match &self.0 {
            Way::Program(pass) => Ok(pass.seen()),
            Way::Tensors { steps, saved, .. } => step::seen(steps, saved),
        }
    }
}
