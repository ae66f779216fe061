//! The `sum` code: parity query j is Σᵢ cⱼᵢ Xᵢ, decoded by subtraction (ParM, SOSP 2019, section 4.1; r > 1 as its section 4.4).
//!
//! With r = 1 and coefficients (1, …, 1) this is the paper's addition encoder and subtraction decoder. For r > 1 every square
//! sub-matrix of the coefficients must be regular, or some pattern of k losses out of k + r could not be decoded; rows that are
//! nearly orthogonal amplify the parity models' error least. When more parity slots are present than data slots are missing, the
//! decoder solves the least-squares problem over all of them rather than choosing some.

use super::{
    Code, CodeError, Kind, Reading, SlotSet, add_up,
    matrix::{pseudo_inverse, solve},
    present, spec,
};

/// Coefficients cⱼᵢ: r rows of k.
pub type Coefficients = Vec<Vec<f32>>;

/// The additive code.
#[derive(Clone, Debug, PartialEq)]
pub struct Sum {
    k: usize,
    coefficients: Coefficients,
}

impl Sum {
    /// A code with the given coefficients (r rows of k), refused unless every k of the k + r slots suffice.
    pub fn new(coefficients: Coefficients) -> Result<Self, CodeError> {
        let (r, k) = (coefficients.len(), coefficients.first().map_or(0, Vec::len));
        spec::check_size(k, r)?;
        let complete = |row: &Vec<f32>| row.len() == k && row.iter().all(|value| value.is_finite());
        if !coefficients.iter().all(complete) {
            return Err(CodeError::Shape { k, r });
        }
        let sum = Sum { k, coefficients };
        match sum.singular_square() {
            Some((rows, slots)) => Err(CodeError::Singular { rows, slots }),
            None => Ok(sum),
        }
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
        let inverse = pseudo_inverse(&self.square(parities, missing))?;
        let wanted = missing.iter().position(|missing| missing == slot)?;
        decoded.clear();
        decoded.resize(outputs.iter().flatten().next()?.len(), 0.0);
        for (j, weight) in parities.iter().zip(&inverse[wanted]) {
            add_scaled(decoded, outputs[self.k + j]?, *weight);
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
