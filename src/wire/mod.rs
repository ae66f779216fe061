//! What both protocols share: every rule about a request and its answer that does not depend on how its bytes are laid out.
//!
//! `http` and `grpc` read bytes and write bytes. What a request may say, what is refused and why, how its rows are admitted and awaited, what
//! is told of its predictions, how much of anything a client may take, and how the end of the daemon goes: that is here, once, so that a
//! client which changes protocol meets nothing new. What always holds: nothing here knows a status, a header or a message of either.
//!
//! `asked`, `signature` and `datatype` check; `ask` admits and waits; `outputs` tells; `trace` names requests in the log; `accept`, `places`, `budget`, `patience` and `drain` bound.

mod accept;
mod ask;
mod asked;
mod budget;
mod datatype;
mod drain;
mod error;
mod outputs;
mod patience;
mod places;
mod signature;
mod trace;

use std::time::Duration;

pub(crate) use accept::Door;
pub(crate) use ask::{Asking, Timing, predictions};
pub use asked::{Form, Wanted};
pub(crate) use asked::{Output, Parameters, Scalar, no_shared_memory, whole};
pub(crate) use budget::{Budget, Claim};
pub(crate) use datatype::{Datatype, Number};
pub(crate) use drain::{Awaited, Drain};
pub use error::{ClientError, Error, UnknownLane};
pub(crate) use error::{MIN_CONFIDENCE, cut};
pub(crate) use outputs::{Contents, confidences, highest, provenances, values};
pub(crate) use patience::Patience;
pub(crate) use places::{Activity, Busy, Place, Places};
pub(crate) use signature::DIMS_MAX;
pub(crate) use trace::{REQUEST_ID, TRACE_PARENT, Trace, Traces};

use crate::{
    admission::Terms,
    query::{Rows, Signature},
};

/// Extensions of the protocol that are served whole: clients act on the name of one.
pub(crate) const EXTENSIONS: [&str; 4] = ["classification", "model_configuration", "binary_tensor_data", "statistics"];

/// An infer request that can be admitted.
#[derive(Clone, Debug)]
pub struct Call {
    /// To be repeated in the reply, even if it is empty.
    pub id: Option<String>,
    /// What the client asks of the answers.
    pub terms: Terms,
    /// How it wants the output.
    pub wanted: Wanted,
    /// At least one row, each as wide as the input.
    pub rows: Rows,
}

/// Bytes that one value may take in a request: in JSON, a double printed in full, with its separator and indentation.
const VALUE_BYTES_MAX: usize = 32;
/// Bytes for everything in a body that is not a value.
const FRAME_BYTES: usize = 64 * 1024;

/// Long enough that opening connections does not become most of the work, and shorter than the second for which orchestrators wait for a probe.
const PLACE_KEPT: Duration = Duration::from_millis(500);

/// How much of anything a client may take, through one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows in one request; the deployment's `queue_max`.
    pub queue_max: usize,
    /// Open connections; for each that comes beyond them one that rests is closed, or it waits in the system's backlog.
    pub connections_max: usize,
    /// How long a connection keeps its place although others wait for one: since it came, or since its last answer.
    pub place_kept: Duration,
    /// Bytes of request bodies in memory, all connections together. One body of the largest size always fits.
    pub bodies_bytes_max: usize,
    /// From a connection's being idle until its next header is complete; then it is closed.
    pub header_timeout: Duration,
    /// From a request's header until its body is complete (408), and the longest that a reply may take to be read.
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
            place_kept: PLACE_KEPT,
            bodies_bytes_max: 256 * 1024 * 1024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            drain,
        }
    }

    /// The longest request: what `queue_max` rows can take.
    pub fn body_bytes_max(&self, signature: &Signature) -> usize {
        let values = self.queue_max.saturating_mul(signature.input.width());
        values.saturating_mul(VALUE_BYTES_MAX).saturating_add(FRAME_BYTES)
    }
}
