//! Every call passes here: which service it is for, what is known and not served, and how its reply is compressed.
//!
//! gRPC clients tell with every call which compressions they could take, whether or not compressing is worth it; tonic would then compress the
//! smallest reply. So a reply is compressed as its request is, and else not at all.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use tonic::{
    Status,
    body::Body,
    codegen::{
        BoxFuture, CompressionEncoding, Service,
        http::{self, HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE},
    },
    server::NamedService,
};

use super::{
    Caller, Shared,
    health::Readiness,
    inbound::{ENCODING, Inbound, Messages, Requests},
    infer::Patience,
    proto::{
        health::health_server::HealthServer, inference::grpc_inference_service_server::GrpcInferenceServiceServer,
    },
    replies::{Asked, Replies},
    service::Protocol,
    status::{of_tonic, status},
};
use crate::wire::{ClientError, Coding, Error, REQUEST_ID, TRACE_PARENT, cut};

/// Methods of Triton's that have no place here, and what they are for.
const NOT_SERVED: &[(&str, &str)] = &[
    ("RepositoryModelLoad", "loading and unloading models is"),
    ("RepositoryModelUnload", "loading and unloading models is"),
    ("SystemSharedMemoryStatus", "shared memory is"),
    ("SystemSharedMemoryRegister", "shared memory is"),
    ("SystemSharedMemoryUnregister", "shared memory is"),
    ("CudaSharedMemoryStatus", "shared memory is"),
    ("CudaSharedMemoryRegister", "shared memory is"),
    ("CudaSharedMemoryUnregister", "shared memory is"),
    ("TraceSetting", "trace settings are"),
    ("LogSettings", "log settings are"),
];

/// The services that this port is for, and the one method of theirs whose clients may send any number of messages.
const INFERENCE: &str = "inference.GRPCInferenceService";
const STREAM: &str = "ModelStreamInfer";
/// The only other method of that kind.
const REFLECTION: &str = "ServerReflectionInfo";

/// The longest message of health and reflection: a question with a name in it.
const QUESTION_BYTES_MAX: usize = 64 * 1024;

/// The method whose reply never ends by itself; a client that loses it asks again, as gRPC's health checking has it.
const STANDING: &str = "Watch";

pub(super) type Reply = http::Response<Body>;

/// The services of the port, the two of reflection among them.
#[derive(Clone)]
pub(super) struct Front<R, A> {
    shared: Arc<Shared>,
    inference: GrpcInferenceServiceServer<Protocol>,
    health: HealthServer<Readiness>,
    reflection: R,
    reflection_alpha: A,
}

impl<R, A> Front<R, A> {
    /// The services in front of what `shared` serves.
    pub(super) fn new(shared: &Arc<Shared>, reflection: R, reflection_alpha: A) -> Self {
        let inference = GrpcInferenceServiceServer::new(Protocol::new(shared))
            // What is too long comes no further than to `inbound`.
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Deflate)
            .send_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Deflate);
        let health = HealthServer::new(Readiness::new(shared));
        Front { shared: Arc::clone(shared), inference, health, reflection, reflection_alpha }
    }

    fn refuse(&self, caller: &Caller, error: impl Into<Error>) -> BoxFuture<Reply, Infallible> {
        let error = error.into();
        self.shared.unanswered(caller, &error);
        let reply = status(&error).into_http();
        Box::pin(async { Ok(reply) })
    }

    /// Refuses what is not gRPC as HTTP does: its client would not understand a status of gRPC.
    fn refuse_foreign(&self, caller: &Caller) -> BoxFuture<Reply, Infallible> {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        self.shared.unanswered_as(
            status.as_str(),
            caller,
            &ClientError::WrongType { expected: "application/grpc" }.into(),
        );
        let mut reply = Reply::new(Body::empty());
        *reply.status_mut() = status;
        reply.headers_mut().insert(REQUEST_ID, caller.id());
        Box::pin(async { Ok(reply) })
    }
}

/// Whether a request is one of gRPC, with messages of protobuf.
fn is_grpc(headers: &HeaderMap) -> bool {
    let told = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let kind = told.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    [&b"application/grpc"[..], b"application/grpc+proto"].iter().any(|known| kind.eq_ignore_ascii_case(known))
}

