//! Real lanes: the weather comes as injected faults, one policy after the other.
//!
//! Slow lanes, lanes that stand still and lanes that are down are the faults of the same names; a stall of a single job is a wait after
//! the model has run, which is where a stall is noticed last. What a job takes and what the lanes can carry is measured first, with all lanes busy.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    LATE_SHARE, LanesOptions, LanesReport, Lateness, Trial,
    client::{self, Answered, Labelled},
    daemon::{Daemon, Site},
};
use crate::{
    admission::{Admission, Terms},
    bench::{
        BenchError, Env, Watch,
        cell::{self, Cell, Latency, Place, at, millis},
        contender::Contender,
        doctor,
        weather::Weather,
    },
    clock::{Clock, Time},
    http::Lanes,
    job::{Batch, Fault, Role},
    lane::{EmulatedLoss, Emulation, Meanwhile},
    query::{Accepts, LaneId},
    serve::Plan,
    sim::{Arrivals, Faults, Pace},
};

/// How long capacity is measured.
const CAPACITY: Duration = Duration::from_secs(3);

/// How often whoever waits for the weather looks whether the run is over.
const LOOK: Duration = Duration::from_millis(20);

/// Single jobs that stall on a real lane.
#[derive(Debug)]
struct Stalls {
    clock: Clock,
    faults: Faults,
    draws: Mutex<ChaCha8Rng>,
}

impl Emulation for Stalls {
    fn reports(&self, _: LaneId) -> bool {
        false
    }

    fn expected(&self, _: LaneId, _: Role, usual: Duration) -> Duration {
        usual
    }

    fn batch(&self, _: LaneId, _: &Batch, _: Time, _: &Meanwhile<'_>) -> Result<(), EmulatedLoss> {
        let stalls = self.draws.lock().random_bool(self.faults.stall);
        if stalls {
            self.clock.pause(self.faults.stall_for);
        }
        Ok(())
    }

    fn canary(&self, _: LaneId, _: Time) -> Result<(), EmulatedLoss> {
        Ok(())
    }
}

/// Latencies, jobs, and the milliseconds by which queries were sent late.
type Ran = (Vec<Latency>, f64, Vec<f64>);

struct Bench<'o> {
    options: &'o LanesOptions,
    clock: Clock,
    site: Site,
    rows: Vec<Labelled>,
    /// Mean time of a job with all lanes busy.
    service: Duration,
}

/// Measures capacity, then every policy in every weather.
pub(super) fn measure(
    options: &LanesOptions,
    config: &Path,
    progress: &dyn Fn(usize, usize),
) -> Result<LanesReport, BenchError> {
    let watch = Watch::start();
    let config = Plan::check(super::config(config)?)?.config;
    let least = options.k + 1;
    if config.lanes().len() < least {
        return Err(BenchError::TooFewLanes { lanes: config.lanes().len(), least });
    }
    let site = Site::of(&config);
    let contenders = super::contenders(options, site.lanes())?;
    let plain = super::contender::all(options.k, site.lanes()).swap_remove(0);
    let rows = super::rows(options, &site.plan(&plain, 1)?)?;
    // Weights that are missing are found before anything is measured.
    contenders.iter().try_for_each(|contender| site.plan(contender, 1).map(drop))?;
    let mut bench = Bench { options, clock: Clock::start(), site, rows, service: Duration::ZERO };
    bench.service = bench.capacity(&plain)?;
    cell::queries(options.span, bench.gap(), options.runs)?;
    let weathers = super::weathers(options);
    let all = weathers.len() * contenders.len() * usize::try_from(options.runs).unwrap_or(usize::MAX);
    let (mut cells, mut lateness, mut void, mut done) = (Vec::new(), Vec::new(), None, 0);
    let mut worst = Trial { service_ms: millis(bench.service), lanes_late_ms: 0.0, client_late_ms: 0.0 };
    for weather in weathers {
        for contender in &contenders {
            let (mut runs, mut jobs, mut late) = (Vec::new(), 0.0, Vec::new());
            for seed in (0..options.runs).map(|run| options.seed.wrapping_add(run)) {
                let (latencies, ran, sent_late) = bench.run(weather, contender, seed)?;
                worst.client_late_ms = worst.client_late_ms.max(at(&sent_late, LATE_SHARE));
                late.extend(sent_late);
                runs.push(latencies);
                jobs += ran;
                done += 1;
                progress(done, all);
            }
            let k = contender.code.as_ref().map(|code| code.k);
            let cell = Cell::new(&Place { weather, k, load: options.load, policy: contender.name }, &runs, jobs);
            let late = Lateness::new(&cell, late);
            void = void.or_else(|| late.void_reason(&cell));
            lateness.push(late);
            cells.push(cell);
        }
    }
    let env = Env::read(&options.command, options.seed, &watch);
    Ok(LanesReport {
        emulated: false,
        service_ms: millis(bench.service),
        lanes: bench.site.lanes(),
        seconds: options.span.as_secs_f64(),
        runs: options.runs,
        weights: config.deployment.weights.display().to_string(),
        calibration: Vec::new(),
        worst,
        lateness,
        void_reason: super::unanswered(&cells).or(void).or_else(|| doctor::void_reason(&env.doctor)),
        cells,
        virtual_cells: Vec::new(),
        agreements: Vec::new(),
        env,
    })
}

