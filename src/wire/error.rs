//! Everything that can go wrong with a request, whichever protocol brought it, and the one place that says what it means.
//!
//! Each error knows its `reason` word and whether the same request may succeed later; `http` and `grpc` say which status that is in theirs. There is
//! no variant for a bug and none that becomes a 500: what a client sends is refused by name, and what we cannot do now is one of admission's
//! refusals.

use std::{borrow::Cow, time::Duration};

use crate::{
    admission::{RETRY_AFTER, Refusal},
    metrics::Metrics,
    query::Failure,
};

/// The longest text that an error repeats from a client, in bytes.
const TEXT_BYTES_MAX: usize = 300;

/// The request parameter that asks for confidence.
pub(crate) const MIN_CONFIDENCE: &str = "parameters.min_confidence";

/// There is no lane of that id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no lane of that id")]
pub struct UnknownLane;

/// A request that is wrong in itself: sending it again is of no use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ClientError {
    /// No such route.
    #[error("there is nothing at {path}")]
    UnknownRoute {
        /// As it was asked for.
        path: String,
    },
    /// Another model's name.
    #[error("there is no model {name:?}; this daemon serves {served:?}")]
    UnknownModel {
        /// As it was asked for.
        name: String,
        /// The deployment.
        served: String,
    },
    /// Another version of the model.
    #[error("there is no version {version:?}; this daemon serves {served:?}")]
    UnknownVersion {
        /// As it was asked for.
        version: String,
        /// The deployment's.
        served: String,
    },
    /// An admin route for a lane that is not there.
    #[error(transparent)]
    UnknownLane(#[from] UnknownLane),
    /// The route takes other verbs.
    #[error("this route takes {allow}")]
    WrongVerb {
        /// The `Allow` header.
        allow: &'static str,
    },
    /// The body is not JSON, or a field has the wrong type.
    #[error("{0}")]
    Json(String),
    /// A field has the right type and the wrong value.
    #[error("{field}: {problem}")]
    Field {
        /// Its path in the body, or a header's name.
        field: Cow<'static, str>,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The body broke off or its chunks are malformed.
    #[error("the body could not be read to its end")]
    BrokenBody,
    /// A foreign page's script.
    #[error("requests from other origins are refused")]
    ForeignOrigin,
    /// The body did not come in time.
    #[error("the body did not arrive within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    /// The call's own deadline, which only gRPC has, came before its message did.
    #[error("the call's own deadline is over")]
    CallDeadline,
    /// Neither `Content-Length` nor chunks.
    #[error("a length is required: send Content-Length or Transfer-Encoding: chunked")]
    NoLength,
    /// The body is longer than any valid one.
    #[error("the body is longer than {bytes_max} bytes")]
    BodyTooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// More rows than could ever be admitted at once.
    #[error(
        "inputs[0].shape: more than {queue_max} rows in one request, which is the deployment's queue_max; send fewer at once"
    )]
    TooManyRows {
        /// The limit.
        queue_max: usize,
    },
    /// Neither of the accepted content types.
    #[error("the body must be {expected}")]
    WrongType {
        /// What it must be, and how to say so.
        expected: &'static str,
    },
    /// A compression that is not known.
    #[error("Content-Encoding: {told:?} is none of gzip, deflate")]
    WrongEncoding {
        /// As the client told it.
        told: String,
    },
    /// The picture cannot be read, or is none.
    #[error("picture: {problem}")]
    Picture {
        /// What is wrong.
        problem: String,
    },
    /// The picture would take too much memory; it was not decoded.
    #[error(
        "picture: {width} x {height} pixels are too many: at most {bytes_max} bytes as decoded, and {edge_max} pixels on an edge; send a smaller one"
    )]
    PictureTooLarge {
        /// As its header says.
        width: u32,
        /// As its header says.
        height: u32,
        /// The limit, of the picture as decoded.
        bytes_max: u64,
        /// The limit of width and height.
        edge_max: u32,
    },
    /// A part of Triton's protocol that has no place here.
    #[error("{what} not served here: docs/compat.md tells what is")]
    NotServed {
        /// With its verb: "trace settings are".
        what: &'static str,
    },
}

impl ClientError {
    /// What serde said about a body, cut to a length that is safe to send back.
    pub(crate) fn json(error: &serde_json::Error) -> Self {
        ClientError::Json(cut(error.to_string()))
    }

    /// A field with a wrong value.
    pub(crate) fn field(field: impl Into<Cow<'static, str>>, problem: impl Into<String>) -> Self {
        ClientError::Field { field: field.into(), problem: cut(problem.into()) }
    }

    /// A picture that cannot be read.
    pub(crate) fn picture(problem: impl Into<String>) -> Self {
        ClientError::Picture { problem: cut(problem.into()) }
    }

