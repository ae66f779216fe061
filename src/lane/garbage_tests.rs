//! Devices that return finite, wrong values: each way to be wrong is found by one canary, and a device that is right never is.

use std::{path::Path, sync::Arc};

use super::{Emulation, Executor, FaultSwitch, Spec};
use crate::{
    clock::Clock,
    config,
    job::{Fault, Garbage, Loss, Role},
    query::LaneId,
    weights::Bundle,
};

/// Jobs between two canaries.
const EVERY: usize = 100;

fn executor() -> Executor {
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/fashion-mnist-mlp/1");
    let code: Arc<dyn crate::code::Code> = Arc::new(crate::code::Stacked::compact(2).unwrap());
    let spec = Spec {
        lane: config::Lane {
            id: LaneId(0),
            device: config::Device::Cpu,
            role: Role::Both,
            core: None,
            threads: 1,
            fault_domain: None,
            stands_for: None,
            service: None,
        },
        core: None,
        batch_max: 2,
        bundle: Arc::new(Bundle::load(&weights, Some(&*code)).unwrap()),
        code: Some(code),
        faults: Arc::default(),
        clock: Clock::start(),
        left_out: false,
        emulation: None::<Arc<dyn Emulation>>,
    };
    Executor::open(&spec).unwrap().0
}

#[test]
fn every_kind_of_garbage_is_found_by_the_next_canary() {
    let mut executor = executor();
    // Every bit of every one of ten outputs.
    let flips = (0..320).map(Garbage::BitFlip);
    for how in flips.chain([Garbage::Wrong, Garbage::Scaled, Garbage::Swapped, Garbage::Layer]) {
        let faults = FaultSwitch::default();
        faults.set(Some(Fault::Garbage(how)));
        assert_eq!(executor.canary(|outputs| faults.after(outputs)), Err(Loss::Canary), "{how:?}");
        assert_eq!(executor.canary(|_| ()), Ok(()), "well again after {how:?}");
    }
}

#[test]
fn a_million_clean_jobs_raise_no_alarm() {
    let mut executor = executor();
    let faults = FaultSwitch::default();
    for canary in 0..1_000_000 / EVERY {
        assert_eq!(executor.canary(|outputs| faults.after(outputs)), Ok(()), "after {} jobs", canary * EVERY);
    }
}
