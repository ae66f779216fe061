//! The first layer of small networks: a few filters over a channel or a few, and the largest of each 2 x 2 square of what they make.
//!
//! With so few channels there are hardly runs to go along, and six filters leave most of a panel empty: the product of `kernel` would
//! take as long as for sixteen. Here a vector is a line's positions instead, two lines at a time, so that squares are there before anything
//! is written. LeNet-5's first layer and its pooling take a third of the time that they took one after the other.

#![expect(
    clippy::inline_always,
    reason = "vector instructions exist only inside the function that was chosen for them: what is not inlined has none"
)]

use pulp::{Simd, WithSimd};

use super::{super::Window, Picture};

/// Filters that share a pass over the lines: two lines of sums for each are as many vectors as AVX2 has room for.
const GROUP: usize = 6;

/// Values of the widest vector: lines of fewer are not for this module.
pub(super) const LINE_MIN: usize = 16;

/// Filters over one channel, or over a few that lie one below the other.
#[derive(Debug)]
pub(super) struct PooledFilters {
    /// For each group of filters, for each place under a filter, one value a filter.
    weights: Vec<f32>,
    bias: Vec<f32>,
    planes: usize,
    window: Window,
}

impl PooledFilters {
    /// Packs filters, one after the other, that read a square of each plane.
    pub(super) fn new(weights: &[f32], bias: &[f32], window: Window) -> Self {
        let patch = weights.len() / bias.len();
        let planes = patch / (window.kernel * window.kernel);
        let group = |filters: &[f32]| {
            let place = |place: usize| filters.iter().skip(place).step_by(patch).copied().collect::<Vec<f32>>();
            (0..patch).flat_map(place).collect::<Vec<f32>>()
        };
        let weights = weights.chunks(GROUP * patch).flat_map(group).collect();
        PooledFilters { weights, bias: bias.to_vec(), planes, window }
    }

    /// Multiply-adds for each value that is written: four positions are pooled to one.
    pub(super) const fn work(&self) -> usize {
        4 * self.weights.len() / self.bias.len()
    }

    /// Runs pictures of one channel, with at least as many zeros around as are padded, to pictures of half as many lines and columns as there are
    /// positions; nothing less than 0 with `relu`.
    pub(super) fn run(&self, (read, from): (&[f32], &Picture), relu: bool, (written, to): (&mut [f32], &Picture)) {
        for (input, output) in read.chunks_exact(from.len()).zip(written.chunks_exact_mut(to.len())) {
            pulp::Arch::new().dispatch(Pass { filters: self, input, from, relu, output, to });
        }
    }
}

/// A chunk of a line for each filter; at a cache line, because a vector that straddles two is read back a value at a time: 1.3 times as long for
/// the whole network, in every run whose stack began in the wrong place.
#[repr(align(64))]
struct Lines<const F: usize>([[f32; LINE_MIN]; F]);

/// One picture.
struct Pass<'a> {
    filters: &'a PooledFilters,
    input: &'a [f32],
    from: &'a Picture,
    relu: bool,
    output: &'a mut [f32],
    to: &'a Picture,
}

impl WithSimd for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // A square is two positions wide, so a chunk is, too, where vectors hold one.
        if S::F32_LANES > 1 { self.all::<S, 1>(simd) } else { self.all::<S, 2>(simd) }
    }
}

impl Pass<'_> {
    #[inline(always)]
    fn all<S: Simd, const V: usize>(&mut self, simd: S) {
        let filters = self.filters.bias.len();
        for first in (0..filters).step_by(GROUP) {
            match filters - first {
                1 => self.group::<S, 1, V>(simd, first),
                2 => self.group::<S, 2, V>(simd, first),
                3 => self.group::<S, 3, V>(simd, first),
                4 => self.group::<S, 4, V>(simd, first),
                5 => self.group::<S, 5, V>(simd, first),
                _ => self.group::<S, GROUP, V>(simd, first),
            }
        }
    }

    /// `F` filters from `first` on, over all positions.
    #[inline(always)]
    fn group<S: Simd, const F: usize, const V: usize>(&mut self, simd: S, first: usize) {
        let across = 2 * self.to.width;
        let chunk = V * S::F32_LANES;
        let target = self.to.walk(1, 0);
        for y in 0..self.to.height {
            for x in (0..across).step_by(chunk) {
                // The last chunk of a line may begin before the one before it ends.
                let x = x.min(across - chunk);
                let largest = self.lines::<S, F, V>(simd, first, (2 * y, x));
                let places = self.output[target.start + y * target.y + x / 2 * target.x..].chunks_mut(target.x);
                for (column, place) in places.take(chunk / 2).enumerate() {
                    for (value, line) in place[first..first + F].iter_mut().zip(&largest.0) {
                        let (left, right) = (line[2 * column], line[2 * column + 1]);
                        *value = if left > right || left.is_nan() { left } else { right };
                    }
                }
            }
        }
    }

    /// Of lines `y` and `y + 1`, from column `x` on, the larger of each two positions one above the other.
    #[inline(always)]
    fn lines<S: Simd, const F: usize, const V: usize>(
        &self,
        simd: S,
        first: usize,
        (y, x): (usize, usize),
    ) -> Lines<F> {
        let PooledFilters { weights, bias, planes, window: Window { kernel, padding, .. } } = self.filters;
        let (back, below) = (self.from.halo - padding, self.from.below(*planes));
        let patch = planes * kernel * kernel;
        let weights = &weights[first * patch..][..F * patch];
        let mut upper = [[simd.splat_f32s(0.0); V]; F];
        for (sums, bias) in upper.iter_mut().zip(&bias[first..]) {
            *sums = [simd.splat_f32s(*bias); V];
        }
        let mut lower = upper;
        for (number, weights) in weights.chunks_exact(F * kernel).enumerate() {
            let (plane, dy) = (number / kernel, number % kernel);
            let begin = (back + plane * below + y + dy) * self.from.line() + back + x;
            for (dx, weights) in weights.chunks_exact(F).enumerate() {
                for v in 0..V {
                    let at = dx + v * S::F32_LANES;
                    let of_upper = vector::<S>(&self.input[begin + at..]);
                    let of_lower = vector::<S>(&self.input[begin + self.from.line() + at..]);
                    for ((upper, lower), weight) in upper.iter_mut().zip(&mut lower).zip(weights) {
                        let weight = simd.splat_f32s(*weight);
                        upper[v] = simd.mul_add_f32s(weight, of_upper, upper[v]);
                        lower[v] = simd.mul_add_f32s(weight, of_lower, lower[v]);
                    }
                }
            }
        }
        let (mut largest, zero) = (Lines([[0.0; LINE_MIN]; F]), simd.splat_f32s(0.0));
        for ((upper, lower), largest) in upper.iter().zip(&lower).zip(&mut largest.0) {
            let places = S::as_mut_simd_f32s(largest).0;
            for ((upper, lower), place) in upper.iter().zip(lower).zip(places) {
                // Not by maxima: whether what is no number stays none would be the machine's affair.
                let value = simd.select_f32s(simd.less_than_f32s(*upper, *lower), *lower, *upper);
                let mut value = simd.select_f32s(simd.equal_f32s(*lower, *lower), value, *lower);
                if self.relu {
                    value = simd.select_f32s(simd.less_than_f32s(value, zero), zero, value);
                }
                *place = value;
            }
        }
        largest
    }
}

#[inline(always)]
fn vector<S: Simd>(values: &[f32]) -> S::f32s {
    S::as_simd_f32s(&values[..S::F32_LANES]).0[0]
}
