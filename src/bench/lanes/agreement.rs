//! Whether real and virtual time tell the same: paired ratios with an interval, and a margin.

use serde::{Deserialize, Serialize};

use crate::bench::cell::{DEADLINE, Latency, at, millis};

/// Ratios within this margin mean the same.
const MARGIN: f64 = 0.1;

/// Student's t for a 90 % interval by degrees of freedom (from 1): two one-sided tests at 5 % (Schuirmann 1987).
const STUDENT: [f64; 9] = [6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833];

/// A figure in real time over that in virtual time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Agreement {
    /// The scenario's letter.
    pub scenario: String,
    /// The policy.
    pub policy: String,
    /// p99 of each run in real time, in milliseconds.
    pub real_ms: Vec<f64>,
    /// p99 of the same runs in virtual time.
    pub virtual_ms: Vec<f64>,
    /// Geometric mean of real over virtual.
    pub ratio: f64,
    /// Its 90 % interval; `null` with one run.
    pub interval: Option<(f64, f64)>,
}

impl Agreement {
    /// That of p99, from the same runs in real and in virtual time.
    pub(super) fn new(scenario: String, policy: &str, real: &[Vec<Latency>], simulated: &[Vec<Latency>]) -> Self {
        let (real_ms, virtual_ms) = (p99s(real), p99s(simulated));
        let logs: Vec<f64> = real_ms.iter().zip(&virtual_ms).map(|(real, simulated)| (real / simulated).ln()).collect();
        let count = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / count;
        let half = logs.len().checked_sub(1).filter(|&freedom| freedom > 0).map(|freedom| {
            let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / freedom as f64;
            STUDENT.get(freedom - 1).copied().unwrap_or(STUDENT[STUDENT.len() - 1]) * (variance / count).sqrt()
        });
        Agreement {
            scenario,
            policy: policy.to_owned(),
            real_ms,
            virtual_ms,
            ratio: mean.exp(),
            interval: half.map(|half| ((mean - half).exp(), (mean + half).exp())),
        }
    }

    /// Whether the whole interval lies within the margin; nobody knows with one run.
    pub fn is_equivalent(&self) -> bool {
        // Two overloaded policies are equally late, and nothing is known of them.
        let known = self.real_ms.iter().chain(&self.virtual_ms).all(|ms| *ms < millis(DEADLINE));
        known && self.interval.is_some_and(|(low, high)| low >= 1.0 - MARGIN && high <= 1.0 / (1.0 - MARGIN))
    }
}

fn p99s(runs: &[Vec<Latency>]) -> Vec<f64> {
    let p99 = |run: &Vec<Latency>| {
        let mut times: Vec<f64> = run.iter().map(|latency| millis(latency.time)).collect();
        times.sort_unstable_by(f64::total_cmp);
        at(&times, 0.99)
    };
    runs.iter().map(p99).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn run(ms: u64) -> Vec<Latency> {
        vec![Latency { time: Duration::from_millis(ms), decoded: false, answered: true, right: None }; 10]
    }

    #[test]
    fn equal_runs_are_equivalent_and_others_are_not() {
        let agreement = |real: &[u64], simulated: &[u64]| {
            let runs = |all: &[u64]| all.iter().map(|&ms| run(ms)).collect::<Vec<_>>();
            Agreement::new("B".to_owned(), "none", &runs(real), &runs(simulated))
        };
        let same = agreement(&[100, 110, 121], &[100, 110, 121]);
        assert!(same.is_equivalent() && (same.ratio - 1.0).abs() < 1e-9, "{same:?}");
        let slower = agreement(&[120, 132, 145], &[100, 110, 121]);
        assert!(!slower.is_equivalent() && (slower.ratio - 1.2).abs() < 0.01, "{slower:?}");
        let noisy = agreement(&[80, 125, 100], &[100, 100, 100]);
        assert!(!noisy.is_equivalent(), "equal on average is not enough: {noisy:?}");
        assert!(!agreement(&[100], &[100]).is_equivalent(), "one run tells nothing");
    }
}
