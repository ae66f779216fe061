//! The configuration: every key with its unit, default and rule, as plain data.
//!
//! Reading it gives only values that passed the rules. Read once at start. All faults are reported together, each with its place, key, value and rule. A value comes from a flag, else from
//! the environment (`PARITYD_HTTP_LISTEN` for `http.listen`, `PARITYD_GRPC_LISTEN` for `grpc.listen`), else from the file, else from the default that `config.toml` documents.

mod faults;
mod file;
mod lanes;
mod policy;
mod print;
mod read;
mod rules;
mod section;
mod values;

use std::{
    env, fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use crate::{
    code::{Coefficients, Kind, Spec},
    job::Role,
    query::LaneId,
};

pub use faults::{ConfigFault, ConfigFaults, Warning};
pub use lanes::{LANES_MAX, device_ids, fault_domains, lanes_for};
pub use policy::{Grace, Hedge, ParityWhen, Placement, Policy, PolicyKind, Rerun};
pub use values::plain_name;

use section::Document;

/// Where the configuration is looked for when no flag names it, in this order.
pub const SEARCH: [&str; 2] = ["./config.toml", "/etc/parityd/config.toml"];

/// The file to load: what the flag says, else the first of [`SEARCH`] that exists.
pub fn find(flag: Option<&Path>) -> Result<PathBuf, ConfigFaults> {
    if let Some(path) = flag {
        return Ok(path.to_owned());
    }
    SEARCH.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
        let rule = format!("found neither {} nor {}: pass --config PATH", SEARCH[0], SEARCH[1]);
        ConfigFaults::one("configuration", "", rule)
    })
}

impl Config {
    /// Reads and checks the file at `path`, with what the environment overrides.
    pub fn load(path: &Path) -> Result<Config, ConfigFaults> {
        Config::load_for(path, true)
    }

    /// The same for a build that may open no GPU: each lane on one is a fault, told with all others.
    pub fn load_for(path: &Path, opens_gpus: bool) -> Result<Config, ConfigFaults> {
        let file = path.display().to_string();
        let text = file::text(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        // What is no UTF-8 is no value of any key: with the characters that stand for it, it is refused as what it is.
        let environment = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        Config::parse_with(&text, (folder, &file), &environment, opens_gpus)
    }

    /// Checks `text`, whatever the environment holds. Relative paths in it are relative to `folder`; faults are placed in `file`.
    pub fn parse(text: &str, folder: &Path, file: &str) -> Result<Config, ConfigFaults> {
        Config::parse_with(text, (folder, file), &|_| None, true)
    }

    fn parse_with(
        text: &str,
        (folder, file): (&Path, &str),
        environment: read::Environment<'_>,
        opens_gpus: bool,
    ) -> Result<Config, ConfigFaults> {
        Document::read(file, text, |root| {
            let config = read::config(root, folder, environment);
            if !opens_gpus {
                rules::without_gpus(&config, root);
            }
            config
        })
    }
}

/// Everything that `config.toml` says, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[http]`
    pub http: Http,
    /// `[grpc]`; `None` without it.
    pub grpc: Option<Grpc>,
    /// `[admin]`
    pub admin: Admin,
    /// `[health]`
    pub health: Health,
    /// The `[[lane]]` tables, or `devices`.
    pub lanes: Lanes,
    /// The `[[deployment]]`.
    pub deployment: Deployment,
}

/// Where the lanes come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Lanes {
    /// The `[[lane]]` tables in order; a lane's id is its index.
    Listed(Vec<Lane>),
    /// `devices = "auto"`: one for each GPU, found at start. [`Config::on_gpus`] turns it into a list.
    Auto,
}

/// `[http]`: the public port.
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// `listen`: address and port; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// `drain_ms`: how long a stop waits for admitted queries.
    pub drain: Duration,
}

/// `[grpc]`: the port of the same protocol over gRPC.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grpc {
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
    /// `hang_ms`: a batch in flight for longer than this, and than five times what is expected of it, means a hung lane.
    pub hang: Duration,
    /// `canary_first_ms`: from a lost job to the first canary.
    pub canary_first: Duration,
    /// `canary_max_ms`: the longest wait between canaries; waits double up to it.
    pub canary_max: Duration,
    /// `probe_ms`: how often a straggler gets a copy of some query, to see whether it is still slow.
    pub probe: Duration,
    /// `fence_ms`: from a fence to the first canary; n times that at the nth, up to ten times.
    pub fence: Duration,
    /// `canary_every`: jobs after which a lane that is well runs a canary when it is idle; `None` for 0, never.
    pub canary_every: Option<u32>,
    /// `ready_lanes_min`: lanes that must be able to run queries for the daemon to be ready.
    pub ready_lanes_min: usize,
    /// `on_fatal`: what is done about a device that this process can do nothing with any more.
    pub on_fatal: OnFatal,
}

