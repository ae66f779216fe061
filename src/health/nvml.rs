//! NVML: which GPUs there are. Opened at run time; a machine without a driver has none, and the daemon says so.
//!
//! Device health from NVML (throttling, Xid events, lost devices) is not read yet.

use nvml_wrapper::{Nvml, error::NvmlError};

/// One GPU as NVML lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gpu {
    /// `GPU-…`, stable over reboots and reordering.
    pub uuid: String,
    /// Product name.
    pub name: String,
}

/// The GPUs of this machine in NVML's order; an error if NVML or its driver is absent.
pub fn gpus() -> Result<Vec<Gpu>, NvmlError> {
    let nvml = Nvml::init()?;
    let gpu = |index| {
        let device = nvml.device_by_index(index)?;
        Ok(Gpu { uuid: device.uuid()?, name: device.name()? })
    };
    (0..nvml.device_count()?).map(gpu).collect()
}
