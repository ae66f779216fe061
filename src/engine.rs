//! The engine: the core under a real clock, with real threads to wake.
//!
//! Owns the clock, the lanes' bells and the number of admitted queries. It adds the time to every event, carries out what the core asks
//! for, and is what the layers around it hold: `http` as [`Admission`], lanes as [`Feed`], the timer thread as [`Engine::run_timer`].
//! It decides nothing; every rule is in `dispatch`.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    admission::{Admission, Refusal, Terms},
    clock::{Clock, Time},
    dispatch::{Completed, Dispatch, Effect, Settings},
    health::{
        Move, State,
        device::Told,
        drift::{Standing, Turn},
    },
    job::{AbortOnPanic, Completion, Feed, LaneEvent, Loss, Work},
    metrics::Metrics,
    query::{Confidence, LaneId, Query, Rows},
    queue::Bells,
    repeat::{Line, Repeats},
    reply::{Admitted, Pending, Permit},
};

/// How often the timer thread applies the passage of time: the slack of every deadline.
const TICK: Duration = Duration::from_millis(1);
/// Moves of lanes that are remembered.
const EVENTS_MAX: usize = 100;
/// About so many ticks make a second.
const TICKS_A_SECOND: u64 = 1000;

/// What admission holds a request to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Admitted rows, at most.
    pub queue_max: usize,
    /// From admission to the answer, at most.
    pub deadline: Duration,
    /// Input values outside run unprotected (inclusive bounds).
    pub input_range: (f32, f32),
    /// Lanes that must be able to run queries for the daemon to be ready.
    pub ready_lanes_min: usize,
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
    /// Times that the timer has applied the passage of time.
    ticks: AtomicU64,
    /// Per lane: which of its moves are logged.
    moves: Box<[Mutex<Repeats>]>,
    /// The last moves of all lanes, the latest last.
    events: Mutex<VecDeque<(Time, LaneId, Move)>>,
}

impl Engine {
    /// An engine whose lanes have yet to start.
    pub fn new(settings: Settings, limits: Limits, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let moves = settings.lanes.iter().map(|_| Mutex::default()).collect();
        Engine {
            bells: Bells::new(settings.lanes.len()),
            dispatch: Dispatch::new(settings, metrics),
            limits,
            clock,
            admitted: Arc::new(AtomicUsize::new(0)),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            moves,
            events: Mutex::default(),
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
            if self.ticks.fetch_add(1, Ordering::Relaxed).is_multiple_of(TICKS_A_SECOND) {
                self.tell_left_out();
            }
        }
    }

    /// How often the timer has applied the passage of time; stands still if the timer does.
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Whether some lane could answer a query and is not stuck: it is healthy, and its batch in flight, if any, is younger than `patience`.
    pub fn has_moving_lane(&self, patience: Duration) -> bool {
        self.dispatch.moving_lanes(self.clock.now(), patience) > 0
    }

    /// Refuses new queries from now on; admitted ones are still answered.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether new queries are refused for good.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
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

    /// The driver tells something of the device of these lanes.
    pub fn told(&self, lanes: &[LaneId], told: Told) {
        let _abort = AbortOnPanic;
        let mut effects = Vec::new();
        for &lane in lanes {
            self.dispatch.told(lane, told, self.clock.now(), &mut effects);
        }
        self.carry_out(&effects);
    }

    /// State and reason of a lane, in words.
    pub fn describe(&self, lane: LaneId) -> (&'static str, String) {
        self.dispatch.describe(lane)
    }

    fn carry_out(&self, effects: &[Effect]) {
        for effect in effects {
            match *effect {
                Effect::Wake(lane) => self.bells.ring(lane),
                Effect::Moved(lane, change) => self.tell_move(lane, change),
                Effect::Drift(turn) => tell_drift(turn),
            }
        }
    }

    /// The last moves of lanes, the latest first.
    pub fn events(&self) -> Vec<LaneEvent> {
        let now = self.clock.now();
        let event = |&(at, lane, Move { from, to, reason }): &(Time, LaneId, Move)| LaneEvent {
            age: now.since(at),
            lane,
            from: from.as_str(),
            to: to.as_str(),
            reason: reason.to_string(),
        };
        self.events.lock().iter().rev().map(event).collect()
    }

