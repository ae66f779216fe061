//! Complete stripes as a check of the devices that took part, carried out.
//!
//! A device is known by its fault domain, which a stripe remembers for each slot; where a slot's first run was lost and another brought its output, the
//! residual counts for the device that lost it, which does little harm.

use super::{Dispatch, Effect, LaneSettings};
use crate::{
    code::residual::{odd, residual},
    health::residual::Residuals,
    query::FaultDomain,
    stripe::Stripe,
};

/// What residuals say, and memory to work them out in.
#[derive(Debug)]
pub(super) struct Doubts {
    residuals: Residuals,
    decoded: Vec<f32>,
}

impl Doubts {
    /// None yet.
    pub(super) fn new(lanes: &[LaneSettings]) -> Self {
        let devices = lanes.iter().map(|lane| usize::from(lane.domain.0) + 1).max().unwrap_or(0);
        Doubts { residuals: Residuals::new(devices), decoded: Vec::new() }
    }

    /// The devices that should prove themselves, as far as this complete stripe tells.
    fn seen(&mut self, stripe: &Stripe) -> Vec<FaultDomain> {
        let Doubts { residuals, decoded } = self;
        let doubtful = stripe.checked(|code, outputs| {
            let Some(residual) = residual(code, outputs, decoded) else { return Vec::new() };
            // A device that filled several slots, one after the other, is one witness.
            let is_first = |&slot: &usize| (0..slot).all(|before| stripe.domain(before) != stripe.domain(slot));
            let part = (0..outputs.len()).filter(is_first).filter_map(|slot| stripe.domain(slot));
            residuals.seen(residual, part, || stripe.domain(odd(code, outputs, residual, decoded)?))
        });
        doubtful.unwrap_or_default()
    }
}

impl Dispatch {
    /// The last output of a stripe has arrived. Whoever finds another stripe being checked lets this one pass.
    pub(super) fn check_residual(&self, stripe: &Stripe, effects: &mut Vec<Effect>) {
        if !self.settings.policy.health || !self.is_systematic() {
            return;
        }
        let doubtful = self.doubts.try_lock().map(|mut doubts| doubts.seen(stripe)).unwrap_or_default();
        for device in doubtful {
            let on_it = |lane: &_| self.seat(*lane).settings.domain == device && self.seat(*lane).is_usable();
            for lane in self.lane_ids().filter(on_it) {
                self.seat(lane).unchecked.ask();
                effects.extend([Effect::Doubted(lane), Effect::Wake(lane)]);
            }
        }
    }
}
