//! The core under a virtual clock: the same dispatch, stripes, health and timers as the daemon, with drawn lanes.
//!
//! One loop, no thread, no clock: a heap of events in virtual time. Everything random comes from one seed, so a run that went wrong is
//! run again by its seed. Lanes compute a linear model, for which base and parity model are the same map; so each reconstruction can be
//! compared with the direct output it stands for, without any training. What the core promises is checked while it runs and after:
//! one answer a query, by its deadline plus a tick, right to rounding; no parity job beside a member in one fault domain; nothing left behind.

mod arrivals;
mod lane;
mod mates;
mod world;

use std::{sync::Arc, time::Duration};

pub use arrivals::Arrivals;
pub use lane::{Course, Luck, Model, Pace, Timing};
pub use world::run;

use crate::{
    clock::Time,
    code::{Calibration, Kind, Spec, Temperature},
    config::{Hedge, Placement, Policy, PolicyKind},
    dispatch::{LaneSettings, Settings},
    health::Rules,
    job::Role,
    query::{Answer, Confidence, FaultDomain},
};

/// What can go wrong with one job, as shares of all jobs.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Takes ten times as long.
    pub slow: f64,
    /// Lost: panic, error or a value that is not finite.
    pub lost: f64,
    /// Stands still for a while …
    pub stall: f64,
    /// … that is this long.
    pub stall_for: Duration,
    /// Standard deviation of the logarithm of all service times; not a share.
    pub jitter: f64,
}

impl Default for Faults {
    /// Nothing goes wrong; half a second is what a stall takes.
    fn default() -> Self {
        Faults { slow: 0.0, lost: 0.0, stall: 0.0, stall_for: Duration::from_millis(500), jitter: 0.01 }
    }
}

/// One simulated run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Everything random is drawn from it.
    pub seed: u64,
    /// Roles of the lanes.
    pub roles: Vec<Role>,
    /// Their fault domains; each is its own if this is empty.
    pub domains: Vec<u16>,
    /// A code under which the linear model is its own parity model; `None` serves without one.
    pub code: Option<Spec>,
    /// How many queries arrive.
    pub queries: usize,
    /// Mean gap between arrivals (exponential).
    pub gap: Duration,
    /// Service time of a data job without fault.
    pub service: Duration,
    /// Service time of a parity job, as a multiple of that.
    pub parity_cost: f64,
    /// What each job of a batch beyond the first costs, as a share of that one.
    pub batch_cost: f64,
    /// What lanes compute.
    pub model: Model,
    /// What goes wrong.
    pub faults: Faults,
    /// How fast each lane is over time; lanes beyond the last are as fast as usual.
    pub courses: Vec<Course>,
    /// Every so many queries, one that no lane survives; 0 = none.
    pub poison_every: usize,
    /// Every so many queries, one that takes direct answers only; 0 = none.
    pub direct_only_every: usize,
    /// From admission to the answer, at most.
    pub deadline: Duration,
    /// Rows in a batch, at most.
    pub batch_max: usize,
    /// The policy.
    pub policy: Policy,
    /// When lanes are taken out and come back.
    pub health: Rules,
}

impl Scenario {
    /// k = 2, r = 1, two base lanes and a parity lane at half load, nothing wrong.
    pub fn quiet(seed: u64) -> Self {
        Scenario {
            seed,
            roles: vec![Role::Base, Role::Base, Role::Parity],
            domains: Vec::new(),
            code: Some(Spec::of(Kind::Sum, 2, 1)),
            queries: 2_000,
            gap: Duration::from_millis(10),
            service: Duration::from_millis(10),
            parity_cost: 1.0,
            batch_cost: 0.0,
            model: Model::Linear,
            faults: Faults::default(),
            courses: Vec::new(),
            poison_every: 0,
            direct_only_every: 0,
            deadline: Duration::from_secs(2),
            batch_max: 1,
            policy: Policy { hedge: Hedge::None, ..Policy::usual(PolicyKind::Coded, Placement::Dedicated) },
            health: Rules::default(),
        }
    }

    /// The fault domain of each lane.
    fn domains(&self) -> Vec<u16> {
        let each = || (0..).take(self.roles.len()).collect();
        if self.domains.is_empty() { each() } else { self.domains.clone() }
    }

    fn settings(&self, code: Option<Arc<dyn crate::code::Code>>) -> Settings {
        // Any temperature does: what is decoded is exact, so whatever is held back is held back for nothing.
        let calibration = Calibration { temperature: Temperature::UNIT, agreement: 1.0, rows: 1_000 };
        let lane = |((role, number), domain): ((&Role, u16), u16)| LaneSettings {
            domain: FaultDomain(domain),
            ..LaneSettings::alone(*role, number)
        };
        Settings {
            lanes: self.roles.iter().zip(0..).zip(self.domains()).map(lane).collect(),
            batch_max: self.batch_max,
            queue_max: self.queries,
            code,
            calibration: (self.policy.min_confidence > Confidence::NONE).then_some(calibration),
            stripe_fill: Duration::from_millis(20),
            policy: self.policy.clone(),
            health: self.health,
        }
    }
}

/// One query's end.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it was answered.
    pub answer: Answer,
    /// From admission to the answer.
    pub latency: Duration,
    /// Whether no lane survives it.
    pub poison: bool,
    /// Whether it takes direct answers only.
    pub direct_only: bool,
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Every query's end, in order of arrival.
    pub ended: Vec<Ended>,
    /// Jobs that lanes ran, canaries not counted.
    pub jobs: usize,
    /// The same, a parity job counted as what it costs.
    pub work: f64,
    /// Times that a lane became a straggler.
    pub stragglers: usize,
    /// When one did first.
    pub first_straggler: Option<Time>,
    /// Events of the virtual world.
    pub events: u64,
    /// Stripes that are not over after the last query.
    pub stripes_open: i64,
    /// Permits that have not come back.
    pub permits_out: usize,
    /// Broken promises, in words; empty if all is well.
    pub broken: Vec<String>,
}

#[cfg(test)]
mod tests;