/// `on_fatal`: what is done about a device that this process can do nothing with any more, and another could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFatal {
    /// Its lanes are fenced until the daemon is started anew.
    Fence,
    /// Another process takes over, without a query lost.
    Restart,
}

impl OnFatal {
    /// Both.
    pub const ALL: [OnFatal; 2] = [OnFatal::Fence, OnFatal::Restart];

    /// The word in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            OnFatal::Fence => "fence",
            OnFatal::Restart => "restart",
        }
    }
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
    /// `fault_domain`: lanes with the same name fail together, whatever their devices are, and those with different names do not.
    pub fault_domain: Option<String>,
    /// `stands_for`: UUID of the GPU whose driver is listened to in place of the CPU's, which has none (CPU lanes, for tests).
    pub stands_for: Option<String>,
    /// `service_ms`: how long a job takes at least, as if the device were another (CPU lanes, for tests).
    pub service: Option<Duration>,
}

impl Lane {
    /// The UUID of the GPU whose driver speaks of this lane, if it is known by that.
    pub fn gpu(&self) -> Option<&str> {
        match &self.device {
            Device::CudaUuid(uuid) => Some(uuid),
            Device::Cpu => self.stands_for.as_deref(),
            Device::Cuda(_) => None,
        }
    }
}

/// `precision`: what GPUs compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Single.
    F32,
    /// Single, but for what tensor cores multiply: eleven bits of it.
    Tf32,
    /// Half: eleven bits, up to 65,504.
    F16,
    /// As f32, but with eight bits.
    Bf16,
}

impl Precision {
    /// The words for all of them.
    pub const WORDS: [(&'static str, Precision); 4] =
        [("f32", Precision::F32), ("tf32", Precision::Tf32), ("f16", Precision::F16), ("bf16", Precision::Bf16)];
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
    /// `precision`: what GPUs compute in.
    pub precision: Precision,
    /// `[deployment.code]`
    pub code: CodeSpec,
    /// `[deployment.policy]`
    pub policy: Policy,
}

/// `[deployment.code]`
#[derive(Clone, Debug, PartialEq)]
pub struct CodeSpec {
    /// `kind`
    pub kind: Kind,
    /// `k`: data slots of a stripe.
    pub k: usize,
    /// `r`: parity slots of a stripe.
    pub r: usize,
    /// `coefficients` (kind `sum`): r rows of k numbers; the defaults if absent.
    pub coefficients: Option<Coefficients>,
    /// `errors` (kind `berrut`): lanes that may return something wrong and are to be found.
    pub errors: usize,
    /// `stripe_fill_ms`: how long a stripe may stay short.
    pub stripe_fill: Duration,
}

impl CodeSpec {
    /// What the code is built from.
    pub fn spec(&self) -> Spec {
        Spec { coefficients: self.coefficients.clone(), errors: self.errors, ..Spec::of(self.kind, self.k, self.r) }
    }
}

/// Not a device's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("must be \"cpu\", \"cuda:N\" (N from 0) or \"GPU-<uuid>\"")]
pub struct NoDevice;

impl FromStr for Device {
    type Err = NoDevice;

    fn from_str(text: &str) -> Result<Self, NoDevice> {
        let uuid =
            |rest: &str| (8..=36).contains(&rest.len()) && rest.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        let index = |rest: &str| rest.parse().ok().filter(|index: &usize| index.to_string() == rest);
        match (text.strip_prefix("cuda:").and_then(index), text.strip_prefix("GPU-")) {
            (Some(index), _) => Ok(Device::Cuda(index)),
            (_, Some(rest)) if uuid(rest) => Ok(Device::CudaUuid(text.to_owned())),
            _ if text == "cpu" => Ok(Device::Cpu),
            _ => Err(NoDevice),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Device::CudaUuid(uuid) => f.write_str(uuid),
        }
    }
}

#[cfg(test)]
mod tests;
