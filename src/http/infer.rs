//! One infer request: headers, body, admission, answers, reply.
//!
//! A request of n rows is n queries, which may run on n lanes and come back with n provenances; here they are one again. It is all or
//! none: the first row that failed fails the request. The future that waits for the answers *is* the client's interest in them: hyper drops
//! it when the client leaves, and with it [`Pending`](crate::reply::Pending).

use hyper::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use serde::{Serialize, Serializer, ser::SerializeSeq};

use super::{
    Site,
    body::Allowance,
    error::{ClientError, Error},
    parse::parse,
    respond,
    respond::Reply,
    route::{Asked, Shared},
};
use crate::{
    admission::{Refusal, Terms},
    query::{Answer, Confidence, Failure, Prediction, Provenance},
};

/// Bytes of the body that are JSON, in the binary tensor extension.
const JSON_LENGTH: &str = "inference-header-content-length";

/// Answers `POST …/infer`.
pub(super) async fn infer(shared: &Shared, asked: &mut Asked) -> Result<Reply, Error> {
    let site = &*shared.site;
    let headers = &asked.parts.headers;
    check_type(headers)?;
    let allowance =
        Allowance { bytes_max: site.body_bytes_max(), timeout: site.limits.body_timeout, budget: &shared.budget };
    let body = tokio::select! {
        biased;
        read = asked.body.read(headers, allowance) => read?,
        // A body that dribbles in does not hold up the end.
        () = shared.drain.begun() => return Err(Refusal::Draining.into()),
    };
    check_json_length(headers, body.as_ref().len())?;
    let call = parse(body.as_ref(), &site.signature, site.limits.queue_max)?;
    drop(body);
    let _awaited = shared.drain.await_me();
    let pending =
        site.admission.admit(&call.rows, Terms { accepts: call.accepts, min_confidence: call.min_confidence })?;
    drop(call.rows);
    let answers = tokio::select! {
        biased;
        answers = pending => all(answers.iter())?,
        () = shared.drain.over() => return Err(Error::Failed { row: 0, failure: Failure::Stopped }),
    };
    Ok(reply(site, call.id.as_deref(), &answers))
}

/// Absent or JSON; binary is a type of the protocol whose body may still be all JSON.
fn check_type(headers: &HeaderMap) -> Result<(), ClientError> {
    let expected = "application/json, without Content-Encoding";
    let plain =
        headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
    let known = headers
        .get(CONTENT_TYPE)
        .is_none_or(|_| is_type(headers, "application/json") || is_type(headers, "application/octet-stream"));
    if plain && known { Ok(()) } else { Err(ClientError::WrongType { expected }) }
}

/// Whether the content type is `wanted`, whatever its parameters and case.
pub(super) fn is_type(headers: &HeaderMap, wanted: &str) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case(wanted))
}

/// Clients of the binary extension tell how much of the body is JSON; only "all of it" is served.
fn check_json_length(headers: &HeaderMap, length: usize) -> Result<(), ClientError> {
    let Some(value) = headers.get(JSON_LENGTH) else { return Ok(()) };
    let field = "Inference-Header-Content-Length";
    let told = value.to_str().ok().and_then(|text| text.trim().parse::<usize>().ok());
    match told {
        Some(told) if told == length => Ok(()),
        Some(told) if told < length => Err(ClientError::BinaryTensors),
        Some(told) => Err(ClientError::field(field, format!("{told}, and the body has {length} bytes"))),
        None => Err(ClientError::field(field, "not a number of bytes")),
    }
}

/// The predictions, or the first row's failure.
fn all<'a>(answers: impl Iterator<Item = &'a Answer>) -> Result<Vec<Prediction>, Error> {
    let numbered = answers.cloned().enumerate();
    numbered.map(|(row, answer)| answer.map_err(|failure| Error::Failed { row, failure })).collect()
}

#[derive(Serialize)]
struct InferReply<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    parameters: Parameters,
    outputs: [Output<'a>; 1],
}

#[derive(Serialize)]
struct Parameters {
    provenance: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<String>,
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<usize>,
    data: Data<'a>,
}

/// All rows' values in one flat list. Values that are not finite are written as `null`.
struct Data<'a>(&'a [Prediction]);

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let count = self.0.iter().map(|prediction| prediction.values.len()).sum();
        let mut list = serializer.serialize_seq(Some(count))?;
        for value in self.0.iter().flat_map(|prediction| prediction.values.iter()) {
            list.serialize_element(value)?;
        }
        list.end()
    }
}

/// One number a row if some row was decoded and judged. The base model's own answer bears 1, the default prediction 0: neither is a
/// reconstruction, so neither number is a share of right answers.
fn confidences(predictions: &[Prediction]) -> Option<String> {
    let told = |prediction: &Prediction| {
        let unjudged = match prediction.provenance {
            Provenance::Direct => Confidence::FULL,
            Provenance::Reconstructed | Provenance::Approximate | Provenance::Default => Confidence::NONE,
        };
        prediction.confidence.unwrap_or(unjudged).to_string()
    };
    let judged = predictions.iter().any(|prediction| prediction.confidence.is_some());
    judged.then(|| predictions.iter().map(told).collect::<Vec<_>>().join(","))
}

fn reply(site: &Site, id: Option<&str>, predictions: &[Prediction]) -> Reply {
    let signature = &site.signature;
    let words = predictions.iter().map(|prediction| prediction.provenance.as_str()).collect::<Vec<_>>();
    let shape = std::iter::once(predictions.len()).chain(signature.output.shape.iter().copied());
    let body = InferReply {
        model_name: &signature.name,
        model_version: &signature.version,
        id,
        parameters: Parameters { provenance: words.join(","), confidence: confidences(predictions) },
        outputs: [Output {
            name: &signature.output.name,
            datatype: "FP32",
            shape: shape.collect(),
            data: Data(predictions),
        }],
    };
    respond::json(StatusCode::OK, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(values: &[f32]) -> Prediction {
        Prediction { values: values.into(), provenance: Provenance::Direct, confidence: None }
    }

    #[test]
    fn confidences_are_told_where_something_was_judged() {
        let of = |provenance, confidence| Prediction { provenance, confidence, ..prediction(&[1.0]) };
        let decoded = of(Provenance::Approximate, Confidence::new(0.9));
        let rows = [of(Provenance::Direct, None), decoded, of(Provenance::Default, None)];
        assert_eq!(confidences(&rows).as_deref(), Some("1,0.9,0"));
        assert_eq!(confidences(&rows[..1]), None);
    }

    #[test]
    fn values_are_short_and_exact_and_null_if_not_finite() {
        let rows = [prediction(&[0.1, f32::NAN, 16_777_216.0]), prediction(&[f32::INFINITY, -1e-45, f32::MAX])];
        let text = serde_json::to_string(&Data(&rows)).expect("JSON");
        assert_eq!(text, "[0.1,null,16777216.0,null,-1e-45,3.4028235e+38]");
    }

    #[test]
    fn the_first_failed_row_fails_the_request() {
        let answers = [Ok(prediction(&[1.0])), Err(Failure::QueryFault), Err(Failure::Deadline)];
        let error = all(answers.iter()).expect_err("two rows failed");
        assert_eq!(error, Error::Failed { row: 1, failure: Failure::QueryFault });
    }
}
