//! The `sum` code: parity query j is Σᵢ cⱼᵢ Xᵢ, decoded by subtraction (ParM, SOSP 2019, section 4.1; r > 1 as its section 4.4).
//!
//! With r = 1 and coefficients (1, …, 1) this is the paper's addition encoder and subtraction decoder. For r > 1 every square
//! sub-matrix of the coefficients must be regular, or some pattern of k losses out of k + r could not be decoded; rows that are
//! nearly orthogonal amplify the parity models' error least. When more parity slots are present than data slots are missing, the
//! decoder solves the least-squares problem over all of them rather than choosing some.
//!
//! *Noise.* A parity model is off by some share of what it has to say, and so by the more the longer its row of coefficients is. Rows are therefore
//! scaled to one length before squares are inverted: the length of a row of the inverse is how many times that share comes out of the decoder.
//! Least squares over more rows brings less (Gauss-Markov), so what bounds the noise of every square bounds that of every loss.

use std::{f64::consts::PI, iter};

use super::{
    Code, CodeError, Kind, Reading, SlotSet, add_up,
    matrix::{length, pseudo_inverse},
    present, spec,
};

/// Noise at most: with more, models that are off by a two-thousandth bring back nothing but their error. Of the defaults for all sizes, k = 9 with r = 7 comes nearest.
pub(super) const NOISE_MAX: f64 = 2000.0;

/// Coefficients cⱼᵢ: r rows of k.
pub type Coefficients = Vec<Vec<f32>>;

/// The additive code.
#[derive(Clone, Debug, PartialEq)]
pub struct Sum {
    k: usize,
    coefficients: Coefficients,
    /// Of each row.
    lengths: Vec<f64>,
    /// How all rows tell of each data slot, if that alone is missing: a weight a row, as in a pseudo inverse. Every complete stripe is checked so, and a matrix
    /// that is made anew takes memory each time.
    singles: Vec<Vec<f64>>,
}

impl Sum {
    /// A code with the given coefficients (r rows of k), refused unless every k of the k + r slots suffice, and bring back more than noise.
    pub fn new(coefficients: Coefficients) -> Result<Self, CodeError> {
        let (r, k) = (coefficients.len(), coefficients.first().map_or(0, Vec::len));
        spec::check_size(k, r)?;
        let complete = |row: &Vec<f32>| row.len() == k && row.iter().all(|value| value.is_finite());
        if !coefficients.iter().all(complete) {
            return Err(CodeError::Shape { k, r });
        }
        let exact = |row: &Vec<f32>| row.iter().copied().map(f64::from).collect::<Vec<f64>>();
        let lengths = coefficients.iter().map(|row| length(&exact(row))).collect();
        let mut sum = Sum { k, coefficients, lengths, singles: Vec::new() };
        sum.noise()?;
        sum.singles = (0..k).map(|slot| sum.single(slot)).collect::<Result<_, _>>()?;
        Ok(sum)
    }

    /// The weights of all rows for `slot` alone.
    fn single(&self, slot: usize) -> Result<Vec<f64>, CodeError> {
        let rows = SlotSet::below(self.r());
        let inverse = pseudo_inverse(&self.columns(rows, SlotSet::only(slot)));
        let only = inverse.and_then(|mut inverse| inverse.pop());
        only.ok_or_else(|| CodeError::Singular { rows: rows.iter().collect(), slots: vec![slot] })
    }

    /// The code with the default coefficients for k and r.
    pub fn with_defaults(k: usize, r: usize) -> Result<Self, CodeError> {
        spec::check_size(k, r)?;
        Sum::new(default_coefficients(k, r))
    }

    /// The coefficients, r rows of k.
    pub fn rows(&self) -> &[Vec<f32>] {
        &self.coefficients
    }

