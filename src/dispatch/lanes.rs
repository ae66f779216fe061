//! What the core holds of each lane: its state, the batch it runs, how far that is, the pace to expect of it.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    LaneSettings,
    canary::Unchecked,
    occupancy::{BUSY, Flags, HEALTHY, Occupancy, STRAGGLER},
    run::RunningJob,
};
use crate::{
    clock::{Time, nanos},
    config::Hedge,
    health::{
        LaneHealth, Move, State,
        pace::{Model, Pace, Pass},
    },
    job::PARTS,
    queue::Handoff,
};

/// A canary runs no more than so many jobs' worth: one row and two on the base model, and every parity model.
const CANARY_JOBS: u32 = 8;

/// What a lane starts.
#[derive(Debug)]
pub(super) enum Start {
    /// A canary that proves a lane which seems well.
    Canary,
    /// A batch of these jobs.
    Batch(Vec<RunningJob>),
    /// The same, on a lane that was reserved for redundancy.
    Reserved(Vec<RunningJob>),
}

/// A batch in flight, or such a canary, which has no jobs.
#[derive(Debug, Default)]
pub(super) struct Running {
    /// Its jobs, in the order the lane knows them.
    pub(super) jobs: Vec<RunningJob>,
    /// When it started.
    started: Time,
    /// Whether it runs on a lane that was reserved for redundancy.
    pub(super) reserved: bool,
}

impl Running {
    /// On which model, and how many jobs.
    pub(super) fn pass(&self) -> Pass {
        let model = match self.jobs.first() {
            Some(RunningJob::Parity { .. }) => Model::Parity,
            Some(RunningJob::Query(_)) | None => Model::Base,
        };
        Pass { model, jobs: self.jobs.len() }
    }
}

/// A batch that a lane is done with.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) running: Box<Running>,
    /// It hung, or its device was fenced, and what follows from that was done.
    pub(super) was_given_up: bool,
}

/// One lane.
#[derive(Debug)]
pub(super) struct LaneSeat {
    pub(super) settings: LaneSettings,
    /// The batch in flight. Whoever takes it out (the lane when it completes, the timer when it has hung) decides what it means.
    running: Handoff<Running>,
    /// The memory of the one before.
    spare: Handoff<Running>,
    /// When the batch in flight started, in nanoseconds; 0 = none.
    started: AtomicU64,
    /// Jobs of the batch in flight.
    jobs: AtomicUsize,
    /// Whether they run on a parity model.
    parity: AtomicBool,
    /// Whether it is a canary, which runs every model and tells nothing of how far it is.
    canary: AtomicBool,
    /// How many of its parts are over.
    parts: AtomicU8,
    /// When each was over, in nanoseconds since the start; written by the lane's threads, and read by its own when all are done.
    marks: [AtomicU64; PARTS],
    /// The batch in flight was found to be late, and what follows from that was done.
    late: AtomicBool,
    /// A batch that the timer took out, for the lane to find when it returns. Locked only around hangs and late jobs.
    taken_out: Mutex<Option<TakenOut>>,
    /// What its batches usually take.
    pub(super) pace: Pace,
    /// What it has run since it last proved itself.
    pub(super) unchecked: Unchecked,
    /// Its last look at the parity jobs found only stripes with a mate in flight in its own fault domain; the timer calls it again.
    pub(super) parity_blocked: AtomicBool,
    /// Whether it is healthy, a straggler, busy: a copy of its state for the path of a query.
    flags: Flags,
    /// Locked only when the state is changed or told.
    health: Mutex<LaneHealth>,
}

/// What the timer has left of a batch that it took out.
#[derive(Debug)]
enum TakenOut {
    /// It was looked at, and is not given up.
    InTime(Box<Running>),
    /// It hung, or its device was fenced.
    GivenUp(Box<Running>),
}

impl LaneSeat {
    pub(super) fn new(settings: LaneSettings, batch_max: usize) -> Self {
        LaneSeat {
            settings,
            running: Handoff::default(),
            spare: Handoff::default(),
            started: AtomicU64::new(0),
            jobs: AtomicUsize::new(0),
            parity: AtomicBool::new(false),
            canary: AtomicBool::new(false),
            parts: AtomicU8::new(0),
            marks: std::array::from_fn(|_| AtomicU64::new(0)),
            late: AtomicBool::new(false),
            taken_out: Mutex::new(None),
            pace: Pace::new(batch_max),
            unchecked: Unchecked::default(),
            parity_blocked: AtomicBool::new(false),
            flags: Flags::default(),
            health: Mutex::new(LaneHealth::starting()),
        }
    }

    /// Whether it takes work like its peers.
    pub(super) fn is_healthy(&self) -> bool {
        self.flags.has_any(HEALTHY)
    }

    /// Whether it takes work only when waiting for its peers would take longer.
    pub(super) fn is_straggler(&self) -> bool {
        self.flags.has_any(STRAGGLER)
    }

