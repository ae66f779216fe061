//! Two results side by side: ratios b/a, each with the interval that the noise within the runs leaves open.
//!
//! Runs that differ in anything but what is being compared are refused by default, because a ratio of unlike runs looks just as exact.
//! `interval` says how intervals come about. They know nothing of what differed between the runs as a whole, such as a neighbour on
//! the machine, so a difference is believed when it comes back in a second pair of runs.

mod interval;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use super::{
    BenchError, Report,
    report::QUANTILES,
    table::{FEW, LATE, aligned},
};
use interval::{Interval, Runs};

/// What must be alike in the loads. Faults, server and `allow_reconstructed` may differ: they are what is compared.
const LOAD_FIELDS: [&str; 8] = ["model", "rate", "seconds", "arrivals", "seed", "rows", "deadline_ms", "data"];

/// What must be alike in the environments. Version and commit may differ: two builds are compared.
const ENV_FIELDS: [&str; 5] = ["cpu", "kernel", "governor", "features", "gpu"];

/// Intervals that rest on fewer windows are too narrow.
const WINDOWS_MIN: usize = 20;

/// What [`compare`] does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompareOptions {
    /// The run that is divided by.
    pub a: PathBuf,
    /// The run that is divided.
    pub b: PathBuf,
    /// Compare unlike and void runs, too.
    pub anyway: bool,
    /// Seed of the resampling.
    pub seed: u64,
}

/// One figure of both runs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Ratio {
    /// What is compared.
    pub name: &'static str,
    /// In the first run; `null` if it is not known.
    pub a: Option<f64>,
    /// In the second.
    pub b: Option<f64>,
    /// b / a.
    pub ratio: Option<f64>,
    /// Its 95 % interval; `null` where it has no end.
    pub interval: Option<[f64; 2]>,
    /// Whether the interval leaves out 1.
    pub differs: Option<bool>,
    /// Whether fewer than ten requests lie beyond this percentile in either run.
    pub few_samples: bool,
    /// Whether more than a quarter of this percentile may be the client's lateness in either run.
    pub late_client: bool,
}

/// Two runs compared.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Comparison {
    /// The first file.
    pub a: PathBuf,
    /// The second file.
    pub b: PathBuf,
    /// Whether the same seconds of both were drawn together, which the same schedule allows.
    pub paired: bool,
    /// How often the seconds were drawn.
    pub resamples: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// What weakens the comparison.
    pub notes: Vec<String>,
    /// The figures.
    pub ratios: Vec<Ratio>,
}

/// Compares two files that `bench http --json` wrote.
pub fn compare(options: &CompareOptions) -> Result<Comparison, BenchError> {
    let (a, b) = (read(&options.a)?, read(&options.b)?);
    let faults = faults(options, &a, &b);
    if !faults.is_empty() && !options.anyway {
        return Err(BenchError::Unlike { faults });
    }
    let schedule = ["rate", "seconds", "arrivals", "seed", "rows", "data"];
    let paired = differences(&a.load, &b.load, &schedule).is_empty() && a.windows.len() == b.windows.len();
    let runs = Runs::new(&a.windows, &b.windows, paired);
    let mut notes = faults;
    let windows = a.windows.len().min(b.windows.len());
    if windows < WINDOWS_MIN {
        notes.push(format!("{windows} seconds are few: intervals from fewer than {WINDOWS_MIN} are too narrow"));
    }
    Ok(Comparison {
        a: options.a.clone(),
        b: options.b.clone(),
        paired,
        resamples: interval::RESAMPLES,
        seed: options.seed,
        notes,
        ratios: ratios(&a, &b, &runs, options.seed),
    })
}

fn read(file: &Path) -> Result<Report, BenchError> {
    let bytes = fs::read(file).map_err(|error| BenchError::Unread { file: file.to_path_buf(), error })?;
    let wrong = |problem: String| BenchError::NoResult { file: file.to_path_buf(), command: "http", problem };
    let report: Report = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    if report.windows.is_empty() { Err(wrong("it holds no windows".to_owned())) } else { Ok(report) }
}

/// All that speaks against comparing these runs.
fn faults(options: &CompareOptions, a: &Report, b: &Report) -> Vec<String> {
    let void = |file: &Path, report: &Report| {
        let reason = report.void_reason.clone().unwrap_or_else(|| "it does not say why".to_owned());
        report.void.then(|| format!("{} is void ({reason})", file.display()))
    };
    let mut faults: Vec<String> = void(&options.a, a).into_iter().chain(void(&options.b, b)).collect();
    faults.extend(differences(&a.load, &b.load, &LOAD_FIELDS));
    faults.extend(differences(&a.env, &b.env, &ENV_FIELDS));
    faults
}

