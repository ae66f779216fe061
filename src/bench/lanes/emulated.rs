//! Emulated lanes: calibration, then all policies at once in each weather, then the same in virtual time.

use std::{sync::Arc, time::Duration};

use super::{
    Agreement, LATE_SHARE, LanesOptions, LanesReport, Trial,
    client::{self, Labelled},
    daemon::{Daemon, Site},
    device::{Devices, Timer},
};
use crate::{
    bench::{
        BenchError, Env, Watch,
        cell::{self, Cell, Latency, Place, at, millis},
        contender::Contender,
        doctor,
        simulated::{self, LANES, Order, VirtualOptions},
        weather::Weather,
        worth::Worth,
    },
    clock::{Clock, Time},
    lane::Emulation,
    sim::Arrivals,
};

/// Base times that are tried, in milliseconds.
const SERVICES: [u64; 6] = [5, 10, 15, 25, 40, 60];

/// Length of a trial.
const TRIAL: Duration = Duration::from_secs(3);

/// From the start of the daemons to the first query: their threads have settled by then.
const SETTLE: Duration = Duration::from_millis(200);

/// What every run shares.
struct Stage<'o> {
    options: &'o LanesOptions,
    clock: Clock,
    timer: Arc<Timer>,
    watch: Watch,
    site: Site,
    contenders: Vec<Contender>,
    rows: Vec<Labelled>,
}

/// One run of all policies.
struct Run {
    /// Of each policy, in their order.
    latencies: Vec<Vec<Latency>>,
    jobs: Vec<f64>,
    trial: Trial,
}

/// Calibrates, runs, and compares with virtual time.
pub(super) fn measure(options: &LanesOptions, progress: &dyn Fn(usize, usize)) -> Result<LanesReport, BenchError> {
    let (clock, watch) = (Clock::start(), Watch::start());
    let contenders = super::contenders(options, LANES)?;
    let site = Site::emulated(LANES, &options.weights);
    let rows = super::rows(options, &site.plan(&contenders[0], 1)?)?;
    let stage = Stage { options, clock, timer: Timer::start(clock)?, watch, site, contenders, rows };
    let measured = stage.measure(progress);
    stage.timer.stop();
    measured
}