    /// Whether it may be given queries at all.
    pub(super) fn is_usable(&self) -> bool {
        self.flags.has_any(HEALTHY | STRAGGLER)
    }

    pub(super) fn health(&self) -> LaneHealth {
        *self.health.lock()
    }

    /// Changes what is remembered of the lane's state, without a move.
    pub(super) fn with_health(&self, change: impl FnOnce(&mut LaneHealth)) {
        change(&mut self.health.lock());
    }

    /// Moves the lane's state. Parity lanes are not counted: what runs there takes no lane from queries.
    pub(super) fn change(
        &self,
        occupancy: &Occupancy,
        change: impl FnOnce(&mut LaneHealth) -> Option<Move>,
    ) -> Option<Move> {
        let mut health = self.health.lock();
        let moved = change(&mut health);
        let state = health.state();
        occupancy.set(&self.flags, STRAGGLER, matches!(state, State::Straggler { .. }));
        occupancy.set(&self.flags, HEALTHY, state == State::Healthy);
        moved
    }

    /// The lane starts something.
    pub(super) fn start(&self, start: Start, occupancy: &Occupancy, now: Time) {
        self.canary.store(matches!(start, Start::Canary), Ordering::Relaxed);
        let reserved = matches!(start, Start::Reserved(_));
        let jobs = match start {
            Start::Canary => Vec::new(),
            Start::Batch(jobs) | Start::Reserved(jobs) => jobs,
        };
        self.jobs.store(jobs.len().max(1), Ordering::Relaxed);
        self.parts.store(0, Ordering::Relaxed);
        self.late.store(false, Ordering::Relaxed);
        if reserved {
            occupancy.start_reserved(&self.flags);
        } else {
            occupancy.set(&self.flags, BUSY, true);
        }
        let mut running = self.spare.take().unwrap_or_default();
        *running = Running { jobs, started: now, reserved };
        self.parity.store(running.pass().model == Model::Parity, Ordering::Relaxed);
        let before = self.running.put(running);
        assert!(before.is_none(), "a lane runs one batch at a time");
        self.started.store(now.nanos().max(1), Ordering::Release);
    }

    /// The lane is done with whatever it ran.
    pub(super) fn end(&self, running: &Running, occupancy: &Occupancy) {
        occupancy.set(&self.flags, BUSY, false);
        if running.reserved {
            occupancy.end_reserved();
        }
    }

    /// Keeps the memory of a batch that is over.
    pub(super) fn keep(&self, running: Box<Running>) {
        drop(self.spare.put(running));
    }

    /// `parts` of the batch in flight are over. Of a lane's threads one may tell of fewer after another told of more.
    pub(super) fn progress(&self, parts: usize, now: Time) {
        let started = Time::from_nanos(self.started.load(Ordering::Relaxed));
        let parts = parts.min(PARTS);
        let told = u8::try_from(parts).unwrap_or(u8::MAX);
        if self.parts.fetch_max(told, Ordering::Release) < told {
            self.marks[parts - 1].store(nanos(now.since(started)).max(1), Ordering::Relaxed);
        }
    }

    /// When the parts of the batch that is done were over; forgotten with this.
    pub(super) fn take_marks(&self) -> [Duration; PARTS] {
        std::array::from_fn(|part| Duration::from_nanos(self.marks[part].swap(0, Ordering::Relaxed)))
    }

    /// The least that the ratio of the batch in flight will be: its age over the time at which its next part is usually over.
    pub(super) fn ratio_so_far(&self, now: Time) -> Option<f64> {
        let age = self.in_flight(now).filter(|_| !self.runs_canary())?;
        let usual = self.pace.usual(self.pass(), self.parts())?;
        Some(age.as_secs_f64() / usual.as_secs_f64().max(1e-9))
    }

    /// The model that the lane is there for.
    pub(super) const fn main_model(&self) -> Model {
        if self.settings.role.runs_base() { Model::Base } else { Model::Parity }
    }

    /// Whether what is in flight is a canary, if anything is.
    pub(super) fn runs_canary(&self) -> bool {
        self.canary.load(Ordering::Relaxed)
    }

    /// What is in flight.
    fn pass(&self) -> Pass {
        let model = if self.parity.load(Ordering::Relaxed) { Model::Parity } else { Model::Base };
        Pass { model, jobs: self.jobs.load(Ordering::Relaxed) }
    }

    fn parts(&self) -> usize {
        usize::from(self.parts.load(Ordering::Acquire))
    }

    /// Whether the batch in flight has run for long enough to be late; any batch, where only time tells.
    pub(super) fn can_be_judged(&self, hedge: Hedge, now: Time) -> bool {
        let first = match hedge {
            Hedge::None | Hedge::Time => None,
            Hedge::Progress => self.pace.late_by_progress(self.pass(), 0),
        };
        !self.runs_canary() && self.in_flight(now).is_some_and(|age| age > first.unwrap_or(Duration::ZERO))
    }

