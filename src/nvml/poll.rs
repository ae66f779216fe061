//! One look at one GPU: cheap calls only, and what they mean.

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::{Clock, TemperatureSensor},
    enums::device::SampleValue,
    error::NvmlError,
    structs::device::FieldId,
};

use crate::{
    health::device::{Sign, Throttle},
    metrics::GpuValue,
};

/// Fields that are asked for in one call, in this order; answers are told apart by their place, because the wrapper may translate a number.
const FIELDS: [FieldId; 5] = [
    // What would bring a GPU back: `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`.
    FieldId(230),
    // Memory rows that wait for a reset to be replaced, and one that could not be: `NVML_FI_DEV_REMAPPED_PENDING`, `_FAILURE`.
    FieldId(144),
    FieldId(145),
    // Errors of memory that could not be corrected, since the driver was loaded: `NVML_FI_DEV_ECC_DBE_VOL_TOTAL`.
    FieldId(4),
    // Packets that were sent again: `NVML_FI_DEV_PCIE_REPLAY_COUNTER`.
    FieldId(94),
];
/// `NVML_ERROR_GPU_NOT_FOUND`, which the wrapper has no name for.
const NOT_FOUND: u32 = 28;

/// What a GPU told; what it does not tell is `None`, never 0.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Reading {
    /// Temperature of the chip, °C.
    pub temperature: Option<u32>,
    /// Clock of its multiprocessors, MHz.
    pub clock_mhz: Option<u32>,
    /// Memory in use, bytes.
    pub memory_used: Option<u64>,
    /// All of its memory, bytes.
    pub memory_total: Option<u64>,
    /// Share of the last moments in which something ran, percent.
    pub utilisation: Option<u32>,
    /// Errors of memory that could not be corrected, since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
    /// Packets to or from it that were sent again.
    pub pcie_replays: Option<u64>,
    /// Generation of its link now (PCI Express); a link that is idle may be a slow one.
    pub pcie_generation: Option<u32>,
    /// Why its clock is held down.
    pub limits: Throttle,
}

impl Reading {
    /// What it holds, by the names of metrics, in base units.
    pub(super) fn values(&self) -> Vec<(GpuValue, f64)> {
        let pair = |name, value: Option<f64>| Some((name, value?));
        [
            pair(GpuValue::Temperature, self.temperature.map(f64::from)),
            pair(GpuValue::Clock, self.clock_mhz.map(|mhz| f64::from(mhz) * 1e6)),
            pair(GpuValue::Memory, self.memory_used.map(|bytes| bytes as f64)),
            pair(GpuValue::MemoryTotal, self.memory_total.map(|bytes| bytes as f64)),
            pair(GpuValue::Utilisation, self.utilisation.map(|percent| f64::from(percent) / 100.0)),
            pair(GpuValue::EccUncorrected, self.ecc_uncorrected.map(|count| count as f64)),
            pair(GpuValue::PcieReplays, self.pcie_replays.map(|count| count as f64)),
            pair(GpuValue::PcieGeneration, self.pcie_generation.map(f64::from)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Why there is no reading.
#[derive(Debug)]
pub(super) enum Failure {
    /// The GPU itself.
    Gpu(Sign),
    /// NVML has nothing of this UUID: a GPU that it has lost, or one that it never had, such as a part that MIG made and that CUDA calls a GPU.
    NotFound,
    /// NVML: its handle is of no use any more, or it does not know. This says nothing of the GPU.
    Nvml(NvmlError),
}

/// A look at a GPU. `enter` hears the name of each call before it is made.
pub(super) fn look(nvml: &Nvml, uuid: &str, enter: &dyn Fn(&'static str)) -> Result<(Reading, Vec<Sign>), Failure> {
    enter("device");
    let device = nvml
        .device_by_uuid(uuid)
        .map_err(|error| if is_not_found(&error) { Failure::NotFound } else { failure(error) })?;
    enter("throttle reasons");
    let limits = or_absent(device.current_throttle_reasons())?.map_or(0, |reasons| reasons.bits());
    let limits = Throttle::from_bits(limits);
    enter("temperature");
    let temperature = or_absent(device.temperature(TemperatureSensor::Gpu))?;
    enter("clock");
    let clock_mhz = or_absent(device.clock_info(Clock::SM))?;
    enter("memory");
    let memory = or_absent(device.memory_info())?;
    enter("utilisation");
    let utilisation = or_absent(device.utilization_rates())?.map(|rates| rates.gpu);
    enter("PCIe link");
    let pcie_generation = or_absent(device.current_pcie_link_gen())?;
    enter("fields");
    let [recovery, pending, failed, ecc_uncorrected, pcie_replays] = fields(&device)?;
    let mut signs = Vec::new();
    // What does not fit is an action that we do not know.
    let recovery = recovery.filter(|action| *action != 0).map(|action| u32::try_from(action).unwrap_or(u32::MAX));
    signs.extend(recovery.map(Sign::Recovery));
    signs.extend(failed.filter(|failed| *failed != 0).map(|_| Sign::RowFailed));
    signs.extend(pending.filter(|pending| *pending != 0).map(|_| Sign::RowPending));
    if limits.is_harmful() {
        // The others come and go, and this would be another sign each time.
        signs.push(Sign::Limited(limits.harmful()));
    }
    let reading = Reading {
        temperature,
        clock_mhz,
        memory_used: memory.as_ref().map(|memory| memory.used),
        memory_total: memory.map(|memory| memory.total),
        utilisation,
        ecc_uncorrected,
        pcie_replays,
        pcie_generation,
        limits,
    };
    Ok((reading, signs))
}

/// The [`FIELDS`]; old drivers and small GPUs do not know all of them.
fn fields(device: &Device<'_>) -> Result<[Option<u64>; FIELDS.len()], Failure> {
    let mut told = or_absent(device.field_values_for(&FIELDS))?.unwrap_or_default().into_iter();
    Ok(FIELDS.map(|_| match told.next()?.ok()?.value.ok()? {
        SampleValue::U32(value) => Some(value.into()),
        SampleValue::U64(value) => Some(value),
        SampleValue::I64(value) => u64::try_from(value).ok(),
        SampleValue::F64(_) => None,
    }))
}

/// A value, or that this GPU has none; other errors are told.
fn or_absent<T>(value: Result<T, NvmlError>) -> Result<Option<T>, Failure> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::NotSupported | NvmlError::NoPermission | NvmlError::FailedToLoadSymbol(_)) => Ok(None),
        Err(error) => Err(failure(error)),
    }
}

fn is_not_found(error: &NvmlError) -> bool {
    matches!(error, NvmlError::NotFound | NvmlError::UnexpectedVariant(NOT_FOUND))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "NVML's other errors say nothing of the GPU, new ones included")]
fn failure(error: NvmlError) -> Failure {
    match error {
        // Of a device that it had a moment before.
        error if is_not_found(&error) => Failure::Gpu(Sign::Lost),
        NvmlError::GpuLost => Failure::Gpu(Sign::Lost),
        NvmlError::ResetRequired => Failure::Gpu(Sign::ResetRequired),
        other => Failure::Nvml(other),
    }
}
