//! Layers that learn, one after the other, forward and backward.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, backprop::GradStore};

use super::{
    convolution::Convolution,
    dense::Dense,
    lines,
    norm::{BatchNorm, Moments},
    pool::{self, MaxPool},
};
use crate::model::{
    Seen,
    cpu::{Aligned, Picture},
};

/// One layer.
#[derive(Debug)]
pub(super) enum Step {
    Convolution(Convolution),
    Dense(Dense),
    BatchNorm(BatchNorm),
    MaxPool(MaxPool),
    AveragePool { from: Picture },
    Relu,
    Flatten { from: Picture },
    Unflatten { to: Picture },
    Residual(Residual),
}

/// The sum of two ways.
#[derive(Debug)]
pub(super) struct Residual {
    pub(super) body: Vec<Step>,
    pub(super) shortcut: Vec<Step>,
    pub(super) from: Picture,
    /// What the shortcut makes.
    pub(super) short: Picture,
    pub(super) to: Picture,
}

/// What a layer's gradient needs of its forward pass.
#[derive(Debug)]
pub(super) enum Saved {
    Nothing,
    /// Its input.
    Input(Arc<Aligned>),
    /// Its input, and its filters with channels innermost.
    Convolved(Arc<Aligned>, Vec<f32>),
    /// Its input, and what was seen of it; none if it went by the running averages.
    Normed(Arc<Aligned>, Option<Moments>),
    /// Its output.
    Output(Arc<Aligned>),
    /// Where in its picture each largest value lies.
    Pooled(Vec<u32>),
    Ways(Vec<Saved>, Vec<Saved>),
}

/// What goes along on the way back.
pub(super) struct Back<'a> {
    pub(super) rows: usize,
    /// Where gradients of parameters are put.
    pub(super) gradients: &'a mut GradStore,
}

impl Back<'_> {
    /// Puts the gradient of a parameter among the others.
    pub(super) fn learned(&mut self, parameter: &Tensor, values: Vec<f32>) -> Result<()> {
        self.gradients.insert(parameter, Tensor::from_vec(values, parameter.shape(), &Device::Cpu)?);
        Ok(())
    }
}

