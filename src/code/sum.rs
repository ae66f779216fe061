//! The `sum` code: parity query j is Σᵢ cⱼᵢ Xᵢ, decoded by subtraction (ParM, SOSP 2019, section 4.1; r > 1 as its section 4.4).
//!
//! With r = 1 and coefficients (1, …, 1) this is the paper's addition encoder and subtraction decoder. For r > 1 every square
//! sub-matrix of the coefficients must be regular, or some pattern of k losses out of k + r could not be decoded; rows that are
//! nearly orthogonal amplify the parity models' error least. When more parity slots are present than data slots are missing, the
//! decoder solves the least-squares problem over all of them rather than choosing some.

use super::{
    Code, SLOTS_MAX, SlotSet,
    matrix::{pseudo_inverse, solve},
};

/// Coefficients cⱼᵢ: r rows of k.
pub type Coefficients = Vec<Vec<f32>>;

/// Why coefficients make no code.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CoefficientsError {
    /// k, r or their sum is out of range.
    #[error("k = {k} and r = {r}: need k >= 2, r >= 1 and k + r <= {SLOTS_MAX}")]
    Size {
        /// Data slots.
        k: usize,
        /// Parity slots.
        r: usize,
    },
    /// The rows are not r rows of k finite numbers.
    #[error("need {r} rows of {k} finite coefficients")]
    Shape {
        /// Data slots.
        k: usize,
        /// Parity slots.
        r: usize,
    },
    /// Some loss pattern could not be decoded.
    #[error("parity rows {rows:?} cannot tell data slots {slots:?} apart: that square of coefficients is singular")]
    Singular {
        /// Parity rows of the singular square.
        rows: Vec<usize>,
        /// Data slots of the singular square.
        slots: Vec<usize>,
    },
}

/// The additive code.
#[derive(Clone, Debug, PartialEq)]
pub struct Sum {
    k: usize,
    coefficients: Coefficients,
}

impl Sum {
    /// A code with the given coefficients (r rows of k), refused unless every k of the k + r slots suffice.
    pub fn new(coefficients: Coefficients) -> Result<Self, CoefficientsError> {
        let (r, k) = (coefficients.len(), coefficients.first().map_or(0, Vec::len));
        if k < 2 || r < 1 || k + r > SLOTS_MAX {
            return Err(CoefficientsError::Size { k, r });
        }
        let complete = |row: &Vec<f32>| row.len() == k && row.iter().all(|value| value.is_finite());
        if !coefficients.iter().all(complete) {
            return Err(CoefficientsError::Shape { k, r });
        }
        let sum = Sum { k, coefficients };
        match sum.singular_square() {
            Some((rows, slots)) => Err(CoefficientsError::Singular { rows, slots }),
            None => Ok(sum),
        }
    }

    /// The code with the default coefficients for k and r.
    pub fn with_defaults(k: usize, r: usize) -> Result<Self, CoefficientsError> {
        if k < 2 || r < 1 || k + r > SLOTS_MAX {
            return Err(CoefficientsError::Size { k, r });
        }
        Sum::new(default_coefficients(k, r))
    }

    /// The coefficients, r rows of k.
    pub fn coefficients(&self) -> &[Vec<f32>] {
        &self.coefficients
    }

    /// The first square sub-matrix that is singular.
    fn singular_square(&self) -> Option<(Vec<usize>, Vec<usize>)> {
        for rows in subsets(self.coefficients.len()) {
            for slots in subsets(self.k).filter(|slots| slots.count() == rows.count()) {
                let square = self.square(rows, slots);
                if solve(square, vec![Vec::new(); rows.count()]).is_none() {
                    return Some((rows.iter().collect(), slots.iter().collect()));
                }
            }
        }
        None
    }

    fn square(&self, rows: SlotSet, slots: SlotSet) -> Vec<Vec<f64>> {
        let row = |j: usize| slots.iter().map(|i| f64::from(self.coefficients[j][i])).collect();
        rows.iter().map(row).collect()
    }

    /// Splits a present set into (missing data slots, present parity rows).
    fn split(&self, present: SlotSet) -> (SlotSet, SlotSet) {
        let missing = SlotSet::below(self.k).without(present);
        let parities = SlotSet::from_bits(present.bits() >> self.k).and(SlotSet::below(self.r()));
        (missing, parities)
    }
}

impl Code for Sum {
    fn k(&self) -> usize {
        self.k
    }

    fn r(&self) -> usize {
        self.coefficients.len()
    }

    fn encode(&self, parity: usize, rows: &[&[f32]], parity_query: &mut [f32]) {
        assert_eq!(rows.len(), self.k, "a full stripe has k rows");
        parity_query.fill(0.0);
        for (row, &coefficient) in rows.iter().zip(&self.coefficients[parity]) {
            assert_eq!(row.len(), parity_query.len(), "rows of one stripe are equally long");
            for (sum, value) in parity_query.iter_mut().zip(*row) {
                *sum += coefficient * value;
            }
        }
    }

    fn recoverable(&self, present: SlotSet) -> SlotSet {
        let (missing, parities) = self.split(present);
        if missing.count() <= parities.count() { missing } else { SlotSet::EMPTY }
    }

    fn decode(&self, slot: usize, outputs: &[Option<&[f32]>]) -> Option<Vec<f32>> {
        assert_eq!(outputs.len(), self.k + self.r(), "one entry a slot");
        let present = outputs
            .iter()
            .enumerate()
            .filter(|(_, output)| output.is_some())
            .fold(SlotSet::EMPTY, |set, (slot, _)| set.with(SlotSet::only(slot)));
        if !self.recoverable(present).has(slot) {
            return None;
        }
        let (missing, parities) = self.split(present);
        // What the parity outputs say of the missing ones: A x = b, where b is a parity output minus the present members.
        let inverse = pseudo_inverse(&self.square(parities, missing))?;
        let wanted = missing.iter().position(|missing| missing == slot)?;
        let width = outputs.iter().flatten().next()?.len();
        let mut decoded = vec![0.0_f32; width];
        for (j, weight) in parities.iter().zip(&inverse[wanted]) {
            add_scaled(&mut decoded, outputs[self.k + j]?, *weight);
            for i in SlotSet::below(self.k).without(missing).iter() {
                let coefficient = f64::from(self.coefficients[j][i]);
                add_scaled(&mut decoded, outputs[i]?, -weight * coefficient);
            }
        }
        Some(decoded)
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
/// regular; for r >= 3 a Cauchy matrix, all of whose squares are regular.
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
        _ => (0..r).map(|j| (0..k).map(|i| 1.0 / (index(j) + index(i) + 1.0)).collect()).collect(),
    }
}

/// The non-empty subsets of the first `count` indices.
fn subsets(count: usize) -> impl Iterator<Item = SlotSet> {
    let last = SlotSet::below(count).bits();
    (1..=last).map(SlotSet::from_bits)
}

#[cfg(test)]
mod tests;
