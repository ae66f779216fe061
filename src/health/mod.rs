//! Device health: one state per lane, and the rules by which it moves.
//!
//! Sans-io: each rule is told the time and returns the move it made, with its reason, for the caller to log. A lane that lost a job
//! stops pulling until a canary with a checked output has passed: a lane that fails fast would otherwise be idle most often and swallow
//! the whole queue. Canaries back off, so that a dead device costs next to nothing. Hung is a statement about the batch in
//! flight; it is the timer's to make, because the lane's own thread cannot.
//!
//! A straggler is slower than its peers, which [`pace`] tells from service times; it still gets work when waiting for another lane would
//! take longer. [`drift`] watches not lanes but what is decoded.

pub mod device;
pub mod drift;
pub mod pace;

use std::time::Duration;

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
    /// From one copy of a query that tells whether a straggler is still slow to the next.
    pub probe: Duration,
    /// From a lost job to the first canary.
    pub canary_first: Duration,
    /// The longest wait between canaries; waits double up to it.
    pub canary_max: Duration,
    /// From a fence, or from the end of what it was for, to the first canary; n times that at the nth fence, up to ten times.
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

/// Canaries in a row that a fenced lane must pass.
const FENCE_CANARIES: u8 = 5;
/// The wait of a fence grows up to so many times.
const FENCES_MAX: u32 = 10;

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
    /// A job has been in flight for too long.
    Hung,
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
    Probation,
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
            State::Hung => "hung",
            State::Failed { .. } => "failed",
            State::Fenced { .. } => "fenced",
            State::Probation => "probation",
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
    /// Two jobs in a row took this many percent of the time that its peers' pace lets expect.
    #[error("two jobs in a row took {0} % of their expected time")]
    Slow(u32),
    /// It hung, so it must show that it is fast again.
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
    /// The job that hung came back.
    #[error("the job that hung came back")]
    Returned,
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
        matches!(self, Reason::Device(Sign::Broken) | Reason::CanaryFailed(Loss::Fatal))
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

/// The state of one lane and how patient to be with it.
#[derive(Clone, Copy, Debug)]
pub struct LaneHealth {
    state: State,
    reason: Option<Reason>,
    wait: Duration,
    /// Whether it has hung or was fenced since it was last healthy.
    hung: bool,
    /// Whether it was fenced since it was last healthy.
    fenced: bool,
    /// Times that it was fenced.
    fences: u32,
    /// Canaries that it must pass before it works again.
    canaries: u8,
    /// Whether the reason for its fence lasts.
    held: bool,
    /// Whether this process can do nothing with its device any more.
    broken: bool,
}

impl LaneHealth {
    /// A lane that is loading.
    pub const fn starting() -> Self {
        LaneHealth {
            state: State::Starting,
            reason: None,
            wait: Duration::ZERO,
            hung: false,
            fenced: false,
            fences: 0,
            canaries: 1,
            held: false,
            broken: false,
        }
    }

    /// Where the lane stands.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Why, in words; empty if there is nothing to say.
    pub fn reason(&self) -> String {
        match (self.state, self.reason) {
            (State::Healthy, _) | (_, None) => String::new(),
            (_, Some(reason)) => reason.to_string(),
        }
    }

    fn go(&mut self, to: State, reason: Reason) -> Move {
        let from = std::mem::replace(&mut self.state, to);
        self.reason = Some(reason);
        let left_out = matches!(to, State::Hung | State::Fenced { .. });
        self.hung = to != State::Healthy && (self.hung || left_out);
        self.fenced = to != State::Healthy && (self.fenced || to.is_fenced());
        self.broken = !to.is_usable() && (self.broken || reason.is_of_process());
        Move { from, to, reason }
    }

    /// The lane has loaded its models.
    pub fn ready(&mut self) -> Move {
        self.go(State::Healthy, Reason::Loaded)
    }

    /// The lane starts without its device, which a canary opens, at once.
    pub fn left_out(&mut self, now: Time) -> Move {
        self.go(State::Failed { canary_at: now }, Reason::LeftOut)
    }

    /// Whether another process could use its device and this one cannot. A device that its driver calls broken is of use to none.
    pub const fn needs_new_process(&self) -> bool {
        self.broken && !self.held
    }

    /// The lane lost a job.
    pub fn lost(&mut self, loss: Loss, rules: &Rules, now: Time) -> Option<Move> {
        if !self.state.is_usable() {
            return None;
        }
        self.wait = rules.canary_first;
        Some(self.go(State::Failed { canary_at: now + self.wait }, Reason::LostJob(loss)))
    }

    /// The lane is slower than its peers: `percent` of its expected time, twice in a row.
    pub fn slow(&mut self, percent: u32, now: Time) -> Option<Move> {
        // At once: two jobs that stalled by chance cost a lane no more than two probes.
        (self.state == State::Healthy).then(|| self.go(State::Straggler { probe_at: now }, Reason::Slow(percent)))
    }

