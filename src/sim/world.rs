//! The loop: arrivals, batches that come back, ticks, in the order of virtual time.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    Arrivals, Ended, Outcome, Scenario,
    lane::{Course, Drawn, Luck, Model, POISON, Pace, Run, linear},
    mates::Mates,
};
use crate::{
    clock::Time,
    code::Code,
    dispatch::{Completed, Dispatch, Effect},
    health::State,
    job::{Batch, Loss, PARTS, Work},
    metrics::Metrics,
    query::{Accepts, Answer, Failure, LaneId, Provenance, Query, Row, Rows, Values},
    reply::{Pending, Requests},
};

/// Virtual time between ticks.
const TICK: Duration = Duration::from_millis(1);
/// Values in a row of the linear model.
const WIDTH: usize = 6;
/// Rows that are all alike, where time alone matters. They are many because no row stands in a stripe twice.
const ALIKE: usize = 1024;
/// How far a reconstruction may be from the direct output: rounding of sums of a few values near 1.
const ROUNDING: f32 = 1e-3;
/// A lane whose job ends later than this never ends it.
const NEVER: Time = Time::from_nanos(u64::MAX / 4);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Arrive,
    Done(LaneId),
    CanaryDone(LaneId),
    Tick,
}

/// A query that waits for its answer.
struct Waiting {
    pending: Pending,
    row: Row,
    admitted: Time,
    direct_only: bool,
}

/// What the answers of queries wake: their indices, for the loop to look at.
#[derive(Debug, Default)]
struct Answered(Mutex<Vec<usize>>);

struct Rung {
    answered: Arc<Answered>,
    index: usize,
}

impl Wake for Rung {
    fn wake(self: Arc<Self>) {
        self.answered.0.lock().push(self.index);
    }
}

/// A lane and what it runs.
struct Lane {
    course: Course,
    busy: bool,
    run: Option<Run>,
    started: Time,
    /// Parts of its batch that it has told of.
    told: usize,
}

struct World<'a> {
    scenario: &'a Scenario,
    drawn: Drawn<'a>,
    dispatch: Dispatch,
    /// For what queries hold.
    rng: ChaCha8Rng,
    luck: Luck,
    /// Batches that have started.
    batches: u64,
    now: Time,
    /// Ordered by time, then by the order in which they were planned.
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    planned: u64,
    lanes: Vec<Lane>,
    mates: Mates,
    requests: Requests,
    arrivals: Arrivals,
    waiting: Vec<Option<Waiting>>,
    open: usize,
    answered: Arc<Answered>,
    alike: Vec<Row>,
    arrived: usize,
    ended: Vec<Option<Ended>>,
    outcome: Outcome,
}

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario) -> Outcome {
    let code: Option<Arc<dyn Code>> =
        scenario.code.as_ref().map(|spec| spec.build(&[WIDTH], None).expect("the scenario names a code"));
    let code = code.map(|code| scenario.policy.striped(code));
    let metrics = Arc::new(Metrics::new("sim", scenario.roles.len()));
    let dispatch = Dispatch::new(scenario.settings(code.clone()), Arc::clone(&metrics));
    let null = Values::from(vec![0.0; 3]);
    let lane = |index: usize| Lane {
        course: scenario.courses.get(index).cloned().unwrap_or_default(),
        busy: false,
        run: None,
        started: Time::ZERO,
        told: 0,
    };
    let mut world = World {
        scenario,
        drawn: Drawn { model: scenario.model, code: code.as_deref(), faults: scenario.faults, null },
        dispatch,
        rng: ChaCha8Rng::seed_from_u64(scenario.seed),
        luck: Luck::new(scenario.seed),
        batches: 0,
        now: Time::ZERO,
        events: BinaryHeap::new(),
        planned: 0,
        lanes: (0..scenario.roles.len()).map(lane).collect(),
        mates: Mates::new(scenario.domains()),
        requests: Requests::new(scenario.queries),
        arrivals: Arrivals::new(scenario.seed, scenario.gap),
        waiting: Vec::with_capacity(scenario.queries),
        open: 0,
        answered: Arc::default(),
        alike: Rows::new(vec![0.5; ALIKE * WIDTH], WIDTH).expect("rows, and no rest").iter().collect(),
        arrived: 0,
        ended: (0..scenario.queries).map(|_| None).collect(),
        outcome: Outcome::default(),
    };
    world.run();
    let World { dispatch, requests, ended, mut outcome, .. } = world;
    drop(dispatch);
    outcome.ended = ended.into_iter().map(|ended| ended.expect("the loop ends when every query has ended")).collect();
    outcome.stripes_open = metrics.stripes_open.get();
    outcome.permits_out = requests.admitted();
    outcome
}

