//! The accept loop and the life of a connection.
//!
//! What always holds: no more than `connections_max` connections, none that is idle or slow for ever, and none that outlives the drain by
//! more than a moment. Who may come in, and who leaves for them when the port is full, is the [`Door`]'s affair.
//!
//! hyper looks for the end of the stream while a handler waits, and drops the handler when it finds it. So a client that closes, or
//! shuts down its sending side, has left; one that has pipelined another request is noticed only at the reply.

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{
    Request,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinError, JoinSet},
};

use super::{
    Site,
    body::Inbound,
    respond::Reply,
    route::{Shared, answer},
    socket::{LINGER, Socket, Unwritten, linger, unread},
};
use crate::{
    metrics::Protocol,
    wire::{Activity, Budget, Door, LAST_BYTES, Place, Places},
};

/// How long a connection that was made before the port closed may take to send its first request.
const FIRST_REQUEST: Duration = Duration::from_millis(100);
/// Within this time a request that has arrived is read: the runtime looks at every socket before it looks at its timers.
const ARRIVED: Duration = Duration::from_millis(1);
/// How long the end waits for replies to be read, once there is nothing else to wait for.
const LAST_REPLIES: Duration = Duration::from_secs(1);
/// The longest head of a request, in bytes; longer is 431.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Serves `site` until `shutdown` resolves, then drains; or until another process has taken the port over, then leaves.
///
/// Leaving loses nobody: whoever is connected is answered once more and told to connect anew, for as long as a shutdown would wait.
///
/// By the time `shutdown` resolves, admission refuses. The port stays open until every admitted query is answered, and until `settled_beside`
/// resolves, when none is left that came through another port: probes look here. At most that takes `limits.drain`; requests that are not answered by then get a 503. Then it
/// closes, and returns their number once the last replies are written.
pub async fn serve(
    listener: TcpListener,
    site: Arc<Site>,
    taken_over: impl Future<Output = ()>,
    shutdown: impl Future<Output = ()>,
    settled_beside: impl Future<Output = ()>,
) -> usize {
    let limits = site.limits;
    let budget = Budget::new(limits.bodies_bytes_max.max(site.body_bytes_max()));
    let places = Places::new(limits.connections_max, limits.place_kept, site.metrics.connections(Protocol::Http));
    let shared = Arc::new(Shared::new(site, budget));
    let (stop, stopped) = watch::channel(());
    let door = Door::new(listener, places);
    let mut port = Port { door, shared: Arc::clone(&shared), stopped, connections: JoinSet::new() };
    let mut shutdown = pin!(shutdown);
    let stays = port.accept_until(async {
        tokio::select! {
            biased;
            () = shutdown.as_mut() => true,
            () = taken_over => false,
        }
    });
    if !stays.await {
        shared.drain.leave();
        return port.leave(stop, limits.drain, shutdown).await;
    }
    shared.drain.begin();
    let mut unanswered = 0;
    let settled = async {
        settled_beside.await;
        shared.drain.settled().await;
    };
    if tokio::time::timeout(limits.drain, port.accept_until(settled)).await.is_err() {
        unanswered = shared.drain.waiting();
        // Those of another port are told of there.
        if unanswered > 0 {
            tracing::warn!(requests = unanswered, "drain_ms is over: requests that are not answered get a 503");
        }
    }
    shared.drain.end();
    let mut connections = port.close();
    drop(stop);
    let written = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_REPLIES, written).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "connections are closed before their requests had come or their replies were read"
        );
        connections.shutdown().await;
    }
    unanswered
}

/// The port and the connections that came through it.
struct Port {
    door: Door,
    shared: Arc<Shared>,
    stopped: watch::Receiver<()>,
    connections: JoinSet<()>,
}

