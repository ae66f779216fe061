//! What a lane takes next: rescue, backup of a late query, hedge and data, parity, idle copy, in this order; or a canary, if it must prove itself first.

use std::sync::atomic::Ordering;

use super::{
    Dispatch, Effect, LaneSeat, LaneSettings, ParityJob, RunningJob,
    canary::Rest,
    draft::Draft,
    ladder::Step,
    lanes::Start,
    occupancy::Occupancy,
    run::{Run, Why},
};
use crate::{
    clock::Time,
    code::RunsOn,
    job::{JobKind, Work},
    pool::Shared,
    query::{FaultDomain, LaneId},
    queue::{Bounded, Call},
    reply::Admitted,
    stripe::Place,
};

/// What a lane takes.
struct Taken {
    draft: Draft,
    /// Whether the lane was reserved for it.
    reserved: bool,
}

impl Taken {
    const fn unreserved(draft: Draft) -> Self {
        Taken { draft, reserved: false }
    }
}

impl Dispatch {
    /// The next work for `lane`; `None` if it should rest.
    pub fn pull(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) -> Option<Work> {
        let seat = self.seat(lane);
        let every = self.settings.health.canary_every;
        if seat.is_usable() && seat.unchecked.take_due(every, Rest::No) {
            return Some(self.check(seat, now));
        }
        let taken = if seat.is_healthy() {
            let taken = self.take(lane, now, effects);
            if taken.is_none() && seat.unchecked.take_due(every, Rest::Yes) {
                return Some(self.check(seat, now));
            }
            taken
        } else if seat.is_straggler() {
            self.take_slow(lane, now, effects).map(Taken::unreserved)
        } else {
            return self.change(lane, |health| health.canary_starts(now), effects).map(|_| Work::Canary);
        };
        let Taken { draft, reserved } = taken?;
        let (batch, jobs) = draft.done();
        let start = if reserved { Start::Reserved(jobs) } else { Start::Batch(jobs) };
        seat.start(start, self.occupancy_of(seat), now);
        self.give_up_if_fenced(lane, now, effects);
        Some(Work::Batch(batch))
    }

    /// What a healthy lane takes.
    fn take(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) -> Option<Taken> {
        let seat = self.seat(lane);
        let LaneSettings { role, domain, .. } = seat.settings;
        seat.parity_blocked.store(false, Ordering::Relaxed);
        let is_urgent = self.urgent.load(Ordering::Relaxed) && self.rescue.is_empty();
        let backup = if is_urgent { self.take_backup(lane, effects) } else { None };
        let base = || role.runs_base().then(|| self.take_base(domain, now, effects)).flatten();
        let mut first = backup.or_else(base).or_else(|| self.take_backup(lane, effects));
        if first.is_none() && role.runs_parity() && !self.parity_is_reserved(role) {
            first = self.take_parity(&self.parity, lane, effects);
        }
        let redundancy = || role.runs_base().then(|| self.take_redundancy(lane, effects)).flatten();
        first.map(Taken::unreserved).or_else(redundancy)
    }

    /// The backup of a late query.
    fn take_backup(&self, lane: LaneId, effects: &mut Vec<Effect>) -> Option<Draft> {
        let waits = self.seat(lane).settings.role.runs_parity() && !self.backup.is_empty();
        if waits { self.take_parity(&self.backup, lane, effects) } else { None }
    }

    /// What queries wait for: rescues, then late jobs and data; late ones first while queries hardly wait.
    pub(super) fn take_base(&self, domain: FaultDomain, now: Time, effects: &mut Vec<Effect>) -> Option<Draft> {
        let rescue = self.take_exact(&self.rescue, domain);
        if rescue.is_some() {
            return rescue;
        }
        let hedge = || self.take_exact(&self.hedge, domain);
        if self.urgent.load(Ordering::Relaxed) {
            hedge().or_else(|| self.take_data(domain, now, effects))
        } else {
            self.take_data(domain, now, effects).or_else(hedge)
        }
    }

    /// Parity or a copy, on a lane that would be idle, if enough lanes stay so.
    fn take_redundancy(&self, lane: LaneId, effects: &mut Vec<Effect>) -> Option<Taken> {
        let LaneSettings { role, domain, .. } = self.seat(lane).settings;
        let parity_waits = role.runs_parity() && self.parity_is_reserved(role) && !self.parity.is_empty();
        if !parity_waits && self.idle_copy.is_empty() {
            return None;
        }
        if !self.occupancy.reserve(self.settings.policy.reserve, self.budget()) {
            return None;
        }
        let parity = if parity_waits { self.take_parity(&self.parity, lane, effects) } else { None };
        let taken = parity.or_else(|| self.take_exact(&self.idle_copy, domain));
        if taken.is_none() {
            self.occupancy.give_back();
        }
        taken.map(|draft| Taken { draft, reserved: true })
    }

    /// One exact second run. Alone in its batch: if the row itself is the cause of the loss, it takes nobody with it again.
    fn take_exact(&self, from: &Bounded<Run>, domain: FaultDomain) -> Option<Draft> {
        let is_next = |run: &Run| wanted_or_passed_over(&run.query) && run.may_start();
        let mut run = std::iter::from_fn(|| from.pop()).find(is_next)?;
        // Its output may fill its place in the stripe, unless a stripe-mate is in flight here or could start here meanwhile.
        let alone = self.lanes.iter().filter(|lane| lane.settings.domain == domain).count() == 1;
        run.place = run.place.filter(|place| alone && !place.stripe.in_flight_in(domain));
        let mut draft = Draft::base(&self.spare);
        draft.run(run);
        Some(draft)
    }

