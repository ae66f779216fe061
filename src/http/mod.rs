//! HTTP: turns bytes into queries and answers into bytes.
//!
//! Owns the public port: the Open Inference Protocol v2 (`/v2`) in JSON and with binary tensors, `/metrics` and, when they are on, the admin
//! routes. What always holds: a client's mistake is a 4xx that names it and never a 500; nothing is read without a limit in bytes and in time; every error
//! has the same JSON shape; a client that leaves drops its [`Pending`](crate::reply::Pending), and with it its place in the queue.
//!
//! The layer sees [`Admission`] and [`Lanes`] alone, both traits, so it is tested against a dozen lines instead of a daemon
//! (`tests/http_surface`). Written on hyper itself and not on a framework: a dozen routes need no router, and the parts that matter
//! here (limits before a byte is read, a reply before a refused body has arrived, noticing that a client left) lie below one.
//!
//! `server` accepts, `route` finds the handler, `body` reads and `coding` inflates, `parse` checks, `infer` and `admin` act, `describe` tells,
//! `outputs`, `respond` and `status` write. The rules that gRPC shares are in [`wire`](crate::wire).

mod admin;
mod body;
mod classify;
mod coding;
mod describe;
mod form;
mod infer;
mod openapi;
mod outputs;
mod parse;
mod picture;
mod respond;
mod route;
mod server;
mod socket;
mod status;

use std::{fmt, sync::Arc};

pub use parse::parse;
pub use server::serve;

pub use crate::wire::{Call, ClientError, Error, Form, Limits, UnknownLane, Wanted};

use crate::{
    admission::Admission,
    job::{Fault, LaneEvent, LaneReport},
    metrics::Metrics,
    query::{LaneId, Signature},
};

/// What the port serves.
pub struct Site {
    /// Names and shapes of the deployment.
    pub signature: Signature,
    /// Where requests go once they are understood.
    pub admission: Arc<dyn Admission>,
    /// Counters; `/metrics` is their text.
    pub metrics: Arc<Metrics>,
    /// What the admin routes show and change; `None` when they are off, and then they do not exist.
    pub lanes: Option<Arc<dyn Lanes>>,
    /// How much of anything a client may take.
    pub limits: Limits,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("signature", &self.signature).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Site {
    /// The longest body of an infer request, in bytes.
    pub fn body_bytes_max(&self) -> usize {
        self.limits.body_bytes_max(&self.signature)
    }
}

/// What the admin routes ask of the lanes. A trait, so that `http` names no lane.
pub trait Lanes: Send + Sync {
    /// Every lane, in the order of their ids.
    fn report(&self) -> Vec<LaneReport>;

    /// The last moves of lanes, the latest first.
    fn events(&self) -> Vec<LaneEvent>;

    /// Injects a fault into a lane, replacing the one it has; `None` clears it.
    ///
    /// # Errors
    /// There is no such lane.
    fn set_fault(&self, lane: LaneId, fault: Option<Fault>) -> Result<(), UnknownLane>;
}
