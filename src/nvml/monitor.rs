//! The monitor: one thread that looks at all watched GPUs once a second, one a GPU that waits for its events, and one that notices when NVML itself
//! does not answer.
//!
//! A wedged NVML means *unknown*: lanes stay as they are, service goes on, and the stop of the daemon waits for none of these threads.

mod events;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nvml_wrapper::{Nvml, error::NvmlError};
use parking_lot::Mutex;

use super::{
    open,
    poll::{Failure, Reading, look},
};
use crate::{
    clock::{Clock, Time},
    health::device::{Sign, Throttle, Told},
    metrics::GpuMetrics,
    query::LaneId,
    repeat::{Line, Repeats},
};

/// From one look at all GPUs to the next.
const EVERY: Duration = Duration::from_secs(1);
/// From one attempt to open NVML to the next.
const OPEN_EVERY: Duration = Duration::from_mins(1);
/// A call that takes longer has wedged.
const WEDGED: Duration = Duration::from_secs(5);
/// A slowdown that a change of clocks may also report counts from its second look on.
const SLOWDOWN: u64 = 0x8;

/// A GPU and the lanes on it.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its UUID.
    pub uuid: String,
    /// Their ids.
    pub lanes: Vec<LaneId>,
}

/// What is so of a GPU, as far as it was told.
#[derive(Debug, Default)]
struct Lasting {
    signs: Vec<Sign>,
    /// A slowdown was seen in the last look.
    slowed: bool,
    /// NVML has had it: what it does not find any more is lost.
    found: bool,
    /// That it has never had it was said.
    told_unknown: bool,
}

/// Whoever acts on it. Called on the monitor's threads.
pub trait Listener: Send + Sync {
    /// Something is told of the GPU of these lanes.
    fn told(&self, lanes: &[LaneId], told: Told);
}

/// What the monitor's threads share.
struct Shared {
    clock: Clock,
    gpus: Vec<Watched>,
    listener: Arc<dyn Listener>,
    metrics: GpuMetrics,
    /// The call that is being made, and since when.
    call: Mutex<Option<(&'static str, Time)>>,
    readings: Mutex<Vec<Option<Reading>>>,
    /// What is said of each GPU: of its limits, which a hot one reaches and leaves every second, and of all else.
    lines: Vec<[Mutex<Repeats>; 2]>,
    stopped: AtomicBool,
}

/// Watches GPUs until it is dropped.
pub struct Monitor(Arc<Shared>);

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Monitor")
    }
}

impl Drop for Monitor {
    /// Its threads end when their calls return, if they do.
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
    }
}

impl Monitor {
    /// Starts to watch; fails if the system gives no threads.
    pub fn start(
        gpus: Vec<Watched>,
        clock: Clock,
        listener: Arc<dyn Listener>,
        metrics: GpuMetrics,
    ) -> std::io::Result<Self> {
        let readings = Mutex::new(vec![None; gpus.len()]);
        let lines = gpus.iter().map(|_| Default::default()).collect();
        let (call, stopped) = (Mutex::new(None), AtomicBool::new(false));
        let shared = Arc::new(Shared { clock, gpus, listener, metrics, call, readings, lines, stopped });
        let (polls, watches) = (Arc::clone(&shared), Arc::clone(&shared));
        thread::Builder::new().name("nvml".to_owned()).spawn(move || run(&polls))?;
        thread::Builder::new().name("nvml-watch".to_owned()).spawn(move || watches.watch_calls())?;
        Ok(Monitor(shared))
    }

    /// The last reading of each watched GPU; `None` where there is none, because NVML has not told or does not answer.
    pub fn readings(&self) -> Vec<(String, Option<Reading>)> {
        let answers = self.0.wedged().is_none();
        let readings = self.0.readings.lock();
        let of = |(gpu, reading): (&Watched, &Option<Reading>)| (gpu.uuid.clone(), reading.filter(|_| answers));
        self.0.gpus.iter().zip(&*readings).map(of).collect()
    }

    /// The call that has not returned for too long, and since when.
    pub fn wedged(&self) -> Option<(&'static str, Duration)> {
        self.0.wedged()
    }
}

