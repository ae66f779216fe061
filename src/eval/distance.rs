//! How far reconstructions are from the direct answers that they stand for.
//!
//! Outputs are compared as probabilities (softmax): logits mean the same after adding a constant to all of them, and their scale differs
//! from network to network.

/// Parts that the distribution is cut into: a curve needs no more.
const PARTS: usize = 100;

/// Distances of many reconstructions, each the largest difference (0..1) of a class's probability.
#[derive(Debug, Default)]
pub(super) struct Distances(Vec<f32>);

impl Distances {
    /// Adds one reconstruction.
    pub(super) fn add(&mut self, decoded: &[f32], direct: &[f32]) {
        let off = softmax(decoded).zip(softmax(direct)).map(|(decoded, direct)| (decoded - direct).abs());
        self.0.push(off.fold(0.0, f32::max));
    }

    /// The distances that 0 %, 1 % … 100 % of all do not exceed; nothing if there are none.
    pub(super) fn percentiles(mut self) -> Vec<f32> {
        self.0.sort_unstable_by(f32::total_cmp);
        let last = self.0.len().saturating_sub(1);
        let at = |part: usize| self.0.get(part * last / PARTS).copied();
        (0..=PARTS).filter_map(at).collect()
    }
}

fn softmax(output: &[f32]) -> impl Iterator<Item = f32> + '_ {
    let largest = output.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = output.iter().map(|value| (value - largest).exp()).sum();
    output.iter().map(move |value| (value - largest).exp() / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_of_probabilities() {
        let mut distances = Distances::default();
        // The same but for a constant; then from certain to certain of another.
        distances.add(&[3.0, 1.0], &[1_003.0, 1_001.0]);
        distances.add(&[99.0, 0.0], &[0.0, 99.0]);
        let percentiles = distances.percentiles();
        assert_eq!(percentiles.len(), PARTS + 1);
        assert!(percentiles[0] < 1e-6 && (percentiles[PARTS] - 1.0).abs() < 1e-6, "{percentiles:?}");
        assert!(Distances::default().percentiles().is_empty());
    }
}
