//! A lane's device and the models it has loaded: what turns a batch into output rows.
//!
//! Owns tensors, which never leave it. The device is opened on the lane's own thread, because a CUDA device belongs to one stream and
//! that stream to one thread. A lane never falls back to another device than the one it was told.

use std::{sync::Arc, time::Duration};

use candle_core::Device;

use super::{EmulatedLoss, Spec, fatal::is_fatal, outputs::Outputs};
use crate::{
    clock::Clock,
    code::{Code, DATA_MAX, RunsOn},
    config,
    job::{BaseInput, Batch, Loss, ParityInput},
    model::{Net, TensorError},
    weights::{Canary, canary},
};

/// Runs of the canary that warm a lane up; the fastest says what to expect.
const WARM_UP_RUNS: usize = 5;

/// What an error of candle says, without the backtrace that it appends.
fn first_line(error: &TensorError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

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
    #[error("device {device:?} did not open: {}; `nvidia-smi` shows what the driver sees", first_line(source))]
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
    #[error("the weights could not be loaded onto the device: {}", first_line(.0))]
    Weights(#[source] TensorError),
    /// A first batch failed.
    #[error("the first batch failed: {0}")]
    WarmUp(#[source] RunError),
    /// The models do not give the outputs that the manifest promises.
    #[error(
        "the models do not give the outputs in the manifest ({0}): device, weights or build are not those of the training"
    )]
    Canary(Loss),
}