    pub(super) fn take_data(&self, domain: FaultDomain, now: Time, effects: &mut Vec<Effect>) -> Option<Draft> {
        if self.data.is_empty() {
            return None;
        }
        let (mut draft, mut copies) = (Draft::base(&self.spare), Vec::new());
        while draft.jobs().len() < self.settings.batch_max {
            let Some(query) = self.data.pop() else { break };
            let is_first = query.start();
            if !wanted_or_passed_over(&query) {
                continue;
            }
            if !is_first {
                // The copy of a replicated query. If its first run is in this very batch, it is for another lane.
                if draft.jobs().iter().any(|job| job.runs(&query)) {
                    copies.push(query);
                    continue;
                }
                draft.run(Run { why: Why::Replica, query, place: None });
                continue;
            }
            self.credit.earn();
            self.remember_for_probes(&query, now);
            let place = self.give_place(&query, domain, now, effects);
            if self.step() == Step::Copies {
                self.queue_copy(&query, place.as_ref(), effects);
            }
            draft.run(Run { why: Why::Data, query, place });
        }
        for query in copies {
            self.push_data(query);
            self.call(Call::Base, effects);
        }
        draft.unless_empty(&self.spare)
    }

    /// Puts a query on the data queue. Those that are open hold permits and are there twice at most.
    pub(super) fn push_data(&self, query: Shared<Admitted>) {
        push_wanted(&self.data, query, |query| query);
    }

    /// Queues an exact copy of a query for a lane that would be idle.
    pub(super) fn queue_copy(&self, query: &Shared<Admitted>, place: Option<&Place>, effects: &mut Vec<Effect>) {
        let copy = Run { why: Why::IdleCopy, query: query.clone(), place: place.cloned() };
        // Redundancy that finds its queue full is dropped.
        if self.idle_copy.push(copy).is_ok() {
            self.call(Call::Base, effects);
        }
    }

    /// Parity jobs of one model, as many as fit a batch; those that nobody needs any more are passed over.
    fn take_parity(&self, from: &Bounded<ParityJob>, lane: LaneId, effects: &mut Vec<Effect>) -> Option<Draft> {
        let domain = self.seat(lane).settings.domain;
        let one_model = self.settings.code.as_ref().is_some_and(|code| code.runs_on() == RunsOn::Base);
        if from.is_empty() {
            return None;
        }
        let (mut draft, mut blocked) = (Draft::parity(&self.spare), false);
        for _ in 0..from.len() {
            let Some(job) = from.pop() else { break };
            if !job.stripe.wants_parity() || job.stripe.parity_has_started(job.row) {
                continue;
            }
            if !one_model && draft.parity_row().is_some_and(|first| first != job.row) {
                self.put_parity_back(from, job, effects);
                self.call(Call::Parity, effects);
                continue;
            }
            if job.stripe.in_flight_in(domain) {
                if self.parity_could_run(&job.stripe, domain) {
                    blocked = true;
                    self.put_parity_back(from, job, effects);
                } else {
                    self.drop_parity(&job, effects);
                }
                continue;
            }
            if !job.stripe.parity_starts(job.row, domain) {
                continue;
            }
            draft.encode(job.stripe, job.row, self.spare.rows.take());
            if draft.jobs().len() == self.settings.batch_max {
                break;
            }
        }
        if blocked && draft.jobs().is_empty() {
            self.seat(lane).parity_blocked.store(true, Ordering::Relaxed);
        }
        draft.unless_empty(&self.spare)
    }

    /// Counts the jobs of a batch that a lane has run.
    pub(super) fn count_jobs(&self, jobs: &[RunningJob]) {
        for job in jobs {
            self.count_job(job.kind());
        }
    }

    /// Counts one job.
    pub(super) fn count_job(&self, kind: JobKind) {
        let place = JobKind::ALL.iter().position(|&each| each == kind).expect("ALL lists every kind");
        self.jobs[place].inc();
    }

    /// Where a lane is counted: what a lane does that holds parity models alone takes nothing from queries.
    pub(super) const fn occupancy_of(&self, seat: &LaneSeat) -> &Occupancy {
        if seat.settings.role.runs_base() { &self.occupancy } else { &self.uncounted }
    }

    /// How many data jobs wait, for the gauge.
    pub(super) fn waiting_jobs(&self) -> i64 {
        i64::try_from(self.data.len()).unwrap_or(i64::MAX)
    }
}

/// Whether the query is still open. If not, this frees its permit, and the caller drops it.
pub(super) fn wanted_or_passed_over(query: &Shared<Admitted>) -> bool {
    let is_open = query.is_open();
    if !is_open {
        query.pass_over();
    }
    is_open
}

/// Puts admitted work on its queue. That may be full of queries that were answered meanwhile; it is as long as those that are open can be many, so there is
/// room once the others are out.
pub(super) fn push_wanted<T>(queue: &Bounded<T>, item: T, query: impl Fn(&T) -> &Shared<Admitted>) {
    let Err(item) = queue.push(item) else { return };
    let mut unplaced = vec![item];
    while let Some(item) = unplaced.pop() {
        if let Err(item) = queue.push(item) {
            unplaced.extend(queue.retain(|item| wanted_or_passed_over(query(item))));
            unplaced.push(item);
        }
    }
}
