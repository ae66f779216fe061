//! The engine: the core under a real clock, with real threads to wake.
//!
//! Owns the clock, the lanes' bells and the number of admitted queries. It adds the time to every event, carries out what the core asks
//! for, and is what the layers around it hold: `http` as [`Admission`], lanes as [`Feed`], the timer thread as [`Engine::run_timer`].
//! Of rules it has those of admission (how many rows, by when, which rows may be striped) and how often the log is told; all others are in `dispatch`.

mod tell;
mod timer;

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::{
    admission::{Admission, Refusal, Terms},
    clock::{Clock, Time},
    dispatch::{Completed, Dispatch, Effect, Settings},
    health::{Move, device::Told},
    job::{AbortOnPanic, Batch, Completion, Feed, Loss, Work},
    metrics::Metrics,
    query::{Confidence, LaneId, Query, Row, Rows},
    queue::Bells,
    repeat::Repeats,
    reply::{Pending, Requests},
};

/// How often whoever waits for a broken device looks by itself.
const BROKEN_LOOK: Duration = Duration::from_millis(100);

/// What admission holds a request to.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionLimits {
    /// Admitted rows, at most.
    pub queue_max: usize,
    /// From admission to the answer, at most.
    pub deadline: Duration,
    /// Input values outside run unprotected (inclusive bounds).
    pub input_range: (f32, f32),
    /// Lanes that must be able to run queries for the daemon to be ready.
    pub ready_lanes_min: usize,
}

thread_local! {
    /// Room for what the core asks for, one list a thread.
    static EFFECTS: RefCell<Vec<Effect>> = const { RefCell::new(Vec::new()) };
}

/// Something that threads wait for.
#[derive(Default, Debug)]
struct Waited<T> {
    held: Mutex<T>,
    changed: Condvar,
}

/// The core and what it needs of the world.
#[derive(Debug)]
pub struct Engine {
    dispatch: Dispatch,
    limits: AdmissionLimits,
    clock: Clock,
    bells: Bells,
    requests: Requests,
    draining: AtomicBool,
    stopped: AtomicBool,
    /// Times that the timer has applied the passage of time.
    ticks: AtomicU64,
    /// For threads that wait for a device that needs another process than this one.
    broken: Waited<()>,
    /// Lanes whose threads are to be replaced, each once.
    stuck: Waited<VecDeque<LaneId>>,
    /// Per lane: which of its moves, and of the doubts about it, are logged.
    moves: Box<[Mutex<Repeats>]>,
    /// The last moves of all lanes, the latest last.
    events: Mutex<VecDeque<(Time, LaneId, Move)>>,
}

impl Engine {
    /// An engine whose lanes have yet to start.
    pub fn new(settings: Settings, limits: AdmissionLimits, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let moves = settings.lanes.iter().map(|_| Mutex::default()).collect();
        Engine {
            bells: Bells::new(settings.lanes.len()),
            dispatch: Dispatch::new(settings, metrics),
            limits,
            clock,
            requests: Requests::new(limits.queue_max),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            ticks: AtomicU64::new(0),
            broken: Waited::default(),
            stuck: Waited::default(),
            moves,
            events: Mutex::default(),
        }
    }

    /// Whether some query could be answered, if only approximately, by a lane whose batch in flight, if any, is younger than `patience`.
    pub fn can_answer(&self, patience: Duration) -> bool {
        self.dispatch.can_answer(self.clock.now(), patience)
    }

    /// Whether some lane could answer a query by itself and is not stuck: it holds the base model, is healthy, and its batch in flight, if any, is younger than `patience`.
    pub fn has_moving_lane(&self, patience: Duration) -> bool {
        self.dispatch.moving_lanes(self.clock.now(), patience) > 0
    }

