//! 95 % intervals of ratios b/a.
//!
//! Latency percentiles and shares: a bootstrap over the seconds of the schedule, because what slows one request slows its neighbours, and
//! an interval from single requests would be far too narrow. Runs of one schedule are drawn in pairs of the same seconds, so what is common
//! to both (the arrivals, the images) cancels. An interval is the middle 95 % of the ratios.
//!
//! The bootstrap believes that what it never saw cannot happen: without one failure its interval is a point. So the answered share gets the
//! wider of it and the MOVER-R interval of two Wilson intervals (Donner and Zou 2012), which does not know that failures come in bursts.
//! Jobs are counted for the run as a whole, so theirs is the interval of two Poisson counts. It is rough: most jobs are one for each query,
//! which varies less, and redundancy comes with the machine's load, which varies more.

use std::collections::BTreeMap;

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::bench::{Window, report::QUANTILES};

/// How often the seconds are drawn: the ends of an interval rest on 50 draws beyond each.
pub(super) const RESAMPLES: usize = 2000;

/// How many percentiles of latency are compared; p9999 needs runs of hours.
pub(super) const LATENCIES: usize = 4;

/// Places of the shares behind the percentiles.
pub(super) const ANSWERED: usize = LATENCIES;
pub(super) const ACCURACY: usize = LATENCIES + 1;
const FIGURES: usize = LATENCIES + 2;

/// Two-sided 95 % of the normal distribution.
const Z: f64 = 1.959_964;

/// A rank is a whole number of requests; a share times a count may miss it by this.
const ROUNDING: f64 = 1e-6;

/// Percentiles in milliseconds, then shares. NaN where nothing was answered.
pub(super) type Figures = [f64; FIGURES];

