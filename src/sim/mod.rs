//! The core under a virtual clock: the same dispatch, stripes, health and timers as the daemon, with drawn lanes.
//!
//! One loop, no thread, no clock: a heap of events in virtual time. Everything random comes from one seed, so a run that went wrong is
//! run again by its seed. Lanes compute a linear model, for which base and parity model are the same map; so each reconstruction can be
//! compared with the direct output it stands for, without any training. What the core promises is checked while it runs and after:
//! one answer a query, by its deadline plus a tick, right to rounding; nothing left behind. (That stripe-mates are never in flight together
//! in one fault domain, `stripe` asserts itself.)

mod lane;
mod world;

use std::{sync::Arc, time::Duration};

pub use world::run;

use crate::{
    code::{Calibration, Kind, Spec, Temperature},
    config::{Grace, Placement, Policy, PolicyKind, Rerun},
    dispatch::{LaneSettings, Settings},
    health::Rules,
    job::Role,
    query::{Answer, Confidence, FaultDomain},
};

/// What can go wrong with one job, as shares of all jobs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Takes ten times as long.
    pub slow: f64,
    /// Lost: panic, error or a value that is not finite.
    pub lost: f64,
    /// Blocks for half a second.
    pub hang: f64,
}

/// One simulated run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Everything random is drawn from it.
    pub seed: u64,
    /// Roles of the lanes; each is its own fault domain.
    pub roles: Vec<Role>,
    /// A code under which the linear model is its own parity model; `None` serves without one.
    pub code: Option<Spec>,
    /// How many queries arrive.
    pub queries: usize,
    /// Mean gap between arrivals (exponential).
    pub gap: Duration,
    /// Service time of one batch without fault.
    pub service: Duration,
    /// What goes wrong.
    pub faults: Faults,
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
            code: Some(Spec::of(Kind::Sum, 2, 1)),
            queries: 2_000,
            gap: Duration::from_millis(10),
            service: Duration::from_millis(10),
            faults: Faults::default(),
            poison_every: 0,
            direct_only_every: 0,
            deadline: Duration::from_secs(2),
            batch_max: 1,
            policy: Policy {
                kind: PolicyKind::Coded,
                placement: Placement::Dedicated,
                health: true,
                grace: Grace::Auto,
                rerun: Rerun::AtOnce,
                min_confidence: Confidence::NONE,
                default_prediction: None,
            },
            health: Rules {
                hang: Some(Duration::from_millis(200)),
                canary_first: Duration::from_millis(100),
                canary_max: Duration::from_secs(5),
            },
        }
    }

    fn settings(&self, code: Option<Arc<dyn crate::code::Code>>) -> Settings {
        // Any temperature does: what is decoded is exact, so whatever is held back is held back for nothing.
        let calibration = Calibration { temperature: Temperature::UNIT, agreement: 1.0, rows: 1_000 };
        let lane = |(role, domain): (&Role, u16)| LaneSettings { role: *role, domain: FaultDomain(domain) };
        Settings {
            lanes: self.roles.iter().zip(0..).map(lane).collect(),
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
    /// From admission to the answer, at most (seen at the next event).
    pub latency: Duration,
    /// Whether no lane survives it.
    pub poison: bool,
    /// Whether it takes direct answers only.
    pub direct_only: bool,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Every query's end, in order of arrival.
    pub ended: Vec<Ended>,
    /// Jobs that lanes ran, canaries not counted.
    pub jobs: usize,
    /// Stripes that are not over after the last query.
    pub stripes_open: i64,
    /// Permits that have not come back.
    pub permits_out: usize,
    /// Broken promises, in words; empty if all is well.
    pub broken: Vec<String>,
}

#[cfg(test)]
mod tests;
