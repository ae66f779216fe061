//! The inner loops of a gradient, beside [`Product`](crate::model::cpu::kernel::Product): for the input and for the filters.
//!
//! Both read pictures and matrices where they lie: what a filter reads of one line is one run of memory, which is the vectors' direction in
//! [`Spread`] and [`Outer`], so nothing is unfolded, turned or packed first. Tiles stay in registers while the sum goes on. Each sum has one
//! order whatever the number of threads. The obvious other way for the input, a convolution of the gradient with turned filters, computes
//! zeros around it and between strides: for the second convolution of LeNet-5 five times as many multiply-adds.

#![expect(
    clippy::inline_always,
    reason = "vector instructions exist only inside the function that was chosen for them: what is not inlined has none"
)]

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::model::cpu::Walk;

/// Positions, or filters, of a tile at most.
const TILE: usize = 6;

/// Positions that [`Outer`] sums up in one go where an image has fewer: what it reads of them stays in the cache over all tiles.
const BLOCK: usize = 512;

/// `count` cut into nearly equal tiles: a tile of one costs as much as one of three.
#[inline(always)]
pub(super) fn tiles(count: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let of = count.div_ceil(most);
    (0..of).map(move |tile| tile * count / of..(tile + 1) * count / of)
}

/// Where each of `positions` positions of a walk begins.
fn places(walk: Walk, positions: usize, across: usize) -> Vec<usize> {
    (0..positions).map(|at| walk.start + at / across * walk.y + at % across * walk.x).collect()
}

/// To what lies under each position of an output, its share: for each run of the picture, Σ over filters of gradient times weights.
#[derive(Debug)]
pub(super) struct Spread<'a> {
    /// Gradient of the output; its channels are the filters.
    pub(super) gradient: &'a [f32],
    pub(super) from: Walk,
    pub(super) filters: usize,
    /// `[filters, runs, run]`.
    pub(super) weights: &'a [f32],
    /// Where the runs under a filter begin, counted from the position, and how long each is.
    pub(super) runs: &'a [usize],
    pub(super) run: usize,
    pub(super) rows: usize,
    pub(super) positions: usize,
    pub(super) across: usize,
    /// Gradient of the input, to which is added.
    pub(super) output: &'a mut [f32],
    pub(super) to: Walk,
}

/// A part of a run.
#[derive(Clone, Copy)]
struct Share {
    /// In the weights, counted from the filter.
    from: usize,
    /// In the output, counted from the position.
    to: usize,
    width: usize,
}

impl Spread<'_> {
    pub(super) fn run(self) {
        pulp::Arch::new().dispatch(self);
    }

    #[inline(always)]
    fn all<S: Simd, const V: usize>(&mut self, simd: S) {
        let (from, to) = (places(self.from, self.positions, self.across), places(self.to, self.positions, self.across));
        for row in 0..self.rows {
            for tile in tiles(self.positions, TILE) {
                let (from, to) = (&from[tile.clone()], &to[tile]);
                match from.len() {
                    1 => self.tile::<S, 1, V>(simd, row, from, to),
                    2 => self.tile::<S, 2, V>(simd, row, from, to),
                    3 => self.tile::<S, 3, V>(simd, row, from, to),
                    4 => self.tile::<S, 4, V>(simd, row, from, to),
                    5 => self.tile::<S, 5, V>(simd, row, from, to),
                    _ => self.tile::<S, TILE, V>(simd, row, from, to),
                }
            }
        }
    }

    /// `M` positions, all runs.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(&mut self, simd: S, row: usize, from: &[usize], to: &[usize]) {
        let mut read: [&[f32]; M] = [&[]; M];
        for (read, start) in read.iter_mut().zip(from) {
            *read = &self.gradient[row * self.from.row + start..][..self.filters];
        }
        for number in 0..self.runs.len() {
            for at in (0..self.run).step_by(V * S::F32_LANES) {
                let width = (self.run - at).min(V * S::F32_LANES);
                let share = Share { from: number * self.run + at, to: self.runs[number] + at, width };
                match width.div_ceil(S::F32_LANES) {
                    1 => self.share::<S, M, 1>(simd, &read, (row, to), share),
                    2 => self.share::<S, M, 2>(simd, &read, (row, to), share),
                    _ => self.share::<S, M, V>(simd, &read, (row, to), share),
                }
            }
        }
    }

    #[inline(always)]
    fn share<S: Simd, const M: usize, const V: usize>(
        &mut self,
        simd: S,
        read: &[&[f32]; M],
        (row, to): (usize, &[usize]),
        share: Share,
    ) {
        let stride = self.runs.len() * self.run;
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        let weights = &self.weights[share.from..];
        // Where whole vectors can be read.
        let whole = (weights.len() + stride).saturating_sub(V * S::F32_LANES) / stride;
        for filter in 0..whole.min(self.filters) {
            let weights = load::<S, V>(simd, &weights[filter * stride..]);
            add::<S, M, V>(simd, &mut sums, weights, |m| read[m][filter]);
        }
        for filter in whole.min(self.filters)..self.filters {
            let weights = load_some::<S, V>(simd, &weights[filter * stride..]);
            add::<S, M, V>(simd, &mut sums, weights, |m| read[m][filter]);
        }
        for (sums, start) in sums.iter().zip(to) {
            let place = row * self.to.row + start + share.to;
            store::<S, V, true>(simd, sums, &mut self.output[place..][..share.width]);
        }
    }
}

