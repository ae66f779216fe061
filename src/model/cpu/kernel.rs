//! The one inner loop: a few positions of a picture by sixteen filters, from memory as it lies.
//!
//! Channels lie innermost, so what a filter reads of one line of a picture is one run of memory: a convolution is a matrix product whose left
//! side need not be unfolded, only pointed at. A tile of up to [`TILE`] positions by [`PANEL`] filters stays in registers while the runs go by: twelve
//! vectors of eight with AVX2, six of sixteen with AVX-512, which is as many as hide the latency of a multiply-add. Full matrices are the same with a row for
//! a position. Measured by itself, it does 95 to 99 % of the multiply-adds that a core can do, from 16 channels on (`docs/benchmarks/forward.md`).
//!
//! Written with `pulp`, whose vectors are safe and are chosen at run time. How a position's sum is ordered depends on the machine's vectors
//! and on how many positions share its tile, so a row's output may differ in the last bits from batch size to batch size; never with what
//! its neighbours are.

#![expect(
    clippy::inline_always,
    reason = "vector instructions exist only inside the function that was chosen for them: what is not inlined has none"
)]

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::packed::{PANEL, Packed};

/// Positions of a tile at most.
pub(super) const TILE: usize = 6;

/// Tiles that share a pass over the weights, where weights are what fits into the cache.
const BLOCK: usize = 8;

/// Where the positions of a picture begin in a buffer: each `across` of them further by `x`, then `y` from line to line and `row` from row to
/// row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    pub(super) start: usize,
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) row: usize,
}

impl Walk {
    /// Where `M` positions from `at` on begin.
    #[inline(always)]
    fn places<const M: usize>(&self, row: usize, at: usize, across: usize) -> [usize; M] {
        let (mut y, mut x) = (at / across, at % across);
        let mut places = [0; M];
        for place in &mut places {
            *place = self.start + row * self.row + y * self.y + x * self.x;
            x += 1;
            if x == across {
                (y, x) = (y + 1, 0);
            }
        }
        places
    }
}

/// Values of another picture, added to each position's before `ReLU`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Added<'a> {
    pub(super) values: &'a [f32],
    pub(super) walk: Walk,
}

/// `rows` pictures of `positions` positions each, through one set of filters.
#[derive(Debug)]
pub(super) struct Product<'a> {
    pub(super) weights: &'a Packed,
    pub(super) input: &'a [f32],
    pub(super) from: Walk,
    /// Where the runs under a filter begin, counted from the position.
    pub(super) runs: &'a [usize],
    pub(super) rows: usize,
    pub(super) positions: usize,
    /// Positions of a line.
    pub(super) across: usize,
    pub(super) added: Option<Added<'a>>,
    pub(super) relu: bool,
    /// Of all panels, those that are run.
    pub(super) panels: Range<usize>,
    /// What is written, from the first filter of the first panel on.
    pub(super) output: &'a mut [f32],
    pub(super) to: Walk,
}

/// A tile's place among all.
#[derive(Clone, Copy)]
struct Place {
    row: usize,
    at: usize,
    panel: usize,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match S::F32_LANES {
            16 => self.all::<S, 1>(simd),
            8 => self.all::<S, 2>(simd),
            4 => self.all::<S, 4>(simd),
            _ => self.all::<S, PANEL>(simd),
        }
    }
}

