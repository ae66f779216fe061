//! What both protocols share: every rule about a request and its answer that does not depend on how its bytes are laid out.
//!
//! `http` and `grpc` read bytes and write bytes. What a request may say, what is refused and why, how its rows are admitted and awaited, what
//! is told of its predictions, how much of anything a client may take, and how the end of the daemon goes: that is here, once, so that a
//! client which changes protocol meets nothing new. What always holds: nothing here reads or writes a head, a status or a message of either; it names what both have.
//!
//! `held` and `inflate` take what comes; `asked`, `signature` and `datatype` check; `ask` admits and waits; `outputs` tells; `trace` names requests in the log; `accept`, `places`, `budget`, `patience` and `drain` bound.

mod accept;
mod ask;
mod asked;
mod budget;
mod datatype;
mod drain;
mod error;
mod held;
mod inflate;
mod outputs;
mod patience;
mod places;
mod signature;
mod trace;

use std::time::Duration;

pub(crate) use accept::Door;
pub(crate) use ask::{Asking, Timing, check_room, predictions};
pub use asked::{Form, Wanted};
pub(crate) use asked::{Output, Parameters, Scalar, check_id, no_shared_memory, whole};
pub(crate) use budget::{Budget, Claim};
pub(crate) use datatype::{Datatype, Number};
pub(crate) use drain::{Awaited, Drain};
pub use error::{ClientError, Crowd, Error, UnknownLane};
pub(crate) use error::{MIN_CONFIDENCE, cut};
pub(crate) use held::Held;
pub(crate) use inflate::{Coding, Inflater};
pub(crate) use outputs::{Contents, confidences, highest, provenances, values};
pub(crate) use patience::Patience;
pub(crate) use places::{Activity, Arriving, Busy, LAST_BYTES, Place, Places};
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

/// Connections that have a place beside those of queries that are admitted: kept ones that rest, and those that are being refused.
const CONNECTIONS_BESIDE: usize = 3072;
/// A connection takes a few tens of kilobytes.
const CONNECTIONS_MOST: usize = 16_384;
/// Open files for anything but connections: lanes, drivers, the log.
const DESCRIPTORS_BESIDE: usize = 256;

/// How much of anything a client may take, through one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows in one request; the deployment's `queue_max`.
    pub queue_max: usize,
    /// Open connections; for each that comes beyond them one that rests is closed, or it waits in the system's backlog. More than queries can be
    /// admitted: who comes to a daemon that has enough to do is told so (429), and does not hang at its port.
    pub connections_max: usize,
    /// How long a connection keeps its place although others wait for one: since it came, or since its last answer.
    pub place_kept: Duration,
    /// Bytes of request bodies in memory, all connections together. One row always fits.
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
    pub fn new(queue_max: usize, drain: Duration) -> Self {
        Limits {
            queue_max,
            connections_max: queue_max.saturating_add(CONNECTIONS_BESIDE).min(CONNECTIONS_MOST),
            place_kept: PLACE_KEPT,
            bodies_bytes_max: 256 * 1024 * 1024,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            drain,
        }
    }

    /// Files that a process has open with so many such `ports`.
    pub(crate) const fn descriptors(&self, ports: usize) -> usize {
        self.connections_max.saturating_mul(ports).saturating_add(DESCRIPTORS_BESIDE)
    }

    /// The same, for each of so many `ports` of a process that may have so many files open.
    pub(crate) fn within(self, descriptors: usize, ports: usize) -> Self {
        // Of few, half are for connections.
        let beside = DESCRIPTORS_BESIDE.min(descriptors / 2);
        let connections = (descriptors - beside) / ports.max(1);
        Limits { connections_max: self.connections_max.min(connections).max(1), ..self }
    }

    /// The longest request: what `queue_max` rows can take, and no more than all bodies together may, unless a single row does. Large rows would raise that
    /// limit to gigabytes, for requests that nobody sends.
    pub fn body_bytes_max(&self, signature: &Signature) -> usize {
        let row = signature.input.width().saturating_mul(VALUE_BYTES_MAX);
        let of = |rows: usize| row.saturating_mul(rows).saturating_add(FRAME_BYTES);
        of(self.queue_max).min(self.bodies_bytes_max.max(of(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::TensorSpec;

    #[test]
    fn a_port_has_more_places_than_queries_can_be_admitted() {
        let places = |queue_max| Limits::new(queue_max, Duration::ZERO).connections_max;
        assert_eq!([8, 1024, 13_312, 1_048_576].map(places), [3080, 4096, 16_384, 16_384]);
    }

    #[test]
    fn a_body_takes_no_more_than_all_may_but_for_a_single_row() {
        let longest = |shape: &[usize]| {
            let tensor = |shape: &[usize]| TensorSpec { name: "any".into(), shape: shape.to_vec() };
            let (input, output) = (tensor(shape), tensor(&[1]));
            let [name, version, platform] = [(); 3].map(|()| "any".to_owned());
            let signature =
                Signature { name, version, platform, input, input_range: (0.0, 1.0), output, labels: Vec::new() };
            Limits::new(1024, Duration::ZERO).body_bytes_max(&signature)
        };
        assert_eq!(longest(&[1, 28, 28]), 1024 * 784 * 32 + 64 * 1024);
        assert_eq!(longest(&[3, 224, 224]), 256 * 1024 * 1024, "and not 4.9 GB");
        assert_eq!(longest(&[3, 2048, 2048]), 3 * 2048 * 2048 * 32 + 64 * 1024);
    }

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        let places = |files, ports| Limits::new(1024, Duration::ZERO).within(files, ports).connections_max;
        assert_eq!(places(1_048_576, 2), 4096);
        assert_eq!([places(4096, 1), places(4096, 2)], [3840, 1920]);
        assert_eq!([places(1024, 2), places(256, 2), places(256, 1), places(0, 0)], [384, 64, 128, 1]);
        let usual = Limits::new(1024, Duration::ZERO);
        assert_eq!(usual.within(usual.descriptors(2), 2), usual, "none is lacking, and none too many");
        assert_ne!(usual.within(usual.descriptors(2) - 2, 2), usual);
    }
}
