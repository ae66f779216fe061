//! `bench virtual --grid`: the experiments of ParM's evaluation (SOSP 2019, section 5.2), under a virtual clock.
//!
//! Twelve model instances and 12/k for parity, jobs of about 25 ms, Poisson arrivals; pairs of instances that are slowed by shuffles, or two that
//! share their machine with another tenant. *Equal resources* has all of them as plain instances, which is the paper's baseline. Beside ParM stand
//! policies that the paper did not run.

use std::{
    fmt::{self, Display},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Order, VirtualOptions, measured, page::factor};
use crate::bench::{
    Env,
    cell::{self, Cell, OF_FEW},
    contender::{self, BASELINE, Contender},
    table::FEW,
    weather::Weather,
};

/// Model instances of every experiment.
const INSTANCES: usize = 12;
/// Queries a second of the sweeps.
const RATES: [u32; 9] = [150, 180, 210, 240, 270, 300, 330, 360, 390];
/// That of the experiments which vary something else.
const RATE: u32 = 270;
/// Pairs that are slow at once in most of them.
const PAIRS: u8 = 4;
/// What a further row of a batch costs, as a share of the first.
const BATCH_COST: f64 = 0.35;
/// Policies that are shown.
const SHOWN: [&str; 6] = [BASELINE, "ParM", "approximate", "coded, dedicated", "hedged", "adaptive"];

/// One policy in one experiment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GridCell {
    /// The paper's figure or section.
    pub experiment: String,
    /// What is varied, with its value.
    pub varied: String,
    /// Data slots.
    pub k: usize,
    /// Instances, parity's among them.
    pub lanes: usize,
    /// Queries a second.
    pub rate: f64,
    /// Rows of a batch, at most.
    pub batch: usize,
    /// The figures.
    pub cell: Cell,
}

/// All experiments.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GridReport {
    /// Time of one job, in milliseconds.
    pub service_ms: f64,
    /// Virtual seconds of a run.
    pub seconds: f64,
    /// Runs of each cell.
    pub seeds: u64,
    /// In the order of the paper.
    pub cells: Vec<GridCell>,
    /// Where it was made.
    pub env: Env,
}

/// One setting of one experiment.
struct Setting {
    experiment: &'static str,
    varied: String,
    k: usize,
    weather: Weather,
    rate: f64,
    batch: usize,
}

impl Setting {
    fn gap(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate)
    }
}

fn settings() -> Vec<Setting> {
    let usual = |experiment, varied| Setting {
        experiment,
        varied,
        k: 2,
        weather: Weather::Pairs(PAIRS),
        rate: f64::from(RATE),
        batch: 1,
    };
    let sweep = |experiment, weather| {
        RATES.into_iter().map(move |rate| Setting {
            rate: f64::from(rate),
            weather,
            ..usual(experiment, format!("{rate} queries/s"))
        })
    };
    let mut settings: Vec<Setting> = sweep("figure 9a: query rate", Weather::Pairs(PAIRS)).collect();
    settings.extend([2, 3, 4].map(|k| Setting { k, ..usual("figure 10: k", format!("k = {k}")) }));
    settings.extend([2, 3, 4, 5].map(|pairs| Setting {
        weather: Weather::Pairs(pairs),
        ..usual("figure 11: imbalance", format!("{pairs} pairs"))
    }));
    settings.extend(sweep("figure 12: light multitenancy", Weather::Tenants));
    settings.extend([1, 2, 4].map(|batch: u32| {
        // As busy as with single rows.
        let rate = 300.0 * f64::from(batch) / (1.0 + BATCH_COST * f64::from(batch - 1));
        let varied = format!("batch {batch}, {rate:.0} queries/s");
        Setting { rate, batch: batch as usize, ..usual("section 5.2.3: batch size", varied) }
    }));
    settings
}

/// Mean gaps between arrivals of all settings.
pub(super) fn gaps() -> impl Iterator<Item = Duration> {
    settings().into_iter().map(|setting| setting.gap())
}

