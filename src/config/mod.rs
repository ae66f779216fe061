//! The configuration: every key with its unit, default and rule, as plain data that cannot hold an impossible value.
//!
//! Read once at start. All faults are reported together, each with its place, key, value and rule.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{code::Coefficients, job::Role, query::LaneId};

/// Everything that `config.toml` says, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[http]`
    pub http: Http,
    /// `[admin]`
    pub admin: Admin,
    /// `[health]`
    pub health: Health,
    /// The `[[lane]]` tables in order; a lane's id is its index.
    pub lanes: Vec<Lane>,
    /// The `[[deployment]]`.
    pub deployment: Deployment,
}

/// `[http]`: the public port.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// `listen`: address and port; port 0 lets the system choose.
    pub listen: SocketAddr,
}

/// `[admin]`: routes for tests and demonstrations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Admin {
    /// `faults`: whether `/admin/…` exists at all.
    pub faults: bool,
}

/// `[health]`: when a lane is taken out of work and how it comes back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Health {
    /// `hang_ms`: a job in flight for longer than this means a hung lane.
    pub hang: Duration,
    /// `canary_first_ms`: from a lost job to the first canary.
    pub canary_first: Duration,
    /// `canary_max_ms`: the longest wait between canaries; waits double up to it.
    pub canary_max: Duration,
}

/// `device` of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// `"cpu"`
    Cpu,
    /// `"cuda:N"`
    Cuda(usize),
    /// `"GPU-<uuid>"`
    CudaUuid(String),
}

/// One `[[lane]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Lane {
    /// Its index.
    pub id: LaneId,
    /// `device`
    pub device: Device,
    /// `role`
    pub role: Role,
    /// `core`: the core its thread is pinned to; chosen by the daemon if absent.
    pub core: Option<usize>,
    /// `threads`: CPU threads of one forward pass (CPU lanes).
    pub threads: usize,
}

/// One `[[deployment]]`: model, code, limits and policy under one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Deployment {
    /// `name`: the model name on the wire.
    pub name: String,
    /// `version`
    pub version: String,
    /// `weights`: the folder that holds `manifest.toml`.
    pub weights: PathBuf,
    /// `deadline_ms`: by when a query is answered.
    pub deadline: Duration,
    /// `batch_max`: rows in one forward pass, at most.
    pub batch_max: usize,
    /// `queue_max`: admitted rows, at most.
    pub queue_max: usize,
    /// `[deployment.code]`
    pub code: CodeSpec,
    /// `[deployment.policy]`
    pub policy: Policy,
}

/// `[deployment.code]`
#[derive(Clone, Debug, PartialEq)]
pub struct CodeSpec {
    /// `kind`
    pub kind: CodeKind,
    /// `k`: data slots of a stripe.
    pub k: usize,
    /// `r`: parity slots of a stripe.
    pub r: usize,
    /// `coefficients`: r rows of k numbers; the defaults of the kind if absent.
    pub coefficients: Option<Coefficients>,
    /// `stripe_fill_ms`: how long a stripe may stay short.
    pub stripe_fill: Duration,
}

/// `kind` of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeKind {
    /// ParM's addition encoder and subtraction decoder.
    Sum,
}

/// `[deployment.policy]`
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `kind`
    pub kind: PolicyKind,
    /// `placement`
    pub placement: Placement,
    /// `health`: whether a hang takes a lane out of work. A lane that lost a job stops pulling either way.
    pub health: bool,
    /// `grace`
    pub grace: Grace,
    /// `rerun`: when a lost job is run again.
    pub rerun: Rerun,
    /// `default_prediction`: answered at the deadline, as a last resort, if present.
    pub default_prediction: Option<Vec<f32>>,
}

/// `kind` of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// No redundancy (rescue of lost jobs remains).
    None,
    /// Stripes and parity models.
    Coded,
}

/// `placement` of base and parity models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Base and parity models on separate devices.
    Dedicated,
    /// Every lane holds both.
    Pooled,
}

/// `grace`: how long after admission a reconstruction waits for the direct answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Grace {
    /// `"none"`: not at all.
    None,
    /// `"auto"`: the larger of 1.15 x the expected time and the expected time + 5 ms.
    Auto,
    /// `grace_ms = n`: this long.
    Fixed(Duration),
}

/// `rerun`: when a job that was lost is run again on another lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rerun {
    /// `"at_once"`: in parallel with the decode; whichever is first answers.
    AtOnce,
    /// `"after_decode"`: only once the stripe can no longer decode it.
    AfterDecode,
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Device::CudaUuid(uuid) => f.write_str(uuid),
        }
    }
}
