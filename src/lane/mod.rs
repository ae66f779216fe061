//! Lanes: one device, one pinned thread, and what it has loaded.
//!
//! A lane pulls work, runs it, and reports what came of each job. Tensors never leave it: rows come in and outputs go out as host memory.
//! It knows no stripe, query or policy. A job that panics, errs or gives a value that is not finite is lost, and the lane lives on: after a
//! panic it drops device and models and opens them anew before its next canary. On CPU a lane's forward pass runs in a thread pool of
//! its own, because parallel loops would otherwise meet in the pool of the whole process and tie the lanes together.

mod affinity;
mod cuda;
mod emulation;
mod executor;
mod fault;
mod loss;
mod outputs;
mod progress;
mod tenure;

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

pub use affinity::{cores, is_available};
pub use cuda::{Unlisted, gpu_uuid, visible_gpus};
pub use emulation::{EmulatedLoss, Emulation, Meanwhile};
pub use executor::{OpenError, RunError, open_device, precision};
pub use fault::{FaultSwitch, spoil_row};

use executor::Executor;
use loss::Unknown;
use outputs::{Given, Outputs, finite_or_lost};
use progress::Progress;
use tenure::Tenure;
pub use tenure::{Held, Inside};

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
    /// Whether it starts without its device, which is known to be doubtful: its first canary opens it, and nobody waits for that.
    pub left_out: bool,
}

/// Starts a lane's thread. `opened` is told, on that thread, whether device and models could be opened; if not, the thread ends.
///
/// Fails if the system gives no thread.
pub fn start(
    spec: Spec,
    feed: Arc<dyn Feed>,
    opened: impl FnOnce(Result<(), OpenError>) + Send + 'static,
) -> io::Result<Held> {
    on_thread(spec, feed, Arc::default(), move |lane| {
        let ready = if lane.spec.left_out {
            lane.feed.left_out(lane.id());
            Ok(())
        } else {
            lane.try_open().map(|expected| lane.feed.ready(lane.id(), expected))
        };
        let runs = ready.is_ok();
        opened(ready);
        runs
    })
}

/// Starts another thread for a lane whose own is stuck: it opens the device, which may take for ever, and runs the lane if the other has not come back by then.
/// `tried` is told whether it does, once that is known; or why the device did not open, and what that loses.
///
/// Fails if the system gives no thread.
pub fn replace(
    spec: Spec,
    feed: Arc<dyn Feed>,
    stuck: Inside,
    tried: impl FnOnce(Result<bool, (OpenError, Loss)>) + Send + 'static,
) -> io::Result<Held> {
    let unknown = Arc::clone(&stuck.unknown);
    on_thread(spec, feed, unknown, move |lane| {
        lane.spec.faults.await_answer();
        let opened = lane.try_open().map_err(|error| {
            let loss = lane.unknown.not_open(&error.to_string(), error.loss());
            (error, loss)
        });
        let runs = opened.map(|expected| {
            let runs = stuck.take_lane();
            if runs {
                lane.feed.opened(lane.id(), expected);
                lane.feed.replaced(lane.id());
            }
            runs
        });
        let goes_on = matches!(runs, Ok(true));
        tried(runs);
        goes_on
    })
}

/// A thread for a lane; `begin` says whether it runs it.
fn on_thread(
    spec: Spec,
    feed: Arc<dyn Feed>,
    unknown: Arc<Unknown>,
    begin: impl FnOnce(&mut Lane) -> bool + Send + 'static,
) -> io::Result<Held> {
    let (held, ends) = Held::new(unknown);
    let shared = (Arc::clone(&held.tenure), Arc::clone(&held.unknown));
    thread::Builder::new().name(format!("lane-{}", spec.lane.id)).spawn(move || {
        let (_ends, _abort) = (ends, AbortOnPanic);
        let (id, core) = (spec.lane.id, spec.core);
        let pool = own_pool(&spec);
        // After the pool: its other workers would inherit the one core.
        if let Some(core) = core {
            affinity::pin(id, core);
        }
        let mut lane = Lane::new(spec, feed, shared);
        let pool = pool.map_err(|error| lane.pool_fault = Some(error)).ok();
        if begin(&mut lane) {
            lane.run();
        }
        lane.close();
        drop(pool);
    })?;
    Ok(held)
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
    /// Its thread's right to run it.
    tenure: Arc<Tenure>,
    /// Why it has no thread pool, if it has none.
    pool_fault: Option<rayon::ThreadPoolBuildError>,
    /// Device and models; `None` after a panic, a fatal error or a canary that failed (unless for memory), until a canary opens them anew. A lane that may
    /// have batches has them.
    executor: Option<Executor>,
    /// Which of its failures are logged.
    failures: Repeats,
    unknown: Arc<Unknown>,
    /// Of the batch in hand; kept, like the rows given away, so that a batch allocates nothing here.
    outputs: Outputs,
    completions: Vec<Completion>,
    given: Given,
}

impl Lane {
    /// A lane that has not opened its device.
    fn new(spec: Spec, feed: Arc<dyn Feed>, (tenure, unknown): (Arc<Tenure>, Arc<Unknown>)) -> Self {
        Lane {
            spec,
            feed,
            tenure,
            pool_fault: None,
            executor: None,
            failures: Repeats::default(),
            unknown,
            outputs: Outputs::default(),
            completions: Vec::new(),
            given: Given::default(),
        }
    }

    fn id(&self) -> LaneId {
        self.spec.lane.id
    }

