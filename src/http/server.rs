//! The accept loop and the life of a connection.
//!
//! What always holds: no more than `connections_max` connections, none that is idle or slow for ever, and none older than the drain
//! once a shutdown began. Over the cap nothing is accepted, so new clients wait in the kernel's backlog instead of costing memory. An
//! accept that fails (no file descriptors left) waits a moment instead of spinning.
//!
//! hyper looks for the end of the stream while a handler waits, and drops the handler when it finds it. So a client that closes, or
//! shuts down its sending side, has left; one that has pipelined another request is noticed only at the reply.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinError, JoinSet},
};

use super::{
    Site,
    body::Budget,
    route::{Shared, answer},
    socket::{Socket, linger},
};

/// How long the loop rests after an accept that failed for want of resources.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// The longest head of a request, in bytes; longer is 431.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves `site` until `shutdown` resolves; then accepts nothing, lets requests in flight end within `limits.drain`, and returns.
pub async fn serve(listener: TcpListener, site: Arc<Site>, shutdown: impl Future<Output = ()>) {
    let limits = site.limits;
    let budget = Budget::new(limits.bodies_bytes_max.max(site.body_bytes_max()));
    let shared = Arc::new(Shared { site, budget });
    let places = Arc::new(Semaphore::new(limits.connections_max.clamp(1, Semaphore::MAX_PERMITS)));
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(&ended),
            (stream, place) = accept(&listener, &places) => {
                connections.spawn(connection(stream, Arc::clone(&shared), stopped.clone(), place));
            }
        }
    }
    drop(listener);
    drop(stop);
    let drained = async {
        while let Some(ended) = connections.join_next().await {
            report(&ended);
        }
    };
    if tokio::time::timeout(limits.drain, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are closed before their requests ended");
        connections.shutdown().await;
    }
}

/// A connection's end is of no interest unless a handler panicked.
fn report(ended: &Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's handler panicked");
    }
}

/// The next connection and its place under the cap.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            // The client left while it waited: the next one is not affected.
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Serves one connection to its end.
async fn connection(
    stream: TcpStream,
    shared: Arc<Shared>,
    stopped: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let (socket, inherited) = Socket::new(stream, shared.site.limits.body_timeout);
    let unread = AtomicBool::new(false);
    if let Err(error) = requests(socket, &shared, &unread, stopped).await {
        tracing::debug!(%error, "a connection ended early");
    }
    if unread.load(Ordering::Relaxed)
        && let Ok(stream) = inherited.await
    {
        linger(stream).await;
    }
}

/// Serves the requests of one connection; sets `unread` when it answers one that has not arrived whole.
async fn requests(
    socket: Socket,
    shared: &Shared,
    unread: &AtomicBool,
    mut stopped: watch::Receiver<()>,
) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| async move {
        let answered = answer(shared, request).await;
        unread.fetch_or(answered.unread, Ordering::Relaxed);
        Ok::<_, Infallible>(answered.reply)
    });
    let limits = shared.site.limits;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_header_size(HEAD_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
    tokio::select! {
        ended = connection.as_mut() => return ended,
        // Nothing is ever sent: the channel closes when the shutdown begins.
        _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
