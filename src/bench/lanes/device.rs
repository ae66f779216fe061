//! Emulated devices: what a lane's batch takes is drawn, and one timer says when each part of it is over.
//!
//! One thread with one list of what is due, for all lanes of all policies: threads that slept for themselves would be late each in its own
//! way, and nobody could say by how much. How late lanes are in fact is measured where it counts, on the lane's thread after it woke.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex};

use crate::{
    bench::BenchError,
    clock::{Clock, Time},
    job::{Batch, Feed, PARTS, Role},
    lane::{EmulatedLoss, Emulation, Meanwhile},
    query::LaneId,
    queue::Bells,
    sim::{Course, Faults, Luck, Pace, Timing},
};

/// How long a timer with nothing to do sleeps at most.
const LONG: Duration = Duration::from_millis(100);

/// What is due at some moment.
struct Due {
    at: Time,
    lane: LaneId,
    parts: usize,
    feed: Arc<dyn Feed>,
    bells: Arc<Bells>,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

/// The one timer.
pub(super) struct Timer {
    clock: Clock,
    due: Mutex<BinaryHeap<Reverse<Due>>>,
    earlier: Condvar,
    stopped: AtomicBool,
    /// How late lanes came back, in nanoseconds.
    late: Mutex<Histogram<u64>>,
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timer")
    }
}

impl Timer {
    /// A timer with its thread.
    pub(super) fn start(clock: Clock) -> Result<Arc<Self>, BenchError> {
        let timer = Arc::new(Timer {
            clock,
            due: Mutex::default(),
            earlier: Condvar::new(),
            stopped: AtomicBool::new(false),
            late: Mutex::new(histogram()),
        });
        let runs = Arc::clone(&timer);
        let thread = thread::Builder::new().name("device-timer".to_owned()).spawn(move || runs.run());
        thread.map_err(BenchError::Start)?;
        Ok(timer)
    }

    fn run(&self) {
        let mut due = self.due.lock();
        while !self.stopped.load(Ordering::Acquire) {
            let now = self.clock.now();
            let wait = due.peek().map_or(LONG, |Reverse(next)| next.at.since(now));
            if wait > Duration::ZERO {
                self.earlier.wait_for(&mut due, wait);
                continue;
            }
            let Some(Reverse(next)) = due.pop() else { continue };
            // Neither a feed nor a bell is called under the lock.
            drop(due);
            next.happen();
            due = self.due.lock();
        }
    }

    fn add(&self, all: impl Iterator<Item = Due>) {
        let mut due = self.due.lock();
        let first = due.peek().map(|Reverse(next)| next.at);
        due.extend(all.map(Reverse));
        if due.peek().map(|Reverse(next)| next.at) != first {
            self.earlier.notify_one();
        }
    }

    fn came_back(&self, late: Duration) {
        self.late.lock().saturating_record(u64::try_from(late.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How late lanes came back since this was last asked: the quantile `share`.
    pub(super) fn lateness(&self, share: f64) -> Duration {
        let late = std::mem::replace(&mut *self.late.lock(), histogram());
        Duration::from_nanos(late.value_at_quantile(share))
    }

    /// Ends its thread.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.earlier.notify_one();
    }
}

impl Due {
    fn happen(&self) {
        if self.parts == PARTS {
            self.bells.ring(self.lane);
        } else {
            self.feed.progress(self.lane, self.parts);
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("these bounds are within what the type holds")
}

/// The devices of one policy's lanes.
#[derive(Debug)]
pub(super) struct Devices {
    timer: Arc<Timer>,
    service: Duration,
    parity_cost: f64,
    faults: Faults,
    courses: Vec<Course>,
    luck: Luck,
    /// Batches that have started.
    batches: AtomicU64,
    bells: Arc<Bells>,
    /// When the weather begins, in nanoseconds of the clock; before, it is fair.
    begin: AtomicU64,
    stopped: AtomicBool,
}

impl Devices {
    /// One device for each course. A data job takes `service` there, a parity job so many times that.
    pub(super) fn new(
        timer: &Arc<Timer>,
        (service, parity_cost): (Duration, f64),
        (faults, courses): (Faults, Vec<Course>),
        seed: u64,
    ) -> Self {
        Devices {
            timer: Arc::clone(timer),
            service,
            parity_cost,
            faults,
            luck: Luck::new(seed),
            batches: AtomicU64::new(0),
            bells: Arc::new(Bells::new(courses.len())),
            courses,
            begin: AtomicU64::new(u64::MAX),
            stopped: AtomicBool::new(false),
        }
    }

    /// The weather begins at this moment.
    pub(super) fn begin(&self, at: Time) {
        self.begin.store(at.nanos(), Ordering::Release);
    }

    /// Ends what stands still: batches that are not over are lost.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.bells.ring_all();
    }

    /// A moment of the clock as one of the weather.
    fn weather(&self, at: Time) -> Time {
        Time::ZERO + at.since(Time::from_nanos(self.begin.load(Ordering::Acquire)))
    }

    fn wait(&self, lane: LaneId, until: Time) -> Result<(), EmulatedLoss> {
        loop {
            if self.stopped.load(Ordering::Acquire) {
                return Err(EmulatedLoss);
            }
            let now = self.timer.clock.now();
            if now >= until {
                self.timer.came_back(now.since(until));
                return Ok(());
            }
            self.bells.wait(lane);
        }
    }
}

impl Emulation for Devices {
    fn reports(&self, _: LaneId) -> bool {
        true
    }

    fn expected(&self, _: LaneId, role: Role, _: Duration) -> Duration {
        self.service.mul_f64(if role.runs_base() { 1.0 } else { self.parity_cost })
    }

    fn batch(&self, lane: LaneId, batch: &Batch, started: Time, meanwhile: &Meanwhile<'_>) -> Result<(), EmulatedLoss> {
        let begun = self.weather(started);
        let course = &self.courses[lane.index()];
        let cost = if matches!(batch, Batch::Parity(_)) { self.parity_cost } else { 1.0 };
        let work = (self.service.mul_f64(cost), begun);
        let mut luck = self.luck.of(self.batches.fetch_add(1, Ordering::Relaxed));
        let Timing { parts, lost } = Timing::draw(self.faults, work, course, &mut luck);
        let due = |(over, parts): (Time, usize)| Due {
            at: started + over.since(begun),
            lane,
            parts,
            feed: Arc::clone(meanwhile.feed),
            bells: Arc::clone(&self.bells),
        };
        self.timer.add(parts.into_iter().zip(1..).map(due));
        self.wait(lane, started + parts[PARTS - 1].since(begun))?;
        if lost { Err(EmulatedLoss) } else { Ok(()) }
    }

    fn canary(&self, lane: LaneId, started: Time) -> Result<(), EmulatedLoss> {
        // It takes its time on the device, like a job.
        let over = started + self.service;
        while self.timer.clock.now() < over && !self.stopped.load(Ordering::Acquire) {
            self.timer.clock.pause(over.since(self.timer.clock.now()));
        }
        let down = self.courses[lane.index()].pace(self.weather(over)) == Pace::Down;
        if down { Err(EmulatedLoss) } else { Ok(()) }
    }
}
