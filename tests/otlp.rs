//! Spans as a collector receives them (feature `otlp`): the real daemon, and a collector of a few lines that speaks the standard's protocol.

#![cfg(feature = "otlp")]
#![expect(clippy::unwrap_used, reason = "a harness ends the test when the unexpected happens")]
#![expect(clippy::print_stdout, reason = "the daemon's log is the test's report")]
#![expect(clippy::disallowed_methods, reason = "a client outside the daemon has its own clock")]

#[path = "story/daemon.rs"]
#[expect(dead_code, reason = "the stories ask more of a daemon")]
mod daemon;

use std::{
    convert::Infallible,
    sync::mpsc,
    task::{Context, Poll},
    time::Duration,
};

use daemon::{Daemon, config};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::{Grpc, UnaryService},
    transport::Server,
};
use tonic_prost::ProstCodec;

/// `opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest`, as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<SpanStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SpanStatus {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Exported {}

/// Hands on what it receives.
#[derive(Clone)]
struct Collector(mpsc::Sender<Export>);

impl UnaryService<Export> for Collector {
    type Response = Exported;
    type Future = BoxFuture<Response<Exported>, Status>;

    fn call(&mut self, request: Request<Export>) -> Self::Future {
        drop(self.0.send(request.into_inner()));
        Box::pin(async { Ok(Response::new(Exported {})) })
    }
}

impl Service<http::Request<Body>> for Collector {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let collector = self.clone();
        Box::pin(
            async move { Ok(Grpc::new(ProstCodec::<Exported, Export>::default()).unary(collector, request).await) },
        )
    }
}

fn collector() -> (String, mpsc::Receiver<Export>) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Server::builder().serve(address, Collector(tell))).unwrap();
    });
    (format!("http://{address}"), told)
}

fn attribute<'s>(attributes: &'s [KeyValue], key: &str) -> Option<&'s str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    found.value.as_ref().map(|value| value.text.as_str())
}

#[test]
fn each_request_is_a_span_in_the_trace_of_its_client() {
    let (endpoint, told) = collector();
    // A variable that is set to nothing is not set.
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_SERVICE_NAME", ""),
    ];
    let daemon = Daemon::start_with(&config("config.toml", &[]), &variables);
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let post = |id: &str, body: &str| {
        let reply = agent
            .post(format!("{}/v2/models/fashion-mnist/infer", daemon.url))
            .header("traceparent", format!("00-{trace}-{parent}-01"))
            .header("x-request-id", id)
            .send(body);
        reply.unwrap().status().as_u16()
    };
    let row = vec!["0.5"; 784].join(",");
    let body = format!(r#"{{"inputs":[{{"name":"input","shape":[1,1,28,28],"datatype":"FP32","data":[{row}]}}]}}"#);
    assert_eq!((post("right", &body), post("wrong", "{")), (200, 400));

    let mut spans = Vec::new();
    while spans.len() < 2 {
        let export = told.recv_timeout(Duration::from_secs(20)).expect("spans");
        for one in export.resources {
            let named = attribute(&one.resource.unwrap_or_default().attributes, "service.name").map(str::to_owned);
            assert_eq!(named.as_deref(), Some("parityd"));
            // The harness asks for readiness, too.
            let infer =
                one.scopes.into_iter().flat_map(|scope| scope.spans).filter(|span| span.name.ends_with("/infer"));
            spans.extend(infer);
        }
    }
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (id, status, error) in [("right", "200", None), ("wrong", "400", Some("bad_json"))] {
        let of = |span: &&Span| attribute(&span.attributes, "parityd.request_id") == Some(id);
        let span = spans.iter().find(of).unwrap_or_else(|| panic!("{id}: {spans:?}"));
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (trace.to_owned(), parent.to_owned()));
        assert_eq!(span.name, "POST /v2/models/fashion-mnist/infer");
        assert_eq!(attribute(&span.attributes, "parityd.status"), Some(status));
        assert_eq!(attribute(&span.attributes, "error.type"), error);
        assert_eq!(span.status.as_ref().map_or(0, |status| status.code), if error.is_some() { 2 } else { 0 });
        assert!(span.start < span.end && span.end - span.start < 60_000_000_000, "{span:?}");
    }
}