impl WithSimd for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match S::F32_LANES {
            // There are twice as many registers.
            16 => self.all::<S, 3>(simd),
            _ => self.all::<S, 2>(simd),
        }
    }
}

/// The gradient of filters: for each filter and each run, Σ over all positions of gradient times what lies there.
#[derive(Debug)]
pub(super) struct Outer<'a> {
    /// Gradient of the output; its channels are the filters.
    pub(super) gradient: &'a [f32],
    pub(super) from: Walk,
    pub(super) filters: usize,
    pub(super) input: &'a [f32],
    pub(super) under: Walk,
    /// Where the runs under a filter begin, counted from the position, and how long each is.
    pub(super) runs: &'a [usize],
    pub(super) run: usize,
    pub(super) rows: usize,
    pub(super) positions: usize,
    pub(super) across: usize,
    /// `[filters, runs, run]`, written over.
    pub(super) output: &'a mut [f32],
}

/// What one tile of [`Outer`] sums up.
#[derive(Clone, Copy)]
struct Sum<'a> {
    rows: (usize, usize),
    /// Where positions begin in the gradient and in the input.
    places: &'a [(usize, usize)],
    filter: usize,
    /// In the input, counted from the position.
    at: usize,
    width: usize,
    /// In the output, counted from the filter.
    to: usize,
}

