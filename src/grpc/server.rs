//! The port: accepting, and the end.
//!
//! What always holds: no more than `connections_max` connections, none that is silent for ever, and none that outlives the drain by more than
//! a moment. The end is gRPC's own: once it begins, the port closes and every connection is told (GOAWAY) to take its next call elsewhere;
//! calls that are admitted are answered, and connections close when they have none left. HTTP's port stays open for that while, because HTTP/1
//! has no such word.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use hyper::{Request, body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{JoinError, JoinSet},
};
use tonic::body::Body;
use tonic_reflection::server::Builder;

use super::{
    Shared, Site,
    connection::Connection,
    front::{Front, Served},
    proto::DESCRIPTORS,
    replies::Replies,
};
use crate::{
    metrics::Protocol,
    wire::{Budget, Door, Drain, Place, Places, Traces},
};

/// Calls of one connection at once; more wait at the client.
const CALLS_MAX: u32 = 256;
/// The longest head of a call, in bytes.
const HEAD_BYTES_MAX: u32 = 16 * 1024;
/// How often a connection that says nothing is asked whether anybody is there, and how long it may take to answer.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How long a connection that was told to go and has nothing to answer may take to do so.
const LAST_WORDS: Duration = Duration::from_millis(500);
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
    let front = Front::new(shared, current, alpha);
    let Site { limits, metrics, .. } = &*shared.site;
    let places = Places::new(limits.connections_max, limits.place_kept, metrics.connections(Protocol::Grpc));
    let (mut door, mut connections) = (Door::new(listener, places), JoinSet::new());
    let begin = |(stream, place)| connection(stream, place, Arc::clone(shared), front.clone());
    loop {
        tokio::select! {
            biased;
            () = shared.drain.left() => break,
            Some(ended) = connections.join_next() => report(&ended),
            came = door.next() => drop(connections.spawn(begin(came))),
        }
    }
    if let Some(came) = door.leave() {
        connections.spawn(begin(came));
    }
    while let Some(ended) = connections.join_next().await {
        report(&ended);
    }
}

/// A connection's end is of no interest unless it panicked.
fn report(ended: &Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's handler panicked");
    }
}

/// Serves one connection, until it ends, the drain begins, or somebody else needs its place.
async fn connection(stream: TcpStream, mut place: Place, shared: Arc<Shared>, front: impl Served + Clone + Send) {
    let activity = place.activity();
    let last = &Arc::new(Notify::new());
    let replies = Replies::new(activity.clone());
    let socket = Connection::new(stream, replies.clone(), &shared.site.limits);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(replies.clone());
        let answer = front.clone().call(request.map(Body::new));
        let (activity, last) = (activity.clone(), Arc::clone(last));
        async move {
            let answered = answer.await;
            if activity.should_close() {
                last.notify_one();
            }
            answered
        }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new()).max_concurrent_streams(CALLS_MAX).max_header_list_size(HEAD_BYTES_MAX);
    // All calls of a connection may be cancelled at once, before the server has come to read of them: that is no reason to end it. The bound stays, because a call that was
    // cancelled unread keeps its head in memory until it is accepted, and counts among the calls no longer.
    http.max_pending_accept_reset_streams(CALLS_MAX as usize);
    http.keep_alive_interval(PING.0).keep_alive_timeout(PING.1);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
    tokio::select! {
        biased;
        ended = connection.as_mut() => return told(ended),
        () = shared.drain.left() => {}
        () = place.needed() => place.hurry(),
        () = last.notified() => place.hurry(),
    }
    // The client is told (GOAWAY), and what it has sent before it hears of that is answered.
    connection.as_mut().graceful_shutdown();
    loop {
        match tokio::time::timeout(LAST_WORDS, connection.as_mut()).await {
            Ok(ended) => return told(ended),
            // It does not even say that it has heard, and sends nothing.
            Err(_) if place.rests() => return,
            Err(_) => {}
        }
    }
}

/// Clients that leave are of interest to whoever looks for them.
fn told(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
