//! The run itself: a thread that keeps the schedule, sockets that it hands requests to, and one place that counts what comes back.
//!
//! Whatever became of earlier requests, the next one leaves at its time. The schedule is kept by a thread that sleeps, because the
//! runtime's timers are rounded to a millisecond, which would be in every latency. It does not spin, either: on a small machine the server
//! needs that core more. A request's body is made while its time has not come. Every request ends a little after its deadline, so the
//! run does.

use std::{
    future::Future,
    panic,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use hyper::Method;
use tokio::{
    runtime::{Handle, Runtime},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{interval, timeout},
};

use super::{
    BenchError, FaultAt, Load,
    progress::{Progress, REDRAW},
    rows::{Bodies, Source},
    tally::{Outcome, Tally},
    target::{self, Target},
    wire::{Server, Silence},
};
use crate::clock::{Clock, Time};

/// How long after its deadline a request is still waited for, so that the server's own 504 is seen rather than guessed.
const SLACK: Duration = Duration::from_millis(500);

/// From the start of the thread to the schedule's zero.
const LEAD: Duration = Duration::from_millis(50);

/// The longest sleep at a stretch: how soon an interrupted run ends.
const NAP: Duration = Duration::from_millis(100);

/// Outcomes that wait to be counted; their times are taken already, so a full queue delays no measurement.
const OUTCOMES: usize = 4096;

/// All that a run sends, and to whom.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) server: Server,
    pub(super) load: Load,
    pub(super) target: Target,
    pub(super) source: Source,
    pub(super) times: Vec<Duration>,
    pub(super) picks: Vec<u32>,
    pub(super) bodies: Bodies,
    /// In the order of their times.
    pub(super) faults: Vec<FaultAt>,
}

impl Plan {
    /// The rows of a request.
    fn picks(&self, request: usize) -> &[u32] {
        let rows = self.load.rows as usize;
        &self.picks[request * rows..(request + 1) * rows]
    }
}

/// What the sockets tell the place that counts.
#[derive(Debug)]
enum Event {
    Ended { request: usize, outcome: Outcome },
    Injected(Result<(), BenchError>),
}

/// What thread and counting share.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
}

/// Sends all of the plan and waits for all that comes back. Faults stay: whoever calls clears them.
pub(super) fn run(runtime: &Runtime, plan: &Arc<Plan>) -> Result<Tally, BenchError> {
    let (events, received) = mpsc::channel(OUTCOMES);
    let (clock, shared) = (Clock::start(), Arc::new(Shared::default()));
    let start = clock.now() + LEAD;
    let (plan_, shared_) = (Arc::clone(plan), Arc::clone(&shared));
    let pacer = Pacer { plan: plan_, clock, start, events, runtime: runtime.handle().clone(), shared: shared_ };
    let thread =
        thread::Builder::new().name("pacer".to_owned()).spawn(move || pacer.run()).map_err(BenchError::Start)?;
    let elapsed = || clock.now().since(start);
    let counted = runtime.block_on(count(plan, received, &shared, elapsed));
    shared.stop.store(true, Ordering::Relaxed);
    if let Err(bug) = thread.join() {
        panic::resume_unwind(bug);
    }
    counted
}

/// Clears every lane that was to get a fault. A lane that cannot be reached is told in the log: the run has its result by then.
pub(super) async fn clear(plan: &Plan) {
    let mut lanes: Vec<u16> = plan.faults.iter().map(|fault| fault.lane).collect();
    lanes.sort_unstable();
    lanes.dedup();
    for lane in lanes {
        if let Err(error) = target::inject(&plan.server, &FaultAt::clear(Duration::ZERO, lane)).await {
            tracing::warn!(lane, "the fault of this lane may still be there: {error}");
        }
    }
}

/// The thread that keeps the schedule.
struct Pacer {
    plan: Arc<Plan>,
    clock: Clock,
    start: Time,
    events: mpsc::Sender<Event>,
    runtime: Handle,
    shared: Arc<Shared>,
}

