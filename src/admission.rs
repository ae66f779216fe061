//! Admission: the only place that refuses queries. (Bytes and connections for which there is no room are refused at the port, by `wire`.)

use std::time::Duration;

use crate::{
    query::{Accepts, Confidence, Rows},
    reply::Pending,
};

/// What a request asks of its answers.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Which predictions it takes.
    pub accepts: Accepts,
    /// The least confidence of a reconstruction that it takes; `None` leaves it to the policy.
    pub min_confidence: Option<Confidence>,
    /// The longest wait for an answer; `None`, or one that is longer, leaves it to the deployment's deadline.
    pub timeout: Option<Duration>,
}

/// Why a request was refused before any of its rows was admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Too many admitted rows: retry later.
    #[error(
        "the queue is full: there is no room for all rows of the request beside those that are admitted (queue_max at most)"
    )]
    Full,
    /// More rows than could ever be admitted at once.
    #[error("more than {queue_max} rows in one request")]
    TooManyRows {
        /// The limit.
        queue_max: usize,
    },
    /// It asks for confidence, and nobody can tell that of a reconstruction.
    #[error("the code is not calibrated, so that no reconstruction has a confidence")]
    NotCalibrated,
    /// Too few lanes can take work.
    #[error("lanes still load, or fewer base lanes can answer than ready_lanes_min asks for")]
    NotReady,
    /// The daemon is stopping.
    #[error("the daemon is stopping: it answers what it has admitted and takes nothing new")]
    Draining,
}

/// When a client that found no room, or a daemon that is not ready or stops, may try again.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Refusal {
    /// When a client may try again; `None` if trying again is of no use.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Refusal::Full | Refusal::NotReady | Refusal::Draining => Some(RETRY_AFTER),
            Refusal::TooManyRows { .. } | Refusal::NotCalibrated => None,
        }
    }
}

/// What both protocols ask of the engine. A trait, so that neither names anything below admission.
pub trait Admission: Send + Sync {
    /// Whether a request may be admitted at all, whatever its rows; if not, why. To be asked before they are read: where there is no room, parsing would be
    /// most of the work.
    fn has_room(&self) -> Result<(), Refusal>;

    /// Admits all rows of a request or none.
    fn admit(&self, rows: &Rows, terms: Terms) -> Result<Pending, Refusal>;

    /// Whether new requests would be admitted and have a lane to run on; if not, why.
    fn readiness(&self) -> Result<(), Refusal>;
}
