//! How likely a decoded output is right: the score by which reconstructions are held back, and its one parameter.
//!
//! The score is the largest of the softmax probabilities of the decoded outputs divided by a temperature. The temperature is fitted for
//! each code on rows that trained neither model, by least negative log-likelihood of the labels (Guo, Pleiss, Sun, Weinberger: On
//! Calibration of Modern Neural Networks, ICML 2017), so that of the answers with score p about a share p is right. One number cannot
//! overfit a few thousand rows, and it needs nothing but the decoded output: no further input, no other slot. It changes no answer.
//!
//! Pure arithmetic in f64 on host slices; what is done about a low score is a matter of policy and stands in `dispatch`.

use crate::query::Confidence;

/// The temperatures that are searched; logits that need one outside are no logits.
const RANGE: (f64, f64) = (1e-3, 1e3);

/// Halvings of that range (on a logarithmic scale): beyond the last digit of an f64.
const HALVINGS: usize = 64;

/// What decoded outputs are divided by before the softmax; finite and above 0.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Temperature(f64);

impl Temperature {
    /// The softmax as it is.
    pub const UNIT: Temperature = Temperature(1.0);

    /// `None` unless `value` is a finite number above 0.
    pub fn new(value: f64) -> Option<Self> {
        (value.is_finite() && value > 0.0).then_some(Temperature(value))
    }

    /// The number.
    pub const fn get(self) -> f64 {
        self.0
    }

    /// The temperature under which `outputs`, decoded rows one after the other, speak the most for their `labels`, one a row.
    ///
    /// Of the inverse temperature the negative log-likelihood is a convex function, so the zero of its derivative is the one minimum, and halving
    /// finds it. At an end of the range if there is none, as for rows that are all right.
    pub fn fit(outputs: &[f32], labels: &[usize]) -> Self {
        let width = outputs.len() / labels.len().max(1);
        let slope = |inverse: f64| {
            let rows = outputs.chunks_exact(width.max(1)).zip(labels);
            rows.map(|(output, label)| excess(output, *label, inverse)).sum::<f64>()
        };
        let (mut low, mut high) = ((1.0 / RANGE.1).ln(), (1.0 / RANGE.0).ln());
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            if slope(middle.exp()) < 0.0 {
                low = middle;
            } else {
                high = middle;
            }
        }
        Temperature((-f64::midpoint(low, high)).exp())
    }

    /// The largest probability of `output`. 0 for an output without values.
    pub fn confidence(self, output: &[f32]) -> Confidence {
        let (_, sum) = weights(output, 1.0 / self.0);
        // The largest has weight 1.
        #[expect(clippy::cast_possible_truncation, reason = "a share of 1 is told in f32, as outputs are")]
        Confidence::new((1.0 / sum) as f32).unwrap_or(Confidence::NONE)
    }
}

/// The derivative of one row's negative log-likelihood by the inverse temperature: how far the value to be expected under the softmax lies
/// above that of the label.
fn excess(output: &[f32], label: usize, inverse: f64) -> f64 {
    let (weights, sum) = weights(output, inverse);
    let expected: f64 = weights.zip(output).map(|(weight, value)| weight * f64::from(*value)).sum();
    expected / sum - f64::from(output[label])
}

/// The softmax of `output` times `inverse`, not yet divided by its sum; the largest value has weight 1, so nothing overflows.
fn weights(output: &[f32], inverse: f64) -> (impl Iterator<Item = f64> + Clone + '_, f64) {
    let largest = output.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights = output.iter().map(move |value| ((f64::from(*value) - f64::from(largest)) * inverse).exp());
    let sum = weights.clone().sum();
    (weights, sum)
}

/// What a calibration says of a code and its weights.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Calibration {
    /// Gives decoded outputs their confidence.
    pub temperature: Temperature,
    /// The share of decoded outputs with the class of the base model's own, on the rows of the calibration.
    pub agreement: f64,
    /// How many rows that were.
    pub rows: usize,
}

#[cfg(test)]
mod tests {
    use rand::RngExt;
    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    fn confidence(temperature: f64, output: &[f32]) -> f32 {
        Temperature::new(temperature).unwrap().confidence(output).get()
    }

    #[test]
    fn it_is_the_largest_probability() {
        let share = |a: f32, b: f32| a.exp() / (a.exp() + b.exp());
        assert!((confidence(1.0, &[2.0, 1.0]) - share(2.0, 1.0)).abs() < 1e-6);
        assert!((confidence(2.0, &[1.0, 2.0]) - share(1.0, 0.5)).abs() < 1e-6);
        assert!((confidence(3.0, &[7.0; 4]) - 0.25).abs() < 1e-6);
        assert!((confidence(1.0, &[f32::MAX, f32::MIN]) - 1.0).abs() < 1e-6, "nothing overflows");
        assert!(confidence(1.0, &[]).abs() < 1e-6, "no output is no reason to believe it");
    }

    #[test]
    fn temperatures_are_numbers_above_zero() {
        assert!([0.0, -1.0, f64::NAN, f64::INFINITY].into_iter().all(|value| Temperature::new(value).is_none()));
    }

    /// The class on which `point` (0..1) falls if classes follow each other, each as wide as its probability.
    fn draw(output: &[f32], temperature: f64, point: f64) -> usize {
        let (mut weights, sum) = weights(output, 1.0 / temperature);
        let mut left = point * sum;
        let falls_on = |weight: f64| {
            left -= weight;
            left <= 0.0
        };
        weights.position(falls_on).unwrap_or(0)
    }

    /// Labels drawn from the softmax at a known temperature give that temperature back, and shares of right answers as told.
    #[test]
    fn the_fit_finds_the_temperature_that_labels_were_drawn_with() {
        let (mut random, truth) = (ChaCha8Rng::seed_from_u64(7), 2.5);
        let outputs: Vec<f32> = (0..100_000).map(|_| random.random_range(-6.0..6.0)).collect();
        let rows = || outputs.chunks_exact(5);
        let labels: Vec<usize> = rows().map(|row| draw(row, truth, random.random_range(0.0..1.0))).collect();
        let fitted = Temperature::fit(&outputs, &labels);
        assert!((fitted.get() / truth - 1.0).abs() < 0.03, "{fitted:?}");
        let sure = || rows().zip(&labels).filter(|(row, _)| fitted.confidence(row).get() > 0.8);
        let told = sure().map(|(row, _)| f64::from(fitted.confidence(row).get())).sum::<f64>();
        let right = sure().filter(|(row, label)| row.iter().all(|value| *value <= row[**label])).count();
        assert!((told - right as f64).abs() < 0.03 * sure().count() as f64, "{right} are right, {told:.0} were told");
    }

    #[test]
    fn rows_that_are_all_right_are_certain() {
        let fitted = Temperature::fit(&[1.0, 0.0], &[0]);
        assert!(fitted.get() > 0.0 && fitted.confidence(&[1.0, 0.0]) == Confidence::FULL, "{fitted:?}");
    }
}
