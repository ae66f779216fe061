//! One infer request: headers, body, admission, answers, reply.
//!
//! The future that waits for the answers *is* the client's interest in them: hyper drops it when the client leaves, and with it
//! [`Pending`](crate::reply::Pending).

use std::{panic, sync::Arc};

use hyper::{HeaderMap, header::CONTENT_TYPE};
use tokio::{sync::Semaphore, task::JoinError};

use super::{
    Site,
    body::Allowance,
    outputs,
    parse::{JSON_LENGTH, parse},
    respond,
    respond::Reply,
    route::{Asked, Shared},
};
use crate::{
    admission::Refusal,
    wire::{Call, ClientError, Coding, Error, Held, Timing, check_room, predictions},
};

/// A body from this length on is parsed apart: while a thread that carries sockets parses, nobody else on it is served, probes among them. A shorter body gains
/// nothing by the way to another thread and back.
const LONG: usize = 256 * 1024;
/// Bodies that are parsed apart at once: they compete with CPU lanes, and threads that carry sockets were as many.
const PARSERS: usize = 2;

/// Where long bodies are parsed.
#[derive(Debug)]
pub(super) struct Parsers(Arc<Semaphore>);

impl Default for Parsers {
    fn default() -> Self {
        Parsers(Arc::new(Semaphore::new(PARSERS)))
    }
}

impl Parsers {
    /// What a long body says. Nobody is refused because others are parsed: the budget of bodies bounds how many wait. A parse that has begun ends,
    /// though its client may have left, and its place is taken until then.
    async fn call(&self, site: &Arc<Site>, body: Held, json_bytes: Option<usize>) -> Result<Call, Error> {
        let place = Arc::clone(&self.0).acquire_owned().await.expect("the semaphore is never closed");
        // The last of it may have gone meanwhile.
        site.admission.has_room()?;
        let site = Arc::clone(site);
        let parsed = tokio::task::spawn_blocking(move || {
            let _place = place;
            parse(body.as_ref(), json_bytes, &site.signature, site.limits.queue_max)
        });
        match parsed.await.map_err(JoinError::try_into_panic) {
            Ok(call) => Ok(call?),
            // A bug, which ends the connection as it would on a thread that carries sockets.
            Err(Ok(bug)) => panic::resume_unwind(bug),
            Err(Err(_)) => Err(Refusal::Draining.into()),
        }
    }
}

/// Answers `POST …/infer`.
pub(super) async fn infer(shared: &Shared, asked: &mut Asked) -> Result<Reply, Error> {
    let site = &*shared.site;
    let headers = &asked.parts.headers;
    check_type(headers)?;
    let json_bytes = json_bytes(headers)?;
    let allowance =
        Allowance { bytes_max: site.body_bytes_max(), timeout: site.limits.body_timeout, budget: &shared.budget };
    let body = tokio::select! {
        biased;
        read = asked.body.read(headers, allowance) => read?,
        // A body that dribbles in does not hold up the end.
        () = shared.drain.begun() => return Err(Refusal::Draining.into()),
    };
    let mut timing = Timing::start();
    check_room(&*site.admission, &site.metrics, &mut timing)?;
    let call = call(shared, body, json_bytes).await;
    // A refusal counts as that of any request that came whole; a client's mistake does not.
    if let Err(Error::Refused(_)) = &call {
        timing.answered(&site.metrics, &call);
    }
    let Call { id, terms, wanted, rows } = call?;
    timing.read();
    let predictions = predictions(&*site.admission, &shared.drain, rows, terms).await;
    timing.answered(&site.metrics, &predictions);
    let predictions = predictions?;
    let written = outputs::write(site, id.as_deref(), wanted, &predictions);
    let reply = respond::outputs(written, Coding::of_reply(headers));
    timing.written(&site.metrics, predictions.len());
    Ok(reply)
}

/// What a body says; it is let go of then.
async fn call(shared: &Shared, body: Held, json_bytes: Option<usize>) -> Result<Call, Error> {
    let site = &shared.site;
    if body.as_ref().len() < LONG {
        return Ok(parse(body.as_ref(), json_bytes, &site.signature, site.limits.queue_max)?);
    }
    tokio::select! {
        biased;
        call = shared.parsers.call(site, body, json_bytes) => call,
        () = shared.drain.begun() => Err(Refusal::Draining.into()),
    }
}

/// Absent, JSON or binary; which of the forms the body has, the header of the JSON's length says.
fn check_type(headers: &HeaderMap) -> Result<(), ClientError> {
    let expected = "application/json or application/octet-stream; with curl, add -H 'Content-Type: application/json'";
    let known = headers
        .get(CONTENT_TYPE)
        .is_none_or(|_| is_type(headers, "application/json") || is_type(headers, "application/octet-stream"));
    if known { Ok(()) } else { Err(ClientError::WrongType { expected }) }
}

/// Whether the content type is `wanted`, whatever its parameters and case.
pub(super) fn is_type(headers: &HeaderMap, wanted: &str) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(wanted))
}

/// How much of the body is JSON, if the client says.
fn json_bytes(headers: &HeaderMap) -> Result<Option<usize>, ClientError> {
    let mut values = headers.get_all(JSON_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ClientError::field(JSON_LENGTH, "sent more than once"));
    }
    let told = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    told.map(Some).ok_or_else(|| ClientError::field(JSON_LENGTH, "not a number of bytes"))
}
