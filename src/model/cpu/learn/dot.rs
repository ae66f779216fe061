//! A full matrix forward, with its weights as they are stored.
//!
//! Weights that learn change at each step, so to pack them as programs do would cost as much as to use them. Rows of values and rows of weights both
//! lie along the sum; vectors go along it, too, and are added up across at its end.

#![expect(
    clippy::inline_always,
    reason = "vector instructions exist only inside the function that was chosen for them: what is not inlined has none"
)]

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::kernel::tiles;

/// Rows of values times rows of weights, each with each, plus a bias: a full matrix with its weights as they are stored.
#[derive(Debug)]
pub(super) struct Dot<'a> {
    /// `[rows, inputs]`.
    pub(super) input: &'a [f32],
    /// `[outputs, inputs]`.
    pub(super) weights: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) inputs: usize,
    /// `[rows, outputs]`, written over.
    pub(super) output: &'a mut [f32],
}

impl Dot<'_> {
    pub(super) fn run(self) {
        pulp::Arch::new().dispatch(self);
    }

    /// `M` rows by `O` outputs.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const O: usize>(&mut self, simd: S, row: usize, first: usize, outputs: usize) {
        let inputs = self.inputs;
        let (mut read, mut weights): ([&[f32]; M], [&[f32]; O]) = ([&[]; M], [&[]; O]);
        for (m, read) in read.iter_mut().enumerate() {
            *read = &self.input[(row + m) * inputs..][..inputs];
        }
        for (o, weights) in weights.iter_mut().enumerate() {
            *weights = &self.weights[(first + o) * inputs..][..inputs];
        }
        let mut sums = [[simd.splat_f32s(0.0); O]; M];
        let whole = inputs / S::F32_LANES;
        for at in 0..whole {
            let mut others = [simd.splat_f32s(0.0); O];
            for (other, weights) in others.iter_mut().zip(&weights) {
                *other = S::as_simd_f32s(&weights[at * S::F32_LANES..][..S::F32_LANES]).0[0];
            }
            for (sums, read) in sums.iter_mut().zip(&read) {
                let value = S::as_simd_f32s(&read[at * S::F32_LANES..][..S::F32_LANES]).0[0];
                for (sum, other) in sums.iter_mut().zip(others) {
                    *sum = simd.mul_add_f32s(other, value, *sum);
                }
            }
        }
        if inputs > whole * S::F32_LANES {
            let mut others = [simd.splat_f32s(0.0); O];
            for (other, weights) in others.iter_mut().zip(&weights) {
                *other = simd.partial_load_f32s(&weights[whole * S::F32_LANES..]);
            }
            for (sums, read) in sums.iter_mut().zip(&read) {
                let value = simd.partial_load_f32s(&read[whole * S::F32_LANES..]);
                for (sum, other) in sums.iter_mut().zip(others) {
                    *sum = simd.mul_add_f32s(other, value, *sum);
                }
            }
        }
        for (m, sums) in sums.iter().enumerate() {
            for (o, sum) in sums.iter().enumerate() {
                let bias = self.bias.map_or(0.0, |bias| bias[first + o]);
                self.output[(row + m) * outputs + first + o] = simd.reduce_sum_f32s(*sum) + bias;
            }
        }
    }

    #[inline(always)]
    fn of_rows<S: Simd, const M: usize>(&mut self, simd: S, row: usize, tile: &Range<usize>, outputs: usize) {
        match tile.len() {
            1 => self.tile::<S, M, 1>(simd, row, tile.start, outputs),
            2 => self.tile::<S, M, 2>(simd, row, tile.start, outputs),
            _ => self.tile::<S, M, 3>(simd, row, tile.start, outputs),
        }
    }
}

impl WithSimd for Dot<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (outputs, rows) = (self.weights.len() / self.inputs, self.input.len() / self.inputs);
        for tile in tiles(outputs, 3) {
            for rows in tiles(rows, 4) {
                match rows.len() {
                    1 => self.of_rows::<S, 1>(simd, rows.start, &tile, outputs),
                    2 => self.of_rows::<S, 2>(simd, rows.start, &tile, outputs),
                    3 => self.of_rows::<S, 3>(simd, rows.start, &tile, outputs),
                    _ => self.of_rows::<S, 4>(simd, rows.start, &tile, outputs),
                }
            }
        }
    }
}
