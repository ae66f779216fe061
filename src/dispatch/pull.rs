//! What a lane takes next: rescue, data, parity, idle copy, in this order; or a canary, if it must prove itself first.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Dispatch, Effect, Exact, ParityJob, Running, Seat};
use crate::{
    clock::Time,
    job::{BaseInput, Batch, JobKind, Work},
    query::{FaultDomain, LaneId, Row},
    queue::{Bounded, Call},
    reply::Admitted,
    stripe::{Place, Stripe},
};

impl Dispatch {
    /// The next work for `lane`; `None` if it should rest.
    pub fn pull(&self, lane: LaneId, now: Time, effects: &mut Vec<Effect>) -> Option<Work> {
        let seat = self.seat(lane);
        if !seat.is_healthy() {
            let started = seat.change(|health| health.canary_starts(now));
            self.moved(lane, started, effects);
            return started.map(|_| Work::Canary);
        }
        let (role, domain) = (seat.settings.role, seat.settings.domain);
        let mut taken = None;
        if role.runs_base() {
            taken = Self::take_exact(&self.rescue, JobKind::Rescue, domain)
                .or_else(|| self.take_data(domain, now, effects));
        }
        if taken.is_none() && role.runs_parity() {
            taken = self.take_parity(lane, effects);
        }
        if taken.is_none() && role.runs_base() {
            taken = Self::take_exact(&self.idle_copy, JobKind::IdleCopy, domain);
        }
        let (batch, running) = taken?;
        seat.start(running, now);
        Some(Work::Batch(batch))
    }

    /// One exact second run. Alone in its batch: if the row itself is the cause of the loss, it takes nobody with it again.
    fn take_exact(from: &Bounded<Exact>, kind: JobKind, domain: FaultDomain) -> Option<(Batch, Running)> {
        let Exact { query, place } = std::iter::from_fn(|| from.pop()).find(|exact| exact.query.is_open())?;
        // Its output may fill its place in the stripe, unless a stripe-mate is in flight here (promise 3).
        let place = place.filter(|place| !place.stripe.in_flight_in(domain));
        let batch = Batch::Base(vec![input(&query)]);
        Some((batch, Running { seats: vec![Seat::Query { kind, query, place }] }))
    }

    fn take_data(&self, domain: FaultDomain, now: Time, effects: &mut Vec<Effect>) -> Option<(Batch, Running)> {
        let (mut inputs, mut seats) = (Vec::new(), Vec::new());
        while seats.len() < self.settings.batch_max {
            let Some(query) = self.data.pop() else { break };
            if !query.is_open() {
                continue;
            }
            inputs.push(input(&query));
            let place = self.place(&query, domain, now, effects);
            seats.push(Seat::Query { kind: JobKind::Data, query, place });
        }
        (!seats.is_empty()).then_some((Batch::Base(inputs), Running { seats }))
    }

    /// Gives a query that starts now a place in a stripe; full stripes make their parity jobs runnable.
    fn place(&self, query: &Arc<Admitted>, domain: FaultDomain, now: Time, effects: &mut Vec<Effect>) -> Option<Place> {
        let Some(stripes) = self.stripes.as_ref().filter(|_| query.query.in_range) else {
            self.metrics.unprotected.inc();
            return None;
        };
        let (place, full) = stripes.place(query, domain, now);
        if let Some(stripe) = full {
            self.queue_parity(&stripe, effects);
        }
        Some(place)
    }

    /// Queues the parity jobs of a full stripe; if there is no room, the stripe does without.
    pub(super) fn queue_parity(&self, stripe: &Arc<Stripe>, effects: &mut Vec<Effect>) {
        for row in 0..stripe.r() {
            if let Err(job) = self.parity.push(ParityJob { stripe: Arc::clone(stripe), row }) {
                job.stripe.drop_parity();
                self.rescue_hopeless(&job.stripe, effects);
                return;
            }
            self.call(Call::Parity, effects);
        }
    }

    /// Parity jobs of one row, as many as fit a batch; those that nobody needs any more are passed over.
    fn take_parity(&self, lane: LaneId, effects: &mut Vec<Effect>) -> Option<(Batch, Running)> {
        let domain = self.seat(lane).settings.domain;
        let mut batch: Option<(usize, Vec<Vec<Row>>)> = None;
        let (mut seats, mut blocked) = (Vec::new(), false);
        for _ in 0..self.parity.len() {
            let Some(job) = self.parity.pop() else { break };
            if !job.stripe.wants_parity() {
                continue;
            }
            let other_model = batch.as_ref().is_some_and(|(row, _)| *row != job.row);
            let mate_here = job.stripe.in_flight_in(domain);
            if mate_here && !self.parity_could_run_outside(domain) {
                job.stripe.drop_parity();
                self.rescue_hopeless(&job.stripe, effects);
                continue;
            }
            if mate_here || other_model {
                blocked |= mate_here;
                self.put_parity_back(job, effects);
                continue;
            }
            job.stripe.parity_starts(job.row, domain);
            batch.get_or_insert((job.row, Vec::new())).1.push(job.stripe.rows());
            seats.push(Seat::Parity { stripe: job.stripe, row: job.row });
            if seats.len() == self.settings.batch_max {
                break;
            }
        }
        self.seat(lane).parity_blocked.store(blocked && seats.is_empty(), Ordering::Relaxed);
        let (row, stripes) = batch?;
        Some((Batch::Parity { row, stripes }, Running { seats }))
    }

    fn put_parity_back(&self, job: ParityJob, effects: &mut Vec<Effect>) {
        match self.parity.push(job) {
            Ok(()) => self.call(Call::Parity, effects),
            Err(job) => {
                job.stripe.drop_parity();
                self.rescue_hopeless(&job.stripe, effects);
            }
        }
    }

    fn parity_could_run_outside(&self, domain: FaultDomain) -> bool {
        let could = |lane: &super::LaneSeat| lane.settings.role.runs_parity() && lane.settings.domain != domain;
        self.lanes.iter().any(could)
    }

    /// Counts the jobs of a batch that a lane has run.
    pub(super) fn count_jobs(&self, seats: &[Seat]) {
        for seat in seats {
            let kind = match seat {
                Seat::Query { kind, .. } => *kind,
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

    /// Smooths the time of a base batch into what is expected of its lane.
    pub(super) fn learn(&self, lane: LaneId, running: &Running, service: Duration) {
        let base = running.seats.iter().any(|seat| matches!(seat, Seat::Query { .. }));
        if base || self.seat(lane).expected.load(Ordering::Relaxed) == 0 {
            self.seat(lane).expect(service);
        }
    }
}

fn input(query: &Admitted) -> BaseInput {
    BaseInput { row: query.query.row.clone(), must_be_finite: query.query.in_range }
}