/// `field is x in the first and y in the second` for each of `fields` that differs.
fn differences<T: Serialize>(a: &T, b: &T, fields: &[&str]) -> Vec<String> {
    let value = |side: &T| serde_json::to_value(side).unwrap_or(Value::Null);
    let (a, b) = (value(a), value(b));
    let differing = fields.iter().filter(|field| a[**field] != b[**field]);
    differing.map(|field| format!("{field} is {} in the first and {} in the second", a[*field], b[*field])).collect()
}

fn ratios(a: &Report, b: &Report, runs: &Runs, seed: u64) -> Vec<Ratio> {
    let intervals = runs.intervals(seed);
    let few = |name: &str| [a, b].iter().any(|run| run.percentiles_with_few_samples.iter().any(|few| few == name));
    let late = |name: &str| [a, b].iter().any(|run| run.percentiles_with_late_client.iter().any(|late| late == name));
    let [first, second] = runs.figures();
    let mut ratios = Vec::new();
    for (place, (name, _)) in QUANTILES.iter().take(interval::LATENCIES).enumerate() {
        let [a, b] = [first, second].map(|figures| figures.get(place).copied());
        let ratio = Ratio::new(name, [a, b], intervals.get(place).copied());
        ratios.push(Ratio { few_samples: few(name), late_client: late(name), ..ratio });
    }
    let answered = [a, b].map(|run| run.answered as f64 / run.sent as f64);
    let widest = intervals[interval::ANSWERED].around(Interval::of_shares([a.answered, b.answered], [a.sent, b.sent]));
    ratios.push(Ratio::new("answered", answered.map(Some), Some(widest)));
    let accuracy = intervals.get(interval::ACCURACY).copied();
    ratios.push(Ratio::new("accuracy", [a.accuracy, b.accuracy], accuracy));
    let jobs = a.jobs.zip(b.jobs).map(|(a, b)| Interval::of_counts([a, b], runs.rows()));
    ratios.push(Ratio::new("jobs per query", [a.jobs_per_query, b.jobs_per_query], jobs));
    ratios
}

impl Ratio {
    fn new(name: &'static str, [a, b]: [Option<f64>; 2], interval: Option<Interval>) -> Self {
        let ratio = a.zip(b).map(|(a, b)| b / a).filter(|ratio| ratio.is_finite());
        let interval = interval.filter(|interval| ratio.is_some() && interval.is_bounded());
        let differs = interval.map(|Interval { low, high }| low > 1.0 || high < 1.0);
        let interval = interval.map(|Interval { low, high }| [low, high]);
        Ratio { name, a, b, ratio, interval, differs, few_samples: false, late_client: false }
    }

    fn cells(&self) -> Vec<String> {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
        let few = if self.few_samples { FEW } else { "" };
        let late = if self.late_client { LATE } else { "" };
        let interval = self.interval.map_or_else(|| "-".to_owned(), |[low, high]| format!("{low:.3} to {high:.3}"));
        let verdict = match (self.differs, self.ratio) {
            (Some(false), _) => "no difference shown",
            (Some(true), Some(ratio)) if ratio > 1.0 => "b is higher",
            (Some(true), _) => "b is lower",
            (None, _) => "not known",
        };
        vec![
            format!("{few}{late}{}", self.name),
            number(self.a),
            number(self.b),
            number(self.ratio),
            interval,
            verdict.to_owned(),
        ]
    }
}

impl Comparison {
    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("comparisons hold numbers, strings and lists")
    }

    /// As a table, with what weakens it below.
    pub fn table(&self) -> String {
        let head = ["latencies in ms", "a", "b", "b/a", "95 %", "verdict"].map(str::to_owned).to_vec();
        let lines: Vec<_> = std::iter::once(head).chain(self.ratios.iter().map(Ratio::cells)).collect();
        let few = self.ratios.iter().any(|ratio| ratio.few_samples);
        let few = few.then(|| format!("{FEW} fewer than 10 requests lie beyond it in one of the runs"));
        let late = self.ratios.iter().any(|ratio| ratio.late_client);
        let late =
            late.then(|| format!("{LATE} more than a quarter of it may be the client's lateness in one of the runs"));
        let files = format!("a: {}\nb: {}\n", self.a.display(), self.b.display());
        let notes = self.notes.iter().map(|note| format!("note: {note}"));
        [files, aligned(&lines)].into_iter().chain(few).chain(late).chain(notes).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests;
