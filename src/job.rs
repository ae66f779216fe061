//! What a lane is asked to run, and what comes back: the words that dispatch and lanes share, so that neither names the other.
//!
//! A lane pulls [`Work`] from a [`Feed`] and reports to it. It never learns which stripe, query or policy its rows belong to; the
//! dispatcher never learns what a device or a tensor is.

use std::{fmt, time::Duration};

use crate::query::{LaneId, Row, Values};

/// What a lane's device holds, and so which jobs it may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The base model only.
    Base,
    /// The parity models only.
    Parity,
    /// Both (`pooled` placement).
    Both,
}

impl Role {
    /// Whether data jobs may run there.
    pub const fn runs_base(self) -> bool {
        matches!(self, Role::Base | Role::Both)
    }

    /// Whether parity jobs may run there.
    pub const fn runs_parity(self) -> bool {
        matches!(self, Role::Parity | Role::Both)
    }

    /// The word used in configuration and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Base => "base",
            Role::Parity => "parity",
            Role::Both => "both",
        }
    }
}

/// Why a job is run; the `kind` label of `parityd_jobs_total`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobKind {
    /// The first run of a query.
    Data,
    /// An exact second run because the first was lost or its lane hung.
    Rescue,
    /// The second run of a query that is run twice from the start.
    Replica,
    /// An exact second run because the first is late.
    Hedge,
    /// A parity query on a parity model.
    Parity,
    /// An exact second run on a lane that has nothing better to do.
    IdleCopy,
    /// A copy of a query that shows whether a straggler is still slow.
    Probe,
    /// A known input with a checked output.
    Canary,
}

impl JobKind {
    /// All of them, in the order of the metrics.
    pub const ALL: [JobKind; 8] = [
        JobKind::Data,
        JobKind::Rescue,
        JobKind::Replica,
        JobKind::Hedge,
        JobKind::Parity,
        JobKind::IdleCopy,
        JobKind::Probe,
        JobKind::Canary,
    ];

    /// The word used in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            JobKind::Data => "data",
            JobKind::Rescue => "rescue",
            JobKind::Replica => "replica",
            JobKind::Hedge => "hedge",
            JobKind::Parity => "parity",
            JobKind::IdleCopy => "idle_copy",
            JobKind::Probe => "probe",
            JobKind::Canary => "canary",
        }
    }
}

/// The input of one job on the base model.
#[derive(Clone, Debug)]
pub struct BaseInput {
    /// The input row.
    pub row: Row,
    /// Whether an output that is not finite counts as lost (it does, unless the row itself was out of range).
    pub must_be_finite: bool,
}

/// The input of one parity job. The lane encodes it itself.
#[derive(Clone, Debug)]
pub struct ParityInput {
    /// The parity row, `0..r`.
    pub row: usize,
    /// The k rows of the stripe, in slot order.
    pub rows: Vec<Row>,
}

/// Jobs that run in one forward pass of one model; never empty.
#[derive(Clone, Debug)]
pub enum Batch {
    /// Rows for the base model.
    Base(Vec<BaseInput>),
    /// Stripes for one parity model: jobs of its row alone; or of any row, where they all run on the base model.
    Parity(Vec<ParityInput>),
}

impl Batch {
    /// How many jobs.
    pub const fn jobs(&self) -> usize {
        match self {
            Batch::Base(inputs) => inputs.len(),
            Batch::Parity(inputs) => inputs.len(),
        }
    }
}

/// What a lane does next.
#[derive(Clone, Debug)]
pub enum Work {
    /// Run these jobs.
    Batch(Batch),
    /// Run the known input through every loaded model and check what comes out.
    Canary,
}

/// Why a job's output is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Loss {
    /// The job panicked.
    #[error("panic")]
    Panic,
    /// The device or the model returned an error.
    #[error("error")]
    Device,
    /// The device gave an error after which it is of no use to this process.
    #[error("fatal device error")]
    Fatal,
    /// The device had no memory for the batch.
    #[error("out of memory")]
    Memory,
    /// The output held a value that is not finite.
    #[error("non-finite output")]
    NonFinite,
    /// The canary's output was not the known one.
    #[error("wrong canary output")]
    Canary,
}

/// What came back of one job.
#[derive(Clone, Debug)]
pub enum Completion {
    /// The output row.
    Output(Values),
    /// Nothing usable.
    Lost(Loss),
}

/// Reports of one batch: one after each eighth of its work.
pub const PARTS: usize = 8;

/// Where a lane gets its work and reports it. Implemented by the engine; called on the lane's own thread.
pub trait Feed: Send + Sync {
    /// The lane has loaded its models, and one base (or parity) row takes `expected` on it.
    fn ready(&self, lane: LaneId, expected: Duration);