/// A 95 % interval.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Interval {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Interval {
    pub(super) fn is_bounded(self) -> bool {
        self.low.is_finite() && self.high.is_finite()
    }

    /// The smallest interval around both.
    pub(super) fn around(self, other: Interval) -> Interval {
        Interval { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// Of the ratio of two shares (`part[1] / whole[1]`) / (`part[0] / whole[0]`): MOVER-R.
    pub(super) fn of_shares(part: [u64; 2], whole: [u64; 2]) -> Interval {
        let [a, b] = [0, 1].map(|side| part[side] as f64 / whole[side] as f64);
        let [wilson_a, wilson_b] = [0, 1].map(|side| wilson(part[side] as f64, whole[side] as f64));
        let end = |numerator: f64, denominator: f64| {
            let (top, bottom) = (numerator * (2.0 * b - numerator), denominator * (2.0 * a - denominator));
            let root = ((a * b).powi(2) - top * bottom).max(0.0).sqrt();
            (root, bottom)
        };
        let (low_root, low_bottom) = end(wilson_b.low, wilson_a.high);
        let (high_root, high_bottom) = end(wilson_b.high, wilson_a.low);
        // A bottom that is not positive: so little of a was answered that there is no end on this side.
        let low = if low_bottom > 0.0 { (a * b - low_root) / low_bottom } else { 0.0 };
        let high = if high_bottom > 0.0 { (a * b + high_root) / high_bottom } else { f64::INFINITY };
        Interval { low: low.max(0.0), high }
    }

    /// Of the ratio of two rates (`count[1] / of[1]`) / (`count[0] / of[0]`) of Poisson counts.
    pub(super) fn of_counts(count: [u64; 2], of: [u64; 2]) -> Interval {
        let [a, b] = [0, 1].map(|side| count[side] as f64 / of[side] as f64);
        let spread = Z * (1.0 / count[0] as f64 + 1.0 / count[1] as f64).sqrt();
        Interval { low: b / a * (-spread).exp(), high: b / a * spread.exp() }
    }
}

/// Of one share.
fn wilson(part: f64, whole: f64) -> Interval {
    let share = part / whole;
    let middle = share + Z * Z / (2.0 * whole);
    let spread = Z * (share * (1.0 - share) / whole + Z * Z / (4.0 * whole * whole)).sqrt();
    let scale = 1.0 + Z * Z / whole;
    Interval { low: ((middle - spread) / scale).max(0.0), high: ((middle + spread) / scale).min(1.0) }
}

/// Two runs, ready to be drawn from.
#[derive(Debug)]
pub(super) struct Runs {
    sides: [Side; 2],
    paired: bool,
}

impl Runs {
    pub(super) fn new(a: &[Window], b: &[Window], paired: bool) -> Self {
        Runs { sides: [Side::new(a), Side::new(b)], paired }
    }

    /// The figures of both runs as they were.
    pub(super) fn figures(&self) -> [Figures; 2] {
        [0, 1].map(|side| {
            let side = &self.sides[side];
            side.figures((0..side.windows.len()).collect::<Vec<_>>().as_slice())
        })
    }

    /// Answered rows of both runs.
    pub(super) fn rows(&self) -> [u64; 2] {
        [0, 1].map(|side| self.sides[side].windows.iter().map(|second| second.rows).sum())
    }

    /// The bootstrap's interval of each ratio of figures.
    pub(super) fn intervals(&self, seed: u64) -> [Interval; FIGURES] {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut ratios: [Vec<f64>; FIGURES] = std::array::from_fn(|_| Vec::with_capacity(RESAMPLES));
        for _ in 0..RESAMPLES {
            let mut draw = |side: &Side| {
                let count = side.windows.len();
                (0..count).map(|_| random.random_range(0..count)).collect::<Vec<_>>()
            };
            let drawn_a = draw(&self.sides[0]);
            let drawn_b = if self.paired { drawn_a.clone() } else { draw(&self.sides[1]) };
            let (a, b) = (self.sides[0].figures(&drawn_a), self.sides[1].figures(&drawn_b));
            for (place, list) in ratios.iter_mut().enumerate() {
                list.push(b[place] / a[place]);
            }
        }
        ratios.map(|mut list| {
            list.sort_by(f64::total_cmp);
            // NaN (nothing answered) sorts last and makes the upper end no number, so the interval counts as unbounded.
            Interval { low: list[RESAMPLES / 40], high: list[RESAMPLES - 1 - RESAMPLES / 40] }
        })
    }
}

/// One run.
#[derive(Debug)]
struct Side {
    /// The distinct latencies of the run, in order.
    micros: Vec<u64>,
    windows: Vec<Second>,
}

/// A window whose latencies are places in `micros`.
#[derive(Debug)]
struct Second {
    sent: u64,
    answered: u64,
    rows: u64,
    right: u64,
    counts: Vec<(usize, u64)>,
}

impl Side {
    fn new(windows: &[Window]) -> Self {
        let latencies = windows.iter().flat_map(|window| window.latency_us.iter().map(|&(micros, _)| (micros, 0)));
        let mut places: BTreeMap<u64, usize> = latencies.collect();
        places.values_mut().enumerate().for_each(|(place, value)| *value = place);
        let second = |window: &Window| Second {
            sent: window.sent,
            answered: window.answered,
            rows: window.rows,
            right: window.right,
            counts: window.latency_us.iter().map(|(micros, count)| (places[micros], *count)).collect(),
        };
        Side { windows: windows.iter().map(second).collect(), micros: places.into_keys().collect() }
    }

    /// The figures of the drawn seconds together.
    fn figures(&self, drawn: &[usize]) -> Figures {
        let mut counts = vec![0_u64; self.micros.len()];
        let [mut sent, mut answered, mut rows, mut right] = [0_u64; 4];
        for second in drawn.iter().map(|&second| &self.windows[second]) {
            for &(place, count) in &second.counts {
                counts[place] += count;
            }
            sent += second.sent;
            answered += second.answered;
            rows += second.rows;
            right += second.right;
        }
        let mut figures = [f64::NAN; FIGURES];
        let (mut below, mut next) = (0, 0);
        for (&micros, &count) in self.micros.iter().zip(&counts) {
            below += count;
            while next < LATENCIES && count > 0 && below as f64 >= QUANTILES[next].1 * sent as f64 - ROUNDING {
                figures[next] = micros as f64 / 1e3;
                next += 1;
            }
        }
        figures[ANSWERED] = answered as f64 / sent as f64;
        figures[ACCURACY] = right as f64 / rows as f64;
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `seconds` windows of 100 exponential latencies around `mean` milliseconds, `failing` of 1,000 requests unanswered.
    fn windows(seconds: usize, mean: f64, failing: u32, seed: u64) -> Vec<Window> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut window = || {
            let mut counts = BTreeMap::new();
            let mut answered = 0;
            for _ in 0..100 {
                let seconds = -mean / 1e3 * (1.0 - random.random::<f64>()).ln();
                let micros = std::time::Duration::from_secs_f64(seconds).as_micros();
                *counts.entry(u64::try_from(micros).unwrap()).or_default() += 1;
                answered += u64::from(random.random_range(0..1000) >= failing);
            }
            let latency_us = counts.into_iter().collect();
            Window { sent: 100, answered, rows: answered, right: answered * 9 / 10, latency_us }
        };
        (0..seconds).map(|_| window()).collect()
    }

    fn holds(interval: Interval, value: f64) -> bool {
        interval.low <= value && value <= interval.high
    }

    #[test]
    fn a_known_ratio_is_inside_and_one_is_outside() {
        // Each interval misses one time in twenty; that three of twenty seeds miss the same figure happens once in thirteen.
        let mut inside = [0; 3];
        for seed in 0..20 {
            let runs = Runs::new(&windows(60, 1.0, 0, seed), &windows(60, 2.0, 0, seed + 100), false);
            let intervals = runs.intervals(1);
            for (place, inside) in inside.iter_mut().enumerate() {
                *inside += u32::from(holds(intervals[place], 2.0));
            }
            assert!(!holds(intervals[0], 1.0) && !holds(intervals[1], 1.0), "{intervals:?}");
        }
        assert!(inside.iter().all(|&inside| inside >= 16), "{inside:?} of 20");
    }

    #[test]
    fn runs_of_one_distribution_show_no_difference() {
        let mut outside = 0;
        for seed in 0..20 {
            let runs = Runs::new(&windows(60, 1.0, 50, seed), &windows(60, 1.0, 50, seed + 100), false);
            let intervals = runs.intervals(1);
            outside += intervals.iter().filter(|interval| !holds(**interval, 1.0)).count();
        }
        assert!(outside <= 16, "{outside} of 120, where 6 are expected");
    }

    #[test]
    fn a_run_does_not_differ_from_itself() {
        let same = windows(30, 1.0, 50, 1);
        for interval in Runs::new(&same, &same, true).intervals(1) {
            assert!((interval.low - 1.0).abs() < 1e-12 && (interval.high - 1.0).abs() < 1e-12, "{interval:?}");
        }
        let runs = Runs::new(&same, &same, false);
        assert!(runs.intervals(1).iter().all(|interval| holds(*interval, 1.0) && interval.low < interval.high));
        assert_eq!(runs.intervals(1), runs.intervals(1), "seeded");
    }

    #[test]
    fn windows_without_answers_have_no_interval() {
        let nothing = vec![Window { sent: 1, latency_us: vec![(2_000_000, 1)], ..Window::default() }; 5];
        let intervals = Runs::new(&nothing, &nothing, true).intervals(1);
        assert!(holds(intervals[0], 1.0) && !intervals[ANSWERED].is_bounded() && !intervals[ACCURACY].is_bounded());
    }

    #[test]
    fn shares_without_failures_are_not_certain() {
        let certain = Interval::of_shares([1000, 1000], [1000, 1000]);
        assert!(
            certain.low < 0.999 && certain.low > 0.99 && certain.high > 1.001 && certain.high < 1.01,
            "{certain:?}"
        );
        let half = Interval::of_shares([1000, 500], [1000, 1000]);
        assert!(holds(half, 0.5) && half.low > 0.46 && half.high < 0.54, "{half:?}");
        let none = Interval::of_shares([1000, 0], [1000, 1000]);
        assert!(holds(none, 0.0) && none.high < 0.01, "{none:?}");
        assert!(!Interval::of_shares([0, 1000], [1000, 1000]).is_bounded());
    }

    #[test]
    fn counts_have_the_poisson_interval() {
        let interval = Interval::of_counts([1500, 1500], [1000, 1000]);
        assert!((interval.high - 1.0742).abs() < 1e-3 && (interval.low - 0.9309).abs() < 1e-3, "{interval:?}");
    }
}