impl Bench<'_> {
    /// The time of a job when every lane always has one: lanes × time / jobs.
    fn capacity(&self, plain: &Contender) -> Result<Duration, BenchError> {
        let lanes = self.site.lanes();
        let daemon = Daemon::start(&self.site.plan(plain, 2 * lanes)?, self.clock, None)?;
        let terms = Terms { accepts: Accepts::Any, min_confidence: None, timeout: None };
        let begin = self.clock.now();
        thread::scope(|scope| {
            for first in 0..2 * lanes {
                let (engine, rows, clock) = (&daemon.running.engine, &self.rows, self.clock);
                scope.spawn(move || {
                    for (row, _) in rows.iter().cycle().skip(first) {
                        if clock.now().since(begin) > CAPACITY {
                            return;
                        }
                        if let Ok(pending) = engine.admit(row, terms) {
                            drop(pending.wait());
                        }
                    }
                });
            }
        });
        let took = self.clock.now().since(begin);
        Ok(took.mul_f64(lanes as f64 / daemon.jobs(1.0).max(1.0)))
    }

    /// The mean gap between arrivals at which so much of all lanes' time is asked for.
    fn gap(&self) -> Duration {
        self.service.div_f64(self.options.load * self.site.lanes() as f64)
    }

    /// One policy once: latencies, jobs, and how late each query was sent, sorted.
    fn run(&self, weather: Weather, contender: &Contender, seed: u64) -> Result<Ran, BenchError> {
        let span = self.options.span;
        let gap = self.gap();
        let arrivals = Arrivals::new(seed, gap).map(|at| at.since(Time::ZERO)).take_while(|after| *after < span);
        let moments: Vec<Duration> = arrivals.collect();
        if moments.is_empty() {
            return Err(BenchError::NoQuery { seconds: span.as_secs_f64(), rate: 1.0 / gap.as_secs_f64() });
        }
        let faults = weather.faults(self.service);
        let draws = Mutex::new(ChaCha8Rng::seed_from_u64(seed));
        let stalls = Arc::new(Stalls { clock: self.clock, faults, draws }) as Arc<dyn Emulation>;
        let stalls = (faults.stall > 0.0).then_some(&stalls);
        let daemon = Daemon::start(&self.site.plan(contender, moments.len() + 1)?, self.clock, stalls)?;
        let over = AtomicBool::new(false);
        let begin = self.clock.now();
        let Answered { mut latencies, sent_late } = thread::scope(|scope| {
            scope.spawn(|| self.rain(&daemon, weather, begin, (&over, seed)));
            let engines = [Arc::clone(&daemon.running.engine)];
            let answered = client::send(&engines, self.clock, begin, moments.into_iter(), &self.rows);
            over.store(true, Ordering::Release);
            answered
        });
        let mut sent_late: Vec<f64> = sent_late.into_iter().map(millis).collect();
        sent_late.sort_unstable_by(f64::total_cmp);
        Ok((latencies.swap_remove(0), daemon.jobs(contender.parity_cost), sent_late))
    }

    /// Sets and clears faults as the weather has it, until the run is over.
    fn rain(&self, daemon: &Daemon, weather: Weather, begin: Time, (over, seed): (&AtomicBool, u64)) {
        let courses = weather.courses(self.site.lanes(), 2 * self.options.span, seed);
        let mut changes: Vec<(Time, LaneId, Pace)> = courses
            .iter()
            .zip((0..).map(LaneId))
            .flat_map(|(course, lane)| course.changes.iter().map(move |&(at, pace)| (at, lane, pace)))
            .collect();
        changes.sort_by_key(|&(at, _, _)| at);
        for (at, lane, pace) in changes {
            let at = begin + at.since(Time::ZERO);
            while self.clock.now() < at && !over.load(Ordering::Acquire) {
                self.clock.pause(at.since(self.clock.now()).min(LOOK));
            }
            if over.load(Ordering::Acquire) {
                break;
            }
            let known = daemon.running.crew.set_fault(lane, fault(pace));
            known.expect("the weather is drawn for the lanes that there are");
        }
    }
}

/// The fault that makes a lane go at this pace.
fn fault(pace: Pace) -> Option<Fault> {
    match pace {
        Pace::Slower(factor) => (factor > 1.0).then_some(Fault::Slow { factor }),
        Pace::Still => Some(Fault::Hang),
        Pace::Down => Some(Fault::Error),
    }
}
