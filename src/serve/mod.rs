//! Serving: from a checked configuration to a daemon that answers, and to its end.
//!
//! Order of a start: weights, port, lanes, HTTP. Whatever can fail fails before the first query, with a sentence for the operator; the
//! port is bound before the slow parts, so that a second daemon on it is found out at once. Readiness turns green when every lane has
//! loaded its models and run its canary.
//! A process that succeeds another (`succession`) gets the port last, once its lanes are ready.
//!
//! Here is what a library user needs: [`Plan`] and [`Running`]. `daemon` adds the port, signals and systemd; `start_log` and `notify` say what
//! goes on.

mod daemon;
mod devices;
mod error;
mod lanes;
mod notify;
mod ports;
mod room;
mod start_log;
mod succession;
mod systemd;

use std::{path::Path, sync::Arc, thread, time::Duration};

pub use daemon::run;
pub use error::{ServeError, StartFaults};
pub use lanes::Crew;
pub use room::{room_for_a_runtime, room_for_threads};
pub use succession::SuccessionError;

use crate::{
    admission::Admission,
    clock::{Clock, unix_millis},
    code::Code,
    config::{self, Config, Device, Lanes, Warning, device_ids, fault_domains},
    dispatch::{LaneSettings, Settings},
    engine::{AdmissionLimits, Engine},
    health::Rules,
    lane::{self, Emulation},
    metrics::Metrics,
    nvml::{self, Monitor},
    query::{Confidence, LaneId, Provenance, Signature},
    weights::{self, Bundle, Manifest, WeightsError},
};

/// A configuration whose weights have been checked too: what `check` vouches for and `serve` starts.
#[derive(Debug)]
pub struct Plan {
    /// The configuration, with the lanes that it means on this machine.
    pub config: Config,
    /// What may disappoint.
    pub warnings: Vec<Warning>,
    /// Lanes that start without their device, because the process before this one could not use it.
    left_out: Vec<LaneId>,
    code: Option<Arc<dyn Code>>,
    bundle: Arc<Bundle>,
}

impl Plan {
    /// Reads and checks everything that a start needs and that needs no device: the configuration (`--config`, else where it usually
    /// is), the GPUs that `devices = "auto"` stands for, the weights.
    ///
    /// Refuses with every fault found, devices that this build does not open among them.
    pub fn load(config: Option<&Path>) -> Result<Self, StartFaults> {
        let path = config::find(config).map_err(StartFaults::Config)?;
        match Config::load_for(&path, cfg!(feature = "cuda")) {
            Ok(config) => Plan::check(config),
            // If it is only the build that is wrong, whoever takes another wants to know of the weights now.
            Err(faults) => Err(match Config::load(&path).map(Plan::check) {
                Ok(Err(beside)) => StartFaults::Build(faults, Box::new(beside)),
                Ok(Ok(_)) | Err(_) => StartFaults::Config(faults),
            }),
        }
    }

    /// Checks a configuration that is at hand.
    pub fn check(config: Config) -> Result<Self, StartFaults> {
        let gpus = if config.lanes == Lanes::Auto { auto_gpus()? } else { Vec::new() };
        let (config, fewer) = config.on_gpus(&gpus).map_err(StartFaults::Config)?;
        let mut warnings = config.warnings();
        warnings.extend(fewer);
        warnings.extend(absent_cores(config.lanes()));
        let deployment = &config.deployment;
        let manifest = Manifest::read(&deployment.weights).map_err(|fault| StartFaults::Weights(fault.into()))?;
        let code = if deployment.policy.kind.is_coded() {
            let spec = deployment.code.spec();
            let decoder = weights::decoder(&deployment.weights, &manifest, &spec).map_err(|fault| {
                // With all else that is wrong.
                let mut faults = vec![fault];
                let others = Bundle::of(&deployment.weights, manifest.clone(), None).err();
                faults.extend(others.into_iter().flat_map(|others| others.faults));
                StartFaults::Weights(WeightsError { faults })
            })?;
            Some(spec.build(&manifest.input.shape, decoder)?)
        } else {
            None
        };
        let bundle = Bundle::of(&deployment.weights, manifest, code.as_deref()).map_err(StartFaults::Weights)?;
        let bundle = bundle.in_precision(lane::precision(deployment.precision));
        let code = code.map(|code| deployment.policy.striped(code));
        let outputs = bundle.signature().output.width();
        if let Some(default) = deployment.policy.default_prediction.as_ref().filter(|default| default.len() != outputs)
        {
            return Err(StartFaults::DefaultPrediction { given: default.len(), outputs });
        }
        let asks = deployment.policy.min_confidence > Confidence::NONE;
        let judged = |code: &Arc<dyn Code>| code.provenance() == Provenance::Direct || bundle.calibration().is_some();
        if code.as_ref().is_some_and(|code| asks && !judged(code)) {
            // As it was configured, whatever stripes follow.
            let config::CodeSpec { kind, k, r, .. } = deployment.code;
            return Err(StartFaults::NotCalibrated { kind, k, r });
        }
        Ok(Plan { warnings, left_out: Vec::new(), code, bundle: Arc::new(bundle), config })
    }

    /// What `check` must refuse because `serve` would: `devices = "auto"` has found GPUs, and they need a build that this is not.
    pub fn needs_cuda(&self) -> Option<Warning> {
        let lane = self.config.lanes().iter().find(|lane| lane.device != Device::Cpu)?;
        let warning = Warning::NeedsCuda { lane: lane.id.0, device: lane.device.to_string() };
        (!cfg!(feature = "cuda")).then_some(warning)
    }