    /// Opens device and models; gives the time that one row is expected to take. The message of a panic is in the log.
    fn try_open(&mut self) -> Result<Duration, OpenError> {
        catch_unwind(AssertUnwindSafe(|| self.open())).unwrap_or(Err(OpenError::Panic))
    }

    fn open(&mut self) -> Result<Duration, OpenError> {
        if let Some(fault) = self.pool_fault.take() {
            return Err(OpenError::Pool(fault));
        }
        let (executor, expected) = Executor::open(&self.spec)?;
        self.executor = Some(executor);
        self.unknown.opened();
        let Spec { emulation, lane, .. } = &self.spec;
        Ok(emulation.as_ref().map_or(expected, |device| device.expected(lane.id, lane.role, expected)))
    }

    fn run(&mut self) {
        loop {
            let goes_on = match self.feed.pull(self.id()) {
                Some(Work::Batch(batch)) => self.run_batch(batch),
                Some(Work::Canary) => {
                    self.tenure.enter();
                    let outcome = self.run_canary();
                    let goes_on = self.is_back();
                    if goes_on {
                        self.feed.canary(self.id(), outcome);
                    }
                    goes_on
                }
                None => self.feed.park(self.id()),
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Lets go of device and models. Buffers of a dead device may panic when they are dropped, which is not worth a process.
    fn close(&mut self) {
        let executor = self.executor.take();
        let closed = catch_unwind(AssertUnwindSafe(|| executor.is_none_or(Executor::close)));
        if !matches!(closed, Ok(true)) {
            tracing::warn!(lane = %self.id(), "the device's buffers could not be freed");
        }
    }

    /// A call has returned; `false` if another thread runs the lane by now.
    fn is_back(&mut self) -> bool {
        let is_back = self.tenure.leave();
        if !is_back {
            tracing::info!(lane = %self.id(), "a thread that was stuck has come back, and ends: another runs its lane");
            self.close();
        }
        is_back
    }

    /// `false` if the thread must end.
    fn run_batch(&mut self, batch: Batch) -> bool {
        let started = self.spec.clock.now();
        self.tenure.enter();
        match self.attempt(&batch, started) {
            Ok(()) => {
                let (outputs, given) = (&self.outputs, &mut self.given);
                let completions =
                    outputs.rows().enumerate().map(|(job, output)| finite_or_lost(&batch, job, output, given));
                self.completions.extend(completions);
            }
            Err(loss) => {
                if loss == Loss::Panic {
                    self.close();
                }
                self.completions.resize(batch.jobs(), Completion::Lost(loss));
            }
        }
        let goes_on = self.is_back();
        if goes_on {
            let service = self.spec.clock.now().since(started);
            self.feed.complete(self.spec.lane.id, batch, &mut self.completions, service);
        }
        goes_on
    }

    /// Fills the outputs, or says to what all jobs of the batch are lost.
    fn attempt(&mut self, batch: &Batch, started: Time) -> Result<(), Loss> {
        let executor = self.executor.as_mut().ok_or(Loss::Device)?;
        let outputs = &mut self.outputs;
        let Spec { lane, faults, emulation, clock, .. } = &self.spec;
        let reports = emulation.as_ref().is_none_or(|device| !device.reports(lane.id));
        let run = || {
            faults.before(|| executor.poison())?;
            let progress = Progress::start(lane.id, (&*self.feed, &self.tenure), faults, *clock);
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
                    &Meanwhile {
                        over: &|parts| progress.over(parts),
                        feed: &self.feed,
                        stretch: &|| progress.stretch(),
                    },
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
                self.unknown.job(&error.to_string());
                if loss == Loss::Fatal {
                    // Buffers of a device that is of no use any more may panic or wait for ever when they are dropped.
                    std::mem::forget(self.executor.take());
                }
                Err(loss)
            }
            Err(_) => Err(Loss::Panic),
        }
    }

    /// Opens device and models anew if there are none, then runs the known input through every model.
    fn run_canary(&mut self) -> Result<(), Loss> {
        if self.executor.is_none() {
            match self.try_open() {
                Ok(expected) => self.feed.opened(self.id(), expected),
                Err(error) => {
                    if let Line::Told { left_out } = self.failures.next(self.spec.clock.now()) {
                        tracing::warn!(lane = %self.id(), %error, left_out, "device did not open again");
                    }
                    return Err(self.unknown.not_open(&error.to_string(), error.loss()));
                }
            }
        }
        let Spec { lane, faults, emulation, clock, .. } = &self.spec;
        let Some(opened) = &mut self.executor else { return Err(Loss::Device) };
        let started = clock.now();
        let run = || {
            faults.before(|| opened.poison()).map_err(|error| error.loss())?;
            if let Some(device) = emulation {
                device.canary(lane.id, started).map_err(|_| Loss::Device)?;
            }
            opened.canary(|outputs| faults.after(outputs))
        };
        let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(Loss::Panic));
        if outcome.is_ok() {
            self.unknown.proven();
        } else if outcome == Err(Loss::Fatal) {
            std::mem::forget(self.executor.take());
        } else if outcome.is_err_and(|loss| loss != Loss::Memory) {
            // The next one starts from a device that was opened anew. One without memory is well, may have work to do, and would hardly open.
            self.close();
        }
        outcome
    }
}

/// How long a job may be stretched by an injected fault before the lane looks whether it was cleared.
const STRETCH_STEP: Duration = Duration::from_millis(20);

#[cfg(test)]
mod garbage_tests;
#[cfg(test)]
mod tests;
