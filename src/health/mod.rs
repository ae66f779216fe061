//! Device health: one state per lane, and the rules by which it moves.
//!
//! Sans-io: each rule is told the time and returns the move it made, with its reason, for the caller to log. A lane that lost a job
//! stops pulling until a canary with a checked output has passed: a lane that fails fast would otherwise be idle most often and swallow
//! the whole queue. Canaries back off, so that a dead device costs next to nothing. Hung is a statement about the batch in
//! flight; it is the timer's to make, because the lane's own thread cannot.
//!
//! Stragglers (lanes that are slower than their peers) are not told apart yet. [`drift`] watches not lanes but what is decoded.

pub mod drift;
pub mod nvml;

use std::time::Duration;

use crate::{clock::Time, job::Loss};

/// When a lane is taken out of work and how it comes back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// A batch in flight for longer than this, and than five times what is expected of its jobs, means a hung lane; `None` never takes a
    /// lane out for that.
    pub hang: Option<Duration>,
    /// From a lost job to the first canary.
    pub canary_first: Duration,
    /// The longest wait between canaries; waits double up to it.
    pub canary_max: Duration,
}

/// The state of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Its models are not loaded yet.
    Starting,
    /// It takes work.
    Healthy,
    /// A job has been in flight for too long.
    Hung,
    /// It lost a job; no work until a canary has passed.
    Failed {
        /// When the next canary may run.
        canary_at: Time,
    },
    /// A canary runs.
    Probation,
}

impl State {
    /// The names of all states, for metrics.
    pub const NAMES: [&'static str; 5] = ["starting", "healthy", "hung", "failed", "probation"];

    /// The word used on the wire, in metrics and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Healthy => "healthy",
            State::Hung => "hung",
            State::Failed { .. } => "failed",
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
    /// The canary was lost too.
    #[error("canary failed: {0}")]
    CanaryFailed(Loss),
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
}

impl LaneHealth {
    /// A lane that is loading.
    pub const fn starting() -> Self {
        LaneHealth { state: State::Starting, reason: None, wait: Duration::ZERO }
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
        Move { from, to, reason }
    }

    /// The lane has loaded its models.
    pub fn ready(&mut self) -> Move {
        self.go(State::Healthy, Reason::Loaded)
    }

    /// The lane lost a job.
    pub fn lost(&mut self, loss: Loss, rules: &Rules, now: Time) -> Option<Move> {
        if self.state != State::Healthy {
            return None;
        }
        self.wait = rules.canary_first;
        Some(self.go(State::Failed { canary_at: now + self.wait }, Reason::LostJob(loss)))
    }

    /// The lane's batch has been in flight for `age`; longer than `limit` means hung.
    pub fn in_flight(&mut self, age: Duration, limit: Duration) -> Option<Move> {
        (self.state == State::Healthy && age > limit).then(|| self.go(State::Hung, Reason::Hang(limit)))
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

    /// Whether a canary may run now.
    pub fn canary_due(&self, now: Time) -> bool {
        matches!(self.state, State::Failed { canary_at } if canary_at <= now)
    }

    /// A due canary starts.
    pub fn canary_starts(&mut self, now: Time) -> Option<Move> {
        self.canary_due(now).then(|| self.go(State::Probation, Reason::CanaryDue))
    }

    /// The canary came back.
    pub fn canary(&mut self, outcome: Result<(), Loss>, rules: &Rules, now: Time) -> Move {
        match outcome {
            Ok(()) => self.go(State::Healthy, Reason::CanaryPassed),
            Err(loss) => {
                self.wait = (self.wait * 2).clamp(rules.canary_first, rules.canary_max);
                self.go(State::Failed { canary_at: now + self.wait }, Reason::CanaryFailed(loss))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        hang: Some(Duration::from_millis(200)),
        canary_first: Duration::from_millis(100),
        canary_max: Duration::from_millis(350),
    };

    fn ms(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    fn healthy() -> LaneHealth {
        let mut lane = LaneHealth::starting();
        lane.ready();
        lane
    }

    #[test]
    fn a_lane_that_lost_a_job_comes_back_through_a_canary_and_backs_off_meanwhile() {
        let mut lane = healthy();
        let fell = lane.lost(Loss::NonFinite, &RULES, ms(0)).unwrap();
        assert_eq!((fell.from, fell.to), (State::Healthy, State::Failed { canary_at: ms(100) }));
        assert!(lane.lost(Loss::Panic, &RULES, ms(1)).is_none(), "it is down already");
        assert!(lane.canary_starts(ms(99)).is_none());
        for (at, next) in [(100, 300), (300, 650), (650, 1000)] {
            assert!(lane.canary_starts(ms(at)).is_some());
            lane.canary(Err(Loss::Device), &RULES, ms(at));
            assert_eq!(lane.state(), State::Failed { canary_at: ms(next) }, "doubles, up to the limit");
        }
        assert!(lane.canary_starts(ms(1000)).is_some());
        assert_eq!(lane.canary(Ok(()), &RULES, ms(1001)).to, State::Healthy);
        assert_eq!(lane.reason(), "");
        lane.lost(Loss::Panic, &RULES, ms(2000));
        assert_eq!(lane.state(), State::Failed { canary_at: ms(2100) }, "the wait starts small again");
    }

    #[test]
    fn a_hung_lane_is_judged_by_a_canary_as_soon_as_it_returns() {
        let mut lane = healthy();
        let limit = Duration::from_millis(200);
        assert!(lane.in_flight(limit, limit).is_none());
        assert_eq!(lane.in_flight(Duration::from_millis(201), limit).unwrap().to, State::Hung);
        assert!(lane.lost(Loss::Panic, &RULES, ms(300)).is_none(), "it stays hung until it returns");
        assert!(lane.returned(&RULES, ms(400)).is_some());
        assert!(lane.canary_due(ms(400)));
    }

    #[test]
    fn a_lane_is_not_blamed_for_a_query_that_two_lanes_lost() {
        let mut lane = healthy();
        lane.lost(Loss::Panic, &RULES, ms(0));
        assert!(lane.excuse(ms(5)).is_some());
        assert!(lane.canary_due(ms(5)));
        assert!(healthy().excuse(ms(5)).is_none(), "there is nothing to excuse");
    }
}
