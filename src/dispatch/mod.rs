//! Dispatch: which lane runs what, and what each completion means for the queries that wait.
//!
//! The sans-io core. It owns the queues, the open stripes, the lanes' states and the timers, and it is told what happens: queries were
//! admitted ([`Dispatch::submit`]), a lane wants work ([`Dispatch::pull`]), a batch came back ([`Dispatch::complete`]), time passed
//! ([`Dispatch::tick`]). It reads no clock and starts no thread; what it cannot do itself (wake a lane, write a log line) it asks for as an
//! [`Effect`]. The daemon calls it from real threads, the simulator from one loop under a virtual clock: the same code.
//!
//! What always holds. Every submitted query is answered once, at its deadline at the latest. Queues of admitted work are as long as
//! admission's limit: they have room for all that is open, once what is over has been swept out. Work on one query may be under way several times over; whoever is first answers.
//!
//! Methods that lanes call run on the lanes' own threads and take no lock on the path of a healthy query. One owner thread behind a
//! channel would be simpler, but costs two thread hops a query; `docs/decisions/0002` weighs the two.

mod answer;
mod backup;
mod canary;
mod device;
mod doubt;
mod draft;
mod hedge;
mod ladder;
mod lanes;
mod occupancy;
mod orphan;
mod parity;
mod pull;
mod run;
mod settings;
mod settle;
mod spare;
mod standstill;
mod straggler;
mod tick;
mod timers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use doubt::Doubts;
use hedge::Credit;
use ladder::{Ladder, Step};
use lanes::LaneSeat;
use occupancy::Occupancy;
use parity::ParityJob;
use parking_lot::Mutex;
use prometheus::IntCounter;
use run::{Run, RunningJob};
pub use settings::{LaneSettings, Settings};
pub use settle::Completed;
use spare::Spare;
use standstill::Standstills;
use timers::{Due, Timers};

use crate::{
    clock::Time,
    code::{Calibration, Code},
    config::{ParityWhen, Placement, PolicyKind},
    health::{
        LaneHealth, Move, State,
        drift::{Drift, Turn},
        pace::{Model, Pass},
    },
    job::{JobKind, Role},
    metrics::Metrics,
    pool::Shared,
    query::{Confidence, LaneId, Provenance, Values},
    queue::{Bounded, Call, IdleLanes},
    reply::Admitted,
    stripe::OpenStripes,
};

/// What the core asks of the rim.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effect {
    /// There is work for this lane.
    Wake(LaneId),
    /// The lane's thread is stuck: another should open the device, and run the lane if it can.
    Replace(LaneId),
    /// The lane's answers do not fit together with those of others, and it is asked for a canary: log it.
    Doubted(LaneId),
    /// A lane changed its state: log it.
    Moved(LaneId, Move),
    /// Reconstructions agree with direct answers less often than expected, or do so no more: log it.
    Drift(Turn),
}

/// The core.
#[derive(Debug)]
pub struct Dispatch {
    settings: Settings,
    lanes: Box<[LaneSeat]>,
    /// First runs, in order of admission.
    data: Bounded<Shared<Admitted>>,
    /// Exact second runs of lost jobs, before everything else.
    rescue: Bounded<Run>,
    /// Exact second runs of late jobs, before data jobs while those hardly wait.
    hedge: Bounded<Run>,
    /// Backups of late queries, before data jobs while those hardly wait.
    backup: Bounded<ParityJob>,
    /// Parity jobs, after data.
    parity: Bounded<ParityJob>,
    /// Exact second runs for stripes that stay short, after everything else.
    idle_copy: Bounded<Run>,
    stripes: Option<OpenStripes>,
    idle: IdleLanes,
    /// The lanes that run data jobs, counted; and the others.
    occupancy: Occupancy,
    uncounted: Occupancy,
    credit: Credit,
    /// Locked by whoever ticks.
    ladder: Mutex<Ladder>,
    /// What the ladder said last.
    step: AtomicU8,
    /// Lanes that redundancy may take at once; and whether late jobs run before data jobs that wait.
    budget: AtomicUsize,
    urgent: AtomicBool,
    /// A query that ran of late, for probes, and when it began to. Empty unless there are stragglers.
    recent: Mutex<Option<(Shared<Admitted>, Time)>>,
    /// Lanes that are stragglers.
    stragglers: AtomicUsize,
    /// Held while a lane becomes one because it is slow.
    slowing: Mutex<()>,
    timers: Timers,
    /// Locked by whoever ticks.
    standstills: Mutex<Standstills>,
    /// Lanes that are still loading their models.
    loading: AtomicUsize,
    jobs: [IntCounter; JobKind::ALL.len()],
    spare: Spare,
    /// Locked only when a direct answer comes late.
    drift: Option<Mutex<Drift>>,
    /// Tried when a stripe is complete, and never waited for.
    doubts: Mutex<Doubts>,
    metrics: Arc<Metrics>,
}

