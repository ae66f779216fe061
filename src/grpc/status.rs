//! Which status of gRPC an error is, and what goes with it.
//!
//! The message is the text that HTTP has in `error`; `reason` and `retryable` are metadata of the same names. What may be tried again says when
//! in `grpc-retry-pushback-ms`, the word of gRPC for that, which clients with a retry policy obey.

use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};

use super::{Caller, Shared};
use crate::{
    admission::Refusal,
    query::Failure,
    wire::{ClientError, Error, cut},
};

/// The code of an error.
pub(super) const fn code(error: &Error) -> Code {
    match error {
        Error::Client(error) => code_of_client(error),
        Error::Busy(_) | Error::Refused(Refusal::Full) => Code::ResourceExhausted,
        Error::Refused(Refusal::TooManyRows { .. } | Refusal::NotCalibrated)
        | Error::Failed { failure: Failure::QueryFault, .. } => Code::InvalidArgument,
        Error::Refused(Refusal::NotReady | Refusal::Draining) | Error::Failed { failure: Failure::Stopped, .. } => {
            Code::Unavailable
        }
        Error::Failed { failure: Failure::Deadline, .. } => Code::DeadlineExceeded,
    }
}

const fn code_of_client(error: &ClientError) -> Code {
    match error {
        ClientError::UnknownModel { .. } | ClientError::UnknownVersion { .. } | ClientError::UnknownLane(_) => {
            Code::NotFound
        }
        ClientError::UnknownRoute { .. } | ClientError::NotServed { .. } | ClientError::WrongVerb { .. } => {
            Code::Unimplemented
        }
        ClientError::Timeout(_) | ClientError::CallDeadline => Code::DeadlineExceeded,
        ClientError::Json(_)
        | ClientError::Field { .. }
        | ClientError::BrokenBody
        | ClientError::ForeignOrigin
        | ClientError::NoLength
        | ClientError::BodyTooLong { .. }
        | ClientError::TooManyRows { .. }
        | ClientError::WrongType { .. }
        | ClientError::WrongEncoding { .. }
        | ClientError::Picture { .. }
        | ClientError::PictureTooLarge { .. } => Code::InvalidArgument,
    }
}

/// A code of [`code`] as gRPC spells it.
pub(super) const fn word(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Unavailable => "UNAVAILABLE",
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => "UNKNOWN",
    }
}

/// An error as a client sees it.
pub(super) fn status(error: &Error) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("reason", MetadataValue::from_static(error.reason()));
    metadata.insert("retryable", MetadataValue::from_static(if error.retryable() { "true" } else { "false" }));
    if let Some(wait) = error.retry_after() {
        let millis = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        metadata.insert("grpc-retry-pushback-ms", MetadataValue::from(millis));
    }
    Status::with_metadata(code(error), error.to_string(), metadata)
}

/// Which error of ours a refusal is that tonic made by itself, before a method saw the request; `None` if it is ours already, or a word that is
/// gRPC's own and right as it is.
///
/// tonic knows as INTERNAL whatever cannot be decoded. To a client that is a bug of the server's, which may go away.
pub(super) fn of_tonic(status: &Status, shared: &Shared, Caller(caller): &Caller) -> Option<Error> {
    if status.metadata().contains_key("reason") {
        return None;
    }
    let site = &shared.site;
    let bytes_max = site.limits.body_bytes_max(&site.signature);
    // Its other use of the word is for a compression that it does not know, and tells those that it does.
    if status.code() == Code::Unimplemented && status.message().is_empty() {
        return Some(ClientError::UnknownRoute { path: cut(caller.0.clone()) }.into());
    }
    let known = [
        (Code::Internal, ClientError::field("message", status.message())),
        (Code::ResourceExhausted, ClientError::BodyTooLong { bytes_max }),
    ];
    known.into_iter().find_map(|(code, error)| (code == status.code()).then(|| error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Crowd;

    #[test]
    fn what_may_be_tried_again_has_a_code_that_clients_try_again() {
        for error in [
            Error::Busy(Crowd::Bodies),
            Refusal::Full.into(),
            Refusal::NotReady.into(),
            Refusal::Draining.into(),
            Refusal::TooManyRows { queue_max: 1 }.into(),
            Refusal::NotCalibrated.into(),
            Error::Failed { row: 0, failure: Failure::Stopped },
            Error::Failed { row: 0, failure: Failure::Deadline },
            Error::Failed { row: 0, failure: Failure::QueryFault },
        ] {
            let status = status(&error);
            let waits = matches!(status.code(), Code::ResourceExhausted | Code::Unavailable);
            let told = |key| status.metadata().get(key).and_then(|value| value.to_str().ok());
            assert_eq!(told("grpc-retry-pushback-ms"), waits.then_some("1000"), "{error}");
            assert_eq!(told("retryable"), Some(if error.retryable() { "true" } else { "false" }), "{error}");
            assert_eq!((told("reason"), status.message()), (Some(error.reason()), error.to_string().as_str()));
            assert_ne!(word(status.code()), "UNKNOWN", "{error}");
            assert_eq!(status.code() == Code::InvalidArgument, !error.retryable(), "{error}");
        }
    }
}
