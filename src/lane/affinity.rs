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

/// The cores to pin lanes to: the configured one, or one each that no lane is configured for, where there are enough for all lanes and one more for the
/// rest.
pub fn cores(lanes: &[config::Lane]) -> Vec<Option<usize>> {
    chosen(&available(), lanes)
}

fn chosen(available: &[usize], lanes: &[config::Lane]) -> Vec<Option<usize>> {
    let threads: usize = lanes.iter().map(|lane| lane.threads).sum();
    let enough = available.len() > threads;
    let is_free = |core: &&usize| lanes.iter().all(|lane| lane.core != Some(**core));
    // The first one that is free is the rest's.
    let mut next = available.iter().filter(is_free).skip(1);
    let mut automatic = |lane: &config::Lane| if enough && lane.threads == 1 { next.next().copied() } else { None };
    lanes.iter().map(|lane| lane.core.or_else(|| automatic(lane))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Device, job::Role};

    fn lane(core: Option<usize>, threads: usize) -> config::Lane {
        let (id, device, role) = (LaneId(0), Device::Cpu, Role::Base);
        config::Lane { id, device, role, core, threads, fault_domain: None, stands_for: None, service: None }
    }

    #[test]
    fn each_lane_has_a_core_of_its_own_where_there_are_enough() {
        let auto = || lane(None, 1);
        for (available, lanes, cores) in [
            (4, vec![auto(), auto(), auto()], vec![Some(1), Some(2), Some(3)]),
            (4, vec![auto(), lane(Some(1), 1)], vec![Some(2), Some(1)]),
            (4, vec![lane(Some(0), 1), auto(), auto()], vec![Some(0), Some(2), Some(3)]),
            (3, vec![auto(), auto(), auto()], vec![None; 3]),
            (3, vec![lane(None, 2), lane(Some(2), 1)], vec![None, Some(2)]),
            (8, vec![lane(None, 2), auto()], vec![None, Some(1)]),
        ] {
            assert_eq!(chosen(&(0..available).collect::<Vec<_>>(), &lanes), cores);
        }
    }
}
