//! The daemons that are measured: one a policy, without a port.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    bench::{BenchError, cell::DEADLINE, contender::Contender},
    clock::Clock,
    code::{Kind, Spec},
    config::{Admin, CodeSpec, Config, Deployment, Device, Health, Http, Lane, Lanes, OnFatal, Precision},
    job::{JobKind, Role},
    lane::Emulation,
    query::LaneId,
    serve::{Plan, Running},
};

/// A daemon that runs.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) running: Running,
}

impl Daemon {
    /// Starts lanes and timer of a policy; returns once every lane is ready.
    pub(super) fn start(plan: &Plan, clock: Clock, emulation: Option<&Arc<dyn Emulation>>) -> Result<Self, BenchError> {
        let running = Running::start_on(plan, clock, emulation).map_err(|error| BenchError::Daemon(Box::new(error)))?;
        Ok(Daemon { running })
    }

    /// Jobs that its lanes have run, canaries not counted, and parity jobs as what they cost.
    pub(super) fn jobs(&self, parity_cost: f64) -> f64 {
        let ran = |kind: JobKind| self.running.metrics.jobs(kind.as_str()).get() as f64;
        let cost = |kind| match kind {
            JobKind::Canary => 0.0,
            JobKind::Parity => parity_cost,
            JobKind::Data
            | JobKind::Rescue
            | JobKind::Replica
            | JobKind::Hedge
            | JobKind::IdleCopy
            | JobKind::Probe => 1.0,
        };
        JobKind::ALL.into_iter().map(|kind| cost(kind) * ran(kind)).sum()
    }
}

/// What the daemons of all policies have in common.
#[derive(Clone, Debug)]
pub(super) struct Site {
    /// The devices, one a lane.
    devices: Vec<Lane>,
    weights: PathBuf,
    batch_max: usize,
}

impl Site {
    /// CPU lanes, one thread each, that stand for other devices.
    pub(super) fn emulated(lanes: usize, weights: &Path) -> Self {
        let lane = |id: u16| Lane {
            id: LaneId(id),
            device: Device::Cpu,
            role: Role::Base,
            core: None,
            threads: 1,
            fault_domain: None,
            stands_for: None,
            service: None,
        };
        Site { devices: (0..).take(lanes).map(lane).collect(), weights: weights.to_path_buf(), batch_max: 1 }
    }

    /// The lanes of a configuration, as they are.
    pub(super) fn of(config: &Config) -> Self {
        let Deployment { weights, batch_max, .. } = &config.deployment;
        Site { devices: config.lanes().to_vec(), weights: weights.clone(), batch_max: *batch_max }
    }

    /// How many lanes.
    pub(super) fn lanes(&self) -> usize {
        self.devices.len()
    }

    /// What a policy's daemon is started from.
    pub(super) fn plan(&self, contender: &Contender, queries: usize) -> Result<Plan, BenchError> {
        let rules = contender.health;
        let code = contender.code.clone().unwrap_or_else(|| Spec::of(Kind::Sum, 2, 1));
        let lanes = self.devices.iter().zip(&contender.roles);
        let config = Config {
            http: Http { listen: SocketAddr::from(([127, 0, 0, 1], 0)), drain: Duration::ZERO },
            grpc: None,
            admin: Admin { faults: false },
            health: Health {
                hang: rules.hang.unwrap_or(DEADLINE),
                canary_first: rules.canary_first,
                canary_max: rules.canary_max,
                probe: rules.probe,
                fence: rules.fence,
                canary_every: rules.canary_every,
                ready_lanes_min: 1,
                on_fatal: OnFatal::Fence,
            },
            lanes: Lanes::Listed(lanes.map(|(lane, &role)| Lane { role, ..lane.clone() }).collect()),
            deployment: Deployment {
                name: "bench".to_owned(),
                version: "1".to_owned(),
                weights: self.weights.clone(),
                deadline: DEADLINE,
                batch_max: self.batch_max,
                queue_max: queries,
                precision: Precision::F32,
                code: CodeSpec {
                    kind: code.kind,
                    k: code.k,
                    r: code.r,
                    coefficients: code.coefficients,
                    errors: code.errors,
                    stripe_fill: Duration::from_millis(20),
                },
                policy: contender.policy.clone(),
            },
        };
        Ok(Plan::check(config)?)
    }
}
