//! From a path and a verb to a handler; from an error to its reply and its count.
//!
//! Paths are cut at `/` before they are percent-decoded, so a name may hold a slash. A route that is not served is 404, and so are
//! the admin routes while they are off; HEAD is served wherever GET is. Every request passes [`answer`], and every refusal is
//! counted there, once.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{HeaderMap, Method, Request, StatusCode, Version, header, header::HeaderValue, http::request::Parts};
use serde_json::json;

use super::{
    Site, admin,
    body::{Allowance, Inbound, has_body},
    classify,
    classify::Decoders,
    describe, infer,
    infer::Parsers,
    openapi, respond,
    respond::Reply,
    status::Status,
};
use crate::{
    admission::Refusal,
    wire::{Budget, Busy, ClientError, Drain, Error, REQUEST_ID, TRACE_PARENT, Trace, Traces, cut},
};

/// The longest body of a question, in bytes.
const QUESTION_BYTES_MAX: usize = 4096;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) site: Arc<Site>,
    pub(super) budget: Budget,
    pub(super) drain: Arc<Drain>,
    pub(super) decoders: Decoders,
    pub(super) parsers: Parsers,
    pub(super) traces: Traces,
    /// What `/openapi.json` says.
    openapi: Bytes,
}

impl Shared {
    /// Nothing has been asked.
    pub(super) fn new(site: Arc<Site>, budget: Budget) -> Self {
        let openapi = openapi::document(&site);
        let (decoders, parsers) = (Decoders::default(), Parsers::default());
        Shared { site, budget, drain: Arc::new(Drain::new()), decoders, parsers, traces: Traces::new(), openapi }
    }
}

/// A request and the body that has not been read yet.
pub(super) struct Asked {
    pub(super) parts: Parts,
    pub(super) body: Inbound,
}

/// What a path stands for.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Target {
    Root,
    Server,
    Live,
    Ready,
    Model(Model),
    ModelReady(Model),
    Config(Model),
    Statistics(Model),
    /// Of all models.
    AllStatistics,
    Infer(Model),
    Classify(Model),
    Index,
    /// A route of Triton's that has no place here: which.
    NotServed(&'static str),
    Metrics,
    OpenApi,
    Lanes,
    Events,
    Fault(String),
}

/// A model as the path names it.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Model {
    name: String,
    version: Option<String>,
}

/// A reply, and whether a part of the request is still on its way.
pub(super) struct Answered {
    pub(super) reply: Reply,
    pub(super) unread: bool,
    /// Until the reply is gone.
    pub(super) busy: Busy,
}

