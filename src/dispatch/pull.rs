//! What a lane takes next: rescue, data, parity, idle copy, in this order; or a canary, if it must prove itself first.

use std::sync::{Arc, atomic::Ordering};

use super::{Dispatch, Effect, Exact, ParityJob, Seat, lanes::Run};
use crate::{
    clock::Time,
    code::RunsOn,
    job::{BaseInput, Batch, JobKind, ParityInput, Work},
    query::{Accepts, FaultDomain, LaneId},
    queue::{Bounded, Call},
    reply::Admitted,
    stripe::{Place, Stripe},
};

impl Dispatch {
    /// The next work for `lane`; `None` if it should rest.
    pub fn pull(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) -> Option<Work> {
        let seat = self.seat(lane);
        if !seat.is_healthy() {
            return self.change(lane, |health| health.canary_starts(now), effects).map(|_| Work::Canary);
        }
        let (role, domain) = (seat.settings.role, seat.settings.domain);
        let mut taken = None;
        if role.runs_base() {
            taken =
                self.take_exact(&self.rescue, JobKind::Rescue, domain).or_else(|| self.take_data(domain, now, effects));
        }
        if taken.is_none() && role.runs_parity() {
            taken = self.take_parity(lane, effects);
        }
        if taken.is_none() && role.runs_base() {
            taken = self.take_exact(&self.idle_copy, JobKind::IdleCopy, domain);
        }
        let (batch, seats) = taken?;
        seat.start(seats, now);
        Some(Work::Batch(batch))
    }

    /// One exact second run. Alone in its batch: if the row itself is the cause of the loss, it takes nobody with it again.
    fn take_exact(&self, from: &Bounded<Exact>, kind: JobKind, domain: FaultDomain) -> Option<(Batch, Vec<Seat>)> {
        let Exact { query, place } = std::iter::from_fn(|| from.pop()).find(|exact| exact.query.is_open())?;
        // Its output may fill its place in the stripe, unless a stripe-mate is in flight here or could start here meanwhile (promise 3).
        let alone = self.lanes.iter().filter(|lane| lane.settings.domain == domain).count() == 1;
        let place = place.filter(|place| alone && !place.stripe.in_flight_in(domain));
        let batch = Batch::Base(vec![input(&query)]);
        Some((batch, vec![Seat::Query(Run { kind, query, place })]))
    }

    fn take_data(&self, domain: FaultDomain, now: Time, effects: &mut Vec<Effect>) -> Option<(Batch, Vec<Seat>)> {
        let (mut inputs, mut seats) = (Vec::new(), Vec::new());
        while seats.len() < self.settings.batch_max {
            let Some(query) = self.data.pop() else { break };
            query.start();
            if !query.is_open() {
                continue;
            }
            inputs.push(input(&query));
            let place = self.place(&query, domain, now, effects);
            seats.push(Seat::Query(Run { kind: JobKind::Data, query, place }));
        }
        (!seats.is_empty()).then_some((Batch::Base(inputs), seats))
    }

    /// Gives a query that starts now a place in a stripe; full stripes make their parity jobs runnable.
    fn place(&self, query: &Arc<Admitted>, domain: FaultDomain, now: Time, effects: &mut Vec<Effect>) -> Option<Place> {
        let Some(stripes) = self.stripes.as_ref().filter(|_| self.is_systematic() && query.query.in_range) else {
            self.metrics.unprotected.inc();
            return None;
        };
        let (place, full) = stripes.place(query, domain, now);
        if let Some(stripe) = full {
            self.queue_parity(&stripe, effects);
        }
        Some(place)
    }

    /// Under a code that is not systematic, a query has no run of its own: it joins a stripe, and waits for what the parity slots bring.
    /// `false` if it must be run as it is.
    pub(super) fn join_only(&self, query: &Arc<Admitted>, effects: &mut Vec<Effect>) -> bool {
        let coded = query.query.accepts == Accepts::Any && query.query.in_range;
        let Some(stripes) = self.stripes.as_ref().filter(|_| coded && !self.is_systematic()) else { return false };
        query.start();
        if let Some(stripe) = stripes.place_erased(query) {
            self.queue_parity(&stripe, effects);
        }
        true
    }

