//! Device health: one state per lane, and the rules by which it moves.
//!
//! Sans-io: each rule is told the time and returns the move it made, with its reason, for the caller to log. A lane that lost a job
//! (to a lack of memory: the third in a row) stops pulling until a canary with a checked output has passed: a lane that fails fast would
//! otherwise be idle most often and swallow the whole queue. Canaries back off, so that a dead device costs next to nothing. Hung is a statement about the batch in
//! flight; it is the timer's to make, because the lane's own thread cannot. `lane` has the moves of one lane.
//!
//! A straggler is slower than its peers, which [`pace`] tells from service times; it still gets work when waiting for another lane would
//! take longer. [`drift`] watches not lanes but what is decoded.

pub mod device;
pub mod drift;
mod lane;
pub mod pace;
pub mod residual;

use std::time::Duration;

pub use lane::LaneHealth;

use crate::{clock::Time, job::Loss};
use device::Sign;

/// When a lane is taken out of work and how it comes back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// A batch in flight for longer than this, and than five times what is expected of its jobs, means a hung lane; `None` never takes a
    /// lane out for that.
    pub hang: Option<Duration>,
    /// Whether lanes that are slower than the others are told apart.
    pub stragglers: bool,
    /// Between probes of a straggler: copies of queries that show whether it is still slow.
    pub probe: Duration,
    /// From a lost job to the first canary.
    pub canary_first: Duration,
    /// The longest wait between canaries; waits double up to it.
    pub canary_max: Duration,
    /// From a fence, or from the end of what it was for, to the first canary; n times that at the nth fence, up to ten times. Also how long a
    /// canary may take, which may have to open the device, and how long a thread may be stuck before another is tried in its place.
    pub fence: Duration,
    /// Jobs after which a lane that is well runs a canary when it is idle, and twice as many after which it runs one anyway; `None` never does.
    pub canary_every: Option<u32>,
}

impl Default for Rules {
    /// Those of a configuration that says nothing of health.
    fn default() -> Self {
        Rules {
            hang: Some(Duration::from_millis(200)),
            stragglers: true,
            probe: Duration::from_millis(250),
            canary_first: Duration::from_millis(100),
            canary_max: Duration::from_secs(5),
            fence: Duration::from_secs(30),
            canary_every: Some(100),
        }
    }
}

/// The state of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Its models are not loaded yet.
    Starting,
    /// It takes work.
    Healthy,
    /// It is slower than its peers, and takes work only when waiting for one of them would take longer.
    Straggler {
        /// When it gets its next probe.
        probe_at: Time,
    },
    /// A job or a canary has been in flight for too long.
    Hung {
        /// From when on its thread counts as stuck.
        since: Time,
    },
    /// It lost a job; no work until a canary has passed.
    Failed {
        /// When the next canary may run.
        canary_at: Time,
    },
    /// Its device is known to be broken; no work until that is over and canaries have passed.
    Fenced {
        /// When the next canary may run.
        canary_at: Time,
    },
    /// A canary runs.
    Probation {
        /// When it started.
        since: Time,
    },
}

impl State {
    /// The names of all states, for metrics.
    pub const NAMES: [&'static str; 7] = ["starting", "healthy", "straggler", "hung", "failed", "fenced", "probation"];

    /// Whether it may be given queries.
    pub const fn is_usable(self) -> bool {
        matches!(self, State::Healthy | State::Straggler { .. })
    }

    /// Whether its device is known to be broken.
    pub const fn is_fenced(self) -> bool {
        matches!(self, State::Fenced { .. })
    }

    /// The word used on the wire, in metrics and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Healthy => "healthy",
            State::Straggler { .. } => "straggler",
            State::Hung { .. } => "hung",
            State::Failed { .. } => "failed",
            State::Fenced { .. } => "fenced",
            State::Probation { .. } => "probation",
        }
    }
}

/// Why a lane is in its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reason {
    /// Its models are loaded.
    #[error("models loaded")]
    Loaded,
    /// A job was lost.
    #[error("lost a job: {0}")]
    LostJob(Loss),
    /// It is slow: its last job took this many percent of what it is expected to take here.
    #[error("slow: the last job took {0} % of its expected time")]
    Slow(u32),
    /// It hung, was fenced or was slow, so it must show that it is fast again.
    #[error("canary passed; it must show that it is fast again")]
    OnTrial,
    /// A straggler's probe was due, and no query had come to test it with.
    #[error("no query came that could have tested it")]
    Untested,
    /// Two jobs in a row took no longer than expected.
    #[error("two jobs in a row were as fast as expected")]
    Recovered,
    /// The batch in flight is too old.
    #[error("a job has been in flight for more than {} ms", .0.as_millis())]
    Hang(Duration),
    /// The canary in flight is too old.
    #[error("a canary has been in flight for more than {} ms", .0.as_millis())]
    CanaryHang(Duration),
    /// The job that hung came back.
    #[error("the job that hung came back")]
    Returned,
    /// Its thread was stuck; another one has opened the device.
    #[error("its thread is stuck, and another has opened the device")]
    Replaced,
    /// A query that two lanes lost was at fault, not this lane.
    #[error("the lost query was at fault")]
    Excused,
    /// The wait before the next canary is over.
    #[error("canary due")]
    CanaryDue,
    /// The canary's output was right.
    #[error("canary passed")]
    CanaryPassed,
    /// What the device's driver told.
    #[error("{0}")]
    Device(Sign),
    /// A fenced lane has passed a canary and must pass so many more.
    #[error("canary passed, {0} more to go")]
    CanariesLeft(u8),
    /// The canary was lost too.
    #[error("canary failed: {0}")]
    CanaryFailed(Loss),
    /// The process before this one could not use its device; a canary opens it.
    #[error("its device was broken in the process before this one")]
    LeftOut,
}

impl Reason {
    /// Whether it says that this process can do nothing with the device any more.
    const fn is_of_process(self) -> bool {
        let is_broken = matches!(self, Reason::Device(sign) if sign.is_of_process());
        is_broken || matches!(self, Reason::CanaryFailed(Loss::Fatal))
    }
}

/// One move of a lane from state to state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// The state it left.
    pub from: State,
    /// The state it is in.
    pub to: State,
    /// Why.
    pub reason: Reason,
}

#[cfg(test)]
mod tests;
