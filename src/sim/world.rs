//! The loop: arrivals, batches that come back, ticks, in the order of virtual time.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    Ended, Outcome, Scenario,
    lane::{POISON, attempt, linear},
};
use crate::{
    clock::Time,
    code::Code,
    dispatch::{Completed, Dispatch, Effect},
    job::{Batch, Completion, Work},
    metrics::Metrics,
    query::{Accepts, Failure, LaneId, Provenance, Query, Row},
    reply::{Admitted, Pending, Permit},
};

/// Virtual time between ticks.
const TICK: Duration = Duration::from_millis(1);
/// Values in a row.
const WIDTH: usize = 6;
/// How far a reconstruction may be from the direct output: rounding of sums of a few values near 1.
const ROUNDING: f32 = 1e-3;

enum Event {
    Arrive,
    Done(LaneId, Vec<Completion>, Duration),
    CanaryDone(LaneId),
    Tick,
}

/// A query that waits for its answer.
struct Waiting {
    index: usize,
    pending: Pending,
    row: Row,
    admitted: Time,
    direct_only: bool,
}

struct World<'a> {
    scenario: &'a Scenario,
    code: Option<Arc<dyn Code>>,
    dispatch: Dispatch,
    rng: ChaCha8Rng,
    now: Time,
    /// Ordered by time, then by the order in which they were planned.
    events: BTreeMap<(Time, u64), Event>,
    planned: u64,
    busy: Vec<bool>,
    permits: Arc<AtomicUsize>,
    waiting: Vec<Waiting>,
    arrived: usize,
    ended: Vec<Option<Ended>>,
    jobs: usize,
    broken: Vec<String>,
}

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario) -> Outcome {
    let code = scenario.code.as_ref().map(|spec| spec.build(&[WIDTH], None).expect("the scenario names a code"));
    let metrics = Arc::new(Metrics::new("sim", scenario.roles.len()));
    let dispatch = Dispatch::new(scenario.settings(code.clone()), Arc::clone(&metrics));
    let mut world = World {
        scenario,
        code,
        dispatch,
        rng: ChaCha8Rng::seed_from_u64(scenario.seed),
        now: Time::ZERO,
        events: BTreeMap::new(),
        planned: 0,
        busy: vec![false; scenario.roles.len()],
        permits: Arc::new(AtomicUsize::new(0)),
        waiting: Vec::new(),
        arrived: 0,
        ended: (0..scenario.queries).map(|_| None).collect(),
        jobs: 0,
        broken: Vec::new(),
    };
    world.run();
    let World { dispatch, permits, ended, jobs, broken, .. } = world;
    drop(dispatch);
    let ended = ended.into_iter().map(|ended| ended.expect("the loop ends when every query has ended")).collect();
    let (stripes_open, permits_out) = (metrics.stripes_open.get(), permits.load(Ordering::Relaxed));
    Outcome { ended, jobs, stripes_open, permits_out, broken }
}