/// Runs all of it, on all cores.
pub fn grid(options: &VirtualOptions, progress: &(dyn Fn(usize, usize) + Sync)) -> GridReport {
    let (settings, mut orders, mut of) = (settings(), Vec::new(), Vec::new());
    for (place, setting) in settings.iter().enumerate() {
        let lanes = INSTANCES + INSTANCES / setting.k;
        let shown = contender::all(setting.k, lanes).into_iter().filter(|contender| SHOWN.contains(&contender.name));
        for contender in shown {
            let k = contender.code.as_ref().map(|code| code.k);
            orders.push(order(setting, lanes, (k, contender), options));
            of.push((place, lanes));
        }
    }
    let (cells, env) = measured(options, &orders, progress);
    let cells = cells.into_iter().zip(of).map(|(cell, (place, lanes))| {
        let &Setting { experiment, ref varied, k, rate, batch, .. } = &settings[place];
        GridCell { experiment: experiment.to_owned(), varied: varied.clone(), k, lanes, rate, batch, cell }
    });
    let mut cells: Vec<GridCell> = cells.collect();
    // Gaps are set beside the baseline of the same setting alone.
    for setting in cells.chunk_by_mut(|a, b| (&a.experiment, &a.varied) == (&b.experiment, &b.varied)) {
        let mut alone: Vec<Cell> = setting.iter().map(|one| one.cell.clone()).collect();
        cell::compare(&mut alone);
        setting.iter_mut().zip(alone).for_each(|(one, cell)| one.cell = cell);
    }
    let (service_ms, seconds) = (cell::millis(options.service), options.span.as_secs_f64());
    GridReport { service_ms, seconds, seeds: options.seeds, cells, env }
}

fn order(
    setting: &Setting,
    lanes: usize,
    (k, contender): (Option<usize>, Contender),
    options: &VirtualOptions,
) -> Order {
    let batch_time = 1.0 + BATCH_COST * (setting.batch - 1) as f64;
    let load = setting.rate * options.service.as_secs_f64() * batch_time / setting.batch as f64 / lanes as f64;
    Order {
        weather: setting.weather,
        k,
        lanes,
        load,
        gap: setting.gap(),
        batch: (setting.batch, BATCH_COST),
        contender: Some(contender),
    }
}

impl GridReport {
    /// As JSON.
    ///
    /// # Panics
    ///
    /// If a figure is not a finite number, which would be a bug.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("plain data has a JSON form")
    }
}

impl Display for GridReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GridReport { service_ms, seconds, seeds, env, .. } = self;
        writeln!(
            f,
            "# ParM's evaluation, under a virtual clock\n\nMade by\n\n    {}\n\n\
             The settings of ParM's experiments (SOSP 2019, section 5.2): 12 instances and 12/k for parity, jobs of {service_ms} ms, Poisson arrivals, on parityd's own \
             core; {seeds} runs of {seconds} s a cell. `none` has all instances as plain ones (the paper's *Equal-Resources*). A pair that is slow runs 1.5 to 3 \
             times slower for 1 to 3 s; what the paper's shuffles did to an instance is not reported, so this is a guess. *Light multitenancy*: two \
             instances share their machine with another tenant's jobs, 14 a second each, which double the time of what runs meanwhile. A further row of a batch \
             costs {BATCH_COST} of the first, and rates grow so that lanes are as busy; ParM's authors waited for full batches, parityd does not. In the paper \
             ParM shortened the gap by up to 3.5 times at k = 2 and up to 2.5 at k = 3 and 4.\n\n\
             A cell is p50 / p99.9 in ms [gap p99.9 - p50 of `none` over the policy's own; jobs a query].",
            env.command
        )?;
        for experiment in self.cells.chunk_by(|a, b| a.experiment == b.experiment) {
            write!(f, "\n## {}\n\n| |", experiment[0].experiment)?;
            for policy in SHOWN {
                write!(f, " {policy} |")?;
            }
            writeln!(f, "\n|---|{}", "---|".repeat(SHOWN.len()))?;
            for setting in experiment.chunk_by(|a, b| a.varied == b.varied) {
                write!(f, "| {} |", setting[0].varied)?;
                for policy in SHOWN {
                    match setting.iter().find(|one| one.cell.policy == policy) {
                        Some(one) => write!(f, " {} |", entry(&one.cell))?,
                        None => write!(f, " |")?,
                    }
                }
                writeln!(f)?;
            }
        }
        if self.cells.iter().any(|one| one.cell.is_of_few()) {
            writeln!(f, "\n{FEW} {OF_FEW}.")?;
        }
        Ok(())
    }
}

fn entry(cell: &Cell) -> String {
    let lost = if cell.unanswered > 0.0 { format!(" {:.1} % lost", 100.0 * cell.unanswered) } else { String::new() };
    let [p50, _, p999] = cell.figures(0);
    format!("{p50} / {p999} [{}; {:.2}]{lost}", factor(cell), cell.jobs_per_query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_the_papers() {
        let settings = settings();
        let of = |start: &str| settings.iter().filter(|setting| setting.experiment.starts_with(start)).count();
        assert_eq!(
            (of("figure 9a"), of("figure 10"), of("figure 11"), of("figure 12"), of("section")),
            (9, 3, 4, 9, 3)
        );
        let busy =
            |setting: &Setting| setting.rate * (1.0 + BATCH_COST * (setting.batch - 1) as f64) / setting.batch as f64;
        assert!(settings.iter().filter(|one| one.batch > 1).all(|one| (busy(one) - 300.0).abs() < 1e-9));
    }
}
