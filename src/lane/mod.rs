//! Lanes: one device, one pinned thread, and what it has loaded.
//!
//! A lane pulls work, runs it, and reports what came of each job. Tensors never leave it: rows come in and outputs go out as host memory.
//! It knows no stripe, query or policy. A job that panics, errs or gives a value that is not finite is lost, and the lane lives on: after a
//! panic it drops device and models and opens them anew before its next canary. On CPU a lane's forward pass runs in a thread pool of
//! its own, because candle's parallel loops would otherwise meet in the global pool and tie the lanes together.

mod affinity;
mod emulation;
mod executor;
mod fatal;
mod fault;
mod outputs;
mod progress;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

pub use emulation::{EmulatedLoss, Emulation, Meanwhile};
pub use executor::{OpenError, RunError, gpu_uuid};
pub use fault::FaultSwitch;

use executor::Executor;
use outputs::{Given, Outputs};
use progress::Progress;

use crate::{
    clock::{Clock, Time},
    code::Code,
    config,
    job::{AbortOnPanic, Batch, Completion, Feed, Loss, Work},
    query::LaneId,
    repeat::{Line, Repeats},
    weights::Bundle,
};

/// Everything a lane needs to start.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Device, role, threads.
    pub lane: config::Lane,
    /// The core to pin its thread to, if any.
    pub core: Option<usize>,
    /// Rows in one forward pass, at most.
    pub batch_max: usize,
    /// The weights.
    pub bundle: Arc<Bundle>,
    /// The code whose parity models it loads, if there is one.
    pub code: Option<Arc<dyn Code>>,
    /// Injected faults.
    pub faults: Arc<FaultSwitch>,
    /// For service times.
    pub clock: Clock,
    /// The device that it stands for, if it is not its own.
    pub emulation: Option<Arc<dyn Emulation>>,
}

/// Starts a lane's thread. `opened` is told, on that thread, whether device and models could be opened; if not, the thread ends.
///
/// Fails if the system gives no thread.
pub fn start(
    spec: Spec,
    feed: Arc<dyn Feed>,
    opened: impl FnOnce(Result<(), OpenError>) + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(format!("lane-{}", spec.lane.id)).spawn(move || {
        let _abort = AbortOnPanic;
        let pool = match own_pool(&spec) {
            Ok(pool) => pool,
            Err(error) => return opened(Err(OpenError::Pool(error))),
        };
        // After the pool: its other workers would inherit the one core.
        if let Some(core) = spec.core {
            affinity::pin(core);
        }
        match Executor::open(&spec) {
            Ok((executor, expected)) => {
                let id = spec.lane.id;
                let expected =
                    spec.emulation.as_ref().map_or(expected, |device| device.expected(spec.lane.role, expected));
                let mut lane = Lane::new(spec, feed, executor);
                lane.feed.ready(id, expected);
                opened(Ok(()));
                lane.run();
            }
            Err(error) => opened(Err(error)),
        }
        drop(pool);
    })
}

/// Makes the calling thread the first worker of a pool of its own, so that every parallel loop it starts stays inside.
fn own_pool(spec: &Spec) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    let name = format!("lane-{}", spec.lane.id);
    rayon::ThreadPoolBuilder::new()
        .num_threads(spec.lane.threads)
        .thread_name(move |worker| format!("{name}.{worker}"))
        .use_current_thread()
        .build()
}

struct Lane {
    spec: Spec,
    feed: Arc<dyn Feed>,
    /// Device and models; `None` after a panic, until they are opened anew.
    executor: Option<Executor>,
    /// Which of its failures are logged.
    failures: Repeats,
    /// Of the batch in hand; kept, like the rows given away, so that a batch allocates nothing here.
    outputs: Outputs,
    completions: Vec<Completion>,
    given: Given,
}

impl Lane {
    fn new(spec: Spec, feed: Arc<dyn Feed>, executor: Executor) -> Self {
        let (outputs, given) = (Outputs::default(), Given::default());
        let failures = Repeats::default();
        Lane { spec, feed, executor: Some(executor), failures, outputs, completions: Vec::new(), given }
    }

    fn id(&self) -> LaneId {
        self.spec.lane.id
    }

    fn run(&mut self) {
        loop {
            match self.feed.pull(self.id()) {
                Some(Work::Batch(batch)) => self.run_batch(batch),
                Some(Work::Canary) => {
                    let outcome = self.run_canary();
                    self.feed.canary(self.id(), outcome);
                }
                None if !self.feed.park(self.id()) => return,
                None => {}
            }
        }
    }

    /// Lets go of device and models. Buffers of a dead device may panic when they are dropped, which is not worth a process.
    fn close(&mut self) {
        let executor = self.executor.take();
        if catch_unwind(AssertUnwindSafe(|| drop(executor))).is_err() {
            tracing::warn!(lane = %self.id(), "the device's buffers could not be freed");
        }
    }