    /// The most noise of all squares, or the first one with which nothing can be decoded.
    fn noise(&self) -> Result<f64, CodeError> {
        let mut most = 0.0_f64;
        for rows in subsets(self.r()) {
            for slots in subsets(self.k).filter(|slots| slots.count() == rows.count()) {
                let named = || (rows.iter().collect(), slots.iter().collect());
                let Some(inverse) = pseudo_inverse(&self.columns(rows, slots)) else {
                    let (rows, slots) = named();
                    return Err(CodeError::Singular { rows, slots });
                };
                let noise = inverse.iter().map(|row| length(row)).fold(0.0, f64::max);
                if noise > NOISE_MAX {
                    let (rows, slots) = named();
                    return Err(CodeError::Noise { rows, slots, noise });
                }
                most = most.max(noise);
            }
        }
        Ok(most)
    }

    /// What these rows hold of these slots, a column a slot, all rows scaled to one length.
    fn columns(&self, rows: SlotSet, slots: SlotSet) -> Vec<Vec<f64>> {
        let column = |i: usize| rows.iter().map(|j| f64::from(self.coefficients[j][i]) / self.lengths[j]).collect();
        slots.iter().map(column).collect()
    }

    /// The usual case, one loss and one parity output j: (parity - Σ cⱼᵢ outputᵢ) / cⱼ over the others, without any matrix.
    fn decode_one(&self, slot: usize, j: usize, outputs: &[Option<&[f32]>], decoded: &mut Vec<f32>) -> Option<()> {
        let coefficients = &self.coefficients[j];
        let weight = 1.0 / coefficients[slot];
        let parity = outputs[self.k + j]?;
        let mut others = (0..self.k).filter(|&i| i != slot);
        // The first together with the parity output: what is decoded is then written once where k = 2.
        let first = others.next()?;
        let (of_first, values) = (weight * coefficients[first], outputs[first]?);
        assert_eq!(parity.len(), values.len(), "outputs of one stripe are equally long");
        decoded.clear();
        decoded.extend(parity.iter().zip(values).map(|(parity, value)| weight * parity - of_first * value));
        for i in others {
            add_scaled(decoded, outputs[i]?, -f64::from(weight * coefficients[i]));
        }
        Some(())
    }

    /// Any slot; as [`Code::decode_into`].
    fn decode_any(&self, slot: usize, outputs: &[Option<&[f32]>], decoded: &mut Vec<f32>) -> Option<()> {
        assert_eq!(outputs.len(), self.k + self.r(), "one entry a slot");
        let present = present(outputs);
        if !self.recoverable(present).has(slot) {
            return None;
        }
        let (missing, parities) = self.split(present);
        if missing.count() == 1 && parities.count() == 1 {
            return self.decode_one(slot, parities.iter().next()?, outputs, decoded);
        }
        // What the parity outputs say of the missing ones: A x = b, where b is a parity output minus the present members.
        let inverse;
        let weights = if missing.count() == 1 && parities.count() == self.r() {
            &self.singles[slot]
        } else {
            inverse = pseudo_inverse(&self.columns(parities, missing))?;
            &inverse[missing.iter().position(|missing| missing == slot)?]
        };
        decoded.clear();
        decoded.resize(outputs.iter().flatten().next()?.len(), 0.0);
        for (j, weight) in parities.iter().zip(weights) {
            let weight = weight / self.lengths[j];
            add_scaled(decoded, outputs[self.k + j]?, weight);
            for i in SlotSet::below(self.k).without(missing).iter() {
                let coefficient = f64::from(self.coefficients[j][i]);
                add_scaled(decoded, outputs[i]?, -weight * coefficient);
            }
        }
        Some(())
    }

    /// Splits a present set into (missing data slots, present parity rows).
    fn split(&self, present: SlotSet) -> (SlotSet, SlotSet) {
        let missing = SlotSet::below(self.k).without(present);
        let parities = SlotSet::from_bits(present.bits() >> self.k).and(SlotSet::below(self.r()));
        (missing, parities)
    }
}

impl Code for Sum {
    fn kind(&self) -> Kind {
        Kind::Sum
    }

    fn reading(&self) -> Reading {
        Reading::Row
    }

    fn losses_max(&self) -> usize {
        self.coefficients.len()
    }

    fn coefficients(&self, parity: usize) -> &[f32] {
        &self.coefficients[parity]
    }

    fn weight(&self, parity: usize) -> f64 {
        self.coefficients[parity].iter().copied().map(f64::from).sum()
    }

