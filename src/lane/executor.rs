//! A lane's device and the models it has loaded: what turns a batch into output rows.
//!
//! Owns tensors, which never leave it. The device is opened on the lane's own thread, because a CUDA device belongs to one stream and
//! that stream to one thread. A lane never falls back to another device than the one it was told.

use std::{sync::Arc, time::Duration};

use candle_core::{DType, Device, Tensor};

use super::{
    EmulatedLoss, Spec,
    cuda::{cause, open_cuda, ordinal_of},
    loss::loss_of,
    outputs::Outputs,
};
use crate::{
    clock::Clock,
    code::{Code, DATA_MAX, RunsOn},
    config,
    job::{BaseInput, Batch, Loss, ParityInput},
    model::{Intake, Net, Precision, TensorError, alone_on},
    weights::{Canary, canary},
};

/// Runs of the canary that warm a lane up; the fastest says what to expect.
const WARM_UP_RUNS: usize = 5;

/// Why a lane could not open its device or models. For the operator.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No thread pool.
    #[error("no threads for its forward passes: {0}")]
    Pool(#[source] rayon::ThreadPoolBuildError),
    /// The build has no CUDA.
    #[error("device {device:?} needs a build with `--features cuda`; this one serves `device = \"cpu\"` only")]
    NoCuda {
        /// The device as configured.
        device: String,
    },
    /// The device did not open.
    #[error("device {device:?} did not open: {}; `nvidia-smi` shows what the driver sees", cause(source))]
    Device {
        /// The device as configured.
        device: String,
        /// What the device said.
        source: TensorError,
    },
    /// It panicked.
    #[error("opening the device panicked")]
    Panic,
    /// The weights could not be put on the device.
    #[error("the weights ({} MiB) could not be loaded onto the device: {}", bytes.div_ceil(1 << 20), cause(source))]
    Weights {
        /// What its models take there.
        bytes: usize,
        /// What the device said.
        source: TensorError,
    },
    /// A first batch failed.
    #[error("the first batch failed: {0}")]
    WarmUp(#[source] RunError),
    /// The models do not give the outputs that the manifest promises.
    #[error(
        "the models do not give the outputs in the manifest ({0}): device, weights or build are not those of the training"
    )]
    Canary(Loss),
}

impl OpenError {
    /// Whether the device is at fault, which a later process may find well again.
    pub const fn is_of_a_device(&self) -> bool {
        match self {
            // Weights are read and checked before a device is opened: what failed is to put them there.
            OpenError::Device { .. } | OpenError::Weights { .. } | OpenError::WarmUp(_) | OpenError::Panic => true,
            // What it gave is wrong, and may be so because of the weights; what it did not give is its own.
            OpenError::Canary(loss) => !matches!(loss, Loss::Canary | Loss::NonFinite),
            OpenError::Pool(_) | OpenError::NoCuda { .. } => false,
        }
    }

    /// What a canary is lost to by it.
    pub fn loss(&self) -> Loss {
        match self {
            OpenError::Canary(loss) => *loss,
            OpenError::Panic => Loss::Panic,
            OpenError::WarmUp(error) => error.loss(),
            OpenError::Device { source, .. } | OpenError::Weights { source, .. } => loss_of(&source.to_string()),
            OpenError::Pool(_) | OpenError::NoCuda { .. } => Loss::Device,
        }
    }
}

