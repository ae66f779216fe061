//! One policy in one kind of weather at one load: its latencies, and what they cost.
//!
//! The same figures whether time was virtual or real, so that the two can be set side by side. A figure is the quantile over all runs, its
//! interval Student's over the quantiles of the single runs, which are independent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BenchError, contender::BASELINE, table::FEW, weather::Weather};

/// A query that is not answered counts as this.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);

/// Queries of one run at most: a simulated one holds in memory what became of each, a daemon a place for each.
const QUERIES_OF_RUN_MAX: usize = 1_000_000;
/// Of all runs of a cell: their latencies are sorted together.
const QUERIES_MAX: usize = 10_000_000;

/// A percentile with fewer beyond it is marked: it moves by as much as those few do.
const BEYOND_MIN: f64 = 10.0;

/// Student's t for a 95 % interval by degrees of freedom (from 1).
const STUDENT: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];

/// Shares at which a cell's curve is kept: enough for a line on a logarithmic axis.
const CURVE: [f64; 17] =
    [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.999_75, 0.9999, 0.999_95, 1.0];

/// One figure over all runs, in milliseconds, and half its 95 % interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Quantile {
    /// The figure.
    pub ms: f64,
    /// Half of its interval; `null` with one run.
    pub half: Option<f64>,
}

/// One policy in one weather at one load.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Cell {
    /// The scenario's letter.
    pub scenario: String,
    /// Data slots; `null` for a policy without a code.
    pub k: Option<usize>,
    /// Share of what all lanes can carry.
    pub load: f64,
    /// The policy.
    pub policy: String,
    /// Half of all queries are answered by then.
    pub p50: Quantile,
    /// 99 %.
    pub p99: Quantile,
    /// 99.9 %.
    pub p999: Quantile,
    /// p99.9 - p50 in milliseconds.
    pub gap_ms: f64,
    /// The same of equal resources without redundancy over it; `null` for that itself.
    pub gap_factor: Option<f64>,
    /// Share of queries answered by what was decoded (`reconstructed` and `approximate`).
    pub decoded: f64,
    /// Share of queries without an answer.
    pub unanswered: f64,
    /// Share of answers that are right; `null` where nobody knows.
    pub accuracy: Option<f64>,
    /// Jobs that lanes ran for each query, one of a smaller model counted as what it costs.
    pub jobs_per_query: f64,
    /// Queries of all runs.
    pub queries: usize,
    /// Pairs of a share of queries (0 to 1) and the milliseconds by which it was answered.
    pub curve: Vec<(f64, f64)>,
}

/// How one query ended.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Latency {
    /// From its arrival.
    pub(super) time: Duration,
    /// Whether the answer was decoded.
    pub(super) decoded: bool,
    /// Whether there was one.
    pub(super) answered: bool,
    /// How likely the answer is right: 0 or 1 where that is known.
    pub(super) right: Option<f64>,
}

impl Latency {
    /// That of a query without an answer.
    pub(super) const NONE: Latency = Latency { time: DEADLINE, decoded: false, answered: false, right: None };
}

/// Where a cell stands in the tables.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) weather: Weather,
    pub(super) k: Option<usize>,
    pub(super) load: f64,
    pub(super) policy: &'static str,
}

