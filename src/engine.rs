//! The engine: the core under a real clock, with real threads to wake.
//!
//! Owns the clock, the lanes' bells and the number of admitted queries. It adds the time to every event, carries out what the core asks
//! for, and is what the layers around it hold: `http` as [`Admission`], lanes as [`Feed`], the timer thread as [`Engine::run_timer`].
//! It decides nothing; every rule is in `dispatch`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    admission::{Admission, Refusal, Terms},
    clock::Clock,
    dispatch::{Completed, Dispatch, Effect, Settings},
    health::State,
    job::{AbortOnPanic, Completion, Feed, Loss, Work},
    metrics::Metrics,
    query::{LaneId, Query, Rows},
    queue::Bells,
    reply::{Admitted, Pending, Permit},
};

/// How often the timer thread applies the passage of time: the slack of every deadline.
const TICK: Duration = Duration::from_millis(1);

/// What admission holds a request to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Admitted rows, at most.
    pub queue_max: usize,
    /// From admission to the answer, at most.
    pub deadline: Duration,
    /// Input values outside run unprotected (inclusive bounds).
    pub input_range: (f32, f32),
}

/// The core and what it needs of the world.
#[derive(Debug)]
pub struct Engine {
    dispatch: Dispatch,
    limits: Limits,
    clock: Clock,
    bells: Bells,
    admitted: Arc<AtomicUsize>,
    draining: AtomicBool,
    stopped: AtomicBool,
}

impl Engine {
    /// An engine whose lanes have yet to start.
    pub fn new(settings: Settings, limits: Limits, clock: Clock, metrics: Arc<Metrics>) -> Self {
        Engine {
            bells: Bells::new(settings.lanes.len()),
            dispatch: Dispatch::new(settings, metrics),
            limits,
            clock,
            admitted: Arc::new(AtomicUsize::new(0)),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        }
    }

    /// Applies the passage of time until the engine stops. Runs on a thread of its own: neither a hung lane nor a busy HTTP worker may
    /// keep a deadline waiting.
    pub fn run_timer(&self) {
        let _abort = AbortOnPanic;
        while !self.stopped.load(Ordering::Acquire) {
            self.clock.pause(TICK);
            let mut effects = Vec::new();
            self.dispatch.tick(self.clock.now(), &mut effects);
            self.carry_out(&effects);
        }
    }

    /// Refuses new queries from now on; admitted ones are still answered.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Ends the timer and every lane that is not stuck in a job.
    pub fn stop(&self) {
        self.drain();
        self.stopped.store(true, Ordering::Release);
        self.bells.ring_all();
    }

    /// Admitted queries that are not over.
    pub fn admitted(&self) -> usize {
        self.admitted.load(Ordering::Acquire)
    }

    /// State and reason of a lane, in words.
    pub fn describe(&self, lane: LaneId) -> (&'static str, String) {
        self.dispatch.describe(lane)
    }

    fn carry_out(&self, effects: &[Effect]) {
        for effect in effects {
            match *effect {
                Effect::Wake(lane) => self.bells.ring(lane),
                Effect::Moved(lane, change) => {
                    let (from, to, reason) = (change.from.as_str(), change.to.as_str(), change.reason);
                    if change.to == State::Healthy {
                        tracing::info!(%lane, from, to, %reason, "lane moved");
                    } else {
                        tracing::warn!(%lane, from, to, %reason, "lane moved");
                    }
                }
            }
        }
    }

    fn queries(&self, rows: &Rows, terms: Terms) -> Vec<Query> {
        let admitted = self.clock.now();
        let (lowest, highest) = self.limits.input_range;
        let query = |row: crate::query::Row| Query {
            in_range: row.iter().all(|value| (lowest..=highest).contains(value)),
            row,
            admitted,
            deadline: admitted + self.limits.deadline,
            accepts: terms.accepts,
        };
        rows.iter().map(query).collect()
    }
}

impl Admission for Engine {
    fn admit(&self, rows: &Rows, terms: Terms) -> Result<Pending, Refusal> {
        let _abort = AbortOnPanic;
        let queue_max = self.limits.queue_max;
        if self.draining.load(Ordering::Acquire) {
            return Err(Refusal::Draining);
        }
        if !self.dispatch.all_loaded() {
            return Err(Refusal::NotReady);
        }
        if rows.count() > queue_max {
            return Err(Refusal::TooManyRows { queue_max });
        }
        let permits = Permit::acquire(&self.admitted, queue_max, rows.count()).ok_or(Refusal::Full)?;
        let (admitted, pending) = Admitted::request(self.queries(rows, terms), permits);
        let mut effects = Vec::new();
        self.dispatch.submit(admitted, &mut effects);
        self.carry_out(&effects);
        Ok(pending)
    }

    fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Acquire) && self.dispatch.all_loaded() && self.dispatch.has_usable_lane()
    }
}

impl Feed for Engine {
    fn ready(&self, lane: LaneId, expected: Duration) {
        let _abort = AbortOnPanic;
        let mut effects = Vec::new();
        self.dispatch.ready(lane, expected, &mut effects);
        self.carry_out(&effects);
    }

    fn pull(&self, lane: LaneId) -> Option<Work> {
        let _abort = AbortOnPanic;
        let mut effects = Vec::new();
        let work = self.dispatch.pull(lane, self.clock.now(), &mut effects);
        self.carry_out(&effects);
        work
    }

    fn complete(&self, lane: LaneId, completions: Vec<Completion>, service: Duration) {
        let _abort = AbortOnPanic;
        let mut effects = Vec::new();
        self.dispatch.complete(Completed { lane, completions, service }, self.clock.now(), &mut effects);
        self.carry_out(&effects);
    }

    fn canary(&self, lane: LaneId, outcome: Result<(), Loss>) {
        let _abort = AbortOnPanic;
        let mut effects = Vec::new();
        self.dispatch.canary(lane, outcome, self.clock.now(), &mut effects);
        self.carry_out(&effects);
    }

    fn park(&self, lane: LaneId) -> bool {
        let _abort = AbortOnPanic;
        if self.dispatch.rest(lane) && !self.stopped.load(Ordering::Acquire) {
            self.bells.wait(lane);
        }
        self.dispatch.rise(lane);
        !self.stopped.load(Ordering::Acquire)
    }
}