    /// Refuses new queries from now on; admitted ones are still answered.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.broken.changed.notify_all();
    }

    /// Whether new queries are refused for good.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Ends every lane that is not stuck in a job, and the timer once nobody waits for an answer.
    pub fn stop(&self) {
        self.drain();
        self.stopped.store(true, Ordering::Release);
        self.bells.ring_all();
        self.broken.changed.notify_all();
        // A thread that looked before the flag was set holds the lock until it is asleep.
        drop(self.stuck.held.lock());
        self.stuck.changed.notify_all();
    }

    /// Waits until some lane's device needs another process than this one; `false` if the end begins first.
    pub fn await_broken(&self) -> bool {
        while !self.is_broken() {
            if self.is_draining() {
                return false;
            }
            // A move that is told between the look and the wait is seen a moment later.
            self.broken.changed.wait_for(&mut self.broken.held.lock(), BROKEN_LOOK);
        }
        true
    }

    /// The next lane whose thread is to be replaced; `None` once the engine stops.
    pub fn await_stuck(&self) -> Option<LaneId> {
        let mut stuck = self.stuck.held.lock();
        loop {
            if self.stopped.load(Ordering::Acquire) {
                return None;
            }
            if let Some(lane) = stuck.pop_front() {
                return Some(lane);
            }
            self.stuck.changed.wait(&mut stuck);
        }
    }

    /// Whether the lane's thread is still stuck.
    pub fn is_stuck(&self, lane: LaneId) -> bool {
        self.dispatch.is_stuck(lane, self.clock.now())
    }

    fn tell_stuck(&self, lane: LaneId) {
        let mut stuck = self.stuck.held.lock();
        if !stuck.contains(&lane) {
            stuck.push_back(lane);
        }
        self.stuck.changed.notify_one();
    }

    /// Whether some lane's device needs another process than this one.
    pub fn is_broken(&self) -> bool {
        self.dispatch.needs_new_process()
    }

    /// Whether the lane takes work, be it as a straggler.
    pub fn is_usable(&self, lane: LaneId) -> bool {
        self.dispatch.is_usable(lane)
    }

    /// Admitted queries that are not over.
    pub fn admitted(&self) -> usize {
        self.requests.admitted()
    }

    /// The driver tells something of the device of these lanes.
    pub fn told(&self, lanes: &[LaneId], told: Told) {
        self.event(|effects| {
            for &lane in lanes {
                self.dispatch.told(lane, told, self.clock.now(), effects);
            }
        });
    }

    /// State and reason of a lane, in words.
    pub fn describe(&self, lane: LaneId) -> (&'static str, String) {
        self.dispatch.describe(lane)
    }

    /// Something happens to the core; then what it asks for is carried out.
    fn event<R>(&self, happen: impl FnOnce(&mut Vec<Effect>) -> R) -> R {
        let _abort = AbortOnPanic;
        EFFECTS.with_borrow_mut(|effects| {
            let outcome = happen(effects);
            self.carry_out(effects);
            effects.clear();
            outcome
        })
    }

    /// Whether queries are taken at all.
    fn is_open(&self) -> Result<(), Refusal> {
        if self.draining.load(Ordering::SeqCst) {
            return Err(Refusal::Draining);
        }
        if self.dispatch.all_loaded() { Ok(()) } else { Err(Refusal::NotReady) }
    }

    fn carry_out(&self, effects: &[Effect]) {
        for effect in effects {
            match *effect {
                Effect::Wake(lane) => self.bells.ring(lane),
                Effect::Replace(lane) => self.tell_stuck(lane),
                Effect::Doubted(lane) => self.tell_doubt(lane),
                Effect::Moved(lane, change) => self.tell_move(lane, change),
                Effect::Drift(turn) => tell::drift(turn),
            }
        }
    }

    fn queries(&self, rows: &Rows, terms: Terms) -> impl ExactSizeIterator<Item = Query> {
        let admitted = self.clock.now();
        let (lowest, highest) = self.limits.input_range;
        let min_confidence = terms.min_confidence.unwrap_or(self.dispatch.min_confidence());
        let longest = self.limits.deadline;
        let deadline = admitted + terms.timeout.map_or(longest, |timeout| timeout.min(longest));
        let query = move |row: Row| Query {
            in_range: all_within(&row, lowest, highest),
            row,
            admitted,
            deadline,
            accepts: terms.accepts,
            min_confidence,
        };
        rows.iter().map(query)
    }
}

/// Whether all values are from `lowest` to `highest`. A loop that looks at all of them is one over vectors.
fn all_within(row: &[f32], lowest: f32, highest: f32) -> bool {
    row.iter().fold(true, |within, value| within & (lowest..=highest).contains(value))
}

impl Admission for Engine {
    fn has_room(&self) -> Result<(), Refusal> {
        self.is_open()?;
        if self.requests.admitted() >= self.limits.queue_max { Err(Refusal::Full) } else { Ok(()) }
    }

    fn admit(&self, rows: &Rows, terms: Terms) -> Result<Pending, Refusal> {
        let _abort = AbortOnPanic;
        let queue_max = self.limits.queue_max;
        self.is_open()?;
        if rows.count() > queue_max {
            return Err(Refusal::TooManyRows { queue_max });
        }
        if terms.min_confidence.is_some_and(|least| least > Confidence::NONE) && !self.dispatch.can_judge() {
            return Err(Refusal::NotCalibrated);
        }
        let (queries, pending) = self.requests.admit(self.queries(rows, terms)).ok_or(Refusal::Full)?;
        self.event(|effects| self.dispatch.submit(queries, effects));
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
        self.event(|effects| self.dispatch.ready(lane, expected, effects));
    }

    fn left_out(&self, lane: LaneId) {
        self.event(|effects| self.dispatch.left_out(lane, self.clock.now(), effects));
    }

    fn replaced(&self, lane: LaneId) {
        self.event(|effects| self.dispatch.replaced(lane, self.clock.now(), effects));
    }

    fn opened(&self, lane: LaneId, expected: Duration) {
        self.dispatch.opened(lane, expected);
    }

    fn pull(&self, lane: LaneId) -> Option<Work> {
        self.event(|effects| self.dispatch.pull(lane, self.clock.now(), effects))
    }

    fn progress(&self, lane: LaneId, parts: usize) {
        self.dispatch.progress(lane, parts, self.clock.now());
    }

    fn complete(&self, lane: LaneId, batch: Batch, completions: &mut Vec<Completion>, service: Duration) {
        let completed = Completed { lane, batch, completions, service };
        self.event(|effects| self.dispatch.complete(completed, self.clock.now(), effects));
    }

    fn canary(&self, lane: LaneId, outcome: Result<(), Loss>) {
        self.event(|effects| self.dispatch.canary(lane, outcome, self.clock.now(), effects));
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