    /// Queues the parity jobs of a full stripe; if there is no room, the stripe does without.
    pub(super) fn queue_parity(&self, stripe: &Arc<Stripe>, effects: &mut Vec<Effect>) {
        for row in 0..stripe.r() {
            if let Err(job) = self.parity.push(ParityJob { stripe: Arc::clone(stripe), row }) {
                self.drop_parity(&job, effects);
                continue;
            }
            self.call(Call::Parity, effects);
        }
    }

    /// Parity jobs of one model, as many as fit a batch; those that nobody needs any more are passed over.
    fn take_parity(&self, lane: LaneId, effects: &mut Vec<Effect>) -> Option<(Batch, Vec<Seat>)> {
        let domain = self.seat(lane).settings.domain;
        let one_model = self.settings.code.as_ref().is_some_and(|code| code.runs_on() == RunsOn::Base);
        let (mut inputs, mut seats, mut blocked) = (Vec::<ParityInput>::new(), Vec::new(), false);
        for _ in 0..self.parity.len() {
            let Some(job) = self.parity.pop() else { break };
            if !job.stripe.wants_parity() {
                continue;
            }
            if !one_model && inputs.first().is_some_and(|first| first.row != job.row) {
                self.put_parity_back(job, effects);
                self.call(Call::Parity, effects);
                continue;
            }
            if job.stripe.in_flight_in(domain) {
                if self.parity_could_run_outside(domain) {
                    blocked = true;
                    self.put_parity_back(job, effects);
                } else {
                    self.drop_parity(&job, effects);
                }
                continue;
            }
            job.stripe.parity_starts(job.row, domain);
            inputs.push(ParityInput { row: job.row, rows: job.stripe.rows() });
            seats.push(Seat::Parity { stripe: job.stripe, row: job.row });
            if seats.len() == self.settings.batch_max {
                break;
            }
        }
        self.seat(lane).parity_blocked.store(blocked && seats.is_empty(), Ordering::Relaxed);
        (!seats.is_empty()).then_some((Batch::Parity(inputs), seats))
    }

    fn put_parity_back(&self, job: ParityJob, effects: &mut Vec<Effect>) {
        if let Err(job) = self.parity.push(job) {
            self.drop_parity(&job, effects);
        }
    }

    /// The stripe does without this parity job; what hoped for it is rescued.
    pub(super) fn drop_parity(&self, job: &ParityJob, effects: &mut Vec<Effect>) {
        job.stripe.drop_parity(job.row);
        self.rescue_hopeless(&job.stripe, effects);
    }

    fn parity_could_run_outside(&self, domain: FaultDomain) -> bool {
        let could = |lane: &super::LaneSeat| lane.settings.role.runs_parity() && lane.settings.domain != domain;
        self.lanes.iter().any(could)
    }

    /// Counts the jobs of a batch that a lane has run.
    pub(super) fn count_jobs(&self, seats: &[Seat]) {
        for seat in seats {
            let kind = match seat {
                Seat::Query(run) => run.kind,
                Seat::Parity { .. } => JobKind::Parity,
            };
            self.count_job(kind);
        }
    }

    /// Counts one job.
    pub(super) fn count_job(&self, kind: JobKind) {
        let place = JobKind::ALL.iter().position(|&each| each == kind).expect("ALL lists every kind");
        self.jobs[place].inc();
    }

    /// How many data jobs wait, for the gauge.
    pub(super) fn waiting_jobs(&self) -> i64 {
        i64::try_from(self.data.len()).unwrap_or(i64::MAX)
    }
}

fn input(query: &Admitted) -> BaseInput {
    BaseInput { row: query.query.row.clone(), must_be_finite: query.query.in_range }
}