    fn run_batch(&mut self, batch: Batch) {
        let started = self.spec.clock.now();
        match self.attempt(&batch, started) {
            Ok(()) => {
                let (outputs, given) = (&self.outputs, &mut self.given);
                let completions = outputs.rows().enumerate().map(|(job, output)| checked(&batch, job, output, given));
                self.completions.extend(completions);
            }
            Err(loss) => {
                if loss == Loss::Panic {
                    self.close();
                }
                self.completions.resize(batch.jobs(), Completion::Lost(loss));
            }
        }
        let service = self.spec.clock.now().since(started);
        self.feed.complete(self.spec.lane.id, batch, &mut self.completions, service);
    }

    /// Fills the outputs, or says to what all jobs of the batch are lost.
    fn attempt(&mut self, batch: &Batch, started: Time) -> Result<(), Loss> {
        let executor = self.executor.as_mut().ok_or(Loss::Device)?;
        let outputs = &mut self.outputs;
        let Spec { lane, faults, emulation, clock, .. } = &self.spec;
        let reports = emulation.as_ref().is_none_or(|device| !device.reports());
        let run = || {
            faults.before()?;
            let progress = Progress::start(lane.id, &*self.feed, faults, *clock);
            executor.run(batch, outputs, &|share| {
                if reports {
                    progress.told(share);
                }
            })?;
            if reports {
                progress.stretch();
            }
            if let Some(device) = emulation {
                device.batch(
                    lane.id,
                    batch,
                    started,
                    &Meanwhile { feed: &self.feed, stretch: &|| progress.stretch() },
                )?;
            }
            faults.after(outputs);
            Ok::<_, RunError>(())
        };
        // A panic leaves the executor in an unknown state; it is dropped then, so nobody sees that state.
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                if let Line::Told { left_out } = self.failures.next(self.spec.clock.now()) {
                    tracing::warn!(lane = %self.spec.lane.id, %error, left_out, "job failed");
                }
                let loss = error.loss();
                if loss == Loss::Fatal {
                    // Buffers of a device that is of no use any more may panic or wait for ever when they are dropped.
                    std::mem::forget(self.executor.take());
                }
                Err(loss)
            }
            Err(_) => Err(Loss::Panic),
        }
    }

    /// Opens device and models anew if a panic left none, then runs the known input through every model.
    fn run_canary(&mut self) -> Result<(), Loss> {
        if self.executor.is_none() {
            match catch_unwind(AssertUnwindSafe(|| Executor::open(&self.spec))) {
                Ok(Ok((executor, _))) => self.executor = Some(executor),
                Ok(Err(error)) => {
                    if let Line::Told { left_out } = self.failures.next(self.spec.clock.now()) {
                        tracing::warn!(lane = %self.id(), %error, left_out, "device did not open again");
                    }
                    return Err(Loss::Device);
                }
                Err(_) => return Err(Loss::Panic),
            }
        }
        let Spec { lane, faults, emulation, clock, .. } = &self.spec;
        let Some(opened) = &mut self.executor else { return Err(Loss::Device) };
        let started = clock.now();
        let run = || {
            faults.before().map_err(|error| error.loss())?;
            if let Some(device) = emulation {
                device.canary(lane.id, started).map_err(|_| Loss::Device)?;
            }
            opened.canary(|outputs| faults.after(outputs))
        };
        let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(Loss::Panic));
        if outcome == Err(Loss::Fatal) {
            std::mem::forget(self.executor.take());
        } else if outcome.is_err() {
            // The next one starts from a device that was opened anew.
            self.close();
        }
        outcome
    }
}

/// An output that may be used, unless it had to be finite and is not.
fn checked(batch: &Batch, job: usize, output: &[f32], given: &mut Given) -> Completion {
    let must_be_finite = match batch {
        Batch::Base(inputs) => inputs[job].must_be_finite,
        Batch::Parity(_) => true,
    };
    if must_be_finite && !output.iter().all(|value| value.is_finite()) {
        return Completion::Lost(Loss::NonFinite);
    }
    Completion::Output(given.give(output))
}

/// The cores to pin lanes to: the configured one, or one each where there are enough for all lanes and one more for the rest.
pub fn cores(lanes: &[config::Lane]) -> Vec<Option<usize>> {
    let free = affinity::available();
    let threads: usize = lanes.iter().map(|lane| lane.threads).sum();
    let enough = free.len() > threads;
    let mut next = free.into_iter().skip(1);
    lanes
        .iter()
        .map(|lane| {
            let chosen = if enough && lane.threads == 1 { next.next() } else { None };
            lane.core.or(chosen)
        })
        .collect()
}

/// How long a job may be stretched by an injected fault before the lane looks whether it was cleared.
const STRETCH_STEP: Duration = Duration::from_millis(20);

#[cfg(test)]
mod garbage_tests;
