//! The port: accepting, and the end.
//!
//! What always holds: no more than `connections_max` connections, none that is silent for ever, and none that outlives the drain by more than
//! a moment. The end is gRPC's own: once it begins, the port closes and every connection is told (GOAWAY) to take its next call elsewhere;
//! calls that are admitted are answered, and connections close when they have none left. HTTP's port stays open for that while, because HTTP/1
//! has no such word.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream};
use tonic::{codegen::tokio_stream::Stream, transport::Server};
use tonic_reflection::server::Builder;

use super::{Shared, Site, connection::Connection, front::Front, proto::DESCRIPTORS};
use crate::{
    metrics::Protocol,
    wire::{Budget, Door, Drain, Limits, Place, Places, Traces},
};

/// Calls of one connection at once; more wait at the client.
const CALLS_MAX: u32 = 256;
/// The longest head of a call, in bytes.
const HEAD_BYTES_MAX: u32 = 16 * 1024;
/// How often a connection that says nothing is asked whether anybody is there, and how long it may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How long the end waits for connections to close, once there is nothing else to wait for.
const LAST_REPLIES: Duration = Duration::from_secs(1);

/// Serves `site` until `shutdown` resolves, then drains; or until another process has taken the port over, then leaves.
///
/// By the time `shutdown` resolves, admission refuses. The port closes at once; admitted calls are answered, at most for `limits.drain`, and calls
/// that are not answered by then get UNAVAILABLE. Returns their number once the connections have closed. Leaving is the same, but that admission does not
/// refuse: a call that was sent before its client was told to go is answered.
pub async fn serve(
    listener: TcpListener,
    site: Arc<Site>,
    taken_over: impl Future<Output = ()>,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let limits = site.limits;
    let budget = Budget::new(limits.bodies_bytes_max.max(limits.body_bytes_max(&site.signature)));
    let drain = Arc::new(Drain::new());
    let shared = Arc::new(Shared { site, budget, drain: Arc::clone(&drain), traces: Traces::new() });
    let mut port = pin!(port(listener, &shared));
    let unanswered = tokio::select! {
        // Every connection has closed; or it could not begin.
        () = port.as_mut() => return 0,
        unanswered = course(&drain, limits.drain, taken_over, shutdown) => unanswered,
    };
    if tokio::time::timeout(LAST_REPLIES, port).await.is_err() {
        tracing::debug!("connections of gRPC are closed before their calls have ended");
    }
    unanswered
}

/// From the beginning to the end: waits for what ends it, and then for the admitted, for `patience`. Gives the number of calls that were not answered.
async fn course(
    drain: &Drain,
    patience: Duration,
    taken_over: impl Future<Output = ()>,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let mut shutdown = pin!(shutdown);
    let stays = tokio::select! {
        () = shutdown.as_mut() => true,
        () = taken_over => false,
    };
    if !stays {
        drain.leave();
        drop(tokio::time::timeout(patience, shutdown).await);
    }
    drain.begin();
    let mut unanswered = 0;
    if tokio::time::timeout(patience, drain.settled()).await.is_err() {
        unanswered = drain.waiting();
        tracing::warn!(requests = unanswered, "drain_ms is over: calls of gRPC that are not answered get UNAVAILABLE");
    }
    drain.end();
    unanswered
}

/// Accepts and serves connections until the drain begins, and then until they have closed.
async fn port(listener: TcpListener, shared: &Arc<Shared>) {
    let reflection = || Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS);
    let readable = "the descriptors were encoded by a compiler of protobuf, and are tested";
    let (current, alpha) = (reflection().build_v1().expect(readable), reflection().build_v1alpha().expect(readable));
    let served = Server::builder()
        .max_concurrent_streams(CALLS_MAX)
        .http2_max_header_list_size(HEAD_BYTES_MAX)
        .http2_keepalive_interval(Some(PING.0))
        .http2_keepalive_timeout(Some(PING.1))
        .serve_with_incoming_shutdown(
            Front::new(shared, current, alpha),
            Incoming::new(listener, &shared.site),
            shared.drain.left(),
        )
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the port of gRPC ended");
    }
}

/// The connections that clients make.
struct Incoming {
    next: Pin<Box<dyn Future<Output = (TcpStream, Place, Door)> + Send>>,
    limits: Limits,
}

/// Waits for a connection; gives the door back with it.
async fn next(mut door: Door) -> (TcpStream, Place, Door) {
    let (stream, place) = door.next().await;
    (stream, place, door)
}

impl Incoming {
    fn new(listener: TcpListener, site: &Site) -> Self {
        let limits = site.limits;
        let places = Places::new(limits.connections_max, limits.place_kept, site.metrics.connections(Protocol::Grpc));
        Incoming { next: Box::pin(next(Door::new(listener, places))), limits }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let (stream, place, door) = ready!(self.next.as_mut().poll(context));
        self.next = Box::pin(next(door));
        Poll::Ready(Some(Ok(Connection::new(stream, place, &self.limits))))
    }
}
