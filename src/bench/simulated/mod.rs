//! `bench virtual`: every policy in every weather at every load, on the daemon's own core under a virtual clock.
//!
//! What is compared differs in one thing at a time: all policies get the same lanes, the same arrivals and, under the same seed, the same
//! weather. Latency counts from arrival; a query without an answer counts as its deadline.

mod grid;
mod html;
mod oracle;
mod page;
mod targets;
mod timeline;

pub use grid::{GridCell, GridReport, grid};
pub use page::Page;
pub use timeline::Timeline;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    BenchError, Env, Watch,
    cell::{self, Cell, DEADLINE, Latency, Place, millis},
    contender::{self, Contender},
    weather::Weather,
    worth::Worth,
};
use crate::{
    query::Provenance,
    sim::{Ended, Model, Outcome, Scenario, run},
};

/// Lanes of every policy: those of ParM's twelve base and six parity instances.
pub(super) const LANES: usize = 18;

/// What the tables call the bound without redundancy.
pub(super) const ORACLE: &str = "oracle";

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
    /// The folder of weights whose recorded accuracies answers are worth.
    pub weights: PathBuf,
    /// The command line, for the result.
    pub command: String,
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
    /// What a hang looks like, if scenario C was run.
    #[serde(default)]
    pub timeline: Option<Timeline>,
    /// Queries of all runs for each second of wall time.
    pub queries_per_second: f64,
    /// Where it was made.
    pub env: Env,
}

impl VirtualOptions {
    /// Whether every run of [`simulate`] has queries, and no more than are held in memory.
    pub fn check(&self) -> Result<(), BenchError> {
        let gap = |&load: &f64| Order::gap(self.service, load);
        self.loads.iter().map(gap).try_for_each(|gap| cell::queries(self.span, gap, self.seeds).map(drop))
    }

    /// The same of [`grid()`].
    pub fn check_grid(&self) -> Result<(), BenchError> {
        grid::gaps().try_for_each(|gap| cell::queries(self.span, gap, self.seeds).map(drop))
    }
}

impl VirtualReport {
    /// What an earlier run wrote as JSON.
    pub fn read(file: &Path) -> Result<Self, BenchError> {
        let mut report: VirtualReport = super::read(file, "virtual")?;
        cell::compare(&mut report.cells);
        Ok(report)
    }
}

/// What is to be run for one cell.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) weather: Weather,
    pub(super) k: Option<usize>,
    pub(super) lanes: usize,
    pub(super) load: f64,
    /// Mean gap between arrivals.
    pub(super) gap: Duration,
    /// Rows of a batch at most, and what each beyond the first costs as a share of that.
    pub(super) batch: (usize, f64),
    /// `None` is the oracle.
    pub(super) contender: Option<Contender>,
}

/// Runs all cells, on all cores.
pub fn simulate(options: &VirtualOptions, progress: &(dyn Fn(usize, usize) + Sync)) -> VirtualReport {
    let clock = crate::clock::Clock::start();
    let (mut cells, env) = measured(options, &orders(options), progress);
    let queries: usize = cells.iter().map(|cell| cell.queries).sum();
    let queries_per_second = queries as f64 / clock.now().since(crate::clock::Time::ZERO).as_secs_f64();
    cell::compare(&mut cells);
    let hangs = cells.iter().any(|cell| cell.scenario == "C");
    VirtualReport {
        service_ms: millis(options.service),
        lanes: LANES,
        seconds: options.span.as_secs_f64(),
        seeds: options.seeds,
        cells,
        timeline: if hangs { timeline::timeline(options, &Worth::of(&options.weights)) } else { None },
        queries_per_second,
        env,
    }
}

/// Runs orders on all cores; a cell each, in their order.
fn measured(options: &VirtualOptions, orders: &[Order], progress: &(dyn Fn(usize, usize) + Sync)) -> (Vec<Cell>, Env) {
    let (watch, worth) = (Watch::start(), Worth::of(&options.weights));
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let cells = Mutex::new(vec![None; orders.len()]);
    let workers = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, order)) = take(&next, orders) {
                    let cell = cell(options, order, &worth);
                    cells.lock()[index] = Some(cell);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, orders.len());
                }
            });
        }
    });
    let cells = cells.into_inner().into_iter().flatten().collect();
    (cells, Env::read(&options.command, options.seed, &watch))
}

impl Order {
    /// Single jobs on the usual number of lanes.
    pub(super) fn new(
        weather: Weather,
        (k, load): (Option<usize>, f64),
        service: Duration,
        contender: Option<Contender>,
    ) -> Self {
        Order { weather, k, lanes: LANES, load, gap: Order::gap(service, load), batch: (1, 0.0), contender }
    }

