//! `bench virtual`: every policy in every weather at every load, on the daemon's own core under a virtual clock.
//!
//! What is compared differs in one thing at a time: all policies get the same lanes, the same arrivals and, under the same seed, the same
//! weather. Latency counts from arrival; a query without an answer counts as its deadline. A figure is the quantile over all seeds, its interval
//! Student's over the quantiles of the single seeds, which are independent; five seeds make it wide rather than narrow.

mod contender;
mod oracle;
mod page;
mod targets;
mod weather;

pub use page::Page;

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{BenchError, Env};
use crate::{
    query::Provenance,
    sim::{Ended, Model, Outcome, Scenario, run},
};
use contender::{BASELINE, Contender};
use weather::Weather;

/// Lanes of every policy: those of ParM's twelve base and six parity instances.
const LANES: usize = 18;
/// A query that is not answered counts as this.
const DEADLINE: Duration = Duration::from_secs(2);
/// Student's t for a 95 % interval by degrees of freedom (from 1).
const STUDENT: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];

/// What [`simulate`] does.
#[derive(Clone, PartialEq, Debug)]
pub struct VirtualOptions {
    /// Shares (0 to 1) of what all lanes can carry.
    pub loads: Vec<f64>,
    /// Numbers of data slots.
    pub ks: Vec<usize>,
    /// Letters of the scenarios; all if empty.
    pub scenarios: String,
    /// Names of the policies; all if empty.
    pub policies: Vec<String>,
    /// Time of one job.
    pub service: Duration,
    /// Virtual time of one run.
    pub span: Duration,
    /// Runs of each cell, seeded from `seed` on.
    pub seeds: u64,
    /// The first seed.
    pub seed: u64,
    /// The command line, for the result.
    pub command: String,
}

/// One figure over all seeds, in milliseconds, and half its 95 % interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Quantile {
    /// The figure.
    pub ms: f64,
    /// Half of its interval; `null` with one seed.
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
    /// Shares of queries answered by what was decoded (`reconstructed` and `approximate`), and not at all.
    pub decoded: f64,
    /// Share of queries without an answer.
    pub unanswered: f64,
    /// Jobs that lanes ran for each query.
    pub jobs_per_query: f64,
    /// Queries of all seeds.
    pub queries: usize,
}

/// All cells, and what they were made by.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VirtualReport {
    /// Time of one job, in milliseconds.
    pub service_ms: f64,
    /// Lanes of every policy.
    pub lanes: usize,
    /// Virtual seconds of a run.
    pub seconds: f64,
    /// Runs of each cell.
    pub seeds: u64,
    /// The cells.
    pub cells: Vec<Cell>,
    /// Queries of all runs for each second of wall time.
    pub queries_per_second: f64,
    /// Where it was made.
    pub env: Env,
}

impl VirtualReport {
    /// What an earlier run wrote as JSON.
    pub fn read(file: &Path) -> Result<Self, BenchError> {
        let bytes = fs::read(file).map_err(|error| BenchError::Unread { file: file.to_path_buf(), error })?;
        let wrong = |problem: String| BenchError::NoResult { file: file.to_path_buf(), command: "virtual", problem };
        serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))
    }
}

/// What is to be run for one cell.
#[derive(Clone, Debug)]
struct Order {
    weather: Weather,
    k: Option<usize>,
    load: f64,
    /// `None` is the oracle.
    contender: Option<Contender>,
}

/// Runs all cells, on all cores.
pub fn simulate(options: &VirtualOptions, progress: &(dyn Fn(usize, usize) + Sync)) -> VirtualReport {
    let orders = orders(options);
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    let cells = Mutex::new(vec![None; orders.len()]);
    let clock = crate::clock::Clock::start();
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, order)) = take(&next, &orders) {
                    let cell = cell(options, order);
                    cells.lock()[index] = Some(cell);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, orders.len());
                }
            });
        }
    });
    let mut cells: Vec<Cell> = cells.into_inner().into_iter().flatten().collect();
    let queries: usize = cells.iter().map(|cell| cell.queries).sum();
    compare(&mut cells);
    VirtualReport {
        service_ms: millis(options.service),
        lanes: LANES,
        seconds: options.span.as_secs_f64(),
        seeds: options.seeds,
        cells,
        queries_per_second: queries as f64 / clock.now().since(crate::clock::Time::ZERO).as_secs_f64(),
        env: Env::read(&options.command, options.seed),
    }
}

