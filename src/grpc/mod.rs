//! gRPC: the same protocol as `http` on a port of its own, and the only module that knows tonic and protobuf.
//!
//! Owns the service `inference.GRPCInferenceService` (the Open Inference Protocol v2 with those of Triton's extensions that mean something
//! here), `grpc.health.v1` and server reflection. What always holds: whatever a request is refused for is refused over HTTP in the same
//! words, because the rules are in [`wire`](crate::wire); a message is in memory as a whole before anything is reserved for it, and never
//! beyond the budget; a client that leaves drops its [`Pending`](crate::reply::Pending), and with it its place in the queue.
//!
//! The layer sees [`Admission`] alone, so it is tested against a dozen lines instead of a daemon (`tests/grpc_surface`). Written on tonic's
//! services and codec, without its server and router: hyper serves HTTP/2 as it serves HTTP/1 beside it, because tonic's server can tell no single connection to
//! go; and one place sees every call before its body is read.
//!
//! `server` accepts into `connection`s, `front` finds the service, `inbound` and `codec` bound the messages, `service` has the methods, `read`
//! checks, `infer` admits and awaits, `write` and `status` answer, `replies` are not kept for ever, `describe` and `health` tell. `proto` is generated from the `.proto` files in
//! `proto/`; docs/decisions/0023 says why that code is checked in.

mod codec;
mod connection;
mod describe;
mod front;
mod health;
mod inbound;
mod infer;
pub mod proto;
mod read;
mod replies;
mod server;
mod service;
mod status;
mod write;

use std::{fmt, sync::Arc};

pub use server::serve;
use tonic::codegen::http::HeaderValue;

use crate::{
    admission::Admission,
    metrics::Metrics,
    query::Signature,
    wire::{Budget, Drain, Error, Trace, Traces},
};

pub use crate::wire::Limits;

/// What the port serves.
pub struct Site {
    /// Names and shapes of the deployment.
    pub signature: Signature,
    /// Where requests go once they are understood.
    pub admission: Arc<dyn Admission>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// How much of anything a client may take.
    pub limits: Limits,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("signature", &self.signature).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What all calls share.
#[derive(Debug)]
struct Shared {
    site: Arc<Site>,
    budget: Budget,
    drain: Arc<Drain>,
    traces: Traces,
}

/// Which call it is: its path, and what names it in the log.
#[derive(Clone, Debug)]
struct Caller(Arc<(String, Trace)>);

impl Caller {
    /// Its `x-request-id`.
    fn id(&self) -> HeaderValue {
        HeaderValue::from_str(self.0.1.id()).expect("an id is plain")
    }
}

impl Shared {
    /// Counts what was refused, and tells of it.
    fn unanswered(&self, caller: &Caller, error: &Error) {
        self.unanswered_as(status::word(status::code(error)), caller, error);
    }

    /// The same, of what was refused with another status than its own.
    fn unanswered_as(&self, status: &str, Caller(caller): &Caller, error: &Error) {
        let (path, trace) = &**caller;
        error.count(&self.site.metrics);
        self.traces.unanswered(trace, ("POST", path), status, error);
    }

    /// Tells of what was answered.
    fn answered(Caller(caller): &Caller) {
        let (path, trace) = &**caller;
        Traces::answered(trace, ("POST", path), "OK");
    }
}