    /// The `reason` on the wire and in `parityd_errors_total`.
    pub const fn reason(&self) -> &'static str {
        match self {
            ClientError::UnknownRoute { .. } => "unknown_route",
            ClientError::UnknownModel { .. } => "unknown_model",
            ClientError::UnknownVersion { .. } => "unknown_version",
            ClientError::UnknownLane(_) => "unknown_lane",
            ClientError::WrongVerb { .. } => "wrong_verb",
            ClientError::Json(_) => "bad_json",
            ClientError::Field { .. } => "bad_field",
            ClientError::BrokenBody => "broken_body",
            ClientError::ForeignOrigin => "foreign_origin",
            ClientError::Timeout(_) => "body_timeout",
            ClientError::CallDeadline => "deadline",
            ClientError::NoLength => "no_length",
            ClientError::BodyTooLong { .. } => "body_too_long",
            ClientError::TooManyRows { .. } => "too_many_rows",
            ClientError::WrongType { .. } => "wrong_content_type",
            ClientError::WrongEncoding { .. } => "wrong_content_encoding",
            ClientError::Picture { .. } => "bad_picture",
            ClientError::PictureTooLarge { .. } => "picture_too_large",
            ClientError::NotServed { .. } => "not_served",
        }
    }
}

/// Of what there is too much for one more request to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Crowd {
    /// Bytes of bodies in memory.
    #[error("too many request bodies at once")]
    Bodies,
    /// Pictures that wait to be decoded.
    #[error("too many pictures at once")]
    Pictures,
    /// Connections: somebody else needed this one's place before its request was whole.
    #[error("too many connections at once: this one was needed before the request was whole")]
    Connections,
}

/// Why a request gets no prediction.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The request is wrong.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Others have what it takes.
    #[error(transparent)]
    Busy(#[from] Crowd),
    /// Admission refused it.
    #[error(transparent)]
    Refused(Refusal),
    /// One of its rows failed after it was admitted.
    #[error("row {row}: {failure}")]
    Failed {
        /// The first row that failed.
        row: usize,
        /// Why.
        failure: Failure,
    },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooManyRows { queue_max } => ClientError::TooManyRows { queue_max }.into(),
            Refusal::NotCalibrated => ClientError::field(MIN_CONFIDENCE, refusal.to_string()).into(),
            Refusal::Full | Refusal::NotReady | Refusal::Draining => Error::Refused(refusal),
        }
    }
}

impl Error {
    /// The `reason` on the wire and in `parityd_errors_total`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Error::Client(error) => error.reason(),
            Error::Busy(_) | Error::Refused(Refusal::Full) => "full",
            Error::Refused(Refusal::TooManyRows { .. }) => "too_many_rows",
            Error::Refused(Refusal::NotCalibrated) => "bad_field",
            Error::Refused(Refusal::NotReady) => "not_ready",
            Error::Refused(Refusal::Draining) => "draining",
            Error::Failed { failure, .. } => failure.reason(),
        }
    }

    /// Whether the same request may succeed later.
    pub const fn retryable(&self) -> bool {
        match self {
            Error::Client(ClientError::Timeout(_) | ClientError::CallDeadline) | Error::Busy(_) => true,
            Error::Client(_) => false,
            Error::Refused(refusal) => refusal.retry_after().is_some(),
            Error::Failed { failure, .. } => match failure {
                Failure::Deadline | Failure::Stopped => true,
                Failure::QueryFault => false,
            },
        }
    }

    /// When to come back, if something says so: what is full, not ready or stopping. In HTTP, every 429 and 503 has one.
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Refused(refusal) => refusal.retry_after(),
            Error::Busy(_) | Error::Failed { failure: Failure::Stopped, .. } => Some(RETRY_AFTER),
            Error::Client(_) | Error::Failed { failure: Failure::Deadline | Failure::QueryFault, .. } => None,
        }
    }

    /// Counts what was refused before it was admitted, and what the end of the daemon cut off. Queries that failed otherwise are the engine's to count.
    pub(crate) fn count(&self, metrics: &Metrics) {
        match self {
            Error::Client(_) | Error::Busy(_) | Error::Refused(_) | Error::Failed { failure: Failure::Stopped, .. } => {
                metrics.failed(self.reason(), 1);
            }
            Error::Failed { failure: Failure::Deadline | Failure::QueryFault, .. } => {}
        }
    }
}

/// `text`, or as much of it as an error may repeat.
pub(crate) fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is counted once, by whoever knows of it first.
    #[test]
    fn what_the_engine_counts_is_not_counted_again() {
        let metrics = Metrics::new("m", 1);
        for failure in [Failure::Stopped, Failure::Deadline, Failure::QueryFault] {
            Error::Failed { row: 0, failure }.count(&metrics);
        }
        Error::Refused(Refusal::Draining).count(&metrics);
        let text = metrics.text();
        for (reason, count) in [("stopped", 1), ("deadline", 0), ("query_fault", 0), ("draining", 1)] {
            let line = format!("parityd_errors_total{{reason=\"{reason}\"}} {count}");
            assert!(text.contains(&line), "{line} is missing from\n{text}");
        }
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(cut("short".into()), "short");
        let long = cut("é".repeat(400));
        assert!(long.len() <= TEXT_BYTES_MAX + '…'.len_utf8() && long.ends_with('…'));
    }
}