/// The polling thread.
fn run(shared: &Arc<Shared>) {
    let mut told_absent = false;
    // What is so of each GPU; kept while NVML is opened anew, so that its end is told.
    let mut lasting: Vec<Lasting> = shared.gpus.iter().map(|_| Lasting::default()).collect();
    while !shared.is_stopped() {
        shared.enter("open");
        let opened = open();
        shared.leave();
        match opened {
            Ok(nvml) => {
                // Closing it may never return.
                let nvml: &'static Nvml = Box::leak(Box::new(nvml));
                told_absent = false;
                tracing::info!(gpus = shared.gpus.len(), "NVML watches");
                let over = Arc::new(AtomicBool::new(false));
                for place in 0..shared.gpus.len() {
                    let (waits, over) = (Arc::clone(shared), Arc::clone(&over));
                    let thread = thread::Builder::new().name(format!("nvml-{place}"));
                    if let Err(error) = thread.spawn(move || waits.wait_for_events(nvml, place, &over)) {
                        tracing::warn!(%error, "no thread for a GPU's events");
                    }
                }
                let error = shared.poll(nvml, &mut lasting);
                over.store(true, Ordering::Release);
                shared.metrics.answers(false);
                shared.forget_readings();
                if let Some(error) = error {
                    tracing::warn!(%error, "NVML is of no use any more; it is opened again");
                }
            }
            Err(error) if !told_absent => {
                told_absent = true;
                shared.metrics.answers(false);
                tracing::warn!(%error, "NVML cannot be opened: devices are judged by their service times alone");
            }
            Err(_) => shared.metrics.answers(false),
        }
        shared.rest(OPEN_EVERY);
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Sleeps, in parts, so that a stop is noticed.
    fn rest(&self, time: Duration) {
        let until = self.clock.now() + time;
        while self.clock.now() < until && !self.is_stopped() {
            self.clock.pause(until.since(self.clock.now()).min(EVERY / 4));
        }
    }

    fn enter(&self, call: &'static str) {
        *self.call.lock() = Some((call, self.clock.now()));
    }

    fn leave(&self) {
        *self.call.lock() = None;
    }

    fn wedged(&self) -> Option<(&'static str, Duration)> {
        let (call, since) = (*self.call.lock())?;
        let age = self.clock.now().since(since);
        (age > WEDGED).then_some((call, age))
    }

    /// Says once when NVML does not answer, and once when it does again. Meanwhile nothing is shown of any GPU.
    fn watch_calls(&self) {
        let mut told = false;
        while !self.is_stopped() {
            self.clock.pause(EVERY);
            match self.wedged() {
                Some((call, _)) if !told => {
                    tracing::warn!(
                        call,
                        "NVML does not answer: what it says of devices is unknown, and lanes stay as they are"
                    );
                    self.metrics.answers(false);
                    // What it said last may be so no more. The look that comes back says what is so.
                    self.forget_readings();
                    told = true;
                }
                None if told => {
                    // Whether it does so usefully is the poll's to say.
                    tracing::info!("NVML answers again");
                    told = false;
                }
                Some(_) | None => {}
            }
        }
    }

    /// Looks at all GPUs again and again; returns when the handle is of no use any more, with the error, or when the monitor ends.
    fn poll(&self, nvml: &Nvml, lasting: &mut [Lasting]) -> Option<NvmlError> {
        while !self.is_stopped() {
            for (place, gpu) in self.gpus.iter().enumerate() {
                let looked = look(nvml, &gpu.uuid, &|call| self.enter(call));
                self.leave();
                let lasting = &mut lasting[place];
                lasting.found |= matches!(looked, Ok(_) | Err(Failure::Gpu(_)));
                let (reading, signs) = match looked {
                    Ok((reading, signs)) => (Some(reading), confirmed(signs, &mut lasting.slowed)),
                    Err(Failure::Gpu(sign)) => (None, vec![sign]),
                    Err(Failure::NotFound) if lasting.found => (None, vec![Sign::Lost]),
                    Err(Failure::NotFound) => {
                        self.forget(place);
                        if !std::mem::replace(&mut lasting.told_unknown, true) {
                            tracing::warn!(
                                gpu = gpu.uuid,
                                "NVML does not know this GPU (it was lost before this process began, or is a part that MIG made): it is judged by its jobs alone"
                            );
                        }
                        continue;
                    }
                    Err(Failure::Nvml(error)) if is_of_no_use(&error) => return Some(error),
                    // Of this GPU nothing is known for now; the others are looked at.
                    Err(Failure::Nvml(_)) => {
                        self.forget(place);
                        continue;
                    }
                };
                self.publish(place, reading);
                self.compare(place, &mut lasting.signs, signs);
            }
            self.metrics.answers(self.wedged().is_none());
            self.rest(EVERY);
        }
        None
    }

    /// Shows a reading, or that the GPU is lost and has none.
    fn publish(&self, place: usize, reading: Option<Reading>) {
        self.show(place, reading, Some(reading.is_some()));
    }

    /// Shows that nothing is known of a GPU.
    fn forget(&self, place: usize) {
        self.show(place, None, None);
    }

    fn forget_readings(&self) {
        (0..self.gpus.len()).for_each(|place| self.forget(place));
    }

    fn show(&self, place: usize, reading: Option<Reading>, up: Option<bool>) {
        let uuid = &self.gpus[place].uuid;
        // Held to the end: two threads show, and what is shown is to be of one of them.
        let mut readings = self.readings.lock();
        readings[place] = reading;
        let values = reading.map_or_else(Vec::new, |reading| reading.values());
        let limits: Option<Vec<&str>> = reading.map(|reading| reading.limits.names().collect());
        self.metrics.read(uuid, &values, limits.as_deref());
        self.metrics.up(uuid, up);
    }

    /// Tells what has begun and what has ended since the last look.
    fn compare(&self, place: usize, lasting: &mut Vec<Sign>, signs: Vec<Sign>) {
        for sign in lasting.iter().filter(|sign| !signs.contains(sign)) {
            self.tell(place, Told::Ends(*sign));
        }
        for sign in signs.iter().filter(|sign| !lasting.contains(sign)) {
            self.tell(place, Told::Begins(*sign));
        }
        *lasting = signs;
        for lines in &self.lines[place] {
            let left_out = lines.lock().left_out(self.clock.now());
            if let Some(left_out) = left_out {
                tracing::warn!(gpu = self.gpus[place].uuid, left_out, "GPU trouble again and again");
            }
        }
    }

    /// Tells the log, and then whoever acts on it, whose own lines follow.
    fn tell(&self, place: usize, told: Told) {
        let gpu = &self.gpus[place];
        let (Told::Happened(sign) | Told::Begins(sign) | Told::Ends(sign)) = told;
        let lines = &self.lines[place][usize::from(matches!(sign, Sign::Limited(_)))];
        let line = lines.lock().next(self.clock.now());
        match (line, told) {
            (Line::LeftOut, _) => {}
            (Line::Told { left_out }, Told::Happened(_) | Told::Begins(_)) => {
                tracing::warn!(gpu = gpu.uuid, %sign, left_out, "GPU trouble");
            }
            (Line::Told { left_out }, Told::Ends(_)) => {
                tracing::info!(gpu = gpu.uuid, %sign, left_out, "GPU trouble over");
            }
        }
        self.listener.told(&gpu.lanes, told);
    }
}

/// Without a slowdown that was seen for the first time.
fn confirmed(signs: Vec<Sign>, slowed: &mut bool) -> Vec<Sign> {
    let only_slowdown = |sign: &Sign| *sign == Sign::Limited(Throttle::from_bits(SLOWDOWN));
    let now = signs.iter().any(only_slowdown);
    let first = now && !std::mem::replace(slowed, now);
    *slowed = now;
    signs.into_iter().filter(|sign| !(first && only_slowdown(sign))).collect()
}

/// Whether the library's handle has died, so that no call of it will tell anything any more.
fn is_of_no_use(error: &NvmlError) -> bool {
    matches!(error, NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch)
}
