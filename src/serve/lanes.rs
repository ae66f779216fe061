//! The lanes of one engine: starting them, telling how they are, breaking them on request.

use std::sync::{Arc, mpsc};

use super::{Plan, ServeError};
use crate::{
    clock::Clock,
    code::Code,
    config,
    engine::Engine,
    http::{Lanes, UnknownLane},
    job::{Fault, Feed, LaneEvent, LaneReport},
    lane::{self, Emulation, FaultSwitch, Spec},
    query::LaneId,
};

/// All lanes that were started.
#[derive(Debug)]
pub struct Crew {
    engine: Arc<Engine>,
    lanes: Vec<(config::Lane, Arc<FaultSwitch>)>,
}

impl Crew {
    /// Starts every lane; returns once all have loaded, or with the first that could not.
    pub(super) fn start(
        plan: &Plan,
        code: Option<&Arc<dyn Code>>,
        engine: &Arc<Engine>,
        (clock, emulation): (Clock, Option<&Arc<dyn Emulation>>),
    ) -> Result<Self, ServeError> {
        let configured = plan.config.lanes();
        let (told, opened) = mpsc::sync_channel(configured.len());
        let mut lanes = Vec::new();
        for (lane, core) in configured.iter().zip(lane::cores(configured)) {
            let faults = Arc::new(FaultSwitch::default());
            let spec = Spec {
                lane: lane.clone(),
                core,
                batch_max: plan.config.deployment.batch_max,
                bundle: Arc::clone(&plan.bundle),
                code: code.cloned(),
                faults: Arc::clone(&faults),
                clock,
                emulation: emulation.cloned(),
                left_out: plan.left_out.contains(&lane.id),
            };
            let (id, told) = (lane.id, told.clone());
            let feed = Arc::clone(engine) as Arc<dyn Feed>;
            // If nobody listens any more, another lane has failed and the start with it.
            let tell = move |outcome| drop(told.send((id, outcome)));
            drop(lane::start(spec, feed, tell).map_err(ServeError::Thread)?);
            lanes.push((lane.clone(), faults));
        }
        drop(told);
        for _ in &lanes {
            let (id, outcome) = opened.recv().map_err(|_| ServeError::LaneEnded)?;
            outcome.map_err(|source| ServeError::Lane { lane: id, source })?;
        }
        Ok(Crew { engine: Arc::clone(engine), lanes })
    }
}

impl Lanes for Crew {
    fn report(&self) -> Vec<LaneReport> {
        let report = |(lane, faults): &(config::Lane, Arc<FaultSwitch>)| {
            let (state, reason) = self.engine.describe(lane.id);
            let device = lane.device.to_string();
            LaneReport { id: lane.id, device, role: lane.role, state, reason, fault: faults.get() }
        };
        self.lanes.iter().map(report).collect()
    }

    fn events(&self) -> Vec<LaneEvent> {
        self.engine.events()
    }

    fn set_fault(&self, lane: LaneId, fault: Option<Fault>) -> Result<(), UnknownLane> {
        let (_, faults) = self.lanes.get(usize::from(lane.0)).ok_or(UnknownLane)?;
        faults.set(fault);
        if let Some(fault) = fault {
            tracing::warn!(%lane, %fault, "fault injected");
        } else {
            tracing::info!(%lane, "fault cleared");
        }
        Ok(())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        // A lane that hangs in an injected fault would otherwise outlive the daemon's library user.
        self.lanes.iter().for_each(|(_, faults)| faults.set(None));
    }
}
