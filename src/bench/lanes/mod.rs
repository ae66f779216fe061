//! `bench lanes`: the policies in real time, with the daemon's own threads, queues, codes and models.
//!
//! *Emulated* lanes stand for devices: only their service times are drawn, as in `bench virtual`, by one timer. All policies run at once, each with lanes of
//! its own, under the same weather and the same arrivals, so that whatever disturbs the machine disturbs them alike. Each cell is then set
//! beside its twin in virtual time: if the simulator is right, they agree. How late lanes and client were is part of the result; more than 4 % of a
//! job makes it void, and a calibration beforehand chooses jobs long enough for this machine.
//!
//! *Real* lanes are those of a configuration, with the weather injected as faults, one policy after the other. Their jobs may be so short that the client is a good part
//! of a figure: it is marked and void by the rule of `bench http`.

mod agreement;
mod client;
mod daemon;
mod device;
mod emulated;
mod html;
mod lateness;
mod page;
mod real;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use agreement::Agreement;
pub use lateness::Lateness;
pub use page::LanesPage;

use super::{
    BenchError, Env,
    cell::{self, Cell, OF_FEW},
    contender::{self, Contender},
    simulated::Order,
    table::{FEW, LATE},
    weather::Weather,
};
use crate::{
    data,
    query::Rows,
    serve::{Plan, StartFaults},
};
use client::Labelled;

/// The policies that are measured unless others are named: those that `bench virtual` is held to.
pub const FIVE: [&str; 5] = ["none", "ParM", "hedged", "coded, pooled", "adaptive"];

/// Lateness of a valid run at most, as a share of a job's time.
const LATE_MAX: f64 = 0.04;

/// What lateness is told by: figures are of p99, so is this.
const LATE_SHARE: f64 = 0.99;

/// Distinct rows that are sent.
const ROWS: usize = 2_000;

/// Rows that are sent where all are alike: few, since one may be large.
const ROWS_ALIKE: usize = 64;

/// What [`lanes`] does.
#[derive(Clone, PartialEq, Debug)]
pub struct LanesOptions {
    /// Real lanes: those of this configuration.
    pub real: Option<PathBuf>,
    /// Weights of emulated lanes.
    pub weights: PathBuf,
    /// Images to send; else those that are found, else random rows.
    pub data: Option<PathBuf>,
    /// Share (0 to 1) of what all lanes can carry.
    pub load: f64,
    /// Data slots of a stripe.
    pub k: usize,
    /// Letters of the scenarios.
    pub scenarios: String,
    /// Names of the policies; [`FIVE`] if empty.
    pub policies: Vec<String>,
    /// Time of an emulated job; found by calibration if `None`.
    pub service: Option<Duration>,
    /// Length of one run.
    pub span: Duration,
    /// Runs of each scenario, seeded from `seed` on.
    pub runs: u64,
    /// The first seed.
    pub seed: u64,
    /// The command line, for the result.
    pub command: String,
}

impl LanesOptions {
    /// Whether runs with jobs of the length that was asked for, if one was, have queries, and no more than are held in memory.
    pub fn check(&self) -> Result<(), BenchError> {
        let queries = |service| cell::queries(self.span, Order::gap(service, self.load), self.runs);
        self.service.map(queries).transpose().map(drop)
    }
}

/// What a calibration found of one base time.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// The base time.
    pub service_ms: f64,
    /// p99 of how late lanes came back.
    pub lanes_late_ms: f64,
    /// p99 of how late queries were sent.
    pub client_late_ms: f64,
}

impl Trial {
    fn late_ms(&self) -> f64 {
        self.lanes_late_ms.max(self.client_late_ms)
    }

    /// Whether figures of jobs of this length mean something.
    pub fn is_good(&self) -> bool {
        self.late_ms() <= LATE_MAX * self.service_ms
    }
}

/// All cells, and what they were made by.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LanesReport {
    /// Whether lanes stood for other devices.
    pub emulated: bool,
    /// Time of one job, drawn or (for real lanes) measured.
    pub service_ms: f64,
    /// Lanes of every policy.
    pub lanes: usize,
    /// Seconds of a run.
    pub seconds: f64,
    /// Runs of each cell.
    pub runs: u64,
    /// The weights.
    pub weights: String,
    /// Base times that were tried, shortest first.
    pub calibration: Vec<Trial>,
    /// The worst run's lateness.
    pub worst: Trial,
    /// The client's in each cell of real lanes.
    #[serde(default)]
    pub lateness: Vec<Lateness>,
    /// Why nothing should be concluded from it.
    pub void_reason: Option<String>,
    /// The cells.
    pub cells: Vec<Cell>,
    /// The same in virtual time; empty for real lanes.
    pub virtual_cells: Vec<Cell>,
    /// Real over virtual time.
    pub agreements: Vec<Agreement>,
    /// Where it was made.
    pub env: Env,
}