/// Answers any request.
pub(super) async fn answer(shared: &Shared, request: Request<Inbound>) -> Answered {
    let (parts, body) = request.into_parts();
    let mut asked = Asked { parts, body };
    let trace = trace(shared, &asked.parts.headers);
    let answered = handle(shared, &mut asked).await;
    let call = (asked.parts.method.as_str(), asked.parts.uri.path());
    let mut reply = match answered {
        Ok(reply) => {
            Traces::answered(&trace, call, reply.status().as_u16());
            reply
        }
        Err(error) => {
            error.count(&shared.site.metrics);
            shared.traces.unanswered(&trace, call, error.status().as_u16(), &error);
            respond::error(&error)
        }
    };
    let id = HeaderValue::from_str(trace.id()).expect("an id is plain");
    reply.headers_mut().insert(REQUEST_ID, id);
    let unread = !asked.body.is_spent();
    // Whoever stays connected while the daemon stops would have its next request cut off.
    if unread || shared.drain.closes_connections() {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Answered { reply, unread, busy: asked.body.busy() }
}

fn trace(shared: &Shared, headers: &HeaderMap) -> Trace {
    let of = |name| headers.get(name).map(HeaderValue::as_bytes);
    shared.traces.of(of(REQUEST_ID), of(TRACE_PARENT))
}

async fn handle(shared: &Shared, asked: &mut Asked) -> Result<Reply, Error> {
    let site = &*shared.site;
    let hosts = asked.parts.headers.get_all(header::HOST).iter().count();
    if hosts > 1 || hosts == 0 && asked.parts.version == Version::HTTP_11 {
        return Err(ClientError::field("Host", "a request of HTTP/1.1 has one, and no more").into());
    }
    let path = asked.parts.uri.path();
    let unknown = || ClientError::UnknownRoute { path: cut(path.to_owned()) };
    let target = target(path).ok_or_else(unknown)?;
    let lanes = || site.lanes.as_deref().ok_or_else(unknown);
    let reads = || verb(&asked.parts.method, &[Method::GET, Method::HEAD], "GET, HEAD");
    let posts = || verb(&asked.parts.method, &[Method::POST], "POST");
    match target {
        Target::Root => reads().map(|()| describe::root(site)),
        Target::Server => reads().map(|()| describe::server()),
        Target::Live => reads().map(|()| respond::json(StatusCode::OK, &json!({"live": true}))),
        Target::Ready => reads().map(|()| describe::ready(site, None)),
        Target::OpenApi => reads().map(|()| respond::written(shared.openapi.clone())),
        Target::Metrics => reads().map(|()| respond::text(site.metrics.text())),
        Target::Model(model) => reads().and(served(site, &model)).map(|()| describe::model(site)),
        Target::ModelReady(model) => {
            reads().and(served(site, &model)).map(|()| describe::ready(site, Some(&model.name)))
        }
        Target::Config(model) => reads().and(served(site, &model)).map(|()| describe::config(site)),
        Target::Statistics(model) => reads().and(served(site, &model)).map(|()| describe::statistics(site)),
        Target::AllStatistics => reads().map(|()| describe::statistics(site)),
        Target::Index => {
            posts()?;
            index(shared, asked).await
        }
        Target::NotServed(what) => Err(ClientError::NotServed { what }.into()),
        Target::Infer(model) => {
            posts().and(served(site, &model))?;
            infer::infer(shared, asked).await
        }
        Target::Classify(model) => {
            posts().and(served(site, &model))?;
            classify::classify(shared, asked).await
        }
        Target::Lanes => {
            let lanes = lanes()?;
            reads().map(|()| admin::report(lanes))
        }
        Target::Events => {
            let lanes = lanes()?;
            reads().map(|()| admin::events(lanes))
        }
        Target::Fault(lane) => {
            let lanes = lanes()?;
            posts()?;
            admin::fault(shared, asked, lanes, &lane).await
        }
    }
}

pub(super) fn target(path: &str) -> Option<Target> {
    let segments = path.strip_prefix('/')?.split('/').map(decode).collect::<Option<Vec<_>>>()?;
    let words = segments.iter().map(String::as_str).collect::<Vec<_>>();
    let model = |name: &str| Model { name: name.to_owned(), version: None };
    let at = |name: &str, version: &str| Model { name: name.to_owned(), version: Some(version.to_owned()) };
    Some(match words[..] {
        [""] => Target::Root,
        ["v2"] => Target::Server,
        ["v2", "health", "live"] => Target::Live,
        ["v2", "health", "ready"] => Target::Ready,
        ["v2", "models", "stats"] => Target::AllStatistics,
        ["v2", "models", name] => Target::Model(model(name)),
        ["v2", "models", name, "versions", version] => Target::Model(at(name, version)),
        ["v2", "models", name, word] => of_model(model(name), word)?,
        ["v2", "models", name, "versions", version, word] => of_model(at(name, version), word)?,
        ["v2", "models", _, "trace", "setting"] | ["v2", "trace", "setting"] => Target::NotServed("trace settings are"),
        ["v2", "logging"] => Target::NotServed("log settings are"),
        ["v2", "repository", "index"] => Target::Index,
        ["v2", "repository", "models", _, "load" | "unload"] => Target::NotServed("loading and unloading models is"),
        ["v2", "systemsharedmemory" | "cudasharedmemory", ..] => Target::NotServed("shared memory is"),
        ["openapi.json"] => Target::OpenApi,
        ["metrics"] => Target::Metrics,
        ["admin", "lanes"] => Target::Lanes,
        ["admin", "events"] => Target::Events,
        ["admin", "lanes", lane, "fault"] => Target::Fault(lane.to_owned()),
        _ => return None,
    })
}

/// What stands behind a model's name.
fn of_model(model: Model, word: &str) -> Option<Target> {
    Some(match word {
        "ready" => Target::ModelReady(model),
        "infer" => Target::Infer(model),
        "classify" => Target::Classify(model),
        "config" => Target::Config(model),
        "stats" => Target::Statistics(model),
        "generate" | "generate_stream" => Target::NotServed("generating text is"),
        _ => return None,
    })
}

/// Answers `POST /v2/repository/index`; its body may be absent.
async fn index(shared: &Shared, asked: &mut Asked) -> Result<Reply, Error> {
    let site = &*shared.site;
    let headers = &asked.parts.headers;
    if !has_body(headers) {
        return Ok(describe::index(site, &[])?);
    }
    let allowance =
        Allowance { bytes_max: QUESTION_BYTES_MAX, timeout: site.limits.body_timeout, budget: &shared.budget };
    let body = tokio::select! {
        biased;
        read = asked.body.read(headers, allowance) => read?,
        () = shared.drain.begun() => return Err(Refusal::Draining.into()),
    };
    Ok(describe::index(site, body.as_ref())?)
}

/// `segment` with its `%xx` decoded; `None` if that is not text.
pub(super) fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit()? << 4 | digit()?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

fn verb(asked: &Method, taken: &[Method], allow: &'static str) -> Result<(), Error> {
    if taken.contains(asked) { Ok(()) } else { Err(ClientError::WrongVerb { allow }.into()) }
}

fn served(site: &Site, model: &Model) -> Result<(), Error> {
    Ok(site.signature.check_model(&model.name, model.version.as_deref())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_after_the_path_is_cut() {
        let model = Model { name: "a/b é".into(), version: Some("1".into()) };
        assert_eq!(target("/v2/models/a%2Fb%20%C3%A9/versions/1/infer"), Some(Target::Infer(model)));
        for path in ["", "*", "v2", "/v2/", "//v2", "/v2/models/", "/v2/models", "/v2/models/%zz", "/v2/models/%4"] {
            let found = target(path);
            let empty = Target::Model(Model { name: String::new(), version: None });
            assert!(found.is_none() || found == Some(empty), "{path}");
        }
        assert_eq!(decode("%ff"), None, "not UTF-8");
        assert_eq!(decode("+%2B"), Some("++".into()));
    }
}
