//! `GET /openapi.json`: the port, for programs that make clients or tests of it.
//!
//! The document is written by hand in `openapi.json` beside this file, because what it says (which field means what, which refusal comes where)
//! stands in no type. What follows from it is made here instead of written again: every route of a model is also there with a version, every
//! GET is also a HEAD, every request may have an id and every reply has one. Then it is held to the deployment: its name, its
//! version, its tensors, and no admin routes where there are none. It is made once, when the port opens.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::Site;
use crate::query::Signature;

const WRITTEN: &str = include_str!("openapi.json");
/// How a model's routes begin.
const MODEL: &str = "/v2/models/{model}";

/// The document of this port.
pub(super) fn document(site: &Site) -> Bytes {
    let mut document = read();
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    let Some(Value::Object(written)) = document.get_mut("paths").map(Value::take) else {
        unreachable!("openapi.json has paths, as a test sees");
    };
    let mut paths = Map::new();
    for (path, item) in written {
        if path.starts_with("/admin/") && site.lanes.is_none() {
            continue;
        }
        if let Some(rest) = path.strip_prefix(MODEL) {
            let versioned = with_parameters(item.clone(), &["Model", "Version"]);
            paths.insert(format!("{MODEL}/versions/{{version}}{rest}"), renamed(versioned));
            paths.insert(path, with_parameters(item, &["Model"]));
        } else {
            paths.insert(path, with_parameters(item, &[]));
        }
    }
    paths.values_mut().for_each(complete);
    document["paths"] = Value::Object(paths);
    for response in values(&mut document["components"]["responses"]) {
        response["headers"]["x-request-id"] = reference("headers", "x-request-id");
    }
    narrow(&mut document["components"], &site.signature, site.limits.queue_max);
    Bytes::from(document.to_string())
}

fn read() -> Value {
    serde_json::from_str(WRITTEN).expect("openapi.json is JSON, as a test sees")
}

fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}

fn values(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    object.as_object_mut().into_iter().flat_map(Map::values_mut)
}

/// What a path's item does, its parameters left out.
fn operations(item: &mut Value) -> impl Iterator<Item = &mut Value> {
    let entries = item.as_object_mut().into_iter().flat_map(Map::iter_mut);
    entries.filter(|(name, _)| *name != "parameters").map(|(_, operation)| operation)
}

/// `item` with the parameters of its path and those that every request may have.
fn with_parameters(mut item: Value, of_path: &[&str]) -> Value {
    let own = item["parameters"].as_array().cloned().unwrap_or_default();
    let others = of_path.iter().chain(&["RequestId", "TraceParent"]).map(|name| reference("parameters", name));
    item["parameters"] = others.chain(own).collect();
    item
}

/// The operations of a path with a version, which have names of their own.
fn renamed(mut item: Value) -> Value {
    for operation in operations(&mut item) {
        let name = operation["operationId"].as_str().map(|name| format!("{name}OfVersion"));
        operation["operationId"] = json!(name);
    }
    item
}

/// Adds HEAD to GET, and the request's id to replies that are written where they are given.
fn complete(item: &mut Value) {
    if let Some(mut head) = item.get("get").cloned() {
        let name = head["operationId"].as_str().map(|name| format!("{name}Head"));
        head["operationId"] = json!(name);
        for response in values(&mut head["responses"]) {
            *response = json!({"description": "The head alone of what GET gives"});
        }
        item["head"] = head;
    }
    for operation in operations(item) {
        for response in values(&mut operation["responses"]).filter(|response| response.get("$ref").is_none()) {
            response["headers"]["x-request-id"] = reference("headers", "x-request-id");
        }
    }
}