impl Pacer {
    fn run(self) {
        let mut faults = self.plan.faults.iter().peekable();
        for (request, &at) in self.plan.times.iter().enumerate() {
            while let Some(fault) = faults.next_if(|fault| fault.at <= at) {
                self.inject(fault);
            }
            let body = self.plan.bodies.body(self.plan.picks(request));
            self.wait(at);
            if self.is_stopped() {
                return;
            }
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
            drop(self.runtime.spawn(self.send(request, at, body)));
        }
        faults.for_each(|fault| self.inject(fault));
    }

    fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    /// Sleeps until `at` after the start.
    fn wait(&self, at: Duration) {
        loop {
            let left = (self.start + at).since(self.clock.now());
            if left.is_zero() || self.is_stopped() {
                return;
            }
            self.clock.pause(left.min(NAP));
        }
    }

    fn inject(&self, fault: &FaultAt) {
        self.wait(fault.at);
        if self.is_stopped() {
            return;
        }
        let (plan, events, fault) = (Arc::clone(&self.plan), self.events.clone(), fault.clone());
        drop(self.runtime.spawn(async move {
            let injected = target::inject(&plan.server, &fault).await;
            // Nobody counts any more: the run was ended.
            drop(events.send(Event::Injected(injected)).await);
        }));
    }

    /// One request from its time to its end.
    fn send(&self, request: usize, at: Duration, body: Bytes) -> impl Future<Output = ()> + Send + 'static {
        let (plan, events, clock) = (Arc::clone(&self.plan), self.events.clone(), self.clock);
        let due = self.start + at;
        async move {
            let began = clock.now();
            let message = plan.server.request(Method::POST, &plan.target.path, body);
            let deadline = due + plan.load.deadline;
            let received = if began < deadline {
                let patience = (deadline + SLACK).since(began);
                timeout(patience, plan.server.exchange(message)).await.unwrap_or(Err(Silence::TooLate))
            } else {
                // A machine that was too busy for a while catches up by what is not sent. If it were, each request would open a connection only to give
                // it up, which is enough to keep client and server busy for ever.
                Err(Silence::Overdue)
            };
            let latency = clock.now().since(due);
            let outcome = Outcome { at, lateness: began.since(due), latency, received };
            drop(events.send(Event::Ended { request, outcome }).await);
        }
    }
}

/// Resolves at the first signal that asks for the end: Ctrl-C, `timeout`, or a terminal that is gone. Where none can be listened to, it never does.
async fn interrupted() {
    let listen = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = listen(SignalKind::interrupt()) => {}
        () = listen(SignalKind::terminate()) => {}
        () = listen(SignalKind::hangup()) => {}
    }
}

/// Counts until every request has ended, a fault was refused, or a signal asks for the end.
async fn count(
    plan: &Plan,
    mut events: mpsc::Receiver<Event>,
    shared: &Shared,
    elapsed: impl Fn() -> Duration,
) -> Result<Tally, BenchError> {
    let mut tally = Tally::new(&plan.load);
    let mut progress = Progress::new(Duration::from_secs_f64(plan.load.seconds));
    let (mut redraw, mut interrupt) = (interval(REDRAW), pin!(interrupted()));
    let ended = loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Ended { request, outcome }) => {
                    tell_first_failure(&tally, &outcome);
                    tally.add(&outcome, plan.picks(request), &plan.source);
                }
                Some(Event::Injected(Ok(()))) => {}
                Some(Event::Injected(Err(error))) => break Err(error),
                None => break Ok(()),
            },
            _ = redraw.tick() => progress.show(elapsed(), shared.sent.load(Ordering::Relaxed), &tally),
            () = &mut interrupt => break Err(BenchError::Interrupted),
        }
    };
    progress.end();
    ended.map(|()| tally)
}

/// The first request of each kind that fails is told as it was; the counts tell the rest.
fn tell_first_failure(tally: &Tally, outcome: &Outcome) {
    let is_first = |status: &str| !tally.statuses.contains_key(status);
    match &outcome.received {
        Ok(reply) if reply.status.is_success() => {}
        Ok(reply) if is_first(reply.status.as_str()) => {
            tracing::warn!(status = reply.status.as_u16(), "the first such reply says: {}", reply.told());
        }
        Err(silence) if is_first("none") => tracing::warn!("the first request without a reply: {silence}"),
        Ok(_) | Err(_) => {}
    }
}