impl Cell {
    /// A cell of the latencies of each run, and the jobs of all of them.
    pub(super) fn new(place: &Place, runs: &[Vec<Latency>], jobs: f64) -> Self {
        let sorted: Vec<Vec<f64>> = runs
            .iter()
            .map(|run| {
                let mut times: Vec<f64> = run.iter().map(|latency| millis(latency.time)).collect();
                times.sort_unstable_by(f64::total_cmp);
                times
            })
            .collect();
        let mut all: Vec<f64> = sorted.iter().flatten().copied().collect();
        all.sort_unstable_by(f64::total_cmp);
        let quantile = |share: f64| {
            let of_runs: Vec<f64> = sorted.iter().map(|times| at(times, share)).collect();
            Quantile { ms: rounded(at(&all, share)), half: half_interval(&of_runs).map(rounded) }
        };
        let (p50, p99, p999) = (quantile(0.5), quantile(0.99), quantile(0.999));
        let share = |holds: fn(&Latency) -> bool| {
            runs.iter().flatten().filter(|latency| holds(latency)).count() as f64 / all.len() as f64
        };
        Cell {
            scenario: place.weather.to_string(),
            k: place.k,
            load: place.load,
            policy: place.policy.to_owned(),
            p50,
            p99,
            p999,
            gap_ms: rounded(p999.ms - p50.ms),
            gap_factor: None,
            decoded: share(|latency| latency.decoded),
            unanswered: share(|latency| !latency.answered),
            accuracy: accuracy(runs),
            jobs_per_query: jobs / all.len() as f64,
            queries: all.len(),
            curve: CURVE.map(|share| (share, rounded(at(&all, share)))).to_vec(),
        }
    }

    /// p50, p99 and p99.9 as they are told: rounded to `digits` after the point, each marked if too few queries lie beyond it.
    pub(super) fn figures(&self, digits: usize) -> [String; 3] {
        [(self.p50, 0.5), (self.p99, 0.99), (self.p999, 0.999)].map(|(quantile, share)| {
            let mark = if has_few_beyond(self.queries as f64, share) { FEW } else { "" };
            format!("{mark}{:.digits$}", quantile.ms)
        })
    }

    /// Whether one of them is marked.
    pub(super) fn is_of_few(&self) -> bool {
        has_few_beyond(self.queries as f64, 0.999)
    }

    /// Whether it has no p99.9 to speak of: queries are too late for an answer.
    pub(super) fn is_overloaded(&self) -> bool {
        self.p999.ms >= millis(DEADLINE)
    }

    /// The gap of another over its own.
    pub(super) fn gap_over(&self, baseline: &Cell) -> f64 {
        rounded(baseline.gap_ms / self.gap_ms.max(1e-3))
    }

    /// Whether another cell is of the same weather and load.
    pub(super) fn is_beside(&self, other: &Cell) -> bool {
        self.scenario == other.scenario && (self.load - other.load).abs() < 1e-9
    }
}

/// What the mark of [`Cell::figures`] means.
pub(super) const OF_FEW: &str = "fewer than 10 queries lie beyond it: measure for longer before you rely on it";