/// Why a batch gave no outputs.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Device or model said so.
    #[error("{}", cause(.0))]
    Tensor(#[from] TensorError),
    /// An injected fault.
    #[error("injected error")]
    Injected,
    /// An injected fault that is named as CUDA would name it.
    #[error("injected CUDA_ERROR_ILLEGAL_ADDRESS")]
    InjectedFatal,
    /// The same.
    #[error("injected CUDA_ERROR_OUT_OF_MEMORY")]
    InjectedMemory,
    /// The device that is emulated lost it.
    #[error(transparent)]
    Emulated(#[from] EmulatedLoss),
}

impl RunError {
    /// What a job is lost to by it.
    pub(super) fn loss(&self) -> Loss {
        loss_of(&self.to_string())
    }
}

/// Device and models.
#[derive(Debug)]
pub(super) struct Executor {
    base: Option<Net>,
    parities: Vec<Net>,
    code: Option<Arc<dyn Code>>,
    canary: Canary,
    /// The canaries' batches, and what the manifest says of the first output of each.
    checks: Vec<(Batch, Vec<f32>)>,
    /// What the canaries gave when the device had just been opened and found right, or nothing yet; a device gives the same bits for the same
    /// batch, or something is wrong with it. On other devices than CPUs rounding may differ.
    proof: Vec<Vec<f32>>,
    exact: bool,
    /// What they give.
    checked: Outputs,
    /// What the rows of each batch go through.
    intake: Intake,
}

impl Executor {
    /// Opens the device, loads the models of the lane's role, warms them up and checks their canaries. Also gives the time that
    /// one row is expected to take.
    pub(super) fn open(spec: &Spec) -> Result<(Self, Duration), OpenError> {
        let device = open_device(&spec.lane.device)?;
        let opened = Executor::on(&device, spec);
        if opened.is_err() {
            let_go((), device);
        }
        opened
    }

    /// The same on a device that is open.
    fn on(device: &Device, spec: &Spec) -> Result<(Self, Duration), OpenError> {
        let role = spec.lane.role;
        let code = spec.code.as_ref().filter(|_| role.runs_parity());
        // Where parity queries run on the base model, a parity lane holds that.
        let (parity_rows, on_base) = code.map_or((0, false), |code| match code.runs_on() {
            RunsOn::ParityModel => (code.r(), false),
            RunsOn::Base => (0, true),
        });
        let no_weights = |source| OpenError::Weights { bytes: bytes_of(spec), source };
        let base = (role.runs_base() || on_base).then(|| spec.bundle.base(device)).transpose();
        let parities = (0..parity_rows).map(|row| spec.bundle.parity(row, device)).collect::<Result<_, _>>();
        let mut executor = Executor {
            base: base.map_err(no_weights)?,
            parities: parities.map_err(no_weights)?,
            code: spec.code.clone(),
            canary: spec.bundle.canary(spec.code.as_deref()),
            checks: Vec::new(),
            proof: Vec::new(),
            exact: device.is_cpu(),
            checked: Outputs::default(),
            intake: Intake::default(),
        };
        // Where batches may hold two rows, their order is checked, too.
        executor.checks = executor.canaries(spec.batch_max > 1);
        let expected = executor.warm_up(spec.batch_max, &spec.clock)?;
        for (net, rows) in executor.nets().filter(|(net, _)| !net.device().is_cpu()) {
            let (lane, device, kernels) = (spec.lane.id, &spec.lane.device, net.kernels(rows));
            tracing::info!(%lane, %device, kernels, "a network is on its GPU");
        }
        Ok((executor, expected))
    }

    fn warm_up(&mut self, batch_max: usize, clock: &Clock) -> Result<Duration, OpenError> {
        // Before the canary, which tells right from wrong and not why: a library that is missing is missed here.
        self.prepare(batch_max).map_err(|error| OpenError::WarmUp(error.into()))?;
        let (one, mut outputs) = (self.canary_batch(1), Outputs::default());
        self.run(&one, &mut outputs, &|_| ()).map_err(OpenError::WarmUp)?;
        self.canary(|_| ()).map_err(OpenError::Canary)?;
        // Both ends of the batch sizes, so that neither a kernel nor an allocation is new to the first queries.
        self.run(&self.canary_batch(batch_max), &mut outputs, &|_| ()).map_err(OpenError::WarmUp)?;
        let mut expected = Duration::MAX;
        for _ in 0..WARM_UP_RUNS {
            let started = clock.now();
            self.run(&one, &mut outputs, &|_| ()).map_err(OpenError::WarmUp)?;
            expected = expected.min(clock.now().since(started));
        }
        Ok(expected)
    }

    /// Has each net ready for numbers of jobs that a batch may hold.
    fn prepare(&self, batch_max: usize) -> Result<(), TensorError> {
        self.nets().try_for_each(|(net, rows)| net.prepare((1..=batch_max).map(|jobs| jobs * rows)))
    }

    /// Each net, and its rows of one job.
    fn nets(&self) -> impl Iterator<Item = (&Net, usize)> {
        let row = self.canary.rows[0].len();
        let query = self.code.as_deref().map_or(row, |code| code.query_width(row));
        let base = self.base.iter().map(move |net| (net, row));
        let parities = self.parities.iter().map(move |net| (net, query));
        base.chain(parities).map(|(net, width)| (net, (width / net.width()).max(1)))
    }

    /// The canary `jobs` times over, on the model that the lane is there for.
    fn canary_batch(&self, jobs: usize) -> Batch {
        if self.base.is_some() {
            Batch::Base(vec![self.canary_row(); jobs])
        } else {
            Batch::Parity(vec![self.canary_stripe(0); jobs])
        }
    }

    fn canary_row(&self) -> BaseInput {
        BaseInput { row: self.canary.rows[0].clone(), must_be_finite: true }
    }

    fn canary_stripe(&self, row: usize) -> ParityInput {
        ParityInput { row, rows: self.canary.rows.clone() }
    }

    /// Runs a batch; one output row a job, in order, instead of what `outputs` held. `told` hears which shares of the work are over.
    pub(super) fn run(
        &mut self,
        batch: &Batch,
        outputs: &mut Outputs,
        told: &(dyn Fn(f32) + Sync),
    ) -> Result<(), RunError> {
        let net = match batch {
            Batch::Base(_) => self.base.as_ref(),
            Batch::Parity(inputs) => {
                inputs.first().and_then(|input| self.parities.get(input.row)).or(self.base.as_ref())
            }
        };
        let net = net.expect("dispatch gives jobs to lanes that hold their model");
        let jobs = batch.jobs();
        let rows = match batch {
            Batch::Base(inputs) => {
                self.intake.take(net, (jobs, net.width()), |job, row| row.copy_from_slice(&inputs[job].row))?
            }
            Batch::Parity(inputs) => {
                let code = self.code.as_deref().expect("there are no stripes without a code");
                let width = code.query_width(inputs[0].rows[0].len());
                self.intake.take(net, (jobs, width), |job, query| encode(code, &inputs[job], query))?
            }
        };
        net.run_into(rows, &mut outputs.values, told)?;
        // A parity model may make several output rows of one job.
        outputs.width = outputs.values.len() / jobs;
        Ok(())
    }

    /// Lets go of device and models; `false` as [`let_go`] says.
    pub(super) fn close(self) -> bool {
        let device = self.device().clone();
        let_go(self, device)
    }

    fn device(&self) -> &Device {
        self.base.as_ref().or(self.parities.first()).map_or(&Device::Cpu, Net::device)
    }

    /// Breaks what this process has of its GPU, as a faulty kernel would, and gives what the GPU says of it.
    pub(super) fn poison(&self) -> RunError {
        match read_nowhere(self.device()) {
            Ok(()) => RunError::InjectedFatal,
            Err(error) => error.into(),
        }
    }

    /// Runs known inputs through every model; `fault` may spoil the outputs before they are checked: against the manifest, and against what they
    /// were when the device was opened.
    pub(super) fn canary(&mut self, fault: impl Fn(&mut Outputs)) -> Result<(), Loss> {
        let (checks, mut outputs) = (std::mem::take(&mut self.checks), std::mem::take(&mut self.checked));
        let outcome = self.check(&checks, &mut outputs, fault);
        (self.checks, self.checked) = (checks, outputs);
        outcome
    }

    fn check(
        &mut self,
        checks: &[(Batch, Vec<f32>)],
        outputs: &mut Outputs,
        fault: impl Fn(&mut Outputs),
    ) -> Result<(), Loss> {
        let (is_first, mut found) = (self.proof.is_empty(), Vec::new());
        for (number, (batch, expected)) in checks.iter().enumerate() {
            self.run(batch, outputs, &|_| ()).map_err(|error| error.loss())?;
            fault(outputs);
            if !canary::agrees(expected, &outputs.values[..outputs.width], self.canary.tolerance) {
                return Err(Loss::Canary);
            }
            if is_first {
                found.push(outputs.values.clone());
            } else if !self.is_same(&self.proof[number], &outputs.values) {
                return Err(Loss::Canary);
            }
        }
        if is_first {
            self.proof = found;
        }
        Ok(())
    }

    fn is_same(&self, known: &[f32], found: &[f32]) -> bool {
        let same_bits = || known.iter().zip(found).all(|(known, found)| known.to_bits() == found.to_bits());
        if self.exact { same_bits() } else { canary::agrees(known, found, canary::TOLERANCE) }
    }

    fn canaries(&self, pairs: bool) -> Vec<(Batch, Vec<f32>)> {
        let second = BaseInput { row: self.canary.second.clone(), must_be_finite: true };
        let mut checks = Vec::new();
        if self.base.is_some() {
            checks.push((Batch::Base(vec![self.canary_row()]), self.canary.base.clone()));
            if pairs {
                checks.push((Batch::Base(vec![self.canary_row(), second]), self.canary.base.clone()));
            }
        }
        let parity = |row| (Batch::Parity(vec![self.canary_stripe(row)]), self.canary.parities[row].clone());
        checks.extend((0..self.parities.len()).map(parity));
        checks
    }
}

/// Lets go of a device and what is on it; `false` if the device does not do what it is asked any more. Then they are left as they are: candle panics where
/// parts of a dead device are not freed, and of two panics at once a process dies.
fn let_go<T>(what: T, device: Device) -> bool {
    let _alone = alone_on(&device);
    // Later than the lock, and so gone before it.
    let kept = (what, device);
    // CUDA may tell, once, of an error that dropping a tensor has left, so it is asked twice.
    let answers = kept.1.synchronize().or_else(|_| kept.1.synchronize()).is_ok();
    if !answers {
        std::mem::forget(kept);
    }
    answers
}

/// What a lane's models take on its device.
fn bytes_of(spec: &Spec) -> usize {
    let role = spec.lane.role;
    let code = spec.code.as_deref().filter(|_| role.runs_parity());
    let parities = code.map_or(0, |code| if code.runs_on() == RunsOn::ParityModel { code.r() } else { 0 });
    spec.bundle.bytes(role.runs_base(), parities)
}

/// Writes a parity query.
fn encode(code: &dyn Code, input: &ParityInput, query: &mut [f32]) {
    let mut slices: [&[f32]; DATA_MAX] = [&[]; DATA_MAX];
    for (slice, row) in slices.iter_mut().zip(&input.rows) {
        *slice = row;
    }
    code.encode(input.row, &slices[..input.rows.len()], query);
}

/// What a GPU's nets compute in where a configuration says `precision`.
pub const fn precision(precision: config::Precision) -> Precision {
    match precision {
        config::Precision::F32 => Precision::Single,
        config::Precision::Tf32 => Precision::TensorFloat,
        config::Precision::F16 => Precision::Half,
        config::Precision::Bf16 => Precision::Bfloat,
    }
}

/// Has a GPU read an element that is not there: its kernel's assertion fails, which is a sticky error. Does nothing on a CPU.
fn read_nowhere(device: &Device) -> Result<(), TensorError> {
    if !device.is_cpu() {
        let row = Tensor::zeros(1, DType::F32, device)?;
        row.index_select(&Tensor::new(&[1_u32 << 30], device)?, 0)?.to_vec1::<f32>()?;
    }
    Ok(())
}

/// Opens a device, for the thread that uses it; each time anew, with a stream of its own.
///
/// # Errors
/// There is none of that name, or it does not open.
pub fn open_device(device: &config::Device) -> Result<Device, OpenError> {
    match device {
        config::Device::Cpu => Ok(Device::Cpu),
        config::Device::Cuda(ordinal) => open_cuda(device, *ordinal),
        config::Device::CudaUuid(uuid) => open_cuda(device, ordinal_of(device, uuid)?),
    }
}
