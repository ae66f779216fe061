//! Nets that learn, on the CPU: a forward pass that keeps what the backward pass needs, and that backward pass.
//!
//! Works on the same pictures as the programs that serve (channels innermost, zeros around each as wide as the next convolution reads) and on
//! the same product, so nothing is unfolded or copied between layers; a gradient lies as the values do. Parameters are read where the
//! variables hold them, at each pass anew. Which layers learn is told by which tensors are variables: the others are constants that gradients
//! pass through, and their batch norm goes by its running averages.
//!
//! The obvious other way is candle's graph, with an operation of ours for each slow one. Each of its operations allocates its output and its
//! gradient, adds the latter to zeros, and knows one layout; that was as much time as the arithmetic. The graph still begins where the
//! net ends: the loss is made of tensors, and a [`Pass`] takes up the gradient of its outputs where that of the loss leaves it.

mod build;
mod convolution;
mod dense;
mod dot;
mod kernel;
mod norm;
mod pool;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use candle_core::{Device, Error, Result, Storage, Tensor, Var, backprop::GradStore};

use self::step::{Back, Saved, Step};
use super::{Aligned, Picture};
use crate::model::{Parameters, Plan, Preprocessing, Seen};

/// A net that reads its parameters as they are at each pass.
#[derive(Debug)]
pub(in crate::model) struct Learner {
    steps: Vec<Step>,
    input: Picture,
    outputs: usize,
    scale: f32,
    shift: f32,
}

/// One pass of some rows, with all that its gradient needs.
#[derive(Debug)]
pub(in crate::model) struct Pass<'a> {
    learner: &'a Learner,
    saved: Vec<Saved>,
    outputs: Var,
    rows: usize,
}

impl Learner {
    /// The net of `plan`; `parameters` that are variables learn.
    ///
    /// Fails when a parameter is missing or misshapen.
    pub(in crate::model) fn new(plan: &Plan, preprocessing: Preprocessing, parameters: &Parameters) -> Result<Self> {
        let (steps, input) = build::steps(plan, parameters)?;
        let Preprocessing { mean, std, weight } = preprocessing;
        #[expect(clippy::cast_possible_truncation, reason = "f32 is the rows' precision")]
        let (scale, shift) = ((1.0 / std) as f32, (-mean * weight / std) as f32);
        Ok(Learner { steps, input, outputs: plan.outputs(), scale, shift })
    }

    /// Runs raw rows, one after the other.
    ///
    /// Fails unless `rows` is a whole number of rows.
    pub(in crate::model) fn forward(&self, rows: &[f32]) -> Result<Pass<'_>> {
        let width = self.input.values();
        let n = rows.len() / width;
        if n == 0 || rows.len() != n * width {
            return Err(Error::Msg(format!("{} values are no rows of {width}", rows.len())));
        }
        let mut input = Aligned::zeros(n * self.input.len());
        self.input.read(1, rows.chunks_exact(width), input.values_mut(), |value| value * self.scale + self.shift);
        let (outputs, saved) = step::forward(&self.steps, Arc::new(input), n)?;
        let outputs = Tensor::from_slice(outputs.values(), (n, self.outputs), &Device::Cpu)?;
        Ok(Pass { learner: self, saved, outputs: Var::from_tensor(&outputs)?, rows: n })
    }
}

impl Pass<'_> {
    /// `[rows, outputs]`; what a loss is made of.
    pub(in crate::model) fn outputs(&self) -> &Tensor {
        self.outputs.as_tensor()
    }

    /// Takes up the gradient of the outputs among `gradients`, and puts those of the parameters there.
    pub(in crate::model) fn backward(&self, gradients: &mut GradStore) -> Result<()> {
        let Some(gradient) = gradients.remove(&self.outputs) else {
            return Err(Error::Msg("the loss does not depend on the outputs of the pass".to_owned()));
        };
        let mut start = Aligned::zeros(gradient.elem_count());
        read(&gradient, |values| start.values_mut().copy_from_slice(values))?;
        let mut back = Back { rows: self.rows, gradients };
        step::backward(&self.learner.steps, &self.saved, start, false, &mut back).map(|_| ())
    }

    /// What each batch norm that learns saw, in the order of the layers.
    pub(in crate::model) fn seen(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        step::seen(&self.learner.steps, &self.saved, &mut seen);
        seen
    }
}

/// Reads the values of a tensor in host memory, where they lie if they lie one after the other.
pub(crate) fn read<R>(tensor: &Tensor, with: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => Ok(with(&storage.as_slice::<f32>()?[start..end])),
        _ => Err(Error::Msg("what learns lies in host memory".to_owned())),
    }
}

/// Where the lines of `rows` pictures lie.
fn lines(picture: Picture, rows: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let (walk, line) = (picture.walk(1, 0), picture.width * picture.channels);
    let starts =
        (0..rows).flat_map(move |row| (0..picture.height).map(move |y| walk.start + row * walk.row + y * walk.y));
    starts.map(move |start| start..start + line)
}

/// The sum of each channel over all positions: in f32 along a picture, where they are few, then in f64.
fn channel_sums(rows: usize, picture: Picture, values: impl Fn(usize, &mut [f32])) -> Vec<f64> {
    let mut sums = vec![0.0_f64; picture.channels];
    let mut of_row = vec![0.0_f32; picture.width * picture.channels];
    for row in 0..rows {
        of_row.fill(0.0);
        values(row, &mut of_row);
        for values in of_row.chunks_exact(picture.channels) {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += f64::from(*value));
        }
    }
    sums
}
