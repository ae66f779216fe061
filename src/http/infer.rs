//! One infer request: headers, body, admission, answers, reply.
//!
//! A request of n rows is n queries, which may run on n lanes and come back with n provenances; here they are one again. It is all or
//! none: the first row that failed fails the request. The future that waits for the answers *is* the client's interest in them: hyper drops
//! it when the client leaves, and with it [`Pending`](crate::reply::Pending).

use hyper::{HeaderMap, header::CONTENT_TYPE};

use super::{
    body::Allowance,
    coding::Coding,
    error::{ClientError, Error},
    outputs,
    parse::{Call, JSON_LENGTH, parse},
    respond,
    respond::Reply,
    route::{Asked, Shared},
};
use crate::{
    admission::{Refusal, Terms},
    clock::{Clock, Time, unix_millis},
    metrics::Answered,
    query::{Answer, Failure, Prediction, Rows},
};

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
    let clock = Clock::start();
    let Call { id, terms, wanted, rows } = parse(body.as_ref(), json_bytes, &site.signature, site.limits.queue_max)?;
    drop(body);
    let read = clock.now();
    let predictions = predictions(shared, rows, terms).await;
    let answered = clock.now();
    let predictions = predictions.inspect_err(|_| site.metrics.requests.failed(answered.since(Time::ZERO)))?;
    let written = outputs::write(site, id.as_deref(), wanted, &predictions);
    let reply = respond::outputs(written, Coding::of_reply(headers));
    let now = clock.now();
    site.metrics.requests.answered(Answered {
        rows: predictions.len(),
        whole: now.since(Time::ZERO),
        reading: read.since(Time::ZERO),
        writing: now.since(answered),
        at_millis: unix_millis(),
    });
    Ok(reply)
}

/// Admits all rows of a request, and waits for their answers.
pub(super) async fn predictions(shared: &Shared, rows: Rows, terms: Terms) -> Result<Vec<Prediction>, Error> {
    let _awaited = shared.drain.await_me();
    let pending = shared.site.admission.admit(&rows, terms)?;
    drop(rows);
    tokio::select! {
        biased;
        answers = pending => all(answers.iter()),
        () = shared.drain.over() => Err(Error::Failed { row: 0, failure: Failure::Stopped }),
    }
}

/// Absent, JSON or binary; which of the forms the body has, the header of the JSON's length says.
fn check_type(headers: &HeaderMap) -> Result<(), ClientError> {
    let expected = "application/json or application/octet-stream";
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
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(None) };
    let told = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    told.map(Some).ok_or_else(|| ClientError::field(JSON_LENGTH, "not a number of bytes"))
}

/// The predictions, or the first row's failure.
fn all<'a>(answers: impl Iterator<Item = &'a Answer>) -> Result<Vec<Prediction>, Error> {
    let numbered = answers.cloned().enumerate();
    numbered.map(|(row, answer)| answer.map_err(|failure| Error::Failed { row, failure })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Provenance;

    fn prediction(values: &[f32]) -> Prediction {
        Prediction { values: values.into(), provenance: Provenance::Direct, confidence: None }
    }

    #[test]
    fn the_first_failed_row_fails_the_request() {
        let answers = [Ok(prediction(&[1.0])), Err(Failure::QueryFault), Err(Failure::Deadline)];
        let error = all(answers.iter()).expect_err("two rows failed");
        assert_eq!(error, Error::Failed { row: 1, failure: Failure::QueryFault });
    }
}