    /// Whether what follows from the batch in flight being late was not done yet.
    pub(super) fn is_unseen(&self) -> bool {
        !self.late.load(Ordering::Relaxed)
    }

    /// Whether the batch in flight is late; `hedge` says how that is told.
    pub(super) fn is_late(&self, hedge: Hedge, after: f64, now: Time) -> bool {
        let Some(age) = self.in_flight(now).filter(|_| !self.runs_canary()) else { return false };
        let (pass, parts) = (self.pass(), self.parts());
        let by_progress = || self.pace.late_by_progress(pass, parts);
        let by_time = || self.pace.late_by_time(pass, after);
        let limit = match hedge {
            Hedge::None => None,
            Hedge::Time => by_time(),
            Hedge::Progress => by_progress().or_else(by_time),
        };
        // What was given to a straggler was known to take longer.
        let patience =
            |limit: Duration| if self.is_straggler() { limit.mul_f64(self.pace.ratio().max(1.0)) } else { limit };
        limit.is_some_and(|limit| age > limit && age > patience(limit))
    }

    /// The batch in flight, out of the lane's reach: the one that was left here as too young, or the lane's. None if there is none but one given up.
    fn take_out(&self, taken_out: &mut Option<TakenOut>) -> Option<Box<Running>> {
        match taken_out.take() {
            Some(TakenOut::InTime(running)) => Some(running),
            given_up @ (Some(TakenOut::GivenUp(_)) | None) => {
                *taken_out = given_up;
                self.running.take()
            }
        }
    }

    /// Looks at the batch in flight, which was found to be late, once; `None` if it is over or was looked at. The lane finds it untouched.
    pub(super) fn look_late<T>(&self, now: Time, look: impl FnOnce(&Running) -> T) -> Option<T> {
        if self.late.load(Ordering::Relaxed) {
            return None;
        }
        let mut taken_out = self.taken_out.lock();
        let running = self.take_out(&mut taken_out)?;
        // The one that was found late may be over, and this one has just begun.
        let seen = (running.started < now).then(|| look(&running));
        self.late.store(seen.is_some(), Ordering::Relaxed);
        *taken_out = Some(TakenOut::InTime(running));
        seen
    }

    /// The lane's batch is done.
    pub(super) fn finish(&self) -> Finished {
        self.started.store(0, Ordering::Release);
        if let Some(running) = self.running.take() {
            return Finished { running, was_given_up: false };
        }
        // The timer holds the lock from taking the batch to leaving it here.
        let taken_out = self.taken_out.lock().take();
        match taken_out.expect("only the timer takes a batch out before it is finished, and leaves it") {
            TakenOut::InTime(running) => Finished { running, was_given_up: false },
            TakenOut::GivenUp(running) => Finished { running, was_given_up: true },
        }
    }

    /// How long the batch in flight has been in flight.
    pub(super) fn in_flight(&self, now: Time) -> Option<Duration> {
        let started = self.started.load(Ordering::Acquire);
        (started != 0).then(|| now.since(Time::from_nanos(started)))
    }

    /// The longest that the batch in flight may take: `hang`, or five times what it is expected to take (by a straggler, of the time that it took
    /// of late).
    pub(super) fn hang_limit(&self, hang: Duration) -> Duration {
        let pass = self.pass();
        let mut expected = self.pace.expected(pass);
        if self.runs_canary() {
            let one = Pass { model: self.main_model(), jobs: 1 };
            expected = self.pace.expected(one).map(|one| one * CANARY_JOBS);
        }
        // How long parity takes on a lane that is there for the base model shows when it first returns: until then, as long as that.
        let main = || self.pace.expected(Pass { model: self.main_model(), ..pass });
        let expected = expected.or_else(main).unwrap_or(Duration::ZERO);
        let slower = if self.is_straggler() { self.pace.ratio().max(1.0) } else { 1.0 };
        hang.max((expected * 5).mul_f64(slower))
    }

    /// Gives up the batch in flight, if it is older than `limit` or there is none, and looks at it before the lane can find that out.
    /// `None` if the lane was faster; it may have started a younger batch meanwhile, which is left for it as if it had not been touched.
    pub(super) fn give_up_older<T>(
        &self,
        limit: Option<Duration>,
        now: Time,
        look: impl FnOnce(&mut Running) -> T,
    ) -> Option<T> {
        let mut taken_out = self.taken_out.lock();
        let mut running = self.take_out(&mut taken_out)?;
        if limit.is_some_and(|limit| now.since(running.started) <= limit) {
            *taken_out = Some(TakenOut::InTime(running));
            return None;
        }
        let seen = look(&mut running);
        *taken_out = Some(TakenOut::GivenUp(running));
        Some(seen)
    }
}

#[cfg(test)]
mod tests;