    /// The mean gap between arrivals at which so much of all lanes' time is asked for.
    pub(super) fn gap(service: Duration, load: f64) -> Duration {
        service.div_f64(load * LANES as f64)
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
                if named(contender.as_ref().map_or(ORACLE, |contender| contender.name)) {
                    orders.push(Order::new(weather, (k, load), options.service, contender));
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

fn cell(options: &VirtualOptions, order: &Order, worth: &Worth) -> Cell {
    let (runs, jobs) = runs(options, order, worth);
    let policy = order.contender.as_ref().map_or(ORACLE, |contender| contender.name);
    Cell::new(&Place { weather: order.weather, k: order.k, load: order.load, policy }, &runs, jobs)
}

/// The latencies of each run of an order, and the jobs of all.
pub(super) fn runs(options: &VirtualOptions, order: &Order, worth: &Worth) -> (Vec<Vec<Latency>>, f64) {
    let gap = order.gap;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of queries")]
    let queries = (options.span.as_secs_f64() / gap.as_secs_f64()) as usize;
    let (mut runs, mut jobs) = (Vec::new(), 0.0);
    for seed in (0..options.seeds).map(|run| options.seed.wrapping_add(run)) {
        // Twice the span: queries that are late run beyond it.
        let courses = order.weather.courses(order.lanes, 2 * options.span, seed);
        let Some(contender) = &order.contender else {
            let faults = order.weather.faults(options.service);
            let times = oracle::latencies(&courses, faults, (queries, gap), options.service, seed);
            jobs += queries as f64;
            let right = worth.direct();
            let latency = |time: Duration| Latency { time: time.min(DEADLINE), decoded: false, answered: true, right };
            runs.push(times.into_iter().map(latency).collect());
            continue;
        };
        let scenario = Scenario {
            roles: contender.roles.clone(),
            code: contender.code.clone(),
            parity_cost: contender.parity_cost,
            batch_max: order.batch.0,
            batch_cost: order.batch.1,
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
        jobs += outcome.work;
        runs.push(latencies(&outcome, contender, worth));
    }
    (runs, jobs)
}

fn latencies(outcome: &Outcome, contender: &Contender, worth: &Worth) -> Vec<Latency> {
    let decoding = contender.code.as_ref().and_then(|code| worth.decoded(code));
    let latency = |ended: &Ended| match &ended.answer {
        Ok(prediction) => {
            let decoded = matches!(prediction.provenance, Provenance::Reconstructed | Provenance::Approximate);
            let right = if decoded { decoding } else { worth.direct() };
            Latency { time: ended.latency, decoded, answered: true, right }
        }
        Err(_) => Latency::NONE,
    };
    outcome.ended.iter().map(latency).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::contender::{BASELINE, DEFAULT};

    /// What `facts` of the literature and our first simulation agree on: in weather B, hedges by progress end the tail that slow lanes make, at
    /// next to no extra jobs, and ParM's dedicated lanes shorten it.
    #[test]
    fn the_order_of_policies_is_what_it_should_be() {
        let options = VirtualOptions {
            loads: vec![0.38],
            ks: vec![2],
            scenarios: "B".to_owned(),
            policies: vec![BASELINE.to_owned(), "ParM".to_owned(), DEFAULT.to_owned(), "oracle".to_owned()],
            service: Duration::from_millis(25),
            span: Duration::from_secs(20),
            seeds: 2,
            seed: 1,
            command: String::new(),
            weights: Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/fashion-mnist/1"),
        };
        let report = simulate(&options, &|_, _| ());
        let of = |name: &str| report.cells.iter().find(|cell| cell.policy == name).unwrap();
        let (none, parm, hedged, oracle) = (of(BASELINE), of("ParM"), of(DEFAULT), of("oracle"));
        assert!(none.p999.ms > 4.0 * hedged.p999.ms, "{none:?} {hedged:?}");
        assert!(none.p999.ms > 1.3 * parm.p999.ms, "{parm:?}");
        assert!(hedged.p999.ms >= 0.95 * oracle.p999.ms, "{oracle:?}");
        assert!(hedged.jobs_per_query < 1.1 && hedged.decoded == 0.0);
        assert!(parm.jobs_per_query > 1.3 && parm.decoded > 0.05);
        let accuracy = |cell: &Cell| cell.accuracy.unwrap();
        assert!(accuracy(none) > 0.9 && accuracy(parm) < accuracy(none), "decoded answers are worth less");
    }
}
