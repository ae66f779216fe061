//! Which status of HTTP an error is.

use hyper::StatusCode;

use crate::{
    admission::Refusal,
    query::Failure,
    wire::{ClientError, Error},
};

/// What has a status.
pub(super) trait Status {
    /// The status on the wire; of what a client did wrong, always a 4xx.
    fn status(&self) -> StatusCode;
}

impl Status for ClientError {
    fn status(&self) -> StatusCode {
        match self {
            ClientError::UnknownRoute { .. }
            | ClientError::UnknownModel { .. }
            | ClientError::UnknownVersion { .. }
            | ClientError::UnknownLane(_)
            | ClientError::NotServed { .. } => StatusCode::NOT_FOUND,
            ClientError::WrongVerb { .. } => StatusCode::METHOD_NOT_ALLOWED,
            ClientError::Json(_)
            | ClientError::Field { .. }
            | ClientError::BrokenBody
            | ClientError::Picture { .. } => StatusCode::BAD_REQUEST,
            ClientError::ForeignOrigin => StatusCode::FORBIDDEN,
            ClientError::Timeout(_) => StatusCode::REQUEST_TIMEOUT,
            ClientError::CallDeadline => StatusCode::GATEWAY_TIMEOUT,
            ClientError::NoLength => StatusCode::LENGTH_REQUIRED,
            ClientError::BodyTooLong { .. } | ClientError::TooManyRows { .. } | ClientError::PictureTooLarge { .. } => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            ClientError::WrongType { .. } | ClientError::WrongEncoding { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

impl Status for Error {
    fn status(&self) -> StatusCode {
        match self {
            Error::Client(error) => error.status(),
            Error::Busy(_) | Error::Refused(Refusal::Full) => StatusCode::TOO_MANY_REQUESTS,
            Error::Refused(Refusal::TooManyRows { .. }) => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Refused(Refusal::NotCalibrated) => StatusCode::BAD_REQUEST,
            Error::Refused(Refusal::NotReady | Refusal::Draining) | Error::Failed { failure: Failure::Stopped, .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Failed { failure: Failure::Deadline, .. } => StatusCode::GATEWAY_TIMEOUT,
            Error::Failed { failure: Failure::QueryFault, .. } => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Crowd;

    #[test]
    fn every_429_and_503_says_when_to_come_back_and_is_retryable() {
        let errors = [
            Error::Busy(Crowd::Bodies),
            Refusal::Full.into(),
            Refusal::NotReady.into(),
            Refusal::Draining.into(),
            Refusal::TooManyRows { queue_max: 1 }.into(),
            Refusal::NotCalibrated.into(),
            Error::Failed { row: 0, failure: Failure::Stopped },
            Error::Failed { row: 0, failure: Failure::Deadline },
            Error::Failed { row: 0, failure: Failure::QueryFault },
        ];
        for error in errors {
            let waits = matches!(error.status().as_u16(), 429 | 503);
            assert_eq!(error.retry_after().is_some(), waits, "{error}");
            assert!(!waits || error.retryable(), "{error}");
            assert_ne!(error.status().as_u16(), 500);
        }
    }
}