    /// The lane runs, but has not opened its device: its first canary does.
    fn left_out(&self, lane: LaneId);

    /// The device was opened for a canary, and one base (or parity) row takes `expected` on it.
    fn opened(&self, lane: LaneId, expected: Duration);

    /// The calling thread runs the lane from now on, in place of one that is stuck and says nothing any more.
    fn replaced(&self, lane: LaneId);

    /// The next work for this lane; `None` when the lane should park until it is woken.
    fn pull(&self, lane: LaneId) -> Option<Work>;

    /// `parts` of [`PARTS`] parts of the lane's current batch are over. May be told from any thread that works for the lane, and leave out
    /// some; a lane that cannot tell says nothing.
    fn progress(&self, lane: LaneId, parts: usize);

    /// The lane's current batch comes back, with one completion for each of its jobs, in order, which are taken out of `completions`; `service`
    /// is the time they took, without queueing.
    fn complete(&self, lane: LaneId, batch: Batch, completions: &mut Vec<Completion>, service: Duration);

    /// The canary's outcome.
    fn canary(&self, lane: LaneId, outcome: Result<(), Loss>);

    /// Parks the lane's thread until there may be work for it; `false` when the lane should end.
    fn park(&self, lane: LaneId) -> bool;
}

/// Ends the process if its thread panics while this is held.
///
/// A panic inside a job is caught by its lane. Anywhere else it is a bug that leaves queries nobody would ever answer, and a supervisor
/// restarts us.
#[derive(Debug)]
pub struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// A fault to inject into a lane, for tests and demonstrations.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fault {
    /// Each job takes this many times as long.
    Slow {
        /// At least 1.
        factor: f64,
    },
    /// The next job blocks until the fault is cleared.
    Hang,
    /// The next job never comes back, whatever happens to the fault, which is gone with it.
    Stuck,
    /// The next job panics; the fault is gone with it.
    Panic,
    /// Each job returns an error.
    Error,
    /// Each job returns an error after which a device is of no use to its process.
    Fatal,
    /// The next job breaks what the process has of its GPU, for real: each of its lanes gets such an error until a new process opens it. The fault is
    /// gone with it. A CPU has nothing of the kind, so there it is one such error.
    Poison,
    /// Each batch finds no memory left on the device.
    OutOfMemory,
    /// Each output is NaN.
    Nan,
    /// Each output is finite (as a rule) and wrong.
    Garbage(Garbage),
}

/// How outputs are wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Garbage {
    /// Each value v is 1 - v.
    Wrong,
    /// One bit of one value is the other way round: value and bit are counted by this, 32 a value.
    BitFlip(u32),
    /// All values are a quarter larger.
    Scaled,
    /// The rows of a batch are in another order; a batch of one is right.
    Swapped,
    /// As if the last layer's weights belonged to other outputs: values are in another order.
    Layer,
}

impl Garbage {
    /// The word used on the wire; `None` for the plain kind.
    pub const fn as_str(self) -> Option<&'static str> {
        match self {
            Garbage::Wrong => None,
            Garbage::BitFlip(_) => Some("bit_flip"),
            Garbage::Scaled => Some("scaled"),
            Garbage::Swapped => Some("swapped"),
            Garbage::Layer => Some("layer"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Slow { factor } => write!(f, "slow x{factor}"),
            Fault::Hang => f.write_str("hang"),
            Fault::Stuck => f.write_str("stuck"),
            Fault::Panic => f.write_str("panic"),
            Fault::Error => f.write_str("error"),
            Fault::Fatal => f.write_str("fatal"),
            Fault::Poison => f.write_str("poison"),
            Fault::OutOfMemory => f.write_str("out of memory"),
            Fault::Nan => f.write_str("nan"),
            Fault::Garbage(how) => match how.as_str() {
                None => f.write_str("garbage"),
                Some(how) => write!(f, "garbage: {how}"),
            },
        }
    }
}

/// What an operator is told about one lane.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneReport {
    /// Its id.
    pub id: LaneId,
    /// Its device, as configured.
    pub device: String,
    /// What it holds.
    pub role: Role,
    /// Its state's name.
    pub state: &'static str,
    /// Why it is in that state; empty when healthy.
    pub reason: String,
    /// The injected fault, if any.
    pub fault: Option<Fault>,
}

/// A move of a lane, for operators.
#[derive(Clone, Debug, PartialEq)]
pub struct LaneEvent {
    /// How long ago.
    pub age: Duration,
    /// The lane.
    pub lane: LaneId,
    /// The state it left.
    pub from: &'static str,
    /// The state it went to.
    pub to: &'static str,
    /// Why.
    pub reason: String,
}