    /// What clients must know; the configuration says under which name and version.
    pub fn signature(&self) -> Signature {
        let deployment = &self.config.deployment;
        Signature { name: deployment.name.clone(), version: deployment.version.clone(), ..self.bundle.signature() }
    }

    fn settings(&self, code: Option<&Arc<dyn Code>>) -> Settings {
        let deployment = &self.config.deployment;
        let lanes = self.config.lanes();
        let settings =
            |((lane, domain), device): ((&config::Lane, _), _)| LaneSettings { role: lane.role, domain, device };
        Settings {
            lanes: lanes.iter().zip(fault_domains(lanes)).zip(device_ids(lanes)).map(settings).collect(),
            batch_max: deployment.batch_max,
            queue_max: deployment.queue_max,
            code: code.cloned(),
            calibration: self.bundle.calibration(),
            stripe_fill: deployment.code.stripe_fill,
            policy: deployment.policy.clone(),
            health: rules(&self.config),
        }
    }
}

/// By which lanes are judged.
fn rules(config: &Config) -> Rules {
    let (health, judges) = (config.health, config.deployment.policy.health);
    Rules {
        hang: judges.then_some(health.hang),
        stragglers: judges,
        canary_first: health.canary_first,
        canary_max: health.canary_max,
        probe: health.probe,
        fence: health.fence,
        canary_every: health.canary_every,
    }
}

/// A warning for each lane that is to be pinned where it cannot be.
fn absent_cores(lanes: &[config::Lane]) -> impl Iterator<Item = Warning> {
    let absent = |lane: &config::Lane| Some((lane.id.0, lane.core.filter(|core| !lane::is_available(*core))?));
    lanes.iter().filter_map(absent).map(|(lane, core)| Warning::NoSuchCore { lane, core })
}

/// The UUIDs of the GPUs that `devices = "auto"` stands for; none, and a line in the log that says why, if there is no driver or it knows none. NVML knows all of the
/// machine's, CUDA those that this process may have: a lane on another one would not open.
///
/// # Errors
/// CUDA cannot list them now, and may later.
pub fn auto_gpus() -> Result<Vec<String>, StartFaults> {
    match lane::visible_gpus() {
        Some(Ok(listed)) => return Ok(listed),
        Some(Err(error)) if error.may_pass() => return Err(StartFaults::Unlisted(error)),
        Some(Err(error)) => {
            tracing::warn!(%error, "CUDA lists no GPUs");
            return Ok(Vec::new());
        }
        None => {}
    }
    // A build that opens no GPU: nothing about it passes.
    let listed = nvml::gpus().inspect_err(|error| tracing::warn!(%error, "NVML lists no GPUs"));
    Ok(listed.unwrap_or_default().into_iter().map(|gpu| gpu.uuid).collect())
}

/// An engine with its lanes and its timer, all running. Ends them when dropped, and waits until devices are let go of, a second at most.
#[derive(Debug)]
pub struct Running {
    /// Where queries go.
    pub engine: Arc<Engine>,
    /// Its counters.
    pub metrics: Arc<Metrics>,
    /// Its lanes.
    pub crew: Arc<Crew>,
    /// What listens to the drivers of its GPUs, if it has any.
    pub monitor: Option<Monitor>,
}

impl Running {
    /// Starts lanes and timer; returns once every lane has loaded its models and passed its canary.
    pub fn start(plan: &Plan) -> Result<Self, ServeError> {
        let clock = Clock::start();
        Running::start_on(plan, clock, devices::emulation(plan.config.lanes(), clock).as_ref())
    }

    /// The same under a clock that is at hand, perhaps with lanes that stand for other devices.
    pub fn start_on(plan: &Plan, clock: Clock, emulation: Option<&Arc<dyn Emulation>>) -> Result<Self, ServeError> {
        let code = plan.code.clone();
        let deployment = &plan.config.deployment;
        let metrics = Metrics::new(&deployment.name, plan.config.lanes().len());
        let metrics = Arc::new(metrics.of_version(&deployment.name, &deployment.version));
        metrics.began(Duration::from_millis(unix_millis()));
        let limits = AdmissionLimits {
            queue_max: plan.config.deployment.queue_max,
            deadline: plan.config.deployment.deadline,
            input_range: plan.bundle.signature().input_range,
            ready_lanes_min: plan.config.health.ready_lanes_min,
        };
        let engine = Arc::new(Engine::new(plan.settings(code.as_ref()), limits, clock, Arc::clone(&metrics)));
        let admitted = Arc::downgrade(&engine);
        metrics.watch_queries(move || admitted.upgrade().map_or(0, |engine| engine.admitted()));
        let ready = Arc::downgrade(&engine);
        metrics.watch_readiness(move || ready.upgrade().is_some_and(|engine| engine.readiness().is_ok()));
        let crew = Arc::new(Crew::start(plan, code.as_ref(), &engine, clock, emulation)?);
        let monitor = devices::listen(plan.config.lanes(), &engine, &metrics, clock).map_err(ServeError::Thread)?;
        let running = Running { engine: Arc::clone(&engine), metrics, crew, monitor };
        let timer = move || engine.run_timer();
        thread::Builder::new().name("timer".to_owned()).spawn(timer).map_err(ServeError::Thread)?;
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.crew.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is simulated is what is served.
    #[test]
    fn who_says_nothing_of_health_has_the_usual_rules() {
        let shipped = include_str!("../../config.toml");
        let says = |line: &&str| line.contains("_ms = ") || line.starts_with("canary_every");
        let silent: Vec<_> = shipped.lines().filter(|line| !says(line)).collect();
        let config = Config::parse(&silent.join("\n"), env!("CARGO_MANIFEST_DIR").as_ref(), "config.toml").unwrap();
        assert_eq!(rules(&config), Rules::default());
    }
}
