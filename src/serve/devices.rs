//! The drivers of the lanes' devices: who listens to them, and what they say reaches the engine.
//!
//! Only lanes that are known by a UUID are listened for, in a build with CUDA also those that are named by an index; a machine without such lanes opens no
//! driver. Lanes that stand for another device take its time here, too.

use std::{io, sync::Arc, time::Duration};

use crate::{
    clock::{Clock, Time},
    config::Lane,
    engine::Engine,
    health::device::Told,
    job::{Batch, PARTS, Role},
    lane::{EmulatedLoss, Emulation, Meanwhile},
    metrics::{GpuMetrics, Metrics},
    nvml::{Listener, Monitor, Watched},
    query::LaneId,
};

/// Passes on what drivers say.
struct ToEngine(Arc<Engine>);

impl Listener for ToEngine {
    fn told(&self, lanes: &[LaneId], told: Told) {
        self.0.told(lanes, told);
    }
}

/// Starts to listen to the drivers of the lanes' GPUs, if there are any.
pub(super) fn listen(
    lanes: &[Lane],
    engine: &Arc<Engine>,
    metrics: &Metrics,
    clock: Clock,
) -> io::Result<Option<Monitor>> {
    let gpus = gpus(lanes);
    if gpus.is_empty() {
        return Ok(None);
    }
    let listener = Arc::new(ToEngine(Arc::clone(engine)));
    Monitor::start(gpus, clock, listener, GpuMetrics::new(metrics)).map(Some)
}

/// Each GPU with its lanes.
fn gpus(lanes: &[Lane]) -> Vec<Watched> {
    let mut gpus: Vec<Watched> = Vec::new();
    for lane in lanes {
        // By index alone a GPU is known to CUDA, which may count otherwise than NVML.
        let Some(uuid) = crate::lane::gpu_uuid(lane) else { continue };
        match gpus.iter_mut().find(|gpu| gpu.uuid == uuid) {
            Some(gpu) => gpu.lanes.push(lane.id),
            None => gpus.push(Watched { uuid, lanes: vec![lane.id] }),
        }
    }
    gpus
}

/// Lanes whose jobs take a fixed time at least (`service_ms`).
#[derive(Debug)]
struct Fixed {
    clock: Clock,
    /// By lane; zero where a lane is its own device.
    service: Vec<Duration>,
}

/// The emulation that a configuration asks for, if it does.
pub(super) fn emulation(lanes: &[Lane], clock: Clock) -> Option<Arc<dyn Emulation>> {
    let asked = lanes.iter().any(|lane| lane.service.is_some());
    let service = lanes.iter().map(|lane| lane.service.unwrap_or(Duration::ZERO)).collect();
    asked.then(|| Arc::new(Fixed { clock, service }) as Arc<dyn Emulation>)
}

impl Fixed {
    fn service(&self, lane: LaneId) -> Duration {
        self.service[usize::from(lane.0)]
    }

    fn wait(&self, until: Time) {
        let left = until.since(self.clock.now());
        if left > Duration::ZERO {
            self.clock.pause(left);
        }
    }
}

impl Emulation for Fixed {
    fn reports(&self, lane: LaneId) -> bool {
        !self.service(lane).is_zero()
    }

    fn expected(&self, lane: LaneId, _: Role, usual: Duration) -> Duration {
        usual.max(self.service(lane))
    }

    fn batch(&self, lane: LaneId, _: &Batch, started: Time, meanwhile: &Meanwhile<'_>) -> Result<(), EmulatedLoss> {
        if !self.reports(lane) {
            return Ok(());
        }
        let part = self.service(lane) / u32::try_from(PARTS).unwrap_or(u32::MAX);
        let mut began = started;
        for over in 1..=PARTS {
            self.wait(began + part);
            (meanwhile.stretch)();
            if over < PARTS {
                (meanwhile.over)(over);
            }
            began = self.clock.now();
        }
        Ok(())
    }

    fn canary(&self, lane: LaneId, started: Time) -> Result<(), EmulatedLoss> {
        self.wait(started + self.service(lane));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A lane that stands for no other device keeps its own pace, whatever stands beside it.
    #[test]
    fn what_one_lane_takes_is_not_expected_of_the_others() {
        let (own, service) = (Duration::from_millis(3), Duration::from_millis(40));
        let fixed = Fixed { clock: Clock::start(), service: vec![service, Duration::ZERO] };
        let lanes = [LaneId(0), LaneId(1)];
        assert_eq!(lanes.map(|lane| fixed.expected(lane, Role::Base, own)), [service, own]);
        assert_eq!(lanes.map(|lane| fixed.reports(lane)), [true, false]);
        assert_eq!(fixed.expected(LaneId(0), Role::Base, 2 * service), 2 * service, "never less than it takes");
    }
}