fn take<'o>(next: &AtomicUsize, orders: &'o [Order]) -> Option<(usize, &'o Order)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    orders.get(index).map(|order| (index, order))
}

fn orders(options: &VirtualOptions) -> Vec<Order> {
    let wanted = |weather: &Weather| options.scenarios.is_empty() || options.scenarios.contains(&weather.to_string());
    let named = |name: &str| options.policies.is_empty() || options.policies.iter().any(|policy| policy == name);
    let mut orders = Vec::new();
    for weather in Weather::ALL.into_iter().filter(wanted) {
        for &load in &options.loads {
            let mut add = |k: Option<usize>, contender: Option<Contender>| {
                if named(contender.as_ref().map_or("oracle", |contender| contender.name)) {
                    orders.push(Order { weather, k, load, contender });
                }
            };
            for (place, &k) in options.ks.iter().enumerate() {
                let contenders = if place == 0 { contender::all(k, LANES) } else { contender::coded(k, LANES) };
                for contender in contenders {
                    add(contender.code.as_ref().map(|code| code.k), Some(contender));
                }
            }
            add(None, None);
        }
    }
    orders
}

/// Time from arrival, and whether it was decoded.
struct Latency {
    time: Duration,
    decoded: bool,
    answered: bool,
}

fn cell(options: &VirtualOptions, order: &Order) -> Cell {
    let gap = options.service.div_f64(order.load * LANES as f64);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of queries")]
    let queries = (options.span.as_secs_f64() / gap.as_secs_f64()) as usize;
    let (mut seeds, mut jobs) = (Vec::new(), 0);
    for seed in options.seed..options.seed + options.seeds {
        // Twice the span: queries that are late run beyond it.
        let courses = order.weather.courses(LANES, 2 * options.span, seed);
        let Some(contender) = &order.contender else {
            let faults = order.weather.faults(options.service);
            let times = oracle::latencies(&courses, faults, (queries, gap), options.service, seed);
            jobs += queries;
            let latency = |time: Duration| Latency { time: time.min(DEADLINE), decoded: false, answered: true };
            seeds.push(times.into_iter().map(latency).collect::<Vec<_>>());
            continue;
        };
        let scenario = Scenario {
            roles: contender.roles.clone(),
            code: contender.code.clone(),
            queries,
            gap,
            service: options.service,
            model: Model::Null,
            faults: order.weather.faults(options.service),
            courses,
            deadline: DEADLINE,
            policy: contender.policy.clone(),
            health: contender.health,
            ..Scenario::quiet(seed)
        };
        let outcome = run(&scenario);
        jobs += outcome.jobs;
        seeds.push(latencies(&outcome));
    }
    summary(order, &seeds, jobs)
}

fn latencies(outcome: &Outcome) -> Vec<Latency> {
    let latency = |ended: &Ended| match &ended.answer {
        Ok(prediction) => {
            let decoded = matches!(prediction.provenance, Provenance::Reconstructed | Provenance::Approximate);
            Latency { time: ended.latency, decoded, answered: true }
        }
        Err(_) => Latency { time: DEADLINE, decoded: false, answered: false },
    };
    outcome.ended.iter().map(latency).collect()
}