impl Outer<'_> {
    pub(super) fn run(self) {
        pulp::Arch::new().dispatch(self);
    }

    #[inline(always)]
    fn all<S: Simd, const V: usize>(&mut self, simd: S) {
        let from = places(self.from, self.positions, self.across);
        let under = places(self.under, self.positions, self.across);
        let places: Vec<_> = from.into_iter().zip(under).collect();
        let at_once = BLOCK.div_ceil(self.positions);
        for first in (0..self.rows).step_by(at_once) {
            let rows = (first, self.rows.min(first + at_once));
            for number in 0..self.runs.len() {
                for at in (0..self.run).step_by(V * S::F32_LANES) {
                    let width = (self.run - at).min(V * S::F32_LANES);
                    for tile in tiles(self.filters, TILE) {
                        let (at, to) = (self.runs[number] + at, number * self.run + at);
                        let sum = Sum { rows, places: &places, filter: tile.start, at, width, to };
                        match tile.len() {
                            1 => self.tile::<S, 1, V>(simd, sum),
                            2 => self.tile::<S, 2, V>(simd, sum),
                            3 => self.tile::<S, 3, V>(simd, sum),
                            4 => self.tile::<S, 4, V>(simd, sum),
                            5 => self.tile::<S, 5, V>(simd, sum),
                            _ => self.tile::<S, TILE, V>(simd, sum),
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(&mut self, simd: S, sum: Sum<'_>) {
        match sum.width.div_ceil(S::F32_LANES) {
            1 => self.some::<S, M, 1>(simd, sum),
            2 => self.some::<S, M, 2>(simd, sum),
            _ => self.some::<S, M, V>(simd, sum),
        }
    }

    #[inline(always)]
    fn some<S: Simd, const M: usize, const V: usize>(&mut self, simd: S, sum: Sum<'_>) {
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        for row in sum.rows.0..sum.rows.1 {
            let gradient = &self.gradient[row * self.from.row + sum.filter..];
            let input = &self.input[row * self.under.row + sum.at..];
            let fits = |&(_, under): &(usize, usize)| under + V * S::F32_LANES <= input.len();
            let whole = match sum.places.last() {
                Some(last) if fits(last) => sum.places.len(),
                _ => sum.places.partition_point(fits),
            };
            for &(from, under) in &sum.places[..whole] {
                let gradient = &gradient[from..][..M];
                add::<S, M, V>(simd, &mut sums, load::<S, V>(simd, &input[under..]), |m| gradient[m]);
            }
            for &(from, under) in &sum.places[whole..] {
                let gradient = &gradient[from..][..M];
                add::<S, M, V>(simd, &mut sums, load_some::<S, V>(simd, &input[under..]), |m| gradient[m]);
            }
        }
        let stride = self.runs.len() * self.run;
        for (m, sums) in sums.iter().enumerate() {
            let place = &mut self.output[(sum.filter + m) * stride + sum.to..][..sum.width];
            if sum.rows.0 == 0 {
                store::<S, V, false>(simd, sums, place);
            } else {
                store::<S, V, true>(simd, sums, place);
            }
        }
    }
}

impl WithSimd for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match S::F32_LANES {
            // There are twice as many registers.
            16 => self.all::<S, 3>(simd),
            _ => self.all::<S, 2>(simd),
        }
    }
}

/// `V` vectors from memory. What lies behind the values that are wanted comes along: its sums are never written, and half a vector costs a call.
#[inline(always)]
fn load<S: Simd, const V: usize>(simd: S, values: &[f32]) -> [S::f32s; V] {
    let mut loaded = [simd.splat_f32s(0.0); V];
    loaded.copy_from_slice(S::as_simd_f32s(&values[..V * S::F32_LANES]).0);
    loaded
}

/// The same where memory ends before, with zeros for what is missing.
#[inline(always)]
fn load_some<S: Simd, const V: usize>(simd: S, values: &[f32]) -> [S::f32s; V] {
    let mut loaded = [simd.splat_f32s(0.0); V];
    for (loaded, values) in loaded.iter_mut().zip(values.chunks(S::F32_LANES)) {
        *loaded = simd.partial_load_f32s(values);
    }
    loaded
}

/// Adds to `M` sums one value of each times the same vectors.
#[inline(always)]
fn add<S: Simd, const M: usize, const V: usize>(
    simd: S,
    sums: &mut [[S::f32s; V]; M],
    vectors: [S::f32s; V],
    value: impl Fn(usize) -> f32,
) {
    for (m, sums) in sums.iter_mut().enumerate() {
        let value = simd.splat_f32s(value(m));
        for (sum, vector) in sums.iter_mut().zip(vectors) {
            *sum = simd.mul_add_f32s(vector, value, *sum);
        }
    }
}

/// Writes `sums` to memory, or with `ADD` adds them to what is there.
#[inline(always)]
fn store<S: Simd, const V: usize, const ADD: bool>(simd: S, sums: &[S::f32s; V], place: &mut [f32]) {
    for (sum, place) in sums.iter().zip(place.chunks_mut(S::F32_LANES)) {
        if place.len() == S::F32_LANES {
            let place = &mut S::as_mut_simd_f32s(place).0[0];
            *place = if ADD { simd.add_f32s(*sum, *place) } else { *sum };
        } else {
            let value = if ADD { simd.add_f32s(*sum, simd.partial_load_f32s(place)) } else { *sum };
            simd.partial_store_f32s(place, value);
        }
    }
}