/// How many queries a run of this length has; an error where that is none, or more than are held in memory.
pub(super) fn queries(span: Duration, gap: Duration, runs: u64) -> Result<usize, BenchError> {
    let queries = (span.as_secs_f64() / gap.as_secs_f64()).floor();
    if queries < 1.0 {
        return Err(BenchError::NoQuery { seconds: span.as_secs_f64(), rate: 1.0 / gap.as_secs_f64() });
    }
    if queries > QUERIES_OF_RUN_MAX as f64 || queries * runs as f64 > QUERIES_MAX as f64 {
        let (run_max, cell_max) = (QUERIES_OF_RUN_MAX, QUERIES_MAX);
        return Err(BenchError::TooManyQueries { queries, runs, run_max, cell_max });
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of queries")]
    let queries = queries as usize;
    Ok(queries)
}

/// Whether so few of `all` lie beyond the percentile at `share` that it tells little.
pub(super) fn has_few_beyond(all: f64, share: f64) -> bool {
    // The margin is for 0.9999, which no float is.
    all * (1.0 - share) < BEYOND_MIN - 1e-6
}

/// The share of all answers that are right.
fn accuracy(runs: &[Vec<Latency>]) -> Option<f64> {
    let answered = || runs.iter().flatten().filter(|latency| latency.answered);
    let right = answered().map(|latency| latency.right).sum::<Option<f64>>()?;
    (answered().count() > 0).then(|| right / answered().count() as f64)
}

/// The value below which `share` of sorted values lie.
pub(super) fn at(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (share * sorted.len() as f64) as usize;
    sorted.get(index).or(sorted.last()).copied().unwrap_or(0.0)
}

/// To a microsecond, or a thousandth of another unit: more digits make results long and mean nothing.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// Half of the 95 % interval of a mean.
pub(super) fn half_interval(values: &[f64]) -> Option<f64> {
    let freedom = values.len().checked_sub(1).filter(|&freedom| freedom > 0)?;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom as f64;
    let student = STUDENT.get(freedom - 1).copied().unwrap_or(STUDENT[STUDENT.len() - 1]);
    Some(student * (variance / values.len() as f64).sqrt())
}

/// Sets every gap beside that of equal resources.
pub(super) fn compare(cells: &mut [Cell]) {
    let baselines: Vec<Cell> = cells.iter().filter(|cell| cell.policy == BASELINE).cloned().collect();
    for cell in cells.iter_mut().filter(|cell| cell.policy != BASELINE) {
        let baseline = baselines.iter().find(|other| other.is_beside(cell));
        // A policy that is overloaded has no gap, and is no better for that.
        let baseline = baseline.filter(|baseline| !baseline.is_overloaded() && !cell.is_overloaded());
        cell.gap_factor = baseline.map(|baseline| cell.gap_over(baseline));
    }
}

pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_students() {
        assert_eq!(half_interval(&[5.0]), None);
        let half = half_interval(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert!((half - 2.776 * (2.5_f64 / 5.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn percentiles_that_few_queries_lie_beyond_are_marked() {
        let answered = Latency { time: Duration::from_millis(20), decoded: false, answered: true, right: None };
        let place = Place { weather: Weather::D, k: None, load: 0.3, policy: "none" };
        let cell = |queries: usize| Cell::new(&place, &[vec![answered; queries]], 0.0);
        assert_eq!(cell(300).figures(0), ["20", "~20", "~20"]);
        assert_eq!(cell(1_000).figures(1), ["20.0", "20.0", "~20.0"]);
        assert!(cell(9_999).is_of_few() && !cell(10_000).is_of_few());
    }

    #[test]
    fn runs_have_queries_and_no_more_than_are_held() {
        let of = |seconds, gap_ms, runs| queries(Duration::from_secs(seconds), Duration::from_millis(gap_ms), runs);
        assert_eq!(of(60, 2, 5).unwrap(), 30_000);
        assert!(matches!(of(1, 1_001, 1), Err(BenchError::NoQuery { .. })));
        assert!(matches!(of(1_001, 1, 1), Err(BenchError::TooManyQueries { .. })), "one run");
        assert!(of(1_000, 1, 10).is_ok());
        assert!(matches!(of(1_000, 1, 11), Err(BenchError::TooManyQueries { .. })), "all of them");
    }

    #[test]
    fn a_cell_counts_what_was_answered_and_how() {
        let ended = |ms, decoded, right| Latency {
            time: Duration::from_millis(ms),
            decoded,
            answered: true,
            right: Some(right),
        };
        let place = Place { weather: Weather::D, k: None, load: 0.3, policy: "none" };
        let run = vec![ended(10, false, 1.0), ended(30, true, 0.0), ended(20, false, 1.0), Latency::NONE];
        let cell = Cell::new(&place, &[run], 6.0);
        assert!((cell.p50.ms - 30.0).abs() < 1e-9, "{cell:?}");
        assert!((cell.p999.ms - 2000.0).abs() < 1e-9, "no answer is as late as the deadline");
        assert_eq!((cell.decoded, cell.unanswered, cell.jobs_per_query), (0.25, 0.25, 1.5));
        assert!((cell.accuracy.unwrap() - 2.0 / 3.0).abs() < 1e-9, "of the answers that there are");
        assert_eq!((cell.curve[0], cell.curve[16]), ((0.0, 10.0), (1.0, 2000.0)));
    }
}