/// Through all of `steps`.
pub(super) fn forward(steps: &[Step], input: Arc<Aligned>, rows: usize) -> Result<(Arc<Aligned>, Vec<Saved>)> {
    let (mut values, mut saved) = (input, Vec::with_capacity(steps.len()));
    for step in steps {
        let (output, of_step) = step.forward(values, rows)?;
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
    gradient: Aligned,
    wanted: bool,
    back: &mut Back<'_>,
) -> Result<Option<Aligned>> {
    let first = if wanted { 0 } else { steps.iter().position(Step::learns).unwrap_or(steps.len()) };
    let mut gradient = Some(gradient);
    for (place, (step, saved)) in steps.iter().zip(saved).enumerate().skip(first).rev() {
        let Some(of_output) = gradient else { return Ok(None) };
        gradient = step.backward(saved, of_output, wanted || place > first, back)?;
    }
    Ok(gradient.filter(|_| wanted))
}

/// Collects what batch norms saw.
pub(super) fn seen(steps: &[Step], saved: &[Saved], into: &mut Vec<Seen>) {
    for (step, saved) in steps.iter().zip(saved) {
        match (step, saved) {
            (Step::BatchNorm(norm), Saved::Normed(_, Some(moments))) => into.push(moments.seen(&norm.name)),
            (Step::Residual(ways), Saved::Ways(body, shortcut)) => {
                seen(&ways.body, body, into);
                seen(&ways.shortcut, shortcut, into);
            }
            _ => {}
        }
    }
}

impl Step {
    /// Whether it has parameters that learn.
    fn learns(&self) -> bool {
        match self {
            Step::Convolution(convolution) => convolution.weight.is_variable(),
            Step::Dense(dense) => dense.weight.is_variable(),
            Step::BatchNorm(norm) => norm.weight.is_variable(),
            Step::Residual(ways) => ways.body.iter().chain(&ways.shortcut).any(Step::learns),
            Step::MaxPool(_)
            | Step::AveragePool { .. }
            | Step::Relu
            | Step::Flatten { .. }
            | Step::Unflatten { .. } => false,
        }
    }

    fn forward(&self, input: Arc<Aligned>, rows: usize) -> Result<(Arc<Aligned>, Saved)> {
        let (output, saved) = match self {
            Step::Convolution(convolution) => {
                let (output, filters) = convolution.forward(&input, rows)?;
                (output, Saved::Convolved(input, filters))
            }
            Step::Dense(dense) => (dense.forward(&input, rows)?, Saved::Input(input)),
            Step::BatchNorm(norm) => {
                let (output, moments) = norm.forward(&input, rows)?;
                (output, Saved::Normed(input, moments))
            }
            Step::MaxPool(pool) => {
                let (output, places) = pool.forward(&input, rows);
                (output, Saved::Pooled(places))
            }
            Step::AveragePool { from } => (pool::average(*from, &input, rows), Saved::Nothing),
            Step::Relu => {
                let mut output = input;
                if Arc::get_mut(&mut output).is_none() {
                    // Others read it, too.
                    output = Arc::new(copied(&output));
                }
                let values = Arc::get_mut(&mut output).expect("nobody else has it").values_mut();
                for value in values {
                    *value = if *value < 0.0 { 0.0 } else { *value };
                }
                return Ok((Arc::clone(&output), Saved::Output(output)));
            }
            Step::Flatten { from } => (pool::flattened(*from, &input, rows), Saved::Nothing),
            Step::Unflatten { to } => (pool::unflattened(*to, &input, rows), Saved::Nothing),
            Step::Residual(ways) => {
                let (short, of_shortcut) = forward(&ways.shortcut, Arc::clone(&input), rows)?;
                let (mut long, of_body) = forward(&ways.body, input, rows)?;
                let sum = Arc::get_mut(&mut long).expect("a body ends with a layer that does not keep its output");
                add((sum, ways.to), (&short, ways.short), rows);
                return Ok((long, Saved::Ways(of_body, of_shortcut)));
            }
        };
        Ok((Arc::new(output), saved))
    }

    fn backward(
        &self,
        saved: &Saved,
        mut gradient: Aligned,
        wanted: bool,
        back: &mut Back<'_>,
    ) -> Result<Option<Aligned>> {
        let rows = back.rows;
        match (self, saved) {
            (Step::Convolution(convolution), Saved::Convolved(input, filters)) => {
                convolution.backward((input, filters), &gradient, wanted, back)
            }
            (Step::Dense(dense), Saved::Input(input)) => dense.backward(input, &gradient, wanted, back),
            (Step::BatchNorm(norm), Saved::Normed(input, moments)) => {
                norm.backward(input, moments.as_ref(), &gradient, back).map(Some)
            }
            (Step::MaxPool(pool), Saved::Pooled(places)) => Ok(Some(pool.backward(places, &gradient, rows))),
            (Step::AveragePool { from }, _) => Ok(Some(pool::spread(*from, &gradient, rows))),
            (Step::Relu, Saved::Output(output)) => {
                for (gradient, output) in gradient.values_mut().iter_mut().zip(output.values()) {
                    *gradient = if *output > 0.0 { *gradient } else { 0.0 };
                }
                Ok(Some(gradient))
            }
            (Step::Flatten { from }, _) => Ok(Some(pool::unflattened(*from, &gradient, rows))),
            (Step::Unflatten { to }, _) => Ok(Some(pool::flattened(*to, &gradient, rows))),
            (Step::Residual(ways), Saved::Ways(body, shortcut)) => {
                ways.backward((body, shortcut), gradient, wanted, back)
            }
            _ => unreachable!("a step saves what it needs"),
        }
    }
}

impl Residual {
    fn backward(
        &self,
        (body, shortcut): (&[Saved], &[Saved]),
        gradient: Aligned,
        wanted: bool,
        back: &mut Back<'_>,
    ) -> Result<Option<Aligned>> {
        let rows = back.rows;
        let mut short = Aligned::zeros(rows * self.short.len());
        add((&mut short, self.short), (&gradient, self.to), rows);
        let short = backward(&self.shortcut, shortcut, short, wanted, back)?;
        let mut long = backward(&self.body, body, gradient, wanted, back)?;
        if let (Some(long), Some(short)) = (&mut long, &short) {
            add((long, self.from), (short, self.from), rows);
        }
        Ok(long)
    }
}

fn copied(values: &Aligned) -> Aligned {
    let mut copy = Aligned::zeros(values.len());
    copy.values_mut().copy_from_slice(values.values());
    copy
}

/// Adds the values of one picture to those of another that differs in the zeros around it alone.
fn add((sum, to): (&mut Aligned, Picture), (values, from): (&Aligned, Picture), rows: usize) {
    let (sum, values) = (sum.values_mut(), values.values());
    for (to, from) in lines(to, rows).zip(lines(from, rows)) {
        sum[to].iter_mut().zip(&values[from]).for_each(|(sum, value)| *sum += value);
    }
}

/// Whether a tensor learns, and so wants a gradient.
pub(super) fn wanted(parameter: Option<&Tensor>) -> Option<&Tensor> {
    parameter.filter(|parameter| parameter.is_variable())
}
