//! What the core holds of each lane: its state, the batch it runs, the service time to expect of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{LaneSettings, nanos};
use crate::{
    clock::Time,
    health::{LaneHealth, Move, State},
    job::JobKind,
    queue::Handoff,
    reply::Admitted,
    stripe::{Place, Stripe},
};

/// One job of a running batch, as dispatch sees it.
#[derive(Clone, Debug)]
pub(super) enum Seat {
    /// A run of a query on the base model.
    Query(Run),
    /// A parity job.
    Parity {
        /// The stripe.
        stripe: Arc<Stripe>,
        /// The parity row.
        row: usize,
    },
}

/// A run of a query on the base model.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// Why it runs.
    pub(super) kind: JobKind,
    /// The query.
    pub(super) query: Arc<Admitted>,
    /// Its place in a stripe, if it is protected.
    pub(super) place: Option<Place>,
}

/// A batch in flight.
#[derive(Debug)]
pub(super) struct Running {
    /// Its jobs, in the order the lane knows them.
    pub(super) seats: Vec<Seat>,
    /// When it started.
    started: Time,
}

/// One lane.
#[derive(Debug)]
pub(super) struct LaneSeat {
    pub(super) settings: LaneSettings,
    /// The batch in flight. Whoever takes it out (the lane when it completes, the timer when it has hung) decides what it means.
    running: Handoff<Running>,
    /// When the batch in flight started, in nanoseconds; 0 = none.
    started: AtomicU64,
    /// Jobs of the batch in flight.
    jobs: AtomicUsize,
    /// A batch that the timer took out, for the lane to find when it returns. Locked only around hangs.
    overdue: Mutex<Option<Finished>>,
    /// Smoothed service time in nanoseconds; 0 = unknown.
    pub(super) expected: AtomicU64,
    /// Its last look at the parity jobs found only stripes with a mate in flight in its own fault domain; the timer calls it again.
    pub(super) parity_blocked: AtomicBool,
    /// A copy of "state is healthy", for the path of a query.
    healthy: AtomicBool,
    /// Locked only when the state is changed or told.
    health: Mutex<LaneHealth>,
}

/// What a lane finds of its batch when it is done.
#[derive(Debug)]
pub(super) enum Finished {
    /// It was in time.
    InTime(Box<Running>),
    /// The timer had declared it late.
    Overdue(Box<Running>),
}

impl LaneSeat {
    pub(super) fn new(settings: LaneSettings) -> Self {
        LaneSeat {
            settings,
            running: Handoff::default(),
            started: AtomicU64::new(0),
            jobs: AtomicUsize::new(0),
            overdue: Mutex::new(None),
            expected: AtomicU64::new(0),
            parity_blocked: AtomicBool::new(false),
            healthy: AtomicBool::new(false),
            health: Mutex::new(LaneHealth::starting()),
        }
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }

    pub(super) fn health(&self) -> LaneHealth {
        *self.health.lock()
    }

    /// Moves the lane's state.
    pub(super) fn change(&self, change: impl FnOnce(&mut LaneHealth) -> Option<Move>) -> Option<Move> {
        let mut health = self.health.lock();
        let moved = change(&mut health);
        self.healthy.store(health.state() == State::Healthy, Ordering::Release);
        moved
    }

    /// The lane starts a batch.
    pub(super) fn start(&self, seats: Vec<Seat>, now: Time) {
        self.jobs.store(seats.len(), Ordering::Relaxed);
        let before = self.running.put(Box::new(Running { seats, started: now }));
        assert!(before.is_none(), "a lane runs one batch at a time");
        self.started.store(now.nanos().max(1), Ordering::Release);
    }

    /// The lane's batch is done.
    pub(super) fn finish(&self) -> Finished {
        self.started.store(0, Ordering::Release);
        if let Some(running) = self.running.take() {
            return Finished::InTime(running);
        }
        // The timer holds the lock from taking the batch to leaving it here.
        let taken = self.overdue.lock().take();
        taken.expect("only the timer takes a batch out before it is finished, and leaves it here")
    }

    /// How long the batch in flight has been in flight.
    pub(super) fn in_flight(&self, now: Time) -> Option<Duration> {
        let started = self.started.load(Ordering::Acquire);
        (started != 0).then(|| now.since(Time::from_nanos(started)))
    }

    /// The longest that the batch in flight may take: `hang`, or five times what its jobs would take one by one.
    pub(super) fn hang_limit(&self, hang: Duration) -> Duration {
        let jobs = u64::try_from(self.jobs.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        let expected = self.expected.load(Ordering::Relaxed);
        hang.max(Duration::from_nanos(expected.saturating_mul(jobs).saturating_mul(5)))
    }

    /// The timer declares the batch in flight late, if it is older than `limit`, and looks at it before the lane can find that out.
    /// `None` if the lane was faster; it may have started a younger batch meanwhile, which is left for it as if it had not been touched.
    pub(super) fn declare_overdue<T>(&self, limit: Duration, now: Time, look: impl FnOnce(&Running) -> T) -> Option<T> {
        let mut overdue = self.overdue.lock();
        // A batch that was left here as too young may have hung since.
        let running = match overdue.take() {
            Some(Finished::InTime(running)) => running,
            declared @ (Some(Finished::Overdue(_)) | None) => {
                *overdue = declared;
                self.running.take()?
            }
        };
        if now.since(running.started) <= limit {
            *overdue = Some(Finished::InTime(running));
            return None;
        }
        let seen = look(&running);
        *overdue = Some(Finished::Overdue(running));
        Some(seen)
    }

    /// A batch took `service`; smooths it into the expected time (weight 1/16, as TCP smooths its variance).
    pub(super) fn expect(&self, service: Duration) {
        let sample = nanos(service);
        let before = self.expected.load(Ordering::Relaxed);
        let after = if before == 0 { sample } else { before - before / 16 + sample / 16 };
        self.expected.store(after, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{job::Role, query::FaultDomain};

    #[test]
    fn a_batch_that_was_too_young_to_be_declared_late_is_still_watched() {
        let seat = LaneSeat::new(LaneSettings { role: Role::Base, domain: FaultDomain(0) });
        let (limit, ms) = (Duration::from_millis(200), |ms: u64| Time::from_nanos(ms * 1_000_000));
        seat.start(Vec::new(), ms(1));
        assert!(seat.declare_overdue(limit, ms(100), |_| ()).is_none(), "the timer took it for an older one");
        assert!(seat.declare_overdue(limit, ms(202), |_| ()).is_some(), "now it is late");
        assert!(seat.declare_overdue(limit, ms(300), |_| ()).is_none(), "and is declared once");
        assert!(matches!(seat.finish(), Finished::Overdue(_)));
        seat.start(Vec::new(), ms(400));
        assert!(seat.declare_overdue(limit, ms(401), |_| ()).is_none());
        assert!(matches!(seat.finish(), Finished::InTime(_)), "it came back in time");
    }
}
