//! Replies: a status, JSON or plain text, and nothing else.
//!
//! The one place that writes response heads, so that every error has the same shape. Bodies are whole and known in length: a reply is
//! either all there or not begun, which is why none is streamed.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{ACCEPT_ENCODING, ALLOW, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use serde::Serialize;

use super::{outputs::Written, parse::JSON_LENGTH, status::Status};
use crate::wire::{ClientError, Coding, Error};

/// What a handler gives back.
pub(super) type Reply = Response<Full<Bytes>>;

/// The JSON of an error.
#[derive(Serialize)]
pub(super) struct Problem {
    error: String,
    reason: &'static str,
    retryable: bool,
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        Problem { error: error.to_string(), reason: error.reason(), retryable: error.retryable() }
    }
}

/// `value` as JSON. Numbers that are not finite are written as `null`: JSON has no word for them.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    let body = serde_json::to_vec(value).expect("replies have string keys, and writing to memory cannot fail");
    typed(status, "application/json", body)
}

/// JSON that was written before.
pub(super) fn written(body: Bytes) -> Reply {
    typed(StatusCode::OK, "application/json", body)
}

/// The reply of an infer request, compressed as its client asks. The length of its JSON is told as it is before that.
pub(super) fn outputs(Written { body, json_bytes }: Written, coding: Coding) -> Reply {
    let (body, coding) = coding.compress(body);
    let content_type = if json_bytes.is_some() { "application/octet-stream" } else { "application/json" };
    let mut reply = typed(StatusCode::OK, content_type, body);
    if let Some(bytes) = json_bytes {
        reply.headers_mut().insert(JSON_LENGTH, HeaderValue::from(bytes));
    }
    if let Some(word) = coding.as_str() {
        reply.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(word));
    }
    reply
}

/// Prometheus' text.
pub(super) fn text(body: String) -> Reply {
    typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

/// 204.
pub(super) fn nothing() -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    reply
}

/// An error, with the headers that its status needs.
pub(super) fn error(error: &Error) -> Reply {
    refused(error, &Problem::from(error))
}

/// An error whose JSON says more than [`Problem`] does.
pub(super) fn refused(error: &Error, body: &impl Serialize) -> Reply {
    let mut reply = json(error.status(), body);
    if let Some(wait) = error.retry_after() {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    if let Error::Client(ClientError::WrongVerb { allow }) = error {
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    if let Error::Client(ClientError::WrongEncoding { .. }) = error {
        reply.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip, deflate"));
    }
    reply
}

fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}
