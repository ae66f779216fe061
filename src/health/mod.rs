//! Device health: one state per lane, and the rules by which it moves.
//!
//! Sans-io: each rule is told the time and returns the move it made, with its reason, for the caller to log. A lane that lost a job
//! stops pulling until a canary with a checked output has passed: a lane that fails fast would otherwise be idle most often and swallow
//! the whole queue. Canaries back off, so that a dead device costs next to nothing. Hung is a statement about the batch in
//! flight; it is the timer's to make, because the lane's own thread cannot.
//!
//! A straggler is slower than its peers, which [`pace`] tells from service times; it still gets work when waiting for another lane would
//! take longer. [`drift`] watches not lanes but what is decoded.

pub mod drift;
pub mod nvml;
pub mod pace;

use std::time::Duration;

use crate::{clock::Time, job::Loss};

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
    pub const NAMES: [&'static str; 6] = ["starting", "healthy", "straggler", "hung", "failed", "probation"];

    /// Whether it may be given queries.
    pub const fn is_usable(self) -> bool {
        matches!(self, State::Healthy | State::Straggler { .. })
    }

    /// The word used on the wire, in metrics and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Healthy => "healthy",
            State::Straggler { .. } => "straggler",
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
    /// Whether it has hung since it was last healthy.
    hung: bool,
}

impl LaneHealth {
    /// A lane that is loading.
    pub const fn starting() -> Self {
        LaneHealth { state: State::Starting, reason: None, wait: Duration::ZERO, hung: false }
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
        self.hung = to != State::Healthy && (self.hung || to == State::Hung);
        Move { from, to, reason }
    }

    /// The lane has loaded its models.
    pub fn ready(&mut self) -> Move {
        self.go(State::Healthy, Reason::Loaded)
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
            Ok(()) if self.hung && rules.stragglers => {
                self.go(State::Straggler { probe_at: now + rules.probe }, Reason::OnTrial)
            }
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
        stragglers: true,
        probe: Duration::from_millis(200),
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
        lane.canary_starts(ms(400));
        assert_eq!(lane.canary(Ok(()), &RULES, ms(401)).to, State::Straggler { probe_at: ms(601) }, "on trial");
        assert_eq!(lane.untested().unwrap().to, State::Healthy);
    }

    #[test]
    fn a_straggler_is_probed_until_it_is_fast_again_and_can_fall_further() {
        let mut lane = healthy();
        assert!(lane.recovered().is_none(), "there is nothing to recover from");
        assert_eq!(lane.slow(300, ms(10)).unwrap().to, State::Straggler { probe_at: ms(10) });
        assert!(lane.slow(300, ms(20)).is_none(), "it is one already");
        lane.probe_again(ms(210));
        assert!(!lane.probe_due(ms(209)) && lane.probe_due(ms(210)));
        assert_eq!(lane.recovered().unwrap().to, State::Healthy);
        lane.slow(200, ms(500));
        assert_eq!(lane.lost(Loss::Device, &RULES, ms(510)).unwrap().to, State::Failed { canary_at: ms(610) });
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
