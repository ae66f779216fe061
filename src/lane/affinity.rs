//! Pinning the calling thread to a core.

use core_affinity::CoreId;

/// The cores that this process may use.
pub(super) fn available() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect()
}

/// Pins the calling thread; a refusal costs placement, not service, so it is logged only.
pub(super) fn pin(core: usize) {
    if !core_affinity::set_for_current(CoreId { id: core }) {
        tracing::warn!(core, "the system refused to pin this lane's thread");
    }
}
