//! A lane on the thread of its test, with a real device and a feed that only listens.

use std::{
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use parking_lot::Mutex;

use super::{EmulatedLoss, Emulation, Lane, Meanwhile, OpenError, Spec, start};
use crate::{
    clock::{Clock, Time},
    code::{Code, Stacked},
    config,
    job::{BaseInput, Batch, Completion, Fault, Feed, Loss, Role, Work},
    query::LaneId,
    weights::Bundle,
};

/// What was told by a lane that has nothing to pull.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) parts: Mutex<Vec<usize>>,
    /// Of each job, what it was lost to, if it was.
    jobs: Mutex<Vec<Option<Loss>>>,
}

impl Feed for Heard {
    fn ready(&self, _: LaneId, _: Duration) {}
    fn left_out(&self, _: LaneId) {}
    fn opened(&self, _: LaneId, _: Duration) {}
    fn replaced(&self, _: LaneId) {}
    fn pull(&self, _: LaneId) -> Option<Work> {
        None
    }
    fn progress(&self, _: LaneId, parts: usize) {
        self.parts.lock().push(parts);
    }
    fn complete(&self, _: LaneId, _: Batch, completions: &mut Vec<Completion>, _: Duration) {
        self.jobs.lock().extend(completions.drain(..).map(|completion| match completion {
            Completion::Output(_) => None,
            Completion::Lost(loss) => Some(loss),
        }));
    }
    fn canary(&self, _: LaneId, _: Result<(), Loss>) {}
    fn park(&self, _: LaneId) -> bool {
        false
    }
}

/// A CPU lane for both models, of the small network.
pub(super) fn spec() -> Spec {
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/fashion-mnist-mlp/1");
    let code: Arc<dyn Code> = Arc::new(Stacked::compact(2).unwrap());
    Spec {
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
        emulation: None,
    }
}

/// A device whose library panics.
#[derive(Debug)]
struct Panics;

impl Emulation for Panics {
    fn reports(&self, _: LaneId) -> bool {
        false
    }
    fn expected(&self, _: LaneId, _: Role, _: Duration) -> Duration {
        panic!("a device that panics while it is opened")
    }
    fn batch(&self, _: LaneId, _: &Batch, _: Time, _: &Meanwhile<'_>) -> Result<(), EmulatedLoss> {
        Ok(())
    }
    fn canary(&self, _: LaneId, _: Time) -> Result<(), EmulatedLoss> {
        Ok(())
    }
}

#[test]
fn a_panic_while_a_device_is_opened_is_told() {
    let spec = Spec { emulation: Some(Arc::new(Panics)), ..spec() };
    let (told, opened) = mpsc::sync_channel(1);
    let held = start(spec, Arc::new(Heard::default()), move |outcome| told.send(outcome).unwrap()).unwrap();
    let outcome = opened.recv().unwrap();
    assert!(matches!(outcome, Err(OpenError::Panic)), "{outcome:?}");
    drop(held);
}

/// A device that fails while it is proved may be well later; one that gives wrong values may have wrong weights, and is tried again by nobody.
#[test]
fn what_a_first_canary_is_lost_to_says_who_has_to_act() {
    for loss in [Loss::Device, Loss::Fatal, Loss::Memory, Loss::Panic] {
        assert!(OpenError::Canary(loss).is_of_a_device(), "{loss}");
    }
    for loss in [Loss::Canary, Loss::NonFinite] {
        assert!(!OpenError::Canary(loss).is_of_a_device(), "{loss}");
    }
}

/// Health leaves a lane at work that finds no memory once, so its device must stay open whatever it was that found none.
#[test]
fn a_lane_that_found_no_memory_runs_the_next_batch() {
    let heard = Arc::new(Heard::default());
    let mut lane = Lane::new(spec(), Arc::<Heard>::clone(&heard), Default::default());
    lane.open().unwrap();
    let row = lane.spec.bundle.canary(None).rows[0].clone();
    let batch = || Batch::Base(vec![BaseInput { row: row.clone(), must_be_finite: true }]);

    lane.spec.faults.set(Some(Fault::OutOfMemory));
    assert_eq!(lane.run_canary(), Err(Loss::Memory));
    assert!(lane.run_batch(batch()));
    lane.spec.faults.set(None);
    assert!(lane.run_batch(batch()));
    assert_eq!(*heard.jobs.lock(), [Some(Loss::Memory), None]);

    // Once: whoever has a process of its own has the device again.
    lane.spec.faults.set(Some(Fault::Poison));
    assert!(lane.run_batch(batch()));
    assert_eq!(heard.jobs.lock().last(), Some(&Some(Loss::Fatal)));
    assert_eq!((lane.spec.faults.get(), lane.run_canary()), (None, Ok(())));

    lane.spec.faults.set(Some(Fault::Error));
    assert_eq!(lane.run_canary(), Err(Loss::Device));
    lane.spec.faults.set(None);
    assert_eq!(lane.run_canary(), Ok(()), "opened anew");
}