    fn tell_move(&self, lane: LaneId, change: Move) {
        let mut events = self.events.lock();
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back((self.clock.now(), lane, change));
        drop(events);
        let (from, to, reason) = (change.from.as_str(), change.to.as_str(), change.reason);
        if change.from == State::Starting {
            // The start-up log says more about it.
            return tracing::debug!(%lane, from, to, %reason, "lane moved");
        }
        let next = self.moves[usize::from(lane.0)].lock().next(self.clock.now());
        let Line::Told { left_out } = next else { return };
        if change.to == State::Healthy {
            tracing::info!(%lane, from, to, %reason, left_out, "lane moved");
        } else {
            tracing::warn!(%lane, from, to, %reason, left_out, "lane moved");
        }
    }

    /// A lane whose last moves were left out: how many, and where it stands now.
    fn tell_left_out(&self) {
        for (lane, moves) in (0..).map(LaneId).zip(&self.moves) {
            let left_out = moves.lock().left_out(self.clock.now());
            if let Some(left_out) = left_out {
                let (state, reason) = self.describe(lane);
                tracing::warn!(%lane, left_out, state, reason, "lane moved again and again");
            }
        }
    }

    fn queries(&self, rows: &Rows, terms: Terms) -> Vec<Query> {
        let admitted = self.clock.now();
        let (lowest, highest) = self.limits.input_range;
        let longest = self.limits.deadline;
        let deadline = admitted + terms.timeout.map_or(longest, |timeout| timeout.min(longest));
        let query = |row: crate::query::Row| Query {
            in_range: row.iter().all(|value| (lowest..=highest).contains(value)),
            row,
            admitted,
            deadline,
            accepts: terms.accepts,
            min_confidence: terms.min_confidence.unwrap_or(self.dispatch.min_confidence()),
        };
        rows.iter().map(query).collect()
    }
}

/// Never left out: a turn takes dozens of comparisons, and the next one hundreds.
fn tell_drift(Turn { to, expected, live, compared }: Turn) {
    match to {
        Standing::Drifted => tracing::warn!(expected, live, compared, "reconstructions agree less than calibrated"),
        Standing::Expected => tracing::info!(expected, live, compared, "reconstructions agree as calibrated again"),
    }
}

impl Admission for Engine {
    fn admit(&self, rows: &Rows, terms: Terms) -> Result<Pending, Refusal> {
        let _abort = AbortOnPanic;
        let queue_max = self.limits.queue_max;
        if self.draining.load(Ordering::SeqCst) {
            return Err(Refusal::Draining);
        }
        if !self.dispatch.all_loaded() {
            return Err(Refusal::NotReady);
        }
        if rows.count() > queue_max {
            return Err(Refusal::TooManyRows { queue_max });
        }
        if terms.min_confidence.is_some_and(|least| least > Confidence::NONE) && !self.dispatch.can_judge() {
            return Err(Refusal::NotCalibrated);
        }
        let permits = Permit::acquire(&self.admitted, queue_max, rows.count()).ok_or(Refusal::Full)?;
        let (admitted, pending) = Admitted::request(self.queries(rows, terms), permits);
        let mut effects = Vec::new();
        self.dispatch.submit(admitted, &mut effects);
        self.carry_out(&effects);
        Ok(pending)
    }

    fn readiness(&self) -> Result<(), Refusal> {
        if self.draining.load(Ordering::SeqCst) {
            return Err(Refusal::Draining);
        }
        // A lane that has been stuck for longer than any query may take answers none in time.
        let moving = self.dispatch.moving_lanes(self.clock.now(), self.limits.deadline);
        let ready = self.dispatch.all_loaded() && moving >= self.limits.ready_lanes_min;
        if ready { Ok(()) } else { Err(Refusal::NotReady) }
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

    fn progress(&self, lane: LaneId, parts: usize) {
        self.dispatch.progress(lane, parts, self.clock.now());
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
