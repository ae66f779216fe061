//! The state of one lane, and the rules by which it moves.

use std::time::Duration;

use super::{Move, Reason, Rules, State, device::Sign};
use crate::{clock::Time, job::Loss};

/// Canaries in a row that a fenced lane must pass.
const FENCE_CANARIES: u8 = 5;
/// The wait of a fence grows up to so many times.
const FENCES_MAX: u32 = 10;
/// A fence that was so many waits ago or more does not count any more.
const FENCES_FORGOTTEN: u32 = 4 * FENCES_MAX;

/// So many batches without memory, each so soon after the one before, take a lane out of work; batches between them that go well do not help.
const STARVED: u8 = 3;
const STARVED_FORGOTTEN: Duration = Duration::from_secs(1);

/// What a lane must make good for before it is trusted like others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Worst {
    /// Nothing, or jobs that it lost.
    Usable,
    /// It was a straggler: it must show that it is fast.
    Slow,
    /// It hung: it must show the same.
    Hung,
    /// It was fenced: a canary that fails fences it again.
    Fenced,
}

/// The state of one lane and how patient to be with it.
#[derive(Clone, Copy, Debug)]
pub struct LaneHealth {
    state: State,
    reason: Option<Reason>,
    wait: Duration,
    /// The worst that it has been since it was last healthy.
    worst: Worst,
    /// Times that it was fenced, of late.
    fences: u32,
    /// When that was last.
    fenced_at: Option<Time>,
    /// Other threads that were tried in place of its own since it last worked, and when the next may be.
    replacements: u32,
    replace_at: Option<Time>,
    /// Batches that found no memory, of late, and when the last one did.
    starved: (u8, Option<Time>),
    /// When the canary in flight started.
    canary_since: Option<Time>,
    /// Canaries that it must pass before it works again.
    canaries: u8,
    /// Reasons for its fence that last.
    held: u8,
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
            worst: Worst::Usable,
            fences: 0,
            fenced_at: None,
            replacements: 0,
            replace_at: None,
            starved: (0, None),
            canary_since: None,
            canaries: 1,
            held: 0,
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
        self.worst = match to {
            State::Healthy => Worst::Usable,
            State::Straggler { .. } => self.worst.max(Worst::Slow),
            State::Hung { .. } => self.worst.max(Worst::Hung),
            State::Fenced { .. } => Worst::Fenced,
            State::Starting | State::Failed { .. } | State::Probation { .. } => self.worst,
        };
        self.broken = !to.is_usable() && (self.broken || reason.is_of_process());
        if to.is_usable() {
            self.replacements = 0;
            self.replace_at = None;
        }
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
        self.broken && self.held == 0
    }

    /// The lane lost a job.
    pub fn lost(&mut self, loss: Loss, rules: &Rules, now: Time) -> Option<Move> {
        if !self.state.is_usable() || loss == Loss::Memory && !self.count_starved(now) {
            return None;
        }
        self.wait = rules.canary_first;
        Some(self.go(State::Failed { canary_at: now + self.wait }, Reason::LostJob(loss)))
    }

    /// Counts batches that found no memory soon after one another; true from the [`STARVED`]th on. The first ones cost their jobs, and not the lane; but a lane that loses
    /// everything quickly would draw all work to itself. `now` is the batch's, so that its jobs count once.
    fn count_starved(&mut self, now: Time) -> bool {
        let (count, last) = self.starved;
        let count = match last {
            Some(last) if last == now => count,
            Some(last) if now.since(last) < STARVED_FORGOTTEN => count.saturating_add(1),
            Some(_) | None => 1,
        };
        self.starved = (count, Some(now));
        count >= STARVED
    }

    /// The lane is slower than its peers; its last job took `percent` of its expected time.
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
    pub fn in_flight(&mut self, age: Duration, limit: Duration, now: Time) -> Option<Move> {
        let is_hung = self.state.is_usable() && age > limit;
        is_hung.then(|| self.go(State::Hung { since: now }, Reason::Hang(limit)))
    }

    /// A canary of a lane that is out of work may take as long as a fence.
    pub fn canary_in_flight(&mut self, rules: &Rules, now: Time) -> Option<Move> {
        let State::Probation { since } = self.state else { return None };
        (now.since(since) > rules.fence).then(|| self.go(State::Hung { since }, Reason::CanaryHang(rules.fence)))
    }

    /// Whether another thread should be tried now in place of the lane's, which is stuck: the first after the wait of a fence, the next ones after longer
    /// and longer waits.
    pub fn replacement_due(&self, age: Option<Duration>, rules: &Rules, now: Time) -> bool {
        self.replace_at.is_none_or(|at| at <= now) && self.is_stuck(age, rules, now)
    }

    /// Whether the lane's thread, which has been in one call for `age`, if in any, has been stuck for the wait of a fence: it hangs, or it was fenced
    /// while it hung.
    pub fn is_stuck(&self, age: Option<Duration>, rules: &Rules, now: Time) -> bool {
        match self.state {
            State::Hung { since } => now.since(since) > rules.fence,
            State::Fenced { .. } => {
                let age = age.or(self.canary_since.map(|since| now.since(since)));
                self.canary_due(now) && age.is_some_and(|age| age > rules.fence)
            }
            State::Starting
            | State::Healthy
            | State::Straggler { .. }
            | State::Failed { .. }
            | State::Probation { .. } => false,
        }
    }

    /// Another thread is tried.
    pub fn replacement_tried(&mut self, rules: &Rules, now: Time) {
        self.replacements = (self.replacements + 1).min(FENCES_MAX);
        self.replace_at = Some(now + rules.fence * self.replacements);
    }

    /// Another thread has opened the device; a canary decides, at once.
    pub fn replaced(&mut self, now: Time) -> Option<Move> {
        self.canary_since = None;
        // A fence is kept up; its canaries have a thread to run on now.
        let waits = matches!(self.state, State::Hung { .. } | State::Probation { .. });
        waits.then(|| self.go(State::Failed { canary_at: now }, Reason::Replaced))
    }

    /// The job that hung came back; a canary decides, at once.
    pub fn returned(&mut self, rules: &Rules, now: Time) -> Option<Move> {
        self.wait = rules.canary_first;
        matches!(self.state, State::Hung { .. }).then(|| self.go(State::Failed { canary_at: now }, Reason::Returned))
    }

    /// The job it lost was lost on a second lane too, so the query is taken to be the cause; a canary decides, at once.
    pub fn excuse(&mut self, now: Time) -> Option<Move> {
        let waits = matches!(self.state, State::Failed { canary_at } if canary_at > now);
        waits.then(|| self.go(State::Failed { canary_at: now }, Reason::Excused))
    }

    /// Its device is known to be broken, for as long as it is `held` or as a fact of the past: no work from now on.
    pub fn fence(&mut self, sign: Sign, held: bool, rules: &Rules, now: Time) -> Option<Move> {
        self.held = self.held.saturating_add(u8::from(held));
        self.broken |= sign.is_of_process();
        if self.state == State::Starting {
            return None;
        }
        if let State::Fenced { canary_at } = &mut self.state {
            // What it has proved so far is worth nothing any more.
            *canary_at = (*canary_at).max(now + rules.fence * self.fences);
            self.canaries = FENCE_CANARIES;
            return None;
        }
        self.count_fence(rules, now);
        self.canaries = FENCE_CANARIES;
        Some(self.go(State::Fenced { canary_at: now + rules.fence * self.fences }, Reason::Device(sign)))
    }

    /// One more fence; the first again if the last was long ago.
    fn count_fence(&mut self, rules: &Rules, now: Time) {
        let long = rules.fence * FENCES_FORGOTTEN;
        let before = if self.fenced_at.is_some_and(|last| now.since(last) > long) { 0 } else { self.fences };
        self.fences = (before + 1).min(FENCES_MAX);
        self.fenced_at = Some(now);
    }

    /// A reason for its fence that lasted is over; no move: once all are, canaries decide, after a wait.
    pub fn release(&mut self, rules: &Rules, now: Time) {
        self.held = self.held.saturating_sub(1);
        if let State::Fenced { canary_at } = &mut self.state {
            *canary_at = now + rules.fence * self.fences;
        }
    }

    /// Whether a canary may run now.
    pub fn canary_due(&self, now: Time) -> bool {
        match self.state {
            State::Failed { canary_at } => canary_at <= now,
            State::Fenced { canary_at } => canary_at <= now && self.held == 0,
            State::Starting
            | State::Healthy
            | State::Straggler { .. }
            | State::Hung { .. }
            | State::Probation { .. } => false,
        }
    }

    /// A due canary starts.
    pub fn canary_starts(&mut self, now: Time) -> Option<Move> {
        if !self.canary_due(now) {
            return None;
        }
        self.canary_since = Some(now);
        Some(self.go(State::Probation { since: now }, Reason::CanaryDue))
    }

    /// The canary came back. No move if the lane was fenced meanwhile; one that hung is to pass another, at once.
    pub fn canary(&mut self, outcome: Result<(), Loss>, rules: &Rules, now: Time) -> Option<Move> {
        self.canary_since = None;
        match self.state {
            State::Probation { .. } => {}
            State::Hung { .. } => return self.returned(rules, now),
            State::Starting
            | State::Healthy
            | State::Straggler { .. }
            | State::Failed { .. }
            | State::Fenced { .. } => return None,
        }
        let fenced = self.canaries > 1;
        Some(match outcome {
            Ok(()) if fenced => {
                self.canaries -= 1;
                self.go(State::Fenced { canary_at: now + rules.canary_first }, Reason::CanariesLeft(self.canaries))
            }
            Ok(()) if self.worst >= Worst::Slow && rules.stragglers => {
                self.go(State::Straggler { probe_at: now + rules.probe }, Reason::OnTrial)
            }
            Ok(()) => self.go(State::Healthy, Reason::CanaryPassed),
            Err(loss) if self.worst == Worst::Fenced => {
                self.canaries = FENCE_CANARIES;
                self.count_fence(rules, now);
                self.go(State::Fenced { canary_at: now + rules.fence * self.fences }, Reason::CanaryFailed(loss))
            }
            Err(loss) => {
                self.wait = (self.wait * 2).clamp(rules.canary_first, rules.canary_max);
                self.go(State::Failed { canary_at: now + self.wait }, Reason::CanaryFailed(loss))
            }
        })
    }
}
