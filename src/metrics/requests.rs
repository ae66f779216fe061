//! Requests as the protocol's statistics count them: how many there were and how long they took, since the daemon began.
//!
//! Counting is a few atomic additions at the end of a request. A request waits for a lane and then for its batch, and only the sum of the
//! two is seen from outside. They are told apart when somebody asks ([`Requests::totals`]): of what the requests since the last question
//! have waited, the mean time of a batch in that while is computing, and the rest is queueing. What was told once only grows, because
//! clients subtract one snapshot from the next.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use crate::clock::nanos;

/// A number of things and the time that they took.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Total {
    /// How many.
    pub count: u64,
    /// All of them together.
    pub nanos: u64,
}

impl Total {
    fn since(self, earlier: Total) -> Total {
        Total { count: self.count.saturating_sub(earlier.count), nanos: self.nanos.saturating_sub(earlier.nanos) }
    }
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// Its rows.
    pub rows: usize,
    /// From its body's being there to its reply's being written.
    pub whole: Duration,
    /// What of it was reading the body.
    pub reading: Duration,
    /// What of it was writing the reply.
    pub writing: Duration,
    /// When, in milliseconds since 1970.
    pub at_millis: u64,
}

/// Why a request failed, in Triton's words. Its fourth, `CANCELED`, is not here: whoever leaves is not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// There was no room, or no answer in time.
    Rejected,
    /// Running the model on it failed.
    Backend,
    /// Anything else: the daemon stops, is not ready, or does not do what was asked.
    Other,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 3] = [Fault::Rejected, Fault::Backend, Fault::Other];

    /// The word in `nv_inference_request_failure`.
    pub const fn word(self) -> &'static str {
        match self {
            Fault::Rejected => "REJECTED",
            Fault::Backend => "BACKEND",
            Fault::Other => "OTHER",
        }
    }
}

/// Everything since the daemon began.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Totals {
    /// Rows of requests that were answered.
    pub rows: u64,
    /// Requests that were answered.
    pub success: Total,
    /// Requests that were read and then refused, or that failed.
    pub fail: Total,
    /// How many of these by [`Fault`], in the order of [`Fault::ALL`].
    pub fail_by: [u64; Fault::ALL.len()],
    /// Waiting for a lane.
    pub queue: Total,
    /// Reading bodies.
    pub reading: Total,
    /// Waiting for a batch.
    pub computing: Total,
    /// Writing replies.
    pub writing: Total,
    /// When the last request was answered, in milliseconds since 1970; 0 before the first.
    pub last_millis: u64,
}

/// Counts requests of one deployment, whatever brought them.
#[derive(Debug, Default)]
pub struct Requests {
    rows: AtomicU64,
    success: Counter,
    fail: Counter,
    fail_by: [AtomicU64; Fault::ALL.len()],
    reading: AtomicU64,
    writing: AtomicU64,
    last_millis: AtomicU64,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    nanos: AtomicU64,
}

impl Counter {
    fn add(&self, duration: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos(duration), Ordering::Relaxed);
    }

    fn get(&self) -> Total {
        Total { count: self.count.load(Ordering::Relaxed), nanos: self.nanos.load(Ordering::Relaxed) }
    }
}

/// What was told of waiting, and from what.
#[derive(Debug, Default)]
struct Told {
    waited: Total,
    batches: Total,
    computing: u64,
    queue: u64,
}

impl Requests {
    /// A request was answered.
    pub fn answered(&self, Answered { rows, whole, reading, writing, at_millis }: Answered) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.reading.fetch_add(nanos(reading), Ordering::Relaxed);
        self.writing.fetch_add(nanos(writing), Ordering::Relaxed);
        self.last_millis.fetch_max(at_millis, Ordering::Relaxed);
        self.success.add(whole);
    }

    /// A request came whole, and was refused or not answered, after `whole`.
    pub fn failed(&self, whole: Duration, fault: Fault) {
        self.fail_by[fault as usize].fetch_add(1, Ordering::Relaxed);
        self.fail.add(whole);
    }

    /// All of it. `batches` is what lanes have run until now.
    pub fn totals(&self, batches: Total) -> Totals {
        let mut told = self.told.lock();
        let success = self.success.get();
        let of = |nanos: &AtomicU64| Total { count: success.count, nanos: nanos.load(Ordering::Relaxed) };
        let (reading, writing) = (of(&self.reading), of(&self.writing));
        let waited =
            Total { nanos: success.nanos.saturating_sub(reading.nanos).saturating_sub(writing.nanos), ..success };
        let (new, ran) = (waited.since(told.waited), batches.since(told.batches));
        let batch = ran.nanos.checked_div(ran.count).unwrap_or(0);
        let computing = new.count.saturating_mul(batch).min(new.nanos);
        told.computing += computing;
        told.queue += new.nanos - computing;
        told.waited.count = told.waited.count.max(waited.count);
        told.waited.nanos = told.waited.nanos.max(waited.nanos);
        told.batches = batches;
        Totals {
            rows: self.rows.load(Ordering::Relaxed),
            success,
            fail: self.fail.get(),
            fail_by: self.fail_by.each_ref().map(|count| count.load(Ordering::Relaxed)),
            queue: Total { count: success.count, nanos: told.queue },
            reading,
            computing: Total { count: success.count, nanos: told.computing },
            writing,
            last_millis: self.last_millis.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(whole: u64) -> Answered {
        let of = Duration::from_nanos;
        Answered { rows: 3, whole: of(whole), reading: of(10), writing: of(5), at_millis: whole }
    }

    #[test]
    fn waiting_is_told_apart_by_the_mean_batch_and_only_grows() {
        let requests = Requests::default();
        assert_eq!(requests.totals(Total::default()), Totals::default());
        requests.answered(answered(115));
        requests.answered(answered(215));
        requests.failed(Duration::from_nanos(7), Fault::Backend);
        let totals = requests.totals(Total { count: 4, nanos: 160 });
        assert_eq!((totals.rows, totals.last_millis), (6, 215));
        assert_eq!((totals.success, totals.fail), (Total { count: 2, nanos: 330 }, Total { count: 1, nanos: 7 }));
        assert_eq!(totals.fail_by, [0, 1, 0]);
        assert_eq!((totals.reading.nanos, totals.writing.nanos), (20, 10));
        assert_eq!((totals.computing.nanos, totals.queue.nanos), (80, 220), "two batches of 40 out of 300");
        assert_eq!(requests.totals(Total { count: 4, nanos: 160 }), totals, "nothing new");
        // Batches that take longer than anybody has waited: canaries, redundancy.
        requests.answered(answered(65));
        let later = requests.totals(Total { count: 5, nanos: 9_000 });
        assert_eq!((later.computing.nanos, later.queue.nanos), (130, 220));
    }
}