impl World<'_> {
    fn plan(&mut self, after: Duration, event: Event) {
        self.planned += 1;
        self.events.insert((self.now + after, self.planned), event);
    }

    fn run(&mut self) {
        for lane in self.lanes() {
            let mut effects = Vec::new();
            self.dispatch.ready(lane, self.scenario.service, &mut effects);
            self.carry_out(&effects);
            self.step(lane);
        }
        self.plan(Duration::ZERO, Event::Arrive);
        self.plan(TICK, Event::Tick);
        while self.arrived < self.scenario.queries || !self.waiting.is_empty() {
            let ((at, _), event) = self.events.pop_first().expect("there is always a next tick");
            self.now = at;
            self.apply(event);
            self.collect();
        }
    }

    fn lanes(&self) -> impl Iterator<Item = LaneId> + use<> {
        (0..self.scenario.roles.len()).map(crate::dispatch::lane_id)
    }

    fn apply(&mut self, event: Event) {
        let mut effects = Vec::new();
        match event {
            Event::Arrive => self.arrive(&mut effects),
            Event::Tick => {
                self.dispatch.tick(self.now, &mut effects);
                self.plan(TICK, Event::Tick);
            }
            Event::Done(lane, completions, service) => {
                self.dispatch.complete(Completed { lane, completions, service }, self.now, &mut effects);
                self.busy[usize::from(lane.0)] = false;
                self.step(lane);
            }
            Event::CanaryDone(lane) => {
                self.dispatch.canary(lane, Ok(()), self.now, &mut effects);
                self.busy[usize::from(lane.0)] = false;
                self.step(lane);
            }
        }
        self.carry_out(&effects);
    }

    fn carry_out(&mut self, effects: &[Effect]) {
        for effect in effects {
            match *effect {
                Effect::Wake(lane) => {
                    self.dispatch.rise(lane);
                    self.step(lane);
                }
                Effect::Moved(..) | Effect::Drift(_) => {}
            }
        }
    }

    /// What a lane's thread does between two jobs.
    fn step(&mut self, lane: LaneId) {
        while !self.busy[usize::from(lane.0)] {
            let mut effects = Vec::new();
            let work = self.dispatch.pull(lane, self.now, &mut effects);
            match work {
                Some(Work::Batch(batch)) => self.start(lane, &batch),
                Some(Work::Canary) => {
                    self.busy[usize::from(lane.0)] = true;
                    self.plan(self.scenario.service, Event::CanaryDone(lane));
                }
                None if self.dispatch.rest(lane) => return self.carry_out(&effects),
                None => self.dispatch.rise(lane),
            }
            self.carry_out(&effects);
        }
    }

    fn start(&mut self, lane: LaneId, batch: &Batch) {
        self.busy[usize::from(lane.0)] = true;
        self.jobs += batch.jobs();
        let scenario = self.scenario;
        let (completions, time) =
            attempt(batch, self.code.as_deref(), scenario.service, scenario.faults, &mut self.rng);
        self.plan(time, Event::Done(lane, completions, time));
    }

    fn arrive(&mut self, effects: &mut Vec<Effect>) {
        let index = self.arrived;
        self.arrived += 1;
        let every = |n: usize| n > 0 && index % n == n - 1;
        let (poison, direct_only) = (every(self.scenario.poison_every), every(self.scenario.direct_only_every));
        let mut values: Vec<f32> = (0..WIDTH).map(|_| self.rng.random_range(0.0..1.0)).collect();
        if poison {
            values[0] = POISON;
        }
        let row = Row::whole(values);
        let query = Query {
            row: row.clone(),
            admitted: self.now,
            deadline: self.now + self.scenario.deadline,
            accepts: if direct_only { Accepts::DirectOnly } else { Accepts::Any },
            min_confidence: self.scenario.policy.min_confidence,
            in_range: true,
        };
        let permits = Permit::acquire(&self.permits, self.scenario.queries, 1).expect("the limit is all queries");
        let (admitted, pending) = Admitted::request(vec![query], permits);
        self.waiting.push(Waiting { index, pending, row, admitted: self.now, direct_only });
        self.dispatch.submit(admitted, effects);
        if self.arrived < self.scenario.queries {
            let gap = self.scenario.gap.mul_f64(-f64::ln(1.0 - self.rng.random_range(0.0..1.0)));
            self.plan(gap, Event::Arrive);
        }
    }

    /// Takes the queries that were answered by the last event, and holds each answer to what was promised.
    fn collect(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let mut still = Vec::new();
        for mut waiting in std::mem::take(&mut self.waiting) {
            let Poll::Ready(mut answers) = Pin::new(&mut waiting.pending).poll(&mut context) else {
                let limit = waiting.admitted + self.scenario.deadline + TICK;
                if self.now > limit {
                    self.broken.push(format!("query {} is unanswered after its deadline", waiting.index));
                }
                still.push(waiting);
                continue;
            };
            let answer = answers.pop().expect("one row, one answer");
            let poison = waiting.row[0] == POISON;
            let latency = self.now.since(waiting.admitted);
            self.judge(&waiting, poison, &answer);
            let ended = Ended { answer, latency, poison, direct_only: waiting.direct_only };
            self.ended[waiting.index] = Some(ended);
        }
        self.waiting = still;
    }

    fn judge(&mut self, waiting: &Waiting, poison: bool, answer: &crate::query::Answer) {
        let index = waiting.index;
        match answer {
            Ok(prediction) => {
                if waiting.direct_only && prediction.provenance != Provenance::Direct {
                    self.broken.push(format!("query {index} takes direct answers only"));
                }
                if prediction.confidence.is_some_and(|told| told < self.scenario.policy.min_confidence) {
                    self.broken.push(format!("query {index} got a confidence of {:?}", prediction.confidence));
                }
                let truth = linear(&waiting.row);
                let far = truth.iter().zip(&*prediction.values).any(|(truth, value)| (truth - value).abs() > ROUNDING);
                if far {
                    self.broken.push(format!("query {index}: {:?} is not {truth:?}", prediction.values));
                }
            }
            Err(Failure::QueryFault) if !poison && self.scenario.faults.lost == 0.0 => {
                self.broken.push(format!("query {index} was blamed for nothing"));
            }
            Err(_) => {}
        }
    }
}