impl Product<'_> {
    /// Runs it with the machine's widest vectors.
    pub(super) fn run(self) {
        pulp::Arch::new().dispatch(self);
    }

    /// All tiles, in the order that reads least again: for each panel all positions where the weights are more than the pictures, for each block
    /// of positions all panels where they are less.
    #[inline(always)]
    fn all<S: Simd, const V: usize>(&mut self, simd: S) {
        let panels = self.panels.clone();
        let tiles = self.positions.div_ceil(TILE);
        let input = self.rows * self.from.row.max(self.from.x * self.positions);
        let blocks = self.rows * tiles.div_ceil(BLOCK);
        if input * panels.len() + self.weights.len() <= self.weights.len() * blocks + input {
            for panel in panels {
                for row in 0..self.rows {
                    self.some::<S, V>(simd, panel, row, 0..tiles);
                }
            }
        } else {
            for row in 0..self.rows {
                for first in (0..tiles).step_by(BLOCK) {
                    for panel in panels.clone() {
                        self.some::<S, V>(simd, panel, row, first..tiles.min(first + BLOCK));
                    }
                }
            }
        }
    }

    /// Tiles of nearly equal size: a tile of one position costs as much as one of three.
    #[inline(always)]
    fn some<S: Simd, const V: usize>(&mut self, simd: S, panel: usize, row: usize, tiles: Range<usize>) {
        let of = self.positions.div_ceil(TILE);
        for tile in tiles {
            let at = tile * self.positions / of;
            let place = Place { row, at, panel };
            match (tile + 1) * self.positions / of - at {
                1 => self.tile::<S, 1, V, 4>(simd, place),
                2 => self.tile::<S, 2, V, 2>(simd, place),
                3 => self.tile::<S, 3, V, 2>(simd, place),
                4 => self.tile::<S, 4, V, 1>(simd, place),
                5 => self.tile::<S, 5, V, 1>(simd, place),
                _ => self.tile::<S, TILE, V, 1>(simd, place),
            }
        }
    }

    /// `M` positions by one panel of `V` vectors, with `U` sums of each that are added up at the end.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize, const U: usize>(&mut self, simd: S, place: Place) {
        let sums = self.sums::<S, M, V, U>(simd, place);
        let first = place.panel * PANEL;
        let filters = PANEL.min(self.weights.outputs() - first);
        let bias = S::as_simd_f32s(self.weights.bias(place.panel)).0;
        let to: [usize; M] = self.to.places(place.row, place.at, self.across);
        let added = self.added.map(|added| (added.values, added.walk.places::<M>(place.row, place.at, self.across)));
        let zero = simd.splat_f32s(0.0);
        for m in 0..M {
            let added = added.map(|(values, from)| &values[from[m] + first..][..filters]);
            let written = &mut self.output[to[m] + first - self.panels.start * PANEL..][..filters];
            for v in 0..V {
                let mut value = simd.add_f32s(sums[m][v], bias[v]);
                // Of the panel's vectors, those that lie in the picture as they are.
                let whole = (v + 1) * S::F32_LANES <= filters;
                let share = v * S::F32_LANES..filters.min((v + 1) * S::F32_LANES);
                if let Some(added) = added {
                    let other = if whole {
                        S::as_simd_f32s(added).0[v]
                    } else {
                        simd.partial_load_f32s(added.get(share.clone()).unwrap_or_default())
                    };
                    value = simd.add_f32s(value, other);
                }
                if self.relu {
                    // Not by a maximum: whether what is no number stays none would be the machine's affair.
                    value = simd.select_f32s(simd.less_than_f32s(value, zero), zero, value);
                }
                if whole {
                    S::as_mut_simd_f32s(written).0[v] = value;
                } else if let Some(written) = written.get_mut(share) {
                    simd.partial_store_f32s(written, value);
                }
            }
        }
    }

    #[inline(always)]
    fn sums<S: Simd, const M: usize, const V: usize, const U: usize>(
        &self,
        simd: S,
        place: Place,
    ) -> [[S::f32s; V]; M] {
        let len = self.weights.run();
        let starts: [usize; M] = self.from.places(place.row, place.at, self.across);
        let panel = S::as_simd_f32s(self.weights.panel(place.panel)).0;
        let mut sums = [[[simd.splat_f32s(0.0); V]; M]; U];
        for (run, weights) in self.runs.iter().zip(panel.chunks_exact(len * V)) {
            let mut read: [&[f32]; M] = [&[]; M];
            for (read, start) in read.iter_mut().zip(starts) {
                *read = &self.input[start + run..][..len];
            }
            let whole = len - len % U;
            for at in (0..whole).step_by(U) {
                for u in 0..U {
                    add::<S, M, V>(simd, &mut sums[u], &weights[(at + u) * V..][..V], &read, at + u);
                }
            }
            for at in whole..len {
                add::<S, M, V>(simd, &mut sums[0], &weights[at * V..][..V], &read, at);
            }
        }
        let (first, rest) = sums.split_first().expect("U is at least 1");
        let mut total = *first;
        for other in rest {
            for m in 0..M {
                for v in 0..V {
                    total[m][v] = simd.add_f32s(total[m][v], other[m][v]);
                }
            }
        }
        total
    }
}

/// One value of each position times one vector of weights for each.
#[inline(always)]
fn add<S: Simd, const M: usize, const V: usize>(
    simd: S,
    sums: &mut [[S::f32s; V]; M],
    weights: &[S::f32s],
    read: &[&[f32]; M],
    at: usize,
) {
    for m in 0..M {
        let value = simd.splat_f32s(read[m][at]);
        for v in 0..V {
            sums[m][v] = simd.mul_add_f32s(weights[v], value, sums[m][v]);
        }
    }
}