/// Measures; `progress` hears how many runs of how many are over.
pub fn lanes(options: &LanesOptions, progress: &dyn Fn(usize, usize)) -> Result<LanesReport, BenchError> {
    let mut report = match &options.real {
        None => emulated::measure(options, progress)?,
        Some(config) => real::measure(options, config, progress)?,
    };
    cell::compare(&mut report.cells);
    cell::compare(&mut report.virtual_cells);
    Ok(report)
}

/// The policies that were asked for, on so many lanes.
fn contenders(options: &LanesOptions, lanes: usize) -> Result<Vec<Contender>, BenchError> {
    let all = contender::all(options.k, lanes);
    let five = FIVE.map(str::to_owned).to_vec();
    let names = if options.policies.is_empty() { &five } else { &options.policies };
    let find = |name: &String| {
        let known = || all.iter().map(|contender| contender.name).collect::<Vec<_>>().join("; ");
        let found = all.iter().find(|contender| contender.name == name).cloned();
        found.ok_or_else(|| BenchError::NoPolicy { name: name.clone(), known: known() })
    };
    names.iter().map(find).collect()
}

/// Why nothing is known of a cell: not one of its queries was answered.
fn unanswered(cells: &[Cell]) -> Option<String> {
    let silent = cells.iter().find(|cell| cell.unanswered >= 1.0)?;
    let Cell { policy, scenario, .. } = silent;
    Some(format!("no query of {policy} in {scenario} was answered: there is no latency to speak of"))
}

fn weathers(options: &LanesOptions) -> Vec<Weather> {
    Weather::ALL.into_iter().filter(|weather| options.scenarios.contains(&weather.to_string())).collect()
}

/// Rows to send: test images that fit the model, with their classes, or rows of which nobody knows what they show.
fn rows(options: &LanesOptions, plan: &Plan) -> Result<Vec<Labelled>, BenchError> {
    let signature = plan.signature();
    let width = signature.input.width();
    let row = |values: &[f32]| Rows::new(values, width).expect("a row of the model's width is one row");
    match (data::test(&data::locate(options.data.as_deref())), &options.data) {
        (Ok(images), _) if images.width() == width => {
            let labelled = |at: usize| (row(images.row(at)), images.labels.get(at).copied());
            Ok((0..images.count().min(ROWS)).map(labelled).collect())
        }
        (Ok(images), Some(_)) => Err(BenchError::OtherData { model: signature.name, width: images.width() }),
        (Err(error), Some(_)) => Err(error.into()),
        (Ok(_) | Err(_), None) => {
            tracing::warn!("no images that fit the model were found: every row is the same, so there is no accuracy");
            let (lowest, highest) = signature.input_range;
            // Alike and not one and the same, which would be no partner of itself in a stripe.
            let alike = vec![f32::midpoint(lowest, highest); width];
            Ok((0..ROWS_ALIKE).map(|_| (row(&alike), None)).collect())
        }
    }
}

/// A configuration as `serve` would read it.
fn config(path: &Path) -> Result<crate::config::Config, BenchError> {
    Ok(crate::config::Config::load(path).map_err(StartFaults::Config)?)
}

impl LanesReport {
    /// What an earlier run wrote as JSON.
    pub fn read(file: &Path) -> Result<Self, BenchError> {
        super::read(file, "lanes")
    }

    /// Which of p50, p99 and p99.9 of a cell owe a good part to the client.
    fn late(&self, cell: &Cell) -> [bool; 3] {
        let late = self.lateness.iter().find(|late| late.is_of(cell));
        late.map_or([false; 3], |late| late.marks(cell))
    }

    /// The three, each marked if it does, or if too few queries lie beyond it.
    fn figures(&self, cell: &Cell) -> [String; 3] {
        let mut figures = cell.figures(1);
        for (figure, is_late) in figures.iter_mut().zip(self.late(cell)) {
            if is_late {
                figure.insert_str(0, LATE);
            }
        }
        figures
    }

    /// What the marks mean, where there are any.
    fn legend(&self) -> impl Iterator<Item = String> {
        let late = self.cells.iter().any(|cell| self.late(cell).contains(&true));
        let late = late.then(|| format!("{LATE} more than a quarter of it may be the lateness of this client."));
        let few = self.cells.iter().any(Cell::is_of_few).then(|| format!("{FEW} {OF_FEW}."));
        late.into_iter().chain(few)
    }

    /// As JSON.
    ///
    /// # Panics
    ///
    /// If a figure is not a finite number, which would be a bug.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("plain data has a JSON form")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cell::{Latency, Place};

    #[test]
    fn a_cell_without_an_answer_is_void() {
        let answered = Latency { time: Duration::from_millis(20), decoded: false, answered: true, right: None };
        let cell = |policy, run: Vec<Latency>| {
            Cell::new(&Place { weather: Weather::B, k: None, load: 0.3, policy }, &[run], 0.0)
        };
        let some = cell("none", vec![answered, Latency::NONE]);
        assert_eq!(unanswered(std::slice::from_ref(&some)), None);
        let told = unanswered(&[some, cell("hedged", vec![Latency::NONE; 3])]);
        assert!(told.is_some_and(|told| told.starts_with("no query of hedged in B was answered")));
    }
}
