//! What the daemon tells of itself: server and model metadata, the model's configuration, statistics, the repository's index.
//!
//! Shapes and words are those that Triton's clients read. Clients act on the name of an extension, so none is listed of which a part is
//! not served: `model_repository` has an index here but no load and unload, and of `schedule_policy` only `timeout` does anything.

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Site, respond,
    respond::{Problem, Reply},
};
use crate::{
    metrics::Total,
    query::{Signature, TensorSpec},
    wire::{ClientError, EXTENSIONS, Error},
};

/// What a person sees who opens the port in a browser.
pub(super) fn root(site: &Site) -> Reply {
    let model = format!("/v2/models/{}", site.signature.name);
    let of = |what: &str| format!("{model}/{what}");
    let body = json!({
        "name": "parityd",
        "routes": [
            "/v2", "/v2/health/live", "/v2/health/ready", model, of("infer"), of("classify"), of("ready"), of("config"), of("stats"),
            "/v2/repository/index", "/metrics", "/openapi.json",
        ],
    });
    respond::json(StatusCode::OK, &body)
}

/// Answers `GET /v2`.
pub(super) fn server() -> Reply {
    let body = json!({"name": "parityd", "version": env!("CARGO_PKG_VERSION"), "extensions": EXTENSIONS});
    respond::json(StatusCode::OK, &body)
}

#[derive(Serialize)]
struct Readiness<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    ready: bool,
    #[serde(flatten)]
    problem: Option<Problem>,
}

/// Readiness is a question and no refusal, so it counts nothing.
pub(super) fn ready(site: &Site, name: Option<&str>) -> Reply {
    let Err(refusal) = site.admission.readiness() else {
        return respond::json(StatusCode::OK, &Readiness { name, ready: true, problem: None });
    };
    let error = Error::from(refusal);
    let problem = Some(Problem::from(&error));
    respond::refused(&error, &Readiness { name, ready: false, problem })
}

/// Answers `GET /v2/models/{m}`.
pub(super) fn model(site: &Site) -> Reply {
    let tensor = |spec: &TensorSpec| {
        let shape = std::iter::once(-1).chain(dims(spec));
        json!({"name": spec.name, "datatype": "FP32", "shape": shape.collect::<Vec<_>>()})
    };
    let signature = &site.signature;
    let body = json!({
        "name": signature.name,
        "versions": [signature.version],
        "platform": signature.platform,
        "inputs": [tensor(&signature.input)],
        "outputs": [tensor(&signature.output)],
    });
    respond::json(StatusCode::OK, &body)
}

/// The shape of one row.
fn dims(spec: &TensorSpec) -> impl Iterator<Item = i64> {
    spec.shape.iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX))
}

/// Answers `GET /v2/models/{m}/config`: as much of Triton's model configuration as means the same here. `max_batch_size` bounds the rows of
/// one request, as there; how many rows a lane runs at once is its own affair.
pub(super) fn config(site: &Site) -> Reply {
    let Signature { name, platform, input, output, .. } = &site.signature;
    let body = json!({
        "name": name,
        "platform": platform,
        "backend": "parityd",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": site.limits.queue_max,
        "input": [{
            "name": input.name,
            "data_type": "TYPE_FP32",
            "format": "FORMAT_NONE",
            "dims": dims(input).collect::<Vec<_>>(),
            "is_shape_tensor": false,
            "allow_ragged_batch": false,
            "optional": false,
        }],
        "output": [{
            "name": output.name,
            "data_type": "TYPE_FP32",
            "dims": dims(output).collect::<Vec<_>>(),
            "label_filename": "",
            "is_shape_tensor": false,
        }],
        "batch_input": [],
        "batch_output": [],
        "instance_group": [],
        "default_model_filename": "",
        "dynamic_batching": {},
        "model_transaction_policy": {"decoupled": false},
        "parameters": {},
    });
    respond::json(StatusCode::OK, &body)
}

/// Answers `GET /v2/models/{m}/stats` and `GET /v2/models/stats`.
pub(super) fn statistics(site: &Site) -> Reply {
    let batches = site.metrics.batches();
    let totals = site.metrics.requests.totals(batches);
    let told = |total: Total| json!({"count": total.count, "ns": total.nanos});
    let none = || told(Total::default());
    let model = json!({
        "name": site.signature.name,
        "version": site.signature.version,
        "last_inference": totals.last_millis,
        "inference_count": totals.rows,
        "execution_count": batches.count,
        "inference_stats": {
            "success": told(totals.success),
            "fail": told(totals.fail),
            "queue": told(totals.queue),
            "compute_input": told(totals.reading),
            "compute_infer": told(totals.computing),
            "compute_output": told(totals.writing),
            "cache_hit": none(),
            "cache_miss": none(),
        },
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    });
    respond::json(StatusCode::OK, &json!({"model_stats": [model]}))
}

/// The body of `POST /v2/repository/index`.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    ready: Option<bool>,
}

/// Answers `POST /v2/repository/index`: the one model, whether it is ready, and why not. An empty body asks for all models.
pub(super) fn index(site: &Site, body: &[u8]) -> Result<Reply, ClientError> {
    let body = if body.is_empty() { b"{}" } else { body };
    // A struct would be read from a list, too.
    let asked: serde_json::Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| ClientError::json(&error))?;
    let asked: Index =
        serde_json::from_value(Value::Object(asked)).map_err(|error| ClientError::field("ready", error.to_string()))?;
    let Signature { name, version, .. } = &site.signature;
    let entry = match site.admission.readiness() {
        Ok(()) => Some(json!({"name": name, "version": version, "state": "READY"})),
        Err(_) if asked.ready == Some(true) => None,
        Err(refusal) => {
            Some(json!({"name": name, "version": version, "state": "UNAVAILABLE", "reason": refusal.to_string()}))
        }
    };
    Ok(respond::json(StatusCode::OK, &entry.into_iter().collect::<Vec<_>>()))
}
