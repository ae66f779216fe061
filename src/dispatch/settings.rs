//! What the core is told before the first query.

use std::{sync::Arc, time::Duration};

use crate::{
    code::{Calibration, Code},
    config::Policy,
    health,
    job::Role,
    query::{DeviceId, FaultDomain},
};

/// What the core needs to know of one lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneSettings {
    /// What its device holds.
    pub role: Role,
    /// What it fails together with.
    pub domain: FaultDomain,
    /// What a broken context or a driver's word is about. Lanes on one device may be said to fail apart, and a domain may have several devices.
    pub device: DeviceId,
}

impl LaneSettings {
    /// A lane on a device of its own, which fails by itself.
    pub const fn alone(role: Role, number: u16) -> Self {
        LaneSettings { role, domain: FaultDomain(number), device: DeviceId(number) }
    }
}

/// Everything that is decided before the first query.
#[derive(Debug)]
pub struct Settings {
    /// The lanes; a lane's id is its index.
    pub lanes: Vec<LaneSettings>,
    /// Rows in one forward pass, at most.
    pub batch_max: usize,
    /// Admitted rows, at most.
    pub queue_max: usize,
    /// The code; `None` runs every query unprotected.
    pub code: Option<Arc<dyn Code>>,
    /// How likely what it decodes is right; `None` leaves it unjudged.
    pub calibration: Option<Calibration>,
    /// How long a stripe may stay short.
    pub stripe_fill: Duration,
    /// Grace, reruns, placement, default prediction.
    pub policy: Policy,
    /// When lanes are taken out of work and come back.
    pub health: health::Rules,
}
