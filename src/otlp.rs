//! Spans of requests for a collector of OpenTelemetry (feature `otlp`): one a request, from its head to its reply, in the trace that its client names.
//!
//! Everything is set as the standard says, by the environment: `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`; without either nothing is sent), `OTEL_SERVICE_NAME`,
//! `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_BSP_…`. What always holds: a request never waits for a collector. Spans go through a bounded queue to a thread of the SDK, and
//! are dropped where it is full. Spans are made when a request has ended, with the times that it had, so nothing of this is on a query's path.

use std::{env, sync::OnceLock, time::SystemTime};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{
        Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, TraceState, Tracer as _, TracerProvider as _,
    },
};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};

/// Who makes spans, once somebody wants them.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Spans are sent for as long as this lives; the last ones when it is dropped.
#[derive(Debug)]
pub struct Exporting(SdkTracerProvider);

/// Begins to send spans, if the environment names a collector. Must be called in the runtime that is to carry them.
pub fn start() -> Option<Exporting> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    let endpoint = names.iter().find_map(|name| env::var(name).ok().filter(|endpoint| !endpoint.is_empty()))?;
    let exporter = match SpanExporter::builder().with_tonic().build() {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::error!(%error, endpoint, "spans cannot be sent; queries are served without");
            return None;
        }
    };
    let resource = Resource::builder();
    let is_named = env::var_os("OTEL_SERVICE_NAME").is_some_and(|name| !name.is_empty());
    let resource = if is_named { resource } else { resource.with_service_name("parityd") };
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
    let tracer = provider.tracer("parityd");
    tracing::info!(endpoint, "spans are sent");
    TRACER.set(tracer).ok()?;
    Some(Exporting(provider))
}

impl Drop for Exporting {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// A request that has begun.
#[derive(Clone, Debug)]
pub(crate) struct Begun {
    at: SystemTime,
    parent: Context,
}

/// A request that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) request: &'a str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// As its protocol writes it.
    pub(crate) status: String,
    /// Why it was not answered.
    pub(crate) reason: Option<&'static str>,
}

impl Begun {
    /// It begins; `parent` is its `traceparent`, which has been checked.
    pub(crate) fn now(parent: Option<&str>) -> Self {
        let parent = parent.and_then(remote).map(|parent| Context::new().with_remote_span_context(parent));
        Begun { at: opentelemetry::time::now(), parent: parent.unwrap_or_default() }
    }

    /// It has ended.
    pub(crate) fn end(&self, ended: Ended<'_>) {
        let Some(tracer) = TRACER.get() else { return };
        let Ended { request, method, path, status, reason } = ended;
        let attributes = [
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("url.path", path.to_owned()),
            KeyValue::new("parityd.request_id", request.to_owned()),
            KeyValue::new("parityd.status", status),
        ];
        let builder = tracer.span_builder(format!("{method} {path}")).with_kind(SpanKind::Server);
        let builder = builder.with_start_time(self.at).with_attributes(attributes);
        let mut span = tracer.build_with_context(builder, &self.parent);
        if let Some(reason) = reason {
            span.set_attribute(KeyValue::new("error.type", reason));
            span.set_status(Status::error(reason));
        }
        span.end();
    }
}

/// The span that a `traceparent` names.
fn remote(parent: &str) -> Option<SpanContext> {
    let mut fields = parent.trim().split('-').skip(1);
    let trace = TraceId::from_hex(fields.next()?).ok()?;
    let span = SpanId::from_hex(fields.next()?).ok()?;
    let flags = u8::from_str_radix(fields.next()?, 16).ok()?;
    Some(SpanContext::new(trace, span, TraceFlags::new(flags & 1), true, TraceState::default()))
}
