//! One look at one GPU: cheap calls only, and what they mean.

use nvml_wrapper::{
    Device, Nvml,
    enum_wrappers::device::{Clock, TemperatureSensor},
    enums::device::SampleValue,
    error::NvmlError,
    structs::device::FieldId,
};

use crate::{
    health::device::{Limits, Sign},
    metrics::GpuValue,
};

/// What would bring a GPU back: `NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`.
const RECOVERY_ACTION: FieldId = FieldId(230);
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
    /// Share of the last moments in which something ran, percent.
    pub utilisation: Option<u32>,
    /// Why its clock is held down.
    pub limits: Limits,
}

impl Reading {
    /// What it holds, by the names of metrics, in base units.
    pub(super) fn values(&self) -> Vec<(GpuValue, f64)> {
        let pair = |name, value: Option<f64>| Some((name, value?));
        [
            pair(GpuValue::Temperature, self.temperature.map(f64::from)),
            pair(GpuValue::Clock, self.clock_mhz.map(|mhz| f64::from(mhz) * 1e6)),
            pair(GpuValue::Memory, self.memory_used.map(|bytes| bytes as f64)),
            pair(GpuValue::Utilisation, self.utilisation.map(|percent| f64::from(percent) / 100.0)),
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
    /// NVML: its handle is of no use any more, or it does not know. This says nothing of the GPU.
    Nvml(NvmlError),
}

/// A look at a GPU. `enter` hears the name of each call before it is made.
pub(super) fn look(nvml: &Nvml, uuid: &str, enter: &dyn Fn(&'static str)) -> Result<(Reading, Vec<Sign>), Failure> {
    enter("device");
    let device = nvml.device_by_uuid(uuid).map_err(failure)?;
    enter("throttle reasons");
    let limits = or_absent(device.current_throttle_reasons())?.map_or(0, |reasons| reasons.bits());
    let limits = Limits::from_bits(limits);
    enter("temperature");
    let temperature = or_absent(device.temperature(TemperatureSensor::Gpu))?;
    enter("clock");
    let clock_mhz = or_absent(device.clock_info(Clock::SM))?;
    enter("memory");
    let memory_used = or_absent(device.memory_info())?.map(|memory| memory.used);
    enter("utilisation");
    let utilisation = or_absent(device.utilization_rates())?.map(|rates| rates.gpu);
    enter("recovery action");
    let mut signs: Vec<Sign> = recovery(&device)?.map(Sign::Recovery).into_iter().collect();
    if limits.is_harmful() {
        // The others come and go, and this would be another sign each time.
        signs.push(Sign::Limited(limits.harmful()));
    }
    Ok((Reading { temperature, clock_mhz, memory_used, utilisation, limits }, signs))
}

/// What would bring it back, if it is not well; old drivers do not know.
fn recovery(device: &Device<'_>) -> Result<Option<u32>, Failure> {
    let fields = or_absent(device.field_values_for(&[RECOVERY_ACTION]))?;
    let value = fields.and_then(|fields| fields.into_iter().next()?.ok()?.value.ok());
    Ok(match value {
        Some(SampleValue::U32(action)) if action != 0 => Some(action),
        Some(_) | None => None,
    })
}

/// A value, or that this GPU has none; other errors are told.
fn or_absent<T>(value: Result<T, NvmlError>) -> Result<Option<T>, Failure> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::NotSupported | NvmlError::NoPermission | NvmlError::FailedToLoadSymbol(_)) => Ok(None),
        Err(error) => Err(failure(error)),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "NVML's other errors say nothing of the GPU, new ones included")]
fn failure(error: NvmlError) -> Failure {
    match error {
        NvmlError::GpuLost | NvmlError::NotFound | NvmlError::UnexpectedVariant(NOT_FOUND) => Failure::Gpu(Sign::Lost),
        NvmlError::ResetRequired => Failure::Gpu(Sign::ResetRequired),
        other => Failure::Nvml(other),
    }
}
