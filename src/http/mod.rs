//! HTTP: turns bytes into queries and answers into bytes, and is the only module that knows hyper.
//!
//! Owns the public port: the Open Inference Protocol v2 (`/v2`) in JSON and with binary tensors, `/metrics` and, when they are on, the admin
//! routes. What always holds: a client's mistake is a 4xx that names it and never a 500; nothing is read without a limit in bytes and in time; every error
//! has the same JSON shape; a client that leaves drops its [`Pending`](crate::reply::Pending), and with it its place in the queue.
//!
//! The layer sees [`Admission`] and [`Lanes`] alone, both traits, so it is tested against a dozen lines instead of a daemon
//! (`tests/http_surface.rs`). Written on hyper itself and not on a framework: a dozen routes need no router, and the parts that matter
//! here (limits before a byte is read, a reply before a refused body has arrived, noticing that a client left) lie below one.
//!
//! `server` accepts, `route` finds the handler, `body` reads and `coding` inflates, `parse` checks, `infer` and `admin` act, `describe` tells,
//! `outputs`, `respond` and `error` write, `drain` knows when all is over.

mod admin;
mod body;
mod classify;
mod coding;
mod describe;
mod drain;
mod error;
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
mod trace;

use std::{fmt, sync::Arc, time::Duration};

pub use error::{ClientError, Error};
pub use parse::{Call, Form, Wanted, parse};
pub use server::serve;

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

/// Bytes that one value may take in JSON: a double printed in full, with its separator and indentation.
const VALUE_BYTES_MAX: usize = 32;
/// Bytes for everything in a body that is not a value.
const FRAME_BYTES: usize = 64 * 1024;

impl Site {
    /// The longest body of an infer request: what `queue_max` rows can take.
    pub fn body_bytes_max(&self) -> usize {
        let values = self.limits.queue_max.saturating_mul(self.signature.input.width());
        values.saturating_mul(VALUE_BYTES_MAX).saturating_add(FRAME_BYTES)
    }
}

/// How much of anything a client may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows in one request; the deployment's `queue_max`.
    pub queue_max: usize,
    /// Open connections; more wait in the kernel's backlog.
    pub connections_max: usize,
    /// Bytes of request bodies in memory, all connections together. One body of the largest size always fits.
    pub bodies_bytes_max: usize,
    /// From a connection's being idle until its next header is complete; then it is closed.
    pub header_timeout: Duration,
    /// From a request's header until its body is complete (408), and the longest that a reply may wait for its reader.
    pub body_timeout: Duration,
    /// How long a shutdown waits for admitted queries.
    pub drain: Duration,
}

impl Limits {
    /// The usual limits around a deployment's `queue_max` and the daemon's `drain_ms`.
    pub const fn new(queue_max: usize, drain: Duration) -> Self {
        Limits {
            queue_max,
            connections_max: 1024,
            bodies_bytes_max: 256 * 1024 * 1024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            drain,
        }
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

/// There is no lane of that id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no lane of that id")]
pub struct UnknownLane;
