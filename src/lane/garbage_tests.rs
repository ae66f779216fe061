//! Devices that return finite, wrong values: each way to be wrong is found by one canary, and a device that is right never is.

use super::{Executor, FaultSwitch, tests::spec};
use crate::job::{Fault, Garbage, Loss};

/// Jobs between two canaries.
const EVERY: usize = 100;

fn executor() -> Executor {
    Executor::open(&spec()).unwrap().0
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