impl Port {
    /// Accepts connections until `end`; gives what that said.
    async fn accept_until<T>(&mut self, end: impl Future<Output = T>) -> T {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                biased;
                ended = &mut end => return ended,
                Some(ended) = self.connections.join_next() => report(&ended),
                came = self.door.next() => self.begin(came),
            }
        }
    }

    /// Serves a connection beside the others.
    fn begin(&mut self, (stream, place): (TcpStream, Place)) {
        self.connections.spawn(connection(stream, Arc::clone(&self.shared), self.stopped.clone(), place));
    }

    /// Leaves the port to the process that has it, too; answers whoever is connected, for `patience` and not beyond a `shutdown`, and closes what
    /// is idle then. A busy connection closes once it is answered. Gives the number of requests that were given up.
    async fn leave(self, stop: watch::Sender<()>, patience: Duration, shutdown: impl Future<Output = ()>) -> usize {
        let Port { door, shared, stopped, mut connections } = self;
        if let Some((stream, place)) = door.leave() {
            connections.spawn(connection(stream, Arc::clone(&shared), stopped, place));
        }
        tokio::select! {
            () = async { while connections.join_next().await.is_some() {} } => {}
            () = tokio::time::sleep(patience) => {}
            () = shutdown => {}
        }
        drop(stop);
        let answered = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(patience.max(LAST_REPLIES), answered).await.is_err() {
            let unanswered = shared.drain.waiting();
            tracing::warn!(
                requests = unanswered,
                connections = connections.len(),
                "drain_ms is over: connections are cut"
            );
            connections.shutdown().await;
            return unanswered;
        }
        0
    }

    /// Closes the port, after it has accepted the connections that wait: the system would reset them.
    fn close(self) -> JoinSet<()> {
        let Port { door, shared, stopped, mut connections } = self;
        for (stream, place) in door.close() {
            connections.spawn(connection(stream, Arc::clone(&shared), stopped.clone(), place));
        }
        connections
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

/// Serves one connection to its end.
async fn connection(stream: TcpStream, shared: Arc<Shared>, stopped: watch::Receiver<()>, mut place: Place) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    let past = Past::new(place.activity());
    let (socket, inherited) = Socket::new(stream, shared.site.limits.body_timeout, Arc::clone(&past.unwritten));
    let ended = requests(socket, &shared, &past, stopped, &mut place).await;
    if let Err(error) = &ended {
        tracing::debug!(%error, "a connection ended early");
    }
    // hyper answers a head that it cannot read, and reads no further.
    let refused = ended.is_err_and(|error| error.is_parse());
    let is_more_to_come = refused || past.unread.load(Ordering::Relaxed);
    let is_needed = past.is_last.load(Ordering::Relaxed);
    if (is_more_to_come || is_needed)
        && let Ok(stream) = inherited.await
        && let Some(stream) = if is_more_to_come { Some(stream) } else { unread(stream) }
    {
        // While somebody waits, another is told to leave for him every so often: a longer farewell would cost several their places.
        linger(stream, if is_needed { LAST_BYTES } else { LINGER }).await;
    }
}

/// What a connection has seen.
struct Past {
    /// A request has arrived.
    asked: AtomicBool,
    /// A request was answered that had not arrived whole.
    unread: AtomicBool,
    /// The next answer is the last, or was: somebody else needs the place.
    is_last: AtomicBool,
    /// The last reply, until it has gone to the system.
    unwritten: Unwritten,
    activity: Activity,
}

impl Past {
    /// Nothing so far.
    fn new(activity: Activity) -> Self {
        let [asked, unread, is_last] = [false; 3].map(AtomicBool::new);
        Past { asked, unread, is_last, unwritten: Arc::new(Mutex::new(None)), activity }
    }

    /// Answers one request.
    async fn answer(&self, shared: &Shared, request: Request<Incoming>) -> Result<Reply, Infallible> {
        self.asked.store(true, Ordering::Relaxed);
        let inbound = |incoming| Inbound::new(incoming, self.activity.clone());
        let mut answered = answer(shared, request.map(inbound)).await;
        if self.is_last.load(Ordering::Relaxed) || self.activity.should_close() {
            self.is_last.store(true, Ordering::Relaxed);
            answered.reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.unread.fetch_or(answered.unread, Ordering::Relaxed);
        *self.unwritten.lock() = Some(answered.busy);
        Ok(answered.reply)
    }
}

/// Serves the requests of one connection, until it ends or somebody else needs its place.
async fn requests(
    socket: Socket,
    shared: &Shared,
    past: &Past,
    mut stopped: watch::Receiver<()>,
    place: &mut Place,
) -> hyper::Result<()> {
    let service = service_fn(|request| past.answer(shared, request));
    let limits = shared.site.limits;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.header_timeout).max_header_size(HEAD_BYTES_MAX);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        // Nothing is ever sent: the channel closes when the port does.
        _ = stopped.changed() => {}
        () = place.needed() => {
            past.is_last.store(true, Ordering::Relaxed);
            place.hurry();
            return match tokio::time::timeout(ARRIVED, connection.as_mut()).await {
                Ok(ended) => ended,
                // It has sent nothing, or half a head.
                Err(_) if place.rests() => Ok(()),
                Err(_) => connection.await,
            };
        }
    }
    // A client that has just connected is told why: its first request gets the 503 that every other one got.
    if !past.asked.load(Ordering::Relaxed)
        && let Ok(ended) = tokio::time::timeout(FIRST_REQUEST, connection.as_mut()).await
    {
        return ended;
    }
    connection.as_mut().graceful_shutdown();
    connection.await
}