    fn k(&self) -> usize {
        self.k
    }

    fn r(&self) -> usize {
        self.coefficients.len()
    }

    fn encode(&self, parity: usize, rows: &[&[f32]], parity_query: &mut [f32]) {
        assert_eq!(rows.len(), self.k, "a full stripe has k rows");
        add_up(&self.coefficients[parity], rows, parity_query);
    }

    fn target(&self, parity: usize, outputs: &[&[f32]], target: &mut [f32]) -> bool {
        self.encode(parity, outputs, target);
        true
    }

    fn recoverable(&self, present: SlotSet) -> SlotSet {
        let (missing, parities) = self.split(present);
        if missing.count() <= parities.count() { missing } else { SlotSet::EMPTY }
    }

    fn decode(&self, slot: usize, outputs: &[Option<&[f32]>]) -> Option<Vec<f32>> {
        let mut decoded = Vec::new();
        self.decode_any(slot, outputs, &mut decoded).map(|()| decoded)
    }

    fn decode_into(&self, slot: usize, outputs: &[Option<&[f32]>], decoded: &mut Vec<f32>) -> bool {
        self.decode_any(slot, outputs, decoded).is_some()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "weights are small ratios; f32 is the outputs' precision")]
fn add_scaled(sum: &mut [f32], values: &[f32], weight: f64) {
    let weight = weight as f32;
    assert_eq!(sum.len(), values.len(), "outputs of one stripe are equally long");
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += weight * value;
    }
}

/// (1, …, 1) for r = 1; for r = 2 a second row that is near orthogonal to it, with distinct non-zero entries so that every square is
/// regular; for r >= 3 a Cauchy matrix, all of whose squares are.
fn default_coefficients(k: usize, r: usize) -> Coefficients {
    let ones = vec![1.0; k];
    let index = |i: usize| f32::from(u8::try_from(i).expect("at most SLOTS_MAX slots"));
    match (r, k) {
        (1, _) => vec![ones],
        (2, 3) => vec![ones, vec![1.0, 2.0, -3.0]],
        (2, _) => {
            let alternating = |i: usize| index(i / 2 + 1) * if i.is_multiple_of(2) { 1.0 } else { -1.0 };
            vec![ones, (0..k).map(alternating).collect()]
        }
        _ => interleaved(k, r),
    }
}

/// (1, …, 1), and rows of the same length in which data slot i has 1 / (y - xᵢ), y another number for each row.
///
/// Slots whose x lie side by side are hard to tell apart by a row whose y is far off. So the y lie evenly spread between the x, one of them at infinity,
/// whose row is (1, …, 1). Tangents of equally spaced angles are as even as numbers with an infinity can be; of the half turn, nine tenths
/// give the least noise, by trial. With 1 / (1 + i + j), all y on one side, k = 4 with r = 3 has 763 instead of 6.
#[expect(clippy::cast_possible_truncation, reason = "four digits are all that is kept")]
fn interleaved(k: usize, r: usize) -> Coefficients {
    let all = k + r;
    // Infinity is place 0.
    let is_parity = |place: usize| (0..r).any(|j| (2 * j * all + r) / (2 * r) == place);
    let number = |place: usize| (0.9 * PI * (place as f64 / all as f64 - 0.5)).tan();
    let (parities, slots): (Vec<usize>, Vec<usize>) = (1..all).partition(|&place| is_parity(place));
    let row = |parity: usize| {
        let values: Vec<f64> = slots.iter().map(|&slot| 1.0 / (number(parity) - number(slot))).collect();
        let scale = (k as f64).sqrt() / length(&values);
        // So few digits that no machine's tangent makes another code of it.
        values.iter().map(|value| ((value * scale * 1e4).round() / 1e4) as f32).collect()
    };
    iter::once(vec![1.0; k]).chain(parities.into_iter().map(row)).collect()
}

/// The non-empty subsets of the first `count` indices.
fn subsets(count: usize) -> impl Iterator<Item = SlotSet> {
    let last = SlotSet::below(count).bits();
    (1..=last).map(SlotSet::from_bits)
}

#[cfg(test)]
mod tests;
