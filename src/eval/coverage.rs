//! What a gate on confidence would serve: accuracy against the share of reconstructions that is served, and how far confidences are from
//! the shares that they tell.
//!
//! Two losses can be read from it. Against *all* direct answers, a gate gains by serving the easy rows. Against the direct answers to the
//! *very same* rows it gains only where reconstruction is what errs; what is held back is answered by the base model, so that is what a
//! gate is worth to a client.

use serde::Serialize;

use crate::query::Confidence;

/// Shares served that are told.
const SHARES: [f64; 8] = [1.0, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5];

/// Equal parts of 0..1 in which confidences are compared with shares of right answers, as in Guo et al. (ICML 2017).
const BINS: usize = 15;

/// One reconstruction, judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judged {
    /// Its confidence.
    pub(super) confidence: Confidence,
    /// Whether its class is the label's.
    pub(super) right: bool,
    /// Whether that of the direct answer to the same row is.
    pub(super) direct_right: bool,
}

/// What is served at one threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Coverage {
    /// Share of reconstructions that is served: those of the highest confidence.
    pub coverage: f64,
    /// The least confidence among them: the `min_confidence` that serves them.
    pub threshold: f32,
    /// Accuracy of those.
    pub a_d: f64,
    /// Accuracy of the direct answers to the same rows.
    pub a_a: f64,
}

/// Risk against coverage.
pub(super) fn coverage(mut judged: Vec<Judged>) -> Vec<Coverage> {
    judged.sort_by(|a, b| b.confidence.get().total_cmp(&a.confidence.get()));
    let share = |of: &[Judged], holds: fn(&Judged) -> bool| {
        of.iter().filter(|judged| holds(judged)).count() as f64 / of.len().max(1) as f64
    };
    let at = |coverage: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
        let served = &judged[..(coverage * judged.len() as f64).round() as usize];
        let threshold = served.last().map_or(Confidence::FULL, |judged| judged.confidence).get();
        let (a_d, a_a) = (share(served, |judged| judged.right), share(served, |judged| judged.direct_right));
        Coverage { coverage, threshold, a_d, a_a }
    };
    SHARES.map(at).to_vec()
}

/// The expected calibration error: by how much confidence and share of right answers differ, over the bins by how many fall in each.
pub(super) fn calibration_error(judged: &[Judged]) -> f64 {
    let mut over = [0.0_f64; BINS];
    for &Judged { confidence, right, .. } in judged {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to BINS")]
        let bin = (confidence.get() * BINS as f32) as usize;
        over[bin.min(BINS - 1)] += f64::from(confidence.get()) - f64::from(u8::from(right));
    }
    over.iter().map(|over| over.abs()).sum::<f64>() / judged.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(confidence: f32, right: bool, direct_right: bool) -> Judged {
        Judged { confidence: Confidence::new(confidence).unwrap(), right, direct_right }
    }

    #[test]
    fn the_least_confident_go_first() {
        // Of the 100, the lowest five are all wrong; three of them are right directly.
        let rows = (0..100).map(|i| judged(i as f32 / 100.0, i >= 5, i >= 2)).rev().collect();
        let [all, most, at_95, ..] = coverage(rows)[..] else { unreachable!("eight shares") };
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(all.a_d, 0.95) && near(all.a_a, 0.98) && all.threshold.abs() < 1e-6);
        assert!(near(most.a_d, 95.0 / 99.0) && near(most.a_a, 98.0 / 99.0));
        assert!(near(at_95.a_d, 1.0) && near(at_95.a_a, 1.0) && (at_95.threshold - 0.05).abs() < 1e-6);
    }

    #[test]
    fn confidences_that_tell_the_truth_have_no_error() {
        let right = |confidence, of: usize, right: usize| (0..of).map(move |i| judged(confidence, i < right, true));
        let honest: Vec<_> = right(0.9, 10, 9).chain(right(0.5, 10, 5)).collect();
        assert!(calibration_error(&honest) < 1e-6);
        let boastful: Vec<_> = right(0.9, 10, 5).collect();
        assert!((calibration_error(&boastful) - 0.4).abs() < 1e-6);
        assert!(calibration_error(&[]).abs() < 1e-9);
    }
}
