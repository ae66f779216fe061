//! A network as layers of tensors, and where cuDNN takes it, as a program of cuDNN's calls beside them.
//!
//! The layers are what learns, what gives gradients, and what runs where there is no program: in builds without the feature `cudnn`, where the library is not
//! installed, and for what it does not take.

use candle_core::{DType, Result, Tensor};

#[cfg(feature = "cudnn")]
use super::gpu::Program;
use super::{
    Device, Parameters, Plan, Precision,
    marks::Marks,
    step::{Step, shares},
};

/// Layers of tensors on one device.
#[derive(Debug)]
pub(super) struct Tensors {
    pub(super) steps: Vec<Step>,
    /// How much of all work each of them is.
    pub(super) shares: Vec<f32>,
    precision: DType,
    program: Option<Program>,
}

impl Tensors {
    /// As they are read at each run.
    pub(super) fn live(plan: &Plan, parameters: &Parameters, device: &Device) -> Result<Self> {
        let steps = Step::all(plan.layers(), &parameters.builder(device))?;
        let shares = shares(&steps, plan);
        Ok(Tensors { steps, shares, precision: DType::F32, program: None })
    }

    /// To be run and never trained.
    pub(super) fn settled(plan: &Plan, parameters: &Parameters, device: &Device, precision: Precision) -> Result<Self> {
        let steps = Step::all(plan.layers(), &parameters.constants()?.builder(device))?;
        let steps = Step::settled(steps, precision.dtype())?;
        let shares = shares(&steps, plan);
        Ok(Tensors {
            program: Program::new(plan.input(), &steps, precision, device)?,
            steps,
            shares,
            precision: precision.dtype(),
        })
    }

    /// Has everything ready for batches of so many rows.
    pub(super) fn prepare(&self, rows: impl IntoIterator<Item = usize>) -> Result<()> {
        self.program.as_ref().map_or(Ok(()), |program| program.prepare(rows))
    }

    /// Whose kernels run so many rows.
    pub(super) fn kernels(&self, rows: usize) -> &'static str {
        self.program.as_ref().map_or("candle", |program| program.kernels(rows))
    }

    /// Runs rows that are preprocessed, step by step; gives what may be followed back to them.
    pub(super) fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        self.stepwise(rows, |_| Ok(()))
    }

    /// Runs rows that are preprocessed; `outputs` hold what they gave then. Marks are set behind what is handed over, and waited for.
    pub(super) fn run(&self, rows: &Tensor, outputs: &mut Vec<f32>, marks: &mut Marks<'_>) -> Result<()> {
        if let Some(program) = &self.program
            && program.run(&rows.to_dtype(self.precision)?, outputs, marks)?
        {
            return Ok(());
        }
        let made = self.stepwise(rows, |share| marks.step(share))?;
        marks.wait()?;
        *outputs = made.flatten_all()?.to_vec1()?;
        Ok(())
    }

    /// `step` hears of each step which share of all work it was, once it has been started.
    fn stepwise(&self, rows: &Tensor, mut step: impl FnMut(f32) -> Result<()>) -> Result<Tensor> {
        let mut x = rows.to_dtype(self.precision)?;
        for (layer, share) in self.steps.iter().zip(&self.shares) {
            x = layer.forward(&x)?;
            step(*share)?;
        }
        x.flatten_from(1)?.to_dtype(DType::F32)
    }
}

/// There is none without cuDNN.
#[cfg(not(feature = "cudnn"))]
#[derive(Debug)]
enum Program {}

#[cfg(not(feature = "cudnn"))]
impl Program {
    #[expect(clippy::unnecessary_wraps, reason = "a GPU may refuse")]
    const fn new(_: &[usize], _: &[Step], _: Precision, _: &Device) -> Result<Option<Self>> {
        Ok(None)
    }

    fn prepare(&self, _: impl IntoIterator<Item = usize>) -> Result<()> {
        match *self {}
    }

    const fn kernels(&self, _: usize) -> &'static str {
        match *self {}
    }

    const fn run(&self, _: &Tensor, _: &mut Vec<f32>, _: &mut Marks<'_>) -> Result<bool> {
        match *self {}
    }
}