/// Holds the parameters and tensors to the deployment, and shows a request that it answers.
fn narrow(components: &mut Value, signature: &Signature, queue_max: usize) {
    let Signature { name, version, input, output, .. } = signature;
    components["parameters"]["Model"]["schema"] = json!({"type": "string", "enum": [name]});
    components["parameters"]["Version"]["schema"] = json!({"type": "string", "enum": [version]});
    let request = &mut components["schemas"]["InferRequest"];
    let tensor = &mut request["properties"]["inputs"]["items"]["properties"];
    tensor["name"] = json!({"const": input.name});
    let dims = input.shape.iter().map(|dim| json!({"const": dim}));
    let shape =
        std::iter::once(json!({"type": "integer", "minimum": 1, "maximum": queue_max})).chain(dims).collect::<Vec<_>>();
    tensor["shape"] = json!({"type": "array", "prefixItems": shape, "minItems": shape.len(), "maxItems": shape.len()});
    request["properties"]["outputs"]["items"]["properties"]["name"] = json!({"const": output.name});
    let shape: Vec<usize> = std::iter::once(1).chain(input.shape.iter().copied()).collect();
    let row = vec![signature.input_range.0; input.width()];
    request["examples"] = json!([{
        "inputs": [{"name": input.name, "shape": shape, "datatype": "FP32", "data": row}],
    }]);
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::{
        admission::Refusal,
        http::{
            route::{Target, target},
            status::Status,
        },
        query::Failure,
        wire::{ClientError, Error, UnknownLane},
    };

    fn paths() -> BTreeSet<String> {
        read()["paths"].as_object().expect("paths").keys().cloned().collect()
    }

    /// What the document calls a route; none for those that are there to say that they are not.
    fn path_of(target: &Target) -> Option<&'static str> {
        Some(match target {
            Target::Root => "/",
            Target::Server => "/v2",
            Target::Live => "/v2/health/live",
            Target::Ready => "/v2/health/ready",
            Target::Model(_) => "/v2/models/{model}",
            Target::ModelReady(_) => "/v2/models/{model}/ready",
            Target::Config(_) => "/v2/models/{model}/config",
            Target::Statistics(_) => "/v2/models/{model}/stats",
            Target::AllStatistics => "/v2/models/stats",
            Target::Infer(_) => "/v2/models/{model}/infer",
            Target::Classify(_) => "/v2/models/{model}/classify",
            Target::Index => "/v2/repository/index",
            Target::Metrics => "/metrics",
            Target::OpenApi => "/openapi.json",
            Target::Lanes => "/admin/lanes",
            Target::Events => "/admin/events",
            Target::Fault(_) => "/admin/lanes/{lane}/fault",
            Target::NotServed(_) => return None,
        })
    }

    #[test]
    fn every_route_is_in_the_document_and_every_path_of_it_is_a_route() {
        let found = paths();
        for path in &found {
            let asked = path.replace("{model}", "m").replace("{lane}", "0");
            let target = target(&asked).unwrap_or_else(|| panic!("{path} is no route"));
            assert_eq!(path_of(&target), Some(path.as_str()));
        }
        let source = include_str!("route.rs");
        let declared =
            source.split("enum Target {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the targets");
        let variants =
            declared.lines().filter(|line| line.trim().starts_with(|c: char| c.is_ascii_uppercase())).count();
        assert_eq!(variants, found.len() + 1, "all but what is not served");
    }

    /// Every error, once.
    fn errors() -> Vec<Error> {
        let text = String::new;
        let clients = [
            ClientError::UnknownRoute { path: text() },
            ClientError::UnknownModel { name: text(), served: text() },
            ClientError::UnknownVersion { version: text(), served: text() },
            ClientError::UnknownLane(UnknownLane),
            ClientError::WrongVerb { allow: "" },
            ClientError::Json(text()),
            ClientError::field("", ""),
            ClientError::BrokenBody,
            ClientError::ForeignOrigin,
            ClientError::Timeout(Duration::ZERO),
            ClientError::CallDeadline,
            ClientError::NoLength,
            ClientError::BodyTooLong { bytes_max: 0 },
            ClientError::TooManyRows { queue_max: 0 },
            ClientError::WrongType { expected: "" },
            ClientError::WrongEncoding { told: text() },
            ClientError::picture(""),
            ClientError::PictureTooLarge { width: 0, height: 0, bytes_max: 0, edge_max: 0 },
            ClientError::NotServed { what: "" },
        ];
        let refusals = [Refusal::Full, Refusal::NotReady, Refusal::Draining];
        let failures = [Failure::Deadline, Failure::QueryFault, Failure::Stopped];
        let failed = failures.map(|failure| Error::Failed { row: 0, failure });
        clients.into_iter().map(Error::from).chain(refusals.map(Error::from)).chain(failed).collect()
    }

    #[test]
    fn every_reason_is_in_the_document_under_its_status_and_no_other() {
        let coded: BTreeSet<(String, String)> =
            errors().iter().map(|error| (error.status().as_str().to_owned(), error.reason().to_owned())).collect();
        let words = |source: &str| -> BTreeSet<String> {
            let served = source.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
            let arms = served.match_indices("=> \"").map(|(at, arrow)| at + arrow.len());
            arms.filter_map(|at| served[at..].split('"').next().map(str::to_owned)).collect()
        };
        let mut known = words(include_str!("../wire/error.rs"));
        known.extend(["deadline", "query_fault", "stopped"].map(str::to_owned));
        assert_eq!(coded.iter().map(|(_, reason)| reason.clone()).collect::<BTreeSet<_>>(), known, "errors() is whole");

        let document = read();
        let responses = document["components"]["responses"].as_object().expect("responses");
        let mut written = BTreeSet::new();
        for (name, response) in responses {
            let Some(status) = name.strip_prefix("Error") else { continue };
            let schema = &response["content"]["application/json"]["schema"]["allOf"][1];
            for reason in schema["properties"]["reason"]["enum"].as_array().expect("reasons") {
                written.insert((status.to_owned(), reason.as_str().expect("a word").to_owned()));
            }
        }
        assert_eq!(written, coded);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| references(value, found)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let (document, mut found) = (read(), Vec::new());
        references(&document, &mut found);
        assert!(found.len() > 50);
        for reference in found {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
    }
}
