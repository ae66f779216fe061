//! An open-loop client without a network: the same queries at the same moments to every daemon.
//!
//! Latency counts from the intended moment. When an answer came is noted by the thread that gave it, so that no reader's own delay is in the
//! figures.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use crate::{
    admission::{Admission, Terms},
    bench::{
        cell::{DEADLINE, Latency},
        tally::largest,
    },
    clock::{Clock, Time},
    engine::Engine,
    query::{Accepts, Provenance, Rows},
    reply::Pending,
};

/// Beyond the deadline, an answer is waited for so long.
const SLACK: Duration = Duration::from_millis(200);

/// Rows with their labels, where those are known.
pub(super) type Labelled = (Rows, Option<u8>);

/// When the answer came; 0 while there is none.
struct Stamp {
    clock: Clock,
    at: AtomicU64,
}

impl Wake for Stamp {
    fn wake(self: Arc<Self>) {
        let now = self.clock.now().nanos();
        // The first wake is the answer's; a later one could only be a spurious one.
        self.at.compare_exchange(0, now, Ordering::Release, Ordering::Relaxed).unwrap_or(0);
    }
}

/// One query that was sent.
struct Sent {
    pending: Option<Pending>,
    stamp: Arc<Stamp>,
    intended: Time,
    label: Option<u8>,
}

/// What came of all queries: those of each daemon in the order of arrival, and how late each was sent.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) latencies: Vec<Vec<Latency>>,
    pub(super) sent_late: Vec<Duration>,
}

/// Sends a row at each of the moments `arrivals` after `begin` to every daemon, and waits for the answers.
pub(super) fn send(
    daemons: &[Arc<Engine>],
    clock: Clock,
    begin: Time,
    arrivals: impl Iterator<Item = Duration>,
    rows: &[Labelled],
) -> Answered {
    let mut sent: Vec<Vec<Sent>> = daemons.iter().map(|_| Vec::new()).collect();
    let mut sent_late = Vec::new();
    for (after, (row, label)) in arrivals.zip(rows.iter().cycle()) {
        let intended = begin + after;
        let wait = intended.since(clock.now());
        if wait > Duration::ZERO {
            clock.pause(wait);
        }
        sent_late.push(clock.now().since(intended));
        for (daemon, sent) in daemons.iter().zip(&mut sent) {
            sent.push(Sent::new(daemon, clock, (intended, row, *label)));
        }
    }
    let over = clock.now() + DEADLINE + SLACK;
    while clock.now() < over && sent.iter().flatten().any(Sent::is_open) {
        clock.pause(SLACK / 10);
    }
    let latencies = sent.into_iter().map(|sent| sent.into_iter().map(Sent::end).collect()).collect();
    Answered { latencies, sent_late }
}

impl Sent {
    fn new(daemon: &Engine, clock: Clock, (intended, row, label): (Time, &Rows, Option<u8>)) -> Self {
        let stamp = Arc::new(Stamp { clock, at: AtomicU64::new(0) });
        let terms = Terms { accepts: Accepts::Any, min_confidence: None, timeout: None };
        let mut pending = daemon.admit(row, terms).ok();
        if let Some(pending) = &mut pending {
            let waker = Waker::from(Arc::clone(&stamp));
            let answers = Pin::new(pending).poll(&mut Context::from_waker(&waker));
            if answers.is_ready() {
                waker.wake();
            }
        }
        Sent { pending, stamp, intended, label }
    }

    fn is_open(&self) -> bool {
        self.pending.is_some() && self.stamp.at.load(Ordering::Acquire) == 0
    }

    fn end(self) -> Latency {
        let at = self.stamp.at.load(Ordering::Acquire);
        let Some(mut pending) = self.pending.filter(|_| at > 0) else { return Latency::NONE };
        let Poll::Ready(answers) = Pin::new(&mut pending).poll(&mut Context::from_waker(Waker::noop())) else {
            return Latency::NONE;
        };
        let Some(Ok(prediction)) = answers.iter().next() else { return Latency::NONE };
        let decoded = matches!(prediction.provenance, Provenance::Reconstructed | Provenance::Approximate);
        let class = largest(prediction.values.iter().copied().map(f64::from));
        let right = self.label.map(|label| if class == Some(usize::from(label)) { 1.0 } else { 0.0 });
        Latency { time: Time::from_nanos(at).since(self.intended), decoded, answered: true, right }
    }
}