    /// The lane is as fast as expected again.
    pub fn recovered(&mut self) -> Option<Move> {
        matches!(self.state, State::Straggler { .. }).then(|| self.go(State::Healthy, Reason::Recovered))
    }

    /// There is nothing to probe a straggler with, so nothing is lost by trusting it.
    pub fn untested(&mut self) -> Option<Move> {
        matches!(self.state, State::Straggler { .. }).then(|| self.go(State::Healthy, Reason::Untested))
    }

    /// Whether a straggler's probe may run now.
    pub fn probe_due(&self, now: Time) -> bool {
        matches!(self.state, State::Straggler { probe_at } if probe_at <= now)
    }

    /// A straggler's next probe is due at `at`; no move.
    pub fn probe_again(&mut self, at: Time) {
        if let State::Straggler { probe_at } = &mut self.state {
            *probe_at = at;
        }
    }

    /// The lane's batch has been in flight for `age`; longer than `limit` means hung.
    pub fn in_flight(&mut self, age: Duration, limit: Duration) -> Option<Move> {
        (self.state.is_usable() && age > limit).then(|| self.go(State::Hung, Reason::Hang(limit)))
    }

    /// The job that hung came back; a canary decides, at once.
    pub fn returned(&mut self, rules: &Rules, now: Time) -> Option<Move> {
        self.wait = rules.canary_first;
        (self.state == State::Hung).then(|| self.go(State::Failed { canary_at: now }, Reason::Returned))
    }

    /// The job it lost was lost on a second lane too, so the query is taken to be the cause; a canary decides, at once.
    pub fn excuse(&mut self, now: Time) -> Option<Move> {
        let waits = matches!(self.state, State::Failed { canary_at } if canary_at > now);
        waits.then(|| self.go(State::Failed { canary_at: now }, Reason::Excused))
    }

    /// Its device is known to be broken, for as long as it is `held` or as a fact of the past: no work from now on.
    pub fn fence(&mut self, sign: Sign, held: bool, rules: &Rules, now: Time) -> Option<Move> {
        self.held |= held;
        self.broken |= sign == Sign::Broken;
        if self.state == State::Starting {
            return None;
        }
        if let State::Fenced { canary_at } = &mut self.state {
            // What it has proved so far is worth nothing any more.
            *canary_at = (*canary_at).max(now + rules.fence * self.fences);
            self.canaries = FENCE_CANARIES;
            return None;
        }
        self.fences = (self.fences + 1).min(FENCES_MAX);
        self.canaries = FENCE_CANARIES;
        Some(self.go(State::Fenced { canary_at: now + rules.fence * self.fences }, Reason::Device(sign)))
    }

    /// What its fence was for is over; no move: canaries decide, after a wait.
    pub fn release(&mut self, rules: &Rules, now: Time) {
        self.held = false;
        if let State::Fenced { canary_at } = &mut self.state {
            *canary_at = now + rules.fence * self.fences;
        }
    }

    /// Whether a canary may run now.
    pub fn canary_due(&self, now: Time) -> bool {
        match self.state {
            State::Failed { canary_at } => canary_at <= now,
            State::Fenced { canary_at } => canary_at <= now && !self.held,
            State::Starting | State::Healthy | State::Straggler { .. } | State::Hung | State::Probation => false,
        }
    }

    /// A due canary starts.
    pub fn canary_starts(&mut self, now: Time) -> Option<Move> {
        self.canary_due(now).then(|| self.go(State::Probation, Reason::CanaryDue))
    }

    /// The canary came back. No move if the lane was fenced meanwhile.
    pub fn canary(&mut self, outcome: Result<(), Loss>, rules: &Rules, now: Time) -> Option<Move> {
        if self.state != State::Probation {
            return None;
        }
        let fenced = self.canaries > 1;
        Some(match outcome {
            Ok(()) if fenced => {
                self.canaries -= 1;
                self.go(State::Fenced { canary_at: now + rules.canary_first }, Reason::CanariesLeft(self.canaries))
            }
            Ok(()) if self.hung && rules.stragglers => {
                self.go(State::Straggler { probe_at: now + rules.probe }, Reason::OnTrial)
            }
            Ok(()) => self.go(State::Healthy, Reason::CanaryPassed),
            Err(loss) if self.fenced => {
                self.canaries = FENCE_CANARIES;
                self.fences = (self.fences + 1).min(FENCES_MAX);
                self.go(State::Fenced { canary_at: now + rules.fence * self.fences }, Reason::CanaryFailed(loss))
            }
            Err(loss) => {
                self.wait = (self.wait * 2).clamp(rules.canary_first, rules.canary_max);
                self.go(State::Failed { canary_at: now + self.wait }, Reason::CanaryFailed(loss))
            }
        })
    }
}

#[cfg(test)]
mod tests;
