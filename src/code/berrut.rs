//! The `berrut` code: n base models run n coded rows, and rational interpolation gives back all k answers from those who returned
//! (`ApproxIFER`: Soleymani, Ali, Mahdavifar, Avestimehr, AAAI 2022; Berrut's interpolant, 1988).
//!
//! The k rows are values of a function at Chebyshev points of the first kind; worker j runs the base model on its interpolant at Chebyshev
//! point j of the second kind; the outputs that come back are interpolated and read off at the k points. No parity model is trained, and
//! one code survives any S stragglers. The price: it is not systematic, so no query is answered as it was asked, every answer is
//! approximate interpolation, and nothing starts before the stripe is full. Interpolants alternate their signs over the points that are
//! *present*, which keeps them free of poles.
//!
//! With E erroneous workers, whose outputs are finite and wrong, n = 2k + 2E + S - 1 of them are needed. Each class's outputs are then fitted
//! by P = Q f with P and Q of degree k + E - 1; Q vanishes where f is wrong, so the E workers where |Q| is smallest, by the vote of all
//! classes, are left out (section 3 of the paper).

use super::{Code, CodeError, Kind, Reading, RunsOn, SLOTS_MAX, SlotSet, add_up, matrix::least_squares, present, spec};

/// Points closer than this are one point.
const SAME: f64 = 1e-9;

/// Berrut's rational interpolation.
#[derive(Clone, Debug, PartialEq)]
pub struct Berrut {
    /// The points of the k rows.
    rows: Vec<f64>,
    /// The points of the n workers.
    workers: Vec<f64>,
    /// What worker j runs, n rows of k coefficients that sum to 1.
    encoder: Vec<Vec<f32>>,
    /// Workers that may return something wrong.
    errors: usize,
}

impl Berrut {
    /// k rows on k + r workers, `errors` of which may be wrong; what is left of r are stragglers.
    pub fn new(k: usize, r: usize, errors: usize) -> Result<Self, CodeError> {
        spec::check_size(k, r)?;
        if 2 * k + r > SLOTS_MAX {
            return Err(CodeError::Workers { k, r });
        }
        if errors > 0 && r + 1 < k + 2 * errors {
            return Err(CodeError::Errors { k, r, errors, least: k + 2 * errors - 1 });
        }
        let n = k + r;
        let point = |share: f64| (share * std::f64::consts::PI).cos();
        let rows: Vec<f64> = (0..k).map(|j| point((2 * j + 1) as f64 / (2 * k) as f64)).collect();
        let workers: Vec<f64> = (0..n).map(|i| point(i as f64 / (n - 1) as f64)).collect();
        #[expect(clippy::cast_possible_truncation, reason = "f32 is the rows' precision")]
        let encoder =
            workers.iter().map(|&at| weights(&rows, at).into_iter().map(|weight| weight as f32).collect()).collect();
        Ok(Berrut { rows, workers, encoder, errors })
    }

    /// Workers that may be missing.
    pub fn stragglers(&self) -> usize {
        let spent = if self.errors == 0 { 0 } else { self.rows.len() + 2 * self.errors - 1 };
        self.workers.len() - self.rows.len() - spent
    }

    fn workers_in(&self, present: SlotSet) -> SlotSet {
        SlotSet::from_bits(present.bits() >> self.rows.len()).and(SlotSet::below(self.workers.len()))
    }

    /// Of `workers`, those that are not taken for erroneous.
    fn trusted(&self, workers: SlotSet, outputs: &[Option<&[f32]>]) -> SlotSet {
        let k = self.rows.len();
        let output = |worker: usize| outputs[k + worker].unwrap_or(&[]);
        let classes = workers.iter().next().map_or(0, |worker| output(worker).len());
        let mut votes = vec![0_usize; self.workers.len()];
        for class in 0..classes {
            let known: Vec<(f64, f64)> =
                workers.iter().map(|worker| (self.workers[worker], f64::from(output(worker)[class]))).collect();
            let mut by_size: Vec<(f64, usize)> =
                denominators(&known, k + self.errors - 1).into_iter().zip(workers.iter()).collect();
            by_size.sort_by(|a, b| a.0.total_cmp(&b.0));
            for (_, worker) in by_size.into_iter().take(self.errors) {
                votes[worker] += 1;
            }
        }
        let mut ranked: Vec<usize> = workers.iter().collect();
        ranked.sort_by_key(|&worker| std::cmp::Reverse(votes[worker]));
        ranked.into_iter().take(self.errors).fold(workers, |left, worker| left.without(SlotSet::only(worker)))
    }
}

