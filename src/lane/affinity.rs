//! Which cores lanes are pinned to, and pinning the calling thread to one.

use core_affinity::CoreId;

use crate::{config, query::LaneId};

/// The cores that this process may use.
fn available() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Pins the calling thread, a lane's; a refusal costs placement, not service, so it is logged only.
pub(super) fn pin(lane: LaneId, core: usize) {
    if !core_affinity::set_for_current(CoreId { id: core }) {
        tracing::warn!(%lane, core, "the system refused to pin this lane's thread");
    }
}

/// Whether a lane's thread can be pinned there.
pub fn is_available(core: usize) -> bool {
    available().contains(&core)
}

/// The cores to pin lanes to: the configured one, or one each where there are enough for all lanes and one more for the rest.
pub fn cores(lanes: &[config::Lane]) -> Vec<Option<usize>> {
    let free = available();
    let threads: usize = lanes.iter().map(|lane| lane.threads).sum();
    let enough = free.len() > threads;
    let mut next = free.into_iter().skip(1);
    lanes
        .iter()
        .map(|lane| {
            let chosen = if enough && lane.threads == 1 { next.next() } else { None };
            lane.core.or(chosen)
        })
        .collect()
}
