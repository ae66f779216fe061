//! Which lanes there are: as listed, or one for each GPU that was found.
//!
//! Pure functions of the configuration and of a list of GPUs, so that reading a file opens no driver and the split can be tested
//! without one.

use crate::{
    job::Role,
    query::{FaultDomain, LaneId},
};

use super::{CodeSpec, Config, ConfigFaults, Device, Hedge, Lane, Lanes, Placement, Policy, PolicyKind, Warning};

/// Lanes of one daemon, at most.
pub const LANES_MAX: usize = 64;

impl Config {
    /// The lanes; none yet where `devices = "auto"` waits for [`Config::on_gpus`].
    pub fn lanes(&self) -> &[Lane] {
        match &self.lanes {
            Lanes::Listed(lanes) => lanes,
            Lanes::Auto => &[],
        }
    }

    /// This configuration on a machine with these GPUs (UUIDs): `devices = "auto"` becomes a list of lanes, and the policy becomes
    /// `none` with a warning where the GPUs are too few for the code. Listed lanes stay as they are.
    pub fn on_gpus(mut self, gpus: &[String]) -> Result<(Config, Option<Warning>), ConfigFaults> {
        if self.lanes != Lanes::Auto {
            return Ok((self, None));
        }
        if gpus.is_empty() || gpus.len() > LANES_MAX {
            let found = if gpus.is_empty() { "no GPU".to_owned() } else { format!("{} GPUs", gpus.len()) };
            let rule = format!(
                "found {found}, needs 1 to {LANES_MAX}: list the lanes instead, for a machine without a GPU as \
                 `[[lane]]` with device = \"cpu\""
            );
            return Err(ConfigFaults::one("configuration", "devices = \"auto\"", rule));
        }
        let (lanes, warning) = lanes_for(gpus, &self.deployment.code, &self.deployment.policy);
        if warning.is_some() {
            self.deployment.policy.kind = PolicyKind::None;
            self.deployment.policy.hedge = Hedge::None;
        }
        self.lanes = Lanes::Listed(lanes);
        Ok((self, warning))
    }
}

/// One lane for each GPU. Of n GPUs, max(r, round(n·r / (k + r))) hold parity models and come last; `pooled` lanes hold both. With a
/// warning, and the base model everywhere, where fewer than k base or r parity lanes would be left.
pub fn lanes_for(gpus: &[String], code: &CodeSpec, policy: &Policy) -> (Vec<Lane>, Option<Warning>) {
    let (n, k, r) = (gpus.len(), code.k, code.r);
    let slots = k + r;
    let parity = r.max((2 * n * r + slots) / (2 * slots)).min(n);
    let base = n - parity;
    let coded = policy.kind.is_coded();
    let enough = base >= k && parity >= r;
    let warning = (coded && !enough).then_some(Warning::TooFewGpus { gpus: n, k, r });
    let role = |index: usize| match policy.placement {
        _ if !coded || !enough => Role::Base,
        Placement::Pooled => Role::Both,
        Placement::Dedicated if index < base => Role::Base,
        Placement::Dedicated => Role::Parity,
    };
    let lane = |((id, index), uuid): ((u16, usize), &String)| Lane {
        id: LaneId(id),
        device: Device::CudaUuid(uuid.clone()),
        role: role(index),
        core: None,
        threads: 1,
        stands_for: None,
        service: None,
    };
    ((0_u16..).zip(0..).zip(gpus).map(lane).collect(), warning)
}

/// The fault domain of each lane: on CPU the lane itself (or the GPU that it stands for), on GPUs the device. Numbered in the order in which they appear.
pub fn fault_domains(lanes: &[Lane]) -> Vec<FaultDomain> {
    let mut devices: Vec<Option<Device>> = Vec::new();
    let mut domains = Vec::with_capacity(lanes.len());
    for lane in lanes {
        let device = match (&lane.device, &lane.stands_for) {
            (Device::Cpu, None) => None,
            (Device::Cpu, Some(uuid)) => Some(Device::CudaUuid(uuid.clone())),
            (gpu @ (Device::Cuda(_) | Device::CudaUuid(_)), _) => Some(gpu.clone()),
        };
        let seen = device.as_ref().and_then(|_| devices.iter().position(|known| *known == device));
        let number = seen.unwrap_or(devices.len());
        if seen.is_none() {
            devices.push(device);
        }
        domains.push(FaultDomain(u16::try_from(number).expect("at most LANES_MAX lanes")));
    }
    domains
}