fn summary(order: &Order, seeds: &[Vec<Latency>], jobs: usize) -> Cell {
    let sorted: Vec<Vec<f64>> = seeds
        .iter()
        .map(|seed| {
            let mut times: Vec<f64> = seed.iter().map(|latency| millis(latency.time)).collect();
            times.sort_unstable_by(f64::total_cmp);
            times
        })
        .collect();
    let mut all: Vec<f64> = sorted.iter().flatten().copied().collect();
    all.sort_unstable_by(f64::total_cmp);
    let quantile = |share: f64| {
        let of_seeds: Vec<f64> = sorted.iter().map(|times| at(times, share)).collect();
        Quantile { ms: at(&all, share), half: half_interval(&of_seeds) }
    };
    let (p50, p99, p999) = (quantile(0.5), quantile(0.99), quantile(0.999));
    let share = |holds: fn(&Latency) -> bool| {
        seeds.iter().flatten().filter(|latency| holds(latency)).count() as f64 / all.len() as f64
    };
    Cell {
        scenario: order.weather.to_string(),
        k: order.k,
        load: order.load,
        policy: order.contender.as_ref().map_or("oracle", |contender| contender.name).to_owned(),
        p50,
        p99,
        p999,
        gap_ms: p999.ms - p50.ms,
        gap_factor: None,
        decoded: share(|latency| latency.decoded),
        unanswered: share(|latency| !latency.answered),
        jobs_per_query: jobs as f64 / all.len() as f64,
        queries: all.len(),
    }
}

/// The value below which `share` of sorted values lie.
fn at(sorted: &[f64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (share * sorted.len() as f64) as usize;
    sorted.get(index).or(sorted.last()).copied().unwrap_or(0.0)
}

fn half_interval(values: &[f64]) -> Option<f64> {
    let freedom = values.len().checked_sub(1).filter(|&freedom| freedom > 0)?;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / freedom as f64;
    let student = STUDENT.get(freedom - 1).copied().unwrap_or(1.96);
    Some(student * (variance / values.len() as f64).sqrt())
}

/// Sets every gap beside that of equal resources.
fn compare(cells: &mut [Cell]) {
    let baselines: Vec<(String, f64, f64)> = cells
        .iter()
        .filter(|cell| cell.policy == BASELINE)
        .map(|cell| (cell.scenario.clone(), cell.load, cell.gap_ms))
        .collect();
    for cell in cells.iter_mut().filter(|cell| cell.policy != BASELINE) {
        let same =
            |(scenario, load, _): &&(String, f64, f64)| *scenario == cell.scenario && (load - cell.load).abs() < 1e-9;
        cell.gap_factor = baselines.iter().find(same).map(|(_, _, gap)| gap / cell.gap_ms.max(1e-3));
    }
}

fn millis(duration: Duration) -> f64 {
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

    /// What `facts` of the literature and our first simulation agree on: in weather B, hedges by progress end the tail that slow lanes make, at
    /// next to no extra jobs, and ParM's dedicated lanes shorten it.
    #[test]
    fn the_order_of_policies_is_what_it_should_be() {
        let options = VirtualOptions {
            loads: vec![0.38],
            ks: vec![2],
            scenarios: "B".to_owned(),
            policies: vec![BASELINE.to_owned(), "ParM".to_owned(), contender::DEFAULT.to_owned(), "oracle".to_owned()],
            service: Duration::from_millis(25),
            span: Duration::from_secs(20),
            seeds: 2,
            seed: 1,
            command: String::new(),
        };
        let report = simulate(&options, &|_, _| ());
        let of = |name: &str| report.cells.iter().find(|cell| cell.policy == name).unwrap();
        let (none, parm, hedged, oracle) = (of(BASELINE), of("ParM"), of(contender::DEFAULT), of("oracle"));
        assert!(none.p999.ms > 4.0 * hedged.p999.ms, "{none:?} {hedged:?}");
        assert!(none.p999.ms > 1.3 * parm.p999.ms, "{parm:?}");
        assert!(hedged.p999.ms >= 0.95 * oracle.p999.ms, "{oracle:?}");
        assert!(hedged.jobs_per_query < 1.1 && hedged.decoded == 0.0);
        assert!(parm.jobs_per_query > 1.3 && parm.decoded > 0.05);
    }
}
