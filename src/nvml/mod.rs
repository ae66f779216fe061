//! NVML: which GPUs there are, how they stand, and a monitor that tells what happens to them.
//!
//! Opened at run time; a machine without a driver has none, and the daemon says so. A call of NVML may never return, whatever its documentation says, so
//! nothing that serves ever calls it: the monitor's threads do, and others read what they have published. GPUs are known by UUID, never by index, which
//! CUDA counts differently. The library's handle is leaked on purpose: closing it is a call like any other.

mod monitor;
mod poll;

use std::env;

use nvml_wrapper::{Nvml, bitmasks::device::ThrottleReasons, enum_wrappers::device::Clock, error::NvmlError};

pub use monitor::{Listener, Monitor, Watched};
pub use poll::Reading;

/// Names another library than the system's `libnvidia-ml.so.1`.
const LIBRARY_VARIABLE: &str = "PARITYD_NVML_LIBRARY";

/// One GPU as NVML lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gpu {
    /// `GPU-…`, stable over reboots and reordering.
    pub uuid: String,
    /// Product name.
    pub name: String,
    /// Its place on the PCI bus.
    pub pci: String,
}

/// Opens the library.
fn open() -> Result<Nvml, NvmlError> {
    // A variable that is set to nothing is not set.
    match env::var_os(LIBRARY_VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => Nvml::builder().lib_path(&path).init(),
        None => Nvml::init(),
    }
}

/// The GPUs of this machine in NVML's order; an error if NVML or its driver is absent.
pub fn gpus() -> Result<Vec<Gpu>, NvmlError> {
    let nvml = open()?;
    let gpu = |index| -> Result<Gpu, NvmlError> {
        let device = nvml.device_by_index(index)?;
        Ok(Gpu { uuid: device.uuid()?, name: device.name()?, pci: device.pci_info()?.bus_id })
    };
    // One that is lost must not hide the others.
    Ok((0..nvml.device_count()?).filter_map(|index| told(index, gpu(index))).collect())
}

/// What was told of a GPU, unless it is lost.
fn told<T>(index: u32, answer: Result<T, NvmlError>) -> Option<T> {
    answer.inspect_err(|error| tracing::warn!(index, %error, "a GPU that does not answer is left out")).ok()
}

/// How a GPU stands, as far as it matters to whoever measures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its UUID.
    pub uuid: String,
    /// Clock of its multiprocessors now, in MHz.
    pub clock_mhz: u32,
    /// The highest that it could have.
    pub clock_max_mhz: u32,
    /// Why its clock is held down, in NVML's words; being idle is no reason.
    pub limits: Vec<String>,
    /// Other processes that compute on it.
    pub processes: usize,
}

/// How all GPUs stand; an error if NVML or its driver is absent. What a GPU does not tell counts as nothing.
pub fn standing() -> Result<Vec<Standing>, NvmlError> {
    let nvml = open()?;
    let own = std::process::id();
    let of = |index| -> Result<Standing, NvmlError> {
        let device = nvml.device_by_index(index)?;
        let reasons = device.current_throttle_reasons().unwrap_or(ThrottleReasons::empty());
        let limits = reasons - ThrottleReasons::GPU_IDLE - ThrottleReasons::NONE;
        let processes = device.running_compute_processes().unwrap_or_default();
        Ok(Standing {
            uuid: device.uuid()?,
            clock_mhz: device.clock_info(Clock::SM).unwrap_or(0),
            clock_max_mhz: device.max_clock_info(Clock::SM).unwrap_or(0),
            limits: limits.iter_names().map(|(name, _)| name.to_lowercase()).collect(),
            processes: processes.iter().filter(|process| process.pid != own).count(),
        })
    };
    Ok((0..nvml.device_count()?).filter_map(|index| told(index, of(index))).collect())
}