impl World<'_> {
    fn plan(&mut self, at: Time, event: Event) {
        self.planned += 1;
        self.events.push(Reverse((at, self.planned, event)));
    }

    fn run(&mut self) {
        for lane in self.lane_ids() {
            let mut effects = Vec::new();
            self.dispatch.ready(lane, self.usual(lane), &mut effects);
            self.carry_out(&effects);
            self.step(lane);
        }
        self.plan_arrival();
        self.plan(Time::ZERO + TICK, Event::Tick);
        while self.arrived < self.scenario.queries || self.open > 0 {
            let Reverse((at, _, event)) = self.events.pop().expect("there is always a next tick");
            self.now = at;
            self.outcome.events += 1;
            self.apply(event);
            self.collect();
        }
    }

    fn plan_arrival(&mut self) {
        let next = self.arrivals.next().expect("arrivals have no end");
        self.plan(next, Event::Arrive);
    }

    /// What a batch usually takes on a lane.
    fn usual(&self, lane: LaneId) -> Duration {
        let is_base = self.scenario.roles[lane.index()].runs_base();
        self.scenario.service.mul_f64(if is_base { 1.0 } else { self.scenario.parity_cost })
    }

    fn lane_ids(&self) -> impl Iterator<Item = LaneId> + use<> {
        (0..self.scenario.roles.len()).map(crate::dispatch::lane_id)
    }

    fn apply(&mut self, event: Event) {
        let mut effects = Vec::new();
        match event {
            Event::Arrive => self.arrive(&mut effects),
            Event::Tick => self.tick(&mut effects),
            Event::Done(lane) => {
                let at = lane.index();
                self.tell_progress(lane);
                let run = self.lanes[at].run.take().expect("a lane that is done has run something");
                let service = self.now.since(self.lanes[at].started);
                let (batch, mut completions) = (run.batch, run.completions);
                self.mates.end(lane, &batch, &completions);
                let completed = Completed { lane, batch, completions: &mut completions, service };
                self.dispatch.complete(completed, self.now, &mut effects);
                self.lanes[at].busy = false;
                self.step(lane);
            }
            Event::CanaryDone(lane) => {
                let down = self.lanes[lane.index()].course.pace(self.now) == Pace::Down;
                let outcome = if down { Err(Loss::Device) } else { Ok(()) };
                self.dispatch.canary(lane, outcome, self.now, &mut effects);
                self.lanes[lane.index()].busy = false;
                self.step(lane);
            }
        }
        self.carry_out(&effects);
    }

    fn tick(&mut self, effects: &mut Vec<Effect>) {
        for lane in self.lane_ids() {
            self.tell_progress(lane);
        }
        self.dispatch.tick(self.now, effects);
        self.plan(self.now + TICK, Event::Tick);
    }

    /// Tells which parts of a lane's batch are over by now, as the lane would have told at once: nobody looks before the next tick.
    fn tell_progress(&mut self, lane: LaneId) {
        let it = &mut self.lanes[lane.index()];
        let Some(run) = &it.run else { return };
        while it.told < PARTS && run.parts[it.told] <= self.now {
            it.told += 1;
            self.dispatch.progress(lane, it.told, run.parts[it.told - 1]);
        }
    }

    fn carry_out(&mut self, effects: &[Effect]) {
        for effect in effects {
            match *effect {
                Effect::Wake(lane) => {
                    self.dispatch.rise(lane);
                    self.step(lane);
                }
                Effect::Moved(_, change) => {
                    if matches!(change.to, State::Straggler { .. }) {
                        self.outcome.stragglers += 1;
                        self.outcome.first_straggler.get_or_insert(self.now);
                    }
                }
                // Drawn lanes come back by themselves.
                Effect::Replace(_) | Effect::Doubted(_) | Effect::Drift(_) => {}
            }
        }
    }

    /// What a lane's thread does between two jobs.
    fn step(&mut self, lane: LaneId) {
        while !self.lanes[lane.index()].busy {
            let mut effects = Vec::new();
            let work = self.dispatch.pull(lane, self.now, &mut effects);
            match work {
                Some(Work::Batch(batch)) => self.start(lane, batch),
                Some(Work::Canary) => {
                    self.lanes[lane.index()].busy = true;
                    self.plan(self.now + self.usual(lane), Event::CanaryDone(lane));
                }
                None if self.dispatch.rest(lane) => return self.carry_out(&effects),
                None => self.dispatch.rise(lane),
            }
            self.carry_out(&effects);
        }
    }

    fn start(&mut self, lane: LaneId, batch: Batch) {
        self.outcome.jobs += batch.jobs();
        let cost = if matches!(batch, Batch::Parity(_)) { self.scenario.parity_cost } else { 1.0 };
        self.outcome.work += cost * batch.jobs() as f64;
        let rows = 1.0 + self.scenario.batch_cost * (batch.jobs() - 1) as f64;
        let work = self.scenario.service.mul_f64(cost * rows);
        // Where time alone matters rows come again.
        if self.scenario.model == Model::Linear && !self.mates.start(lane, &batch) {
            self.outcome.broken.push(format!("{lane:?} encodes a stripe beside one of its slots"));
        }
        let it = &mut self.lanes[lane.index()];
        let mut luck = self.luck.of(self.batches);
        self.batches += 1;
        let run = self.drawn.run(batch, (work, self.now), &it.course, &mut luck);
        let over = run.parts[PARTS - 1];
        (it.busy, it.run, it.started, it.told) = (true, Some(run), self.now, 0);
        if over < NEVER {
            self.plan(over, Event::Done(lane));
        }
    }

    fn arrive(&mut self, effects: &mut Vec<Effect>) {
        let index = self.arrived;
        self.arrived += 1;
        let scenario = self.scenario;
        let every = |n: usize| n > 0 && index % n == n - 1;
        let (poison, direct_only) = (every(scenario.poison_every), every(scenario.direct_only_every));
        let row = match scenario.model {
            Model::Null => self.alike[index % ALIKE].clone(),
            Model::Linear => {
                let mut values: Vec<f32> = (0..WIDTH).map(|_| self.rng.random_range(0.0..1.0)).collect();
                if poison {
                    values[0] = POISON;
                }
                Row::whole(values)
            }
        };
        let query = Query {
            row: row.clone(),
            admitted: self.now,
            deadline: self.now + scenario.deadline,
            accepts: if direct_only { Accepts::DirectOnly } else { Accepts::Any },
            min_confidence: scenario.policy.min_confidence,
            in_range: true,
        };
        let (admitted, mut pending) = self.requests.admit([query]).expect("the limit is all queries");
        let waker = Waker::from(Arc::new(Rung { answered: Arc::clone(&self.answered), index }));
        let nothing_yet = Pin::new(&mut pending).poll(&mut Context::from_waker(&waker)).is_pending();
        assert!(nothing_yet, "it was not submitted yet");
        self.waiting.push(Some(Waiting { pending, row, admitted: self.now, direct_only }));
        self.open += 1;
        self.dispatch.submit(admitted, effects);
        if self.arrived < scenario.queries {
            self.plan_arrival();
        }
    }

    /// Takes the queries that were answered by the last event, and holds each answer to what was promised.
    fn collect(&mut self) {
        let answered = std::mem::take(&mut *self.answered.0.lock());
        for &index in &answered {
            let Some(mut waiting) = self.waiting[index].take() else { continue };
            let mut context = Context::from_waker(Waker::noop());
            let Poll::Ready(answers) = Pin::new(&mut waiting.pending).poll(&mut context) else {
                self.outcome.broken.push(format!("query {index} woke its client without an answer"));
                continue;
            };
            let answer = answers[0].clone();
            let latency = self.now.since(waiting.admitted);
            if latency > self.scenario.deadline + TICK {
                self.outcome.broken.push(format!("query {index} was answered after its deadline"));
            }
            let poison = waiting.row[0] == POISON;
            self.judge(index, &waiting, poison, &answer);
            self.ended[index] = Some(Ended { answer, latency, poison, direct_only: waiting.direct_only });
            self.open -= 1;
        }
        // The room is used again; only a waker that runs right now could hold the lock, and there is none.
        let mut room = answered;
        room.clear();
        *self.answered.0.lock() = room;
    }

    fn judge(&mut self, index: usize, waiting: &Waiting, poison: bool, answer: &Answer) {
        let broken = &mut self.outcome.broken;
        match answer {
            Ok(prediction) => {
                if waiting.direct_only && prediction.provenance != Provenance::Direct {
                    broken.push(format!("query {index} takes direct answers only"));
                }
                if prediction.confidence.is_some_and(|told| told < self.scenario.policy.min_confidence) {
                    broken.push(format!("query {index} got a confidence of {:?}", prediction.confidence));
                }
                if self.scenario.model == Model::Null {
                    return;
                }
                let truth = linear(&waiting.row);
                let far = truth.iter().zip(&*prediction.values).any(|(truth, value)| (truth - value).abs() > ROUNDING);
                if far {
                    broken.push(format!("query {index}: {:?} is not {truth:?}", prediction.values));
                }
            }
            Err(Failure::QueryFault) if !poison && self.scenario.faults.lost == 0.0 => {
                broken.push(format!("query {index} was blamed for nothing"));
            }
            Err(_) => {}
        }
    }
}
