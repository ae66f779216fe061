//! The configuration: every key with its unit, default and rule, as plain data that cannot hold an impossible value.
//!
//! Read once at start. All faults are reported together, each with its place, key, value and rule. A value comes from a flag, else from
//! the environment (`PARITYD_HTTP_LISTEN` for `http.listen`), else from the file, else from the default that `config.toml` documents.

mod faults;
mod lanes;
mod print;
mod read;
mod rules;
mod section;
mod values;

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    code::{Code, Coefficients, Kind, Spec, Stacked},
    job::Role,
    query::{Confidence, LaneId},
};

pub use faults::{ConfigFault, ConfigFaults, Warning};
pub use lanes::{LANES_MAX, fault_domains, lanes_for};

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
        let file = path.display().to_string();
        let text = fs::read_to_string(path)
            .map_err(|error| ConfigFaults::one(&file, "", format!("cannot be read: {error}")))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Config::parse_with(&text, folder, &file, &|name| std::env::var(name).ok())
    }

    /// Checks `text`, whatever the environment holds. Relative paths in it are relative to `folder`; faults are placed in `file`.
    pub fn parse(text: &str, folder: &Path, file: &str) -> Result<Config, ConfigFaults> {
        Config::parse_with(text, folder, file, &|_| None)
    }

    fn parse_with(
        text: &str,
        folder: &Path,
        file: &str,
        environment: read::Environment<'_>,
    ) -> Result<Config, ConfigFaults> {
        Document::read(file, text, |root| read::config(root, folder, environment))
    }
}

/// Everything that `config.toml` says, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[http]`
    pub http: Http,
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

/// `[deployment.policy]`
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// `kind`
    pub kind: PolicyKind,
    /// `placement`
    pub placement: Placement,
    /// `health`: whether lanes that hang or are slower than the others get less work or none. A lane that lost a job stops pulling either way.
    pub health: bool,
    /// `hedge`: how a job is found to be late, so that its query is run once more.
    pub hedge: Hedge,
    /// `hedge_after`: a job is late after this many times its expected time, where it does not tell how far it is.
    pub hedge_after: f64,
    /// `parity`: which stripes get their parity jobs.
    pub parity: ParityWhen,
    /// `reserve`: lanes that redundancy leaves idle, at least.
    pub reserve: usize,
    /// `grace`
    pub grace: Grace,
    /// `rerun`: when a lost job is run again.
    pub rerun: Rerun,
    /// `min_confidence`: a reconstruction with less is held back, unless its request says otherwise.
    pub min_confidence: Confidence,
    /// `default_prediction`: answered at the deadline, as a last resort, if present.
    pub default_prediction: Option<Vec<f32>>,
}

/// `kind` of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// No redundancy (rescue of lost jobs remains).
    None,
    /// Every query twice; the copy is worth as much as the first.
    Replicated,
    /// Every query a second time, on lanes that would be idle.
    IdleCopy,
    /// A second run for jobs that are late, and for nothing else.
    Hedged,
    /// Stripes and parity models.
    Coded,
    /// Every query by itself through a small model besides (`compact`).
    Approximate,
    /// Copies while most lanes are idle, parity while some are, hedges always.
    Adaptive,
}

impl Policy {
    /// The policy of a configuration that says no more than its kind and its placement.
    pub const fn usual(kind: PolicyKind, placement: Placement) -> Self {
        let parity = match placement {
            Placement::Dedicated => ParityWhen::Always,
            Placement::Pooled => ParityWhen::Idle,
        };
        Policy {
            kind,
            placement,
            health: true,
            hedge: kind.usual_hedge(),
            hedge_after: 1.2,
            parity,
            reserve: 1,
            grace: Grace::Auto,
            rerun: Rerun::AtOnce,
            min_confidence: Confidence::NONE,
            default_prediction: None,
        }
    }

    /// What stripes follow, where `code` is the one whose parity models are loaded. The small model of `compact` needs no stripe-mates: where a policy is
    /// free to choose, each query has a job of its own, which costs a k-th and waits for nobody.
    pub fn striped(&self, code: Arc<dyn Code>) -> Arc<dyn Code> {
        let adapts = self.kind == PolicyKind::Adaptive && code.kind() == Kind::Compact;
        if self.kind == PolicyKind::Approximate || adapts { Arc::new(Stacked::backup()) } else { code }
    }
}

impl PolicyKind {
    /// All of them with their words.
    pub const WORDS: [(&'static str, PolicyKind); 7] = [
        ("none", PolicyKind::None),
        ("replicated", PolicyKind::Replicated),
        ("idle_copy", PolicyKind::IdleCopy),
        ("hedged", PolicyKind::Hedged),
        ("coded", PolicyKind::Coded),
        ("approximate", PolicyKind::Approximate),
        ("adaptive", PolicyKind::Adaptive),
    ];

    /// Its word.
    ///
    /// # Panics
    ///
    /// If it has none, which a test rules out.
    pub fn as_str(self) -> &'static str {
        let word = PolicyKind::WORDS.into_iter().find(|(_, kind)| *kind == self);
        word.expect("every kind has a word").0
    }

    /// Whether it needs parity models.
    pub const fn is_coded(self) -> bool {
        match self {
            PolicyKind::Coded | PolicyKind::Approximate | PolicyKind::Adaptive => true,
            PolicyKind::None | PolicyKind::Replicated | PolicyKind::IdleCopy | PolicyKind::Hedged => false,
        }
    }

    /// How late jobs are found unless `hedge` says so.
    pub const fn usual_hedge(self) -> Hedge {
        match self {
            PolicyKind::None | PolicyKind::Replicated => Hedge::None,
            PolicyKind::IdleCopy
            | PolicyKind::Hedged
            | PolicyKind::Coded
            | PolicyKind::Approximate
            | PolicyKind::Adaptive => Hedge::Progress,
        }
    }
}

/// `hedge`: how a job is found to be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hedge {
    /// Not at all.
    None,
    /// By the time since it started alone.
    Time,
    /// By what it reports while it runs; by the time where it reports nothing.
    Progress,
}

impl Hedge {
    /// All of them with their words.
    pub const WORDS: [(&'static str, Hedge); 3] =
        [("progress", Hedge::Progress), ("time", Hedge::Time), ("none", Hedge::None)];
}

/// `parity`: which stripes get their parity jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParityWhen {
    /// Every full one, after the data jobs that wait.
    Always,
    /// Full ones for which a lane would be idle.
    Idle,
    /// Those with a member that is late.
    Late,
}

impl ParityWhen {
    /// All of them with their words.
    pub const WORDS: [(&'static str, ParityWhen); 3] =
        [("always", ParityWhen::Always), ("idle", ParityWhen::Idle), ("late", ParityWhen::Late)];
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
    /// `"after_decode"`: only once the stripe can no longer decode it, or has not for `stripe_fill_ms` and two expected times.
    AfterDecode,
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