/// How much the value at each of `points` counts in the interpolant at `at`: Berrut's weights, signs alternating in the order given. At
/// one of the points it is that point's value alone.
fn weights(points: &[f64], at: f64) -> Vec<f64> {
    if let Some(same) = points.iter().position(|point| (point - at).abs() < SAME) {
        return (0..points.len()).map(|place| f64::from(u8::from(place == same))).collect();
    }
    let sign = |place: usize| if place.is_multiple_of(2) { 1.0 } else { -1.0 };
    let raw: Vec<f64> = points.iter().enumerate().map(|(place, point)| sign(place) / (at - point)).collect();
    let sum: f64 = raw.iter().sum();
    raw.into_iter().map(|weight| weight / sum).collect()
}

/// |Q| at each known (point, value), where P(z) = Q(z) value with P and Q of degree `degree` as nearly as can be, and Q has constant part 1; in
/// Chebyshev polynomials, because powers would be all but dependent. With fewer wrong values than allowed for, many P and Q fit; the one
/// found has the Q of least degree, which vanishes at no more workers than it must.
fn denominators(known: &[(f64, f64)], degree: usize) -> Vec<f64> {
    let term = |order: usize, z: f64| (order as f64 * z.clamp(-1.0, 1.0).acos()).cos();
    // P(z) - value (Q(z) - 1) = value, a column for each unknown.
    let of_p = (0..=degree).map(|order| known.iter().map(|&(z, _)| term(order, z)).collect());
    let of_q = (1..=degree).map(|order| known.iter().map(|&(z, value)| -value * term(order, z)).collect());
    let columns: Vec<Vec<f64>> = of_p.chain(of_q).collect();
    let values: Vec<f64> = known.iter().map(|&(_, value)| value).collect();
    let solution = least_squares(&columns, &values);
    let q = |z: f64| (1..=degree).map(|order| term(order, z) * solution[degree + order]).sum::<f64>();
    known.iter().map(|&(z, _)| (1.0 + q(z)).abs()).collect()
}

impl Code for Berrut {
    fn kind(&self) -> Kind {
        Kind::Berrut
    }

    fn k(&self) -> usize {
        self.rows.len()
    }

    /// The workers: every one of them runs a coded row.
    fn r(&self) -> usize {
        self.workers.len()
    }

    fn is_systematic(&self) -> bool {
        false
    }

    fn runs_on(&self) -> RunsOn {
        RunsOn::Base
    }

    fn reading(&self) -> Reading {
        Reading::Row
    }

    fn losses_max(&self) -> usize {
        self.stragglers()
    }

    fn encode(&self, parity: usize, rows: &[&[f32]], parity_query: &mut [f32]) {
        assert_eq!(rows.len(), self.rows.len(), "a full stripe has k rows");
        add_up(&self.encoder[parity], rows, parity_query);
    }

    /// None: nothing is trained for it.
    fn target(&self, _parity: usize, _outputs: &[&[f32]], _target: &mut [f32]) -> bool {
        false
    }

    fn recoverable(&self, present: SlotSet) -> SlotSet {
        let enough = self.workers.len() - self.stragglers();
        if self.workers_in(present).count() >= enough {
            SlotSet::below(self.rows.len()).without(present)
        } else {
            SlotSet::EMPTY
        }
    }

    fn decode(&self, slot: usize, outputs: &[Option<&[f32]>]) -> Option<Vec<f32>> {
        let k = self.rows.len();
        assert_eq!(outputs.len(), k + self.workers.len(), "one entry a slot");
        let present = present(outputs);
        if !self.recoverable(present).has(slot) {
            return None;
        }
        let mut workers = self.workers_in(present);
        if self.errors > 0 {
            workers = self.trusted(workers, outputs);
        }
        let points: Vec<f64> = workers.iter().map(|worker| self.workers[worker]).collect();
        #[expect(clippy::cast_possible_truncation, reason = "f32 is the outputs' precision")]
        let weights: Vec<f32> = weights(&points, self.rows[slot]).into_iter().map(|weight| weight as f32).collect();
        let known: Vec<&[f32]> = workers.iter().filter_map(|worker| outputs[k + worker]).collect();
        let mut decoded = vec![0.0; known.first()?.len()];
        add_up(&weights, &known, &mut decoded);
        Some(decoded)
    }
}

#[cfg(test)]
mod tests;
