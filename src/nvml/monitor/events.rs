//! What happens to one GPU, told as it happens: critical Xids.

use std::sync::atomic::{AtomicBool, Ordering};

use nvml_wrapper::{EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError, error::NvmlError};

use super::{EVERY, OPEN_EVERY, Shared};
use crate::health::device::{Sign, Told};

/// How long one wait for an event lasts.
const WAIT_MS: u32 = 1_000;
/// A set that fails so many times in a row is given up.
const FAILURES: u32 = 3;

impl Shared {
    /// The thread of one GPU's events: a set of its own, because registering consumes a set, and frees it on an error. Ends when the handle is
    /// given up.
    pub(super) fn wait_for_events(&self, nvml: &'static Nvml, place: usize, over: &AtomicBool) {
        let uuid = self.gpus[place].uuid.as_str();
        let ends = || self.is_stopped() || over.load(Ordering::Acquire);
        let registered = || {
            let device = nvml.device_by_uuid(uuid).ok()?;
            device.register_events(EventTypes::CRITICAL_XID_ERROR, nvml.create_event_set().ok()?).ok()
        };
        let mut telling = Telling { uuid, told: None };
        while !ends() {
            if let Some(events) = registered() {
                telling.registered();
                self.hear(place, &events, &mut telling, &ends);
            } else {
                // A GPU that is lost now may be back in a minute.
                telling.none();
                self.rest(OPEN_EVERY);
            }
        }
    }

    /// Hears events until the thread ends or the set fails again and again: that of a GPU which was lost stays silent when the GPU is back, and another does not.
    fn hear(&self, place: usize, events: &EventSet<'_>, telling: &mut Telling<'_>, ends: &dyn Fn() -> bool) {
        let mut failures = 0;
        while !ends() {
            let event = match events.wait(WAIT_MS) {
                Ok(event) => event.event_data,
                Err(NvmlError::Timeout) => None,
                // The poll finds out what it means.
                Err(_) => {
                    failures += 1;
                    if failures == FAILURES {
                        return telling.none();
                    }
                    self.rest(EVERY);
                    continue;
                }
            };
            failures = 0;
            telling.answered();
            if let Some(XidError::Value(xid)) = event {
                self.metrics.xid(telling.uuid, xid);
                self.tell(place, Told::Happened(Sign::Xid(xid)));
            }
        }
    }
}

/// What the log was told last of a GPU's events: that they are told, or that they are not.
struct Telling<'a> {
    uuid: &'a str,
    told: Option<bool>,
}

impl Telling<'_> {
    /// There is a set. Of the first one it is believed that it will tell; after a failure it has to answer first, or sets that fail in turn would fill the log.
    fn registered(&mut self) {
        if self.told.is_none() {
            self.answered();
        }
    }

    fn answered(&mut self) {
        if self.told.replace(true) != Some(true) {
            tracing::info!(gpu = self.uuid, "NVML tells this GPU's events");
        }
    }

    fn none(&mut self) {
        if self.told.replace(false) != Some(false) {
            tracing::warn!(
                gpu = self.uuid,
                "this GPU tells no events: a lost one is found by its jobs and by the polls"
            );
        }
    }
}