/// Why a batch gave no outputs.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Device or model said so.
    #[error("{}", first_line(.0))]
    Tensor(#[from] TensorError),
    /// An injected fault.
    #[error("injected error")]
    Injected,
    /// An injected fault that is named as CUDA would name it.
    #[error("injected CUDA_ERROR_ILLEGAL_ADDRESS")]
    InjectedFatal,
    /// The device that is emulated lost it.
    #[error(transparent)]
    Emulated(#[from] EmulatedLoss),
}

impl RunError {
    /// What a job is lost to by it.
    pub(super) fn loss(&self) -> Loss {
        if is_fatal(&self.to_string()) { Loss::Fatal } else { Loss::Device }
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
    /// Rows of a batch, one after the other; kept, so that a batch allocates nothing here.
    rows: Vec<f32>,
}

impl Executor {
    /// Opens the device, loads the models of the lane's role, warms them up and checks their canaries. Also gives the time that
    /// one row is expected to take.
    pub(super) fn open(spec: &Spec) -> Result<(Self, Duration), OpenError> {
        let device = open_device(&spec.lane.device)?;
        let role = spec.lane.role;
        let code = spec.code.as_ref().filter(|_| role.runs_parity());
        // Where parity queries run on the base model, a parity lane holds that.
        let (parity_rows, on_base) = code.map_or((0, false), |code| match code.runs_on() {
            RunsOn::ParityModel => (code.r(), false),
            RunsOn::Base => (0, true),
        });
        let base = (role.runs_base() || on_base).then(|| spec.bundle.base(&device)).transpose();
        let parities = (0..parity_rows).map(|row| spec.bundle.parity(row, &device)).collect::<Result<_, _>>();
        let mut executor = Executor {
            base: base.map_err(OpenError::Weights)?,
            parities: parities.map_err(OpenError::Weights)?,
            code: spec.code.clone(),
            canary: spec.bundle.canary(spec.code.as_deref()),
            checks: Vec::new(),
            proof: Vec::new(),
            exact: device.is_cpu(),
            checked: Outputs::default(),
            rows: Vec::new(),
        };
        // Where batches may hold two rows, their order is checked, too.
        executor.checks = executor.canaries(spec.batch_max > 1);
        let expected = executor.warm_up(spec.batch_max, &spec.clock)?;
        Ok((executor, expected))
    }

    fn warm_up(&mut self, batch_max: usize, clock: &Clock) -> Result<Duration, OpenError> {
        self.canary(|_| ()).map_err(OpenError::Canary)?;
        // Both ends of the batch sizes, so that neither a kernel nor an allocation is new to the first queries.
        let mut outputs = Outputs::default();
        self.run(&self.canary_batch(batch_max), &mut outputs, &|_| ()).map_err(OpenError::WarmUp)?;
        let one = self.canary_batch(1);
        let mut expected = Duration::MAX;
        for _ in 0..WARM_UP_RUNS {
            let started = clock.now();
            self.run(&one, &mut outputs, &|_| ()).map_err(OpenError::WarmUp)?;
            expected = expected.min(clock.now().since(started));
        }
        Ok(expected)
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
        self.rows.clear();
        let net = match batch {
            Batch::Base(inputs) => {
                for input in inputs {
                    self.rows.extend_from_slice(&input.row);
                }
                self.base.as_ref()
            }
            Batch::Parity(inputs) => {
                let code = self.code.as_deref().expect("there are no stripes without a code");
                for input in inputs {
                    encode(code, input, &mut self.rows);
                }
                inputs.first().and_then(|input| self.parities.get(input.row)).or(self.base.as_ref())
            }
        };
        let net = net.expect("dispatch gives jobs to lanes that hold their model");
        net.run_into(&self.rows, &mut outputs.values, told)?;
        // A parity model may make several output rows of one job.
        outputs.width = outputs.values.len() / batch.jobs();
        Ok(())
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
            if !canary::agrees(expected, &outputs.values[..outputs.width]) {
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
        if self.exact { same_bits() } else { canary::agrees(known, found) }
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

/// Appends a parity query to `rows`.
fn encode(code: &dyn Code, input: &ParityInput, rows: &mut Vec<f32>) {
    let mut slices: [&[f32]; DATA_MAX] = [&[]; DATA_MAX];
    for (slice, row) in slices.iter_mut().zip(&input.rows) {
        *slice = row;
    }
    let start = rows.len();
    rows.resize(start + code.query_width(slices[0].len()), 0.0);
    code.encode(input.row, &slices[..input.rows.len()], &mut rows[start..]);
}

fn open_device(device: &config::Device) -> Result<Device, OpenError> {
    match device {
        config::Device::Cpu => Ok(Device::Cpu),
        config::Device::Cuda(ordinal) => open_cuda(device, *ordinal),
        config::Device::CudaUuid(uuid) => open_cuda(device, ordinal_of(device, uuid)?),
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(device: &config::Device, ordinal: usize) -> Result<Device, OpenError> {
    // One explicit stream a lane: candle's default is the per-thread stream, which orders nothing between threads.
    Device::new_cuda_with_stream(ordinal).map_err(|source| OpenError::Device { device: device.to_string(), source })
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(device: &config::Device, _ordinal: usize) -> Result<Device, OpenError> {
    Err(OpenError::NoCuda { device: device.to_string() })
}

/// The UUID of a lane's GPU, or of the one that it stands for; `None` for other lanes, and for a GPU that is named by an index which CUDA does not know.
pub fn gpu_uuid(lane: &config::Lane) -> Option<String> {
    match lane.device {
        config::Device::Cuda(ordinal) => uuid_of(ordinal),
        config::Device::Cpu | config::Device::CudaUuid(_) => lane.gpu().map(str::to_owned),
    }
}

#[cfg(feature = "cuda")]
fn uuid_of(ordinal: usize) -> Option<String> {
    use candle_core::cuda_backend::cudarc::driver::result;
    result::init().ok()?;
    let device = result::device::get(i32::try_from(ordinal).ok()?).ok()?;
    let hex: Vec<String> =
        result::device::get_uuid(device).ok()?.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [0..4, 4..6, 6..8, 8..10, 10..16].map(|part| hex[part].concat());
    Some(format!("GPU-{}", parts.join("-")))
}

#[cfg(not(feature = "cuda"))]
fn uuid_of(_ordinal: usize) -> Option<String> {
    None
}

/// CUDA's ordinal of the GPU with this UUID. NVML's index is no substitute: the two may count in different orders.
#[cfg(feature = "cuda")]
fn ordinal_of(device: &config::Device, uuid: &str) -> Result<usize, OpenError> {
    use candle_core::cuda_backend::cudarc::driver::result;
    let failed = |source: TensorError| OpenError::Device { device: device.to_string(), source };
    let cuda = |error: result::DriverError| failed(TensorError::wrap(error));
    result::init().map_err(cuda)?;
    for ordinal in 0..result::device::get_count().map_err(cuda)? {
        let found = result::device::get(ordinal).and_then(result::device::get_uuid).map_err(cuda)?;
        let hex: String = found.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if uuid.trim_start_matches("GPU-").replace('-', "").eq_ignore_ascii_case(&hex) {
            return Ok(usize::try_from(ordinal).unwrap_or(0));
        }
    }
    Err(failed(TensorError::msg("no GPU that CUDA shows this process has this UUID")))
}

#[cfg(not(feature = "cuda"))]
fn ordinal_of(device: &config::Device, _uuid: &str) -> Result<usize, OpenError> {
    Err(OpenError::NoCuda { device: device.to_string() })
}