impl Stage<'_> {
    fn measure(&self, progress: &dyn Fn(usize, usize)) -> Result<LanesReport, BenchError> {
        let options = self.options;
        let (service, calibration) = self.calibrate()?;
        cell::queries(options.span, Order::gap(service, options.load), options.runs)?;
        let weathers = super::weathers(options);
        let all = weathers.len() * usize::try_from(options.runs).unwrap_or(usize::MAX);
        let (mut cells, mut virtual_cells, mut agreements) = (Vec::new(), Vec::new(), Vec::new());
        let mut worst = Trial { service_ms: millis(service), lanes_late_ms: 0.0, client_late_ms: 0.0 };
        for (done, weather) in weathers.iter().enumerate() {
            let mut runs = Vec::new();
            for seed in (0..options.runs).map(|run| options.seed.wrapping_add(run)) {
                let run = self.run(*weather, (service, options.span), seed)?;
                worst.lanes_late_ms = worst.lanes_late_ms.max(run.trial.lanes_late_ms);
                worst.client_late_ms = worst.client_late_ms.max(run.trial.client_late_ms);
                runs.push(run);
                progress(done * all / weathers.len() + runs.len(), all);
            }
            for (place, contender) in self.contenders.iter().enumerate() {
                let real: Vec<Vec<Latency>> = runs.iter().map(|run| run.latencies[place].clone()).collect();
                let jobs = runs.iter().map(|run| run.jobs[place]).sum();
                let (simulated, simulated_jobs) = self.simulated(*weather, contender, service);
                let k = contender.code.as_ref().map(|code| code.k);
                let of = Place { weather: *weather, k, load: options.load, policy: contender.name };
                agreements.push(Agreement::new(weather.to_string(), contender.name, &real, &simulated));
                cells.push(Cell::new(&of, &real, jobs));
                virtual_cells.push(Cell::new(&of, &simulated, simulated_jobs));
            }
        }
        let late = || {
            format!(
                "lanes came back {:.2} ms late and queries were sent {:.2} ms late (p99 of the worst run), more than 4 % of {} ms: end other programs, \
                 or set a longer --service-ms",
                worst.lanes_late_ms, worst.client_late_ms, worst.service_ms
            )
        };
        let env = Env::read(&options.command, options.seed, &self.watch);
        Ok(LanesReport {
            emulated: true,
            service_ms: millis(service),
            lanes: LANES,
            seconds: options.span.as_secs_f64(),
            runs: options.runs,
            weights: options.weights.display().to_string(),
            calibration,
            worst,
            lateness: Vec::new(),
            void_reason: super::unanswered(&cells)
                .or_else(|| (!worst.is_good()).then(late))
                .or_else(|| doctor::void_reason(&env.doctor)),
            cells,
            virtual_cells,
            agreements,
            env,
        })
    }

    /// The shortest base time for which this machine is fast enough, and what was tried on the way.
    fn calibrate(&self) -> Result<(Duration, Vec<Trial>), BenchError> {
        if let Some(service) = self.options.service {
            return Ok((service, Vec::new()));
        }
        let mut trials = Vec::new();
        for service in SERVICES.map(Duration::from_millis) {
            let Run { trial, .. } = self.run(Weather::D, (service, TRIAL), self.options.seed)?;
            trials.push(trial);
            let Trial { service_ms, lanes_late_ms, client_late_ms } = trial;
            tracing::info!(service_ms, lanes_late_ms, client_late_ms, good = trial.is_good(), "calibration");
            if trial.is_good() {
                return Ok((service, trials));
            }
        }
        let last = trials.last().copied();
        let (service_ms, late_ms) = last.map_or((0.0, 0.0), |trial| (trial.service_ms, trial.late_ms()));
        Err(BenchError::TooSlow { service_ms, late_ms })
    }

    /// All policies at once.
    fn run(&self, weather: Weather, (service, span): (Duration, Duration), seed: u64) -> Result<Run, BenchError> {
        let gap = Order::gap(service, self.options.load);
        // As many as in virtual time.
        let queries = cell::queries(span, gap, 1)?;
        let moments: Vec<Duration> = Arrivals::new(seed, gap).map(|at| at.since(Time::ZERO)).take(queries).collect();
        let (mut daemons, mut devices) = (Vec::new(), Vec::new());
        for contender in &self.contenders {
            let weather = (weather.faults(service), weather.courses(LANES, 2 * span, seed));
            let device = Arc::new(Devices::new(&self.timer, (service, contender.parity_cost), weather, seed));
            let emulation = Arc::clone(&device) as Arc<dyn Emulation>;
            // Emulated canaries need the weather's time, too.
            device.begin(self.clock.now() + SETTLE);
            let plan = self.site.plan(contender, moments.len() + 1)?;
            daemons.push(Daemon::start(&plan, self.clock, Some(&emulation))?);
            devices.push(device);
        }
        let begin = self.clock.now() + SETTLE;
        for device in &devices {
            device.begin(begin);
        }
        let engines: Vec<_> = daemons.iter().map(|daemon| Arc::clone(&daemon.running.engine)).collect();
        self.timer.lateness(LATE_SHARE);
        let answered = client::send(&engines, self.clock, begin, moments.into_iter(), &self.rows);
        let mut sent_late: Vec<f64> = answered.sent_late.iter().copied().map(millis).collect();
        sent_late.sort_unstable_by(f64::total_cmp);
        let trial = Trial {
            service_ms: millis(service),
            lanes_late_ms: millis(self.timer.lateness(LATE_SHARE)),
            client_late_ms: at(&sent_late, LATE_SHARE),
        };
        let jobs = daemons.iter().zip(&self.contenders);
        let jobs = jobs.map(|(daemon, contender)| daemon.jobs(contender.parity_cost)).collect();
        drop(daemons);
        for device in &devices {
            device.stop();
        }
        Ok(Run { latencies: answered.latencies, jobs, trial })
    }

    /// The same runs of a policy in virtual time.
    fn simulated(&self, weather: Weather, contender: &Contender, service: Duration) -> (Vec<Vec<Latency>>, f64) {
        let LanesOptions { load, k, span, runs, seed, weights, command, .. } = self.options;
        let options = VirtualOptions {
            loads: vec![*load],
            ks: vec![*k],
            scenarios: String::new(),
            policies: Vec::new(),
            service,
            span: *span,
            seeds: *runs,
            seed: *seed,
            weights: weights.clone(),
            command: command.clone(),
        };
        let k = contender.code.as_ref().map(|code| code.k);
        let order = Order::new(weather, (k, *load), service, Some(contender.clone()));
        simulated::runs(&options, &order, &Worth::of(weights))
    }
}
