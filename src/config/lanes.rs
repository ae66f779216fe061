//! Which lanes there are: as listed, or one for each GPU that was found.
//!
//! Pure functions of the configuration and of a list of GPUs, so that reading a file opens no driver and the split can be tested
//! without one.

use crate::{
    job::Role,
    query::{DeviceId, FaultDomain, LaneId},
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
        let (base, least) = (self.base_lanes(), self.health.ready_lanes_min);
        if least > base {
            let key = format!("health.ready_lanes_min = {least}");
            return Err(ConfigFaults::one("configuration", &key, ready_rule(base)));
        }
        Ok((self, warning))
    }

    /// Lanes that hold the base model.
    pub(super) fn base_lanes(&self) -> usize {
        self.lanes().iter().filter(|lane| lane.role.runs_base()).count()
    }
}

/// A daemon that can never be ready is none.
pub(super) fn ready_rule(base: usize) -> String {
    format!("must be at most {base}, the number of lanes that hold the base model, or the daemon is never ready")
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
        fault_domain: None,
        stands_for: None,
        service: None,
    };
    ((0_u16..).zip(0..).zip(gpus).map(lane).collect(), warning)
}

/// What fails together.
#[derive(PartialEq)]
enum Together {
    Lane(LaneId),
    Device(Device),
    Named(String),
}

/// The GPU that a lane is on, or that it stands for.
fn gpu_of(lane: &Lane) -> Option<Device> {
    match (&lane.device, &lane.stands_for) {
        (Device::Cpu, None) => None,
        (Device::Cpu, Some(uuid)) => Some(Device::CudaUuid(uuid.clone())),
        (gpu @ (Device::Cuda(_) | Device::CudaUuid(_)), _) => Some(gpu.clone()),
    }
}

/// On CPU the lane itself (or the GPU that it stands for), on GPUs the device.
fn device_of(lane: &Lane) -> Together {
    gpu_of(lane).map_or(Together::Lane(lane.id), Together::Device)
}

/// The fault domain of each lane: what it is named, else its device. Numbered in the order in which they appear.
pub fn fault_domains(lanes: &[Lane]) -> Vec<FaultDomain> {
    let named = |lane: &Lane| lane.fault_domain.clone().map(Together::Named);
    numbered(lanes, |lane| named(lane).unwrap_or_else(|| device_of(lane))).into_iter().map(FaultDomain).collect()
}

/// The device of each lane, whatever fails together. Numbered in the order in which they appear.
pub fn device_ids(lanes: &[Lane]) -> Vec<DeviceId> {
    numbered(lanes, device_of).into_iter().map(DeviceId).collect()
}

fn numbered(lanes: &[Lane], what: impl Fn(&Lane) -> Together) -> Vec<u16> {
    let mut known: Vec<Together> = Vec::new();
    let mut number = |together: Together| {
        let seen = known.iter().position(|other| *other == together);
        let number = seen.unwrap_or(known.len());
        if seen.is_none() {
            known.push(together);
        }
        u16::try_from(number).expect("at most LANES_MAX lanes")
    };
    lanes.iter().map(|lane| number(what(lane))).collect()
}

/// The first two lanes on one GPU that are said not to fail together.
pub(super) fn split_gpu(lanes: &[Lane]) -> Option<(LaneId, LaneId)> {
    let domains = fault_domains(lanes);
    let mut seen: Vec<(Device, LaneId, FaultDomain)> = Vec::new();
    for (lane, domain) in lanes.iter().zip(domains) {
        let Some(gpu) = gpu_of(lane) else { continue };
        if let Some((_, first, _)) = seen.iter().find(|(other, _, known)| *other == gpu && *known != domain) {
            return Some((*first, lane.id));
        }
        seen.push((gpu, lane.id, domain));
    }
    None
}