impl Dispatch {
    /// A core at rest: every lane is starting, no query is known.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Self {
        let lanes = settings.lanes.len();
        let in_flight_max = lanes * settings.batch_max;
        // Short stripes and parity jobs beyond what all lanes could run at once, twice over, are of no use any more.
        let redundancy_max = 2 * in_flight_max + 16;
        // Where parity jobs are all the work there is, they may be as many as admission lets in: n for each k rows.
        let parity_max = match &settings.code {
            Some(code) if !code.is_systematic() => redundancy_max + (settings.queue_max * code.r()).div_ceil(code.k()),
            Some(_) | None => redundancy_max,
        };
        for lane in 0..lanes {
            metrics.lane_begins(lane_id(lane), State::Starting.as_str(), &State::NAMES);
        }
        let watch = |calibration: Calibration| {
            metrics.expect_agreement(calibration.agreement);
            Mutex::new(Drift::new(calibration.agreement, calibration.rows))
        };
        let open = |code: &Arc<dyn Code>| {
            OpenStripes::new(Arc::clone(code), Arc::clone(&metrics), settings.stripe_fill, redundancy_max)
        };
        Dispatch {
            lanes: settings.lanes.iter().map(|lane| LaneSeat::new(*lane, settings.batch_max)).collect(),
            // Under `replicated` each is in it twice.
            data: Bounded::new(2 * settings.queue_max),
            rescue: Bounded::new(settings.queue_max),
            hedge: Bounded::new(redundancy_max),
            backup: Bounded::new(redundancy_max),
            parity: Bounded::new(parity_max),
            idle_copy: Bounded::new(redundancy_max),
            stripes: settings.code.as_ref().map(open),
            idle: IdleLanes::new(lanes),
            occupancy: Occupancy::default(),
            uncounted: Occupancy::default(),
            credit: Credit::new(in_flight_max),
            ladder: Mutex::new(Ladder::new()),
            step: AtomicU8::new(Step::Hedges as u8),
            budget: AtomicUsize::new(0),
            urgent: AtomicBool::new(true),
            recent: Mutex::new(None),
            stragglers: AtomicUsize::new(0),
            slowing: Mutex::new(()),
            timers: Timers::new(4 * settings.queue_max),
            standstills: Mutex::default(),
            loading: AtomicUsize::new(lanes),
            jobs: JobKind::ALL.map(|kind| metrics.jobs(kind.as_str())),
            spare: Spare::new(lanes, in_flight_max),
            drift: settings.calibration.map(watch),
            doubts: Mutex::new(Doubts::new(&settings.lanes)),
            settings,
            metrics,
        }
    }

    /// Queries were admitted.
    pub fn submit(&self, queries: impl IntoIterator<Item = Shared<Admitted>>, effects: &mut Vec<Effect>) {
        for query in queries {
            let now = query.query.admitted;
            self.timers.add(query.query.deadline, Due::Deadline(query.clone()));
            if self.join_only(&query, effects) || self.answer_alone(&query, now, effects) {
                continue;
            }
            if self.settings.policy.kind == PolicyKind::Replicated {
                self.push_data(query.clone());
                self.call(Call::Base, effects);
            }
            self.push_data(query);
            self.call(Call::Base, effects);
        }
    }

    /// A lane has loaded its models; one row takes about `expected` on it.
    pub fn ready(&self, lane: LaneId, expected: Duration, effects: &mut Vec<Effect>) {
        let seat = self.seat(lane);
        seat.pace.expect(Pass { model: seat.main_model(), jobs: 1 }, expected);
        self.change(lane, |health| Some(health.ready()), effects);
        self.loading.fetch_sub(1, Ordering::AcqRel);
    }

    /// `parts` parts ([`PARTS`](crate::job::PARTS) in all) of the lane's batch in flight are over.
    pub fn progress(&self, lane: LaneId, parts: usize, now: Time) {
        self.seat(lane).progress(parts, now);
    }

    /// The lane found no work and wants to sleep: lists it as idle. `true` if it may sleep, `false` if work came meanwhile.
    pub fn rest(&self, lane: LaneId) -> bool {
        let seat = self.seat(lane);
        if !seat.is_healthy() {
            // It is woken for its canary or its probe by the timer, not called for work.
            return true;
        }
        let role = seat.settings.role;
        if role.runs_base() {
            self.idle.enter(lane, Call::Base);
        }
        if role.runs_parity() {
            self.idle.enter(lane, Call::Parity);
        }
        // Redundancy that may not run now is looked at again by the timer.
        let copies_wait = || !self.idle_copy.is_empty() && self.redundancy_may_run();
        let base_waits = !self.data.is_empty() || !self.rescue.is_empty() || !self.hedge.is_empty() || copies_wait();
        let some_waits = || !self.backup.is_empty() || !self.parity.is_empty() && self.parity_may_run(role);
        let parity_waits = some_waits() && !seat.parity_blocked.load(Ordering::Relaxed);
        !(role.runs_base() && base_waits || role.runs_parity() && parity_waits)
    }

    /// The lane is awake again.
    pub fn rise(&self, lane: LaneId) {
        self.idle.leave(lane);
    }

    /// The least confidence of queries that do not ask for one themselves.
    pub fn min_confidence(&self) -> Confidence {
        self.settings.policy.min_confidence
    }

    /// Whether a query may ask for confidence: whatever it may be answered is judged, or is exact anyway.
    pub fn can_judge(&self) -> bool {
        let exact = |code: &Arc<dyn Code>| code.provenance() == Provenance::Direct;
        self.settings.calibration.is_some() || self.settings.code.as_ref().is_none_or(exact)
    }

    /// Whether no lane is still loading its models.
    pub fn all_loaded(&self) -> bool {
        self.loading.load(Ordering::Acquire) == 0
    }

    /// State and reason of a lane, in words.
    pub fn describe(&self, lane: LaneId) -> (&'static str, String) {
        let health = self.seat(lane).health();
        (health.state().as_str(), health.reason())
    }

    fn seat(&self, lane: LaneId) -> &LaneSeat {
        &self.lanes[lane.index()]
    }

    fn lane_ids(&self) -> impl Iterator<Item = LaneId> + use<> {
        (0..self.lanes.len()).map(lane_id)
    }

    /// The lanes that run data jobs.
    fn base_lanes(&self) -> impl Iterator<Item = &LaneSeat> {
        self.lanes.iter().filter(|lane| lane.settings.role.runs_base())
    }

    fn call(&self, call: Call, effects: &mut Vec<Effect>) {
        effects.extend(self.idle.call(call).map(Effect::Wake));
    }

    /// Moves a lane's state, and tells. The gauge is set under the state's lock, or two moves could be told in the wrong order.
    fn change(
        &self,
        lane: LaneId,
        rule: impl FnOnce(&mut LaneHealth) -> Option<Move>,
        effects: &mut Vec<Effect>,
    ) -> Option<Move> {
        let seat = self.seat(lane);
        let moved = seat.change(self.occupancy_of(seat), |health| {
            let moved = rule(health)?;
            self.metrics.lane_moved(lane, moved.from.as_str(), moved.to.as_str());
            if matches!(moved.to, State::Straggler { .. }) {
                seat.pace.begin_streaks();
            }
            self.count_stragglers(moved.from, moved.to);
            Some(moved)
        });
        effects.extend(moved.map(|moved| Effect::Moved(lane, moved)));
        moved
    }

    /// The service time to expect of one row on a lane that is well: the shortest of the lanes that run data jobs.
    fn expected(&self) -> Duration {
        let one = Pass { model: Model::Base, jobs: 1 };
        self.base_lanes().filter_map(|lane| lane.pace.expected(one)).min().unwrap_or(Duration::ZERO)
    }

    /// What the policy does besides data jobs and rescues: always the same, but for `adaptive`.
    fn step(&self) -> Step {
        match self.settings.policy.kind {
            PolicyKind::None | PolicyKind::Replicated | PolicyKind::Hedged => Step::Hedges,
            PolicyKind::IdleCopy => Step::Copies,
            PolicyKind::Coded | PolicyKind::Approximate => Step::Parity,
            PolicyKind::Adaptive => Step::from_u8(self.step.load(Ordering::Relaxed)),
        }
    }

    /// The role of the lanes that run parity jobs.
    fn parity_role(&self) -> Role {
        if self.is_pooled() { Role::Both } else { Role::Parity }
    }

    /// Whether parity jobs run only on lanes that would be idle, on lanes of this role. Under a code that is not systematic they are all there is.
    fn parity_is_reserved(&self, role: Role) -> bool {
        role.runs_base() && self.is_systematic() && self.settings.policy.parity != ParityWhen::Always
    }

    /// Whether a parity job could start now on an idle lane of this role.
    fn parity_may_run(&self, role: Role) -> bool {
        !self.parity_is_reserved(role) || self.redundancy_may_run()
    }

    /// How many lanes redundancy may take at once.
    fn budget(&self) -> usize {
        let adapts = self.settings.policy.kind == PolicyKind::Adaptive;
        if adapts { self.budget.load(Ordering::Relaxed) } else { usize::MAX }
    }

    fn redundancy_may_run(&self) -> bool {
        self.data.is_empty() && self.occupancy.has_room(self.settings.policy.reserve, self.budget())
    }

    fn is_systematic(&self) -> bool {
        self.settings.code.as_ref().is_none_or(|code| code.is_systematic())
    }

    fn is_pooled(&self) -> bool {
        self.settings.policy.placement == Placement::Pooled
    }

    fn default_prediction(&self) -> Option<Values> {
        self.settings.policy.default_prediction.as_ref().map(|values| values.as_slice().into())
    }
}

/// The id of the lane at `index`.
pub(crate) fn lane_id(index: usize) -> LaneId {
    LaneId(u16::try_from(index).expect("the configuration allows far fewer lanes"))
}

#[cfg(test)]
mod tests;