/// What answers calls: a service of the port, or all of them.
pub(super) trait Served:
    Service<http::Request<Body>, Response = Reply, Error = Infallible, Future = BoxFuture<Reply, Infallible>>
{
}

impl<S> Served for S where
    S: Service<http::Request<Body>, Response = Reply, Error = Infallible, Future = BoxFuture<Reply, Infallible>>
{
}

impl<R, A> Service<http::Request<Body>> for Front<R, A>
where
    R: Served + NamedService,
    A: Served + NamedService,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = BoxFuture<Reply, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // All of them always are.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let caller = self.caller(&request);
        if !is_grpc(request.headers()) {
            return self.refuse_foreign(&caller);
        }
        let path = &caller.0.0;
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
        let replies = request.extensions().get::<Replies>().cloned();
        let call = replies.expect("every connection puts them beside its requests").open();
        let patience = Patience::of(request.headers());
        let is_standing = method == STANDING;
        let mut request = self.bounded(request, &caller, (service, method), call.asked());
        request.extensions_mut().insert(patience);
        let reply = match service {
            INFERENCE => match NOT_SERVED.iter().find(|(name, _)| *name == method) {
                Some(&(_, what)) => self.refuse(&caller, ClientError::NotServed { what }),
                None => self.inference.call(request),
            },
            "grpc.health.v1.Health" => self.health.call(request),
            name if name == R::NAME => self.reflection.call(request),
            name if name == A::NAME => self.reflection_alpha.call(request),
            _ => self.refuse(&caller, ClientError::UnknownRoute { path: cut(path.clone()) }),
        };
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let mut reply = match patience.timeout() {
                None => reply.await?,
                Some(deadline) => {
                    if let Ok(reply) = tokio::time::timeout(deadline, reply).await {
                        reply?
                    } else {
                        // The client knows; an answer of the engine's would have come before.
                        let error = ClientError::CallDeadline.into();
                        shared.unanswered(&caller, &error);
                        status(&error).into_http()
                    }
                }
            };
            if let Some(error) =
                Status::from_header_map(reply.headers()).and_then(|status| of_tonic(&status, &shared, &caller))
            {
                shared.unanswered(&caller, &error);
                reply = status(&error).into_http();
            }
            reply.headers_mut().insert(REQUEST_ID, caller.id());
            let call = if is_standing { call.stands() } else { call };
            Ok(reply.map(|body| call.body(body)))
        })
    }
}

impl<R, A> Front<R, A> {
    /// Which call it is.
    fn caller(&self, request: &http::Request<Body>) -> Caller {
        let of = |name| request.headers().get(name).map(HeaderValue::as_bytes);
        let trace = self.shared.traces.of(of(REQUEST_ID), of(TRACE_PARENT));
        Caller(Arc::new((request.uri().path().to_owned(), trace)))
    }

    /// The request with its body bounded, and with the reply's compression settled.
    fn bounded(
        &self,
        mut request: http::Request<Body>,
        caller: &Caller,
        (service, method): (&str, &str),
        asked: Asked,
    ) -> http::Request<Body> {
        request.extensions_mut().insert(caller.clone());
        let headers = request.headers_mut();
        headers.remove("grpc-accept-encoding");
        let mut coding = None;
        if let Some(encoding) = headers.get(ENCODING).cloned() {
            coding = encoding.to_str().ok().and_then(Coding::named);
            headers.insert("grpc-accept-encoding", encoding);
        }
        let is_inference = service == INFERENCE;
        let site = &self.shared.site;
        let bytes_max = if is_inference { site.limits.body_bytes_max(&site.signature) } else { QUESTION_BYTES_MAX };
        let messages = Messages {
            is_stream: [STREAM, REFLECTION].contains(&method),
            bytes_max: bytes_max.min(u32::MAX as usize),
            // tonic refuses a call with any other before it reads of it.
            coding: coding.unwrap_or(Coding::Identity),
        };
        let (mut parts, body) = request.into_parts();
        let inbound = Inbound::new(body, Arc::clone(&self.shared), caller.clone(), messages, asked);
        let body = if is_inference && method == STREAM {
            parts.extensions.insert(Requests::new(inbound));
            Body::empty()
        } else {
            Body::new(inbound)
        };
        http::Request::from_parts(parts, body)
    }
}
