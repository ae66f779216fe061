//! A full matrix, forward and backward.

use candle_core::{Result, Tensor};

use super::{
    dot::Dot,
    kernel::{Outer, Spread},
    read,
    step::{Back, wanted},
};
use crate::model::cpu::{Aligned, Walk};

/// A full matrix with its parameters; reads and writes one value after the other.
#[derive(Debug)]
pub(super) struct Dense {
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Dense {
    pub(super) fn forward(&self, input: &Aligned, rows: usize) -> Result<Aligned> {
        let mut output = Aligned::zeros(rows * self.outputs);
        let bias = self.bias.as_ref().map(|bias| read(bias, <[f32]>::to_vec)).transpose()?;
        read(&self.weight, |weights| {
            let (input, inputs) = (input.values(), self.inputs);
            Dot { input, weights, bias: bias.as_deref(), inputs, output: output.values_mut() }.run();
        })?;
        Ok(output)
    }

    pub(super) fn backward(
        &self,
        input: &Aligned,
        gradient: &Aligned,
        input_wanted: bool,
        back: &mut Back<'_>,
    ) -> Result<Option<Aligned>> {
        let rows = back.rows;
        let of = |width: usize| Walk { x: width, ..Walk::default() };
        if let Some(bias) = wanted(self.bias.as_ref()) {
            let mut sums = vec![0.0; self.outputs];
            for row in gradient.values().chunks_exact(self.outputs) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            back.learned(bias, sums)?;
        }
        if let Some(weight) = wanted(Some(&self.weight)) {
            let mut sums = vec![0.0; self.outputs * self.inputs];
            Outer {
                gradient: gradient.values(),
                from: of(self.outputs),
                filters: self.outputs,
                input: input.values(),
                under: of(self.inputs),
                runs: &[0],
                run: self.inputs,
                rows: 1,
                positions: rows,
                across: rows,
                output: &mut sums,
            }
            .run();
            back.learned(weight, sums)?;
        }
        if !input_wanted {
            return Ok(None);
        }
        let mut spread = Aligned::zeros(rows * self.inputs);
        read(&self.weight, |weights| {
            Spread {
                gradient: gradient.values(),
                from: of(self.outputs),
                filters: self.outputs,
                weights,
                runs: &[0],
                run: self.inputs,
                rows: 1,
                positions: rows,
                across: rows,
                output: spread.values_mut(),
                to: of(self.inputs),
            }
            .run();
        })?;
        Ok(Some(spread))
    }
}
