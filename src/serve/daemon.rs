//! The daemon around a running engine: ports, signals, systemd.
//!
//! The end, in order: the first SIGTERM, SIGINT or SIGHUP turns readiness red and makes admission refuse; the port stays open and says so;
//! admitted queries are answered, for at most `drain_ms`; the port closes; the process ends with 0. Lanes that hang are left where they
//! are, and end with the process. A second signal ends it at once.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{Plan, Running, ServeError, notify, start_log};
use crate::{
    admission::Admission,
    grpc,
    http::{self, Lanes, Limits, Site},
};

/// Threads that carry sockets; parsing a request is their heaviest work.
const HTTP_THREADS: usize = 2;

/// Serves until SIGTERM, SIGINT or SIGHUP, and through the drain.
pub fn run(plan: &Plan) -> Result<(), ServeError> {
    let (listener, address) = bind("http", plan.config.http.listen)?;
    let grpc = plan.config.grpc.map(|grpc| bind("grpc", grpc.listen)).transpose()?;
    start_log::starting(plan);
    let running = Running::start(plan)?;
    start_log::lanes(plan);
    let threads =
        runtime::Builder::new_multi_thread().worker_threads(HTTP_THREADS).thread_name("http").enable_all().build();
    let runtime = threads.map_err(ServeError::Thread)?;
    let unanswered = runtime.block_on(serve(plan, &running, (listener, address), grpc))?;
    tracing::info!(unanswered, "stopped");
    Ok(())
}

/// A port that is bound, and its address.
type Bound = (TcpListener, SocketAddr);

/// Binds a port, before anything slow: a second daemon on it is found out at once.
fn bind(table: &'static str, listen: SocketAddr) -> Result<Bound, ServeError> {
    let refused = |source| ServeError::Listen { table, listen, source };
    let listener = TcpListener::bind(listen).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    Ok((listener, address))
}

/// Serves to the end; gives the number of requests that got no answer of their own.
async fn serve(
    plan: &Plan,
    running: &Running,
    (listener, address): Bound,
    grpc: Option<Bound>,
) -> Result<usize, ServeError> {
    let refused = |source| ServeError::Listen { table: "http", listen: plan.config.http.listen, source };
    let listener = tokio::net::TcpListener::from_std(listener).map_err(refused)?;
    let mut signals = Signals::new()?;
    start_log::listening(plan, address);
    let (draining, drains) = watch::channel(());
    let beside = grpc_port(plan, running, grpc, drains.clone())?;
    let stopping = async move {
        signals.next().await;
        running.engine.drain();
        notify::stopping();
        tracing::info!("stopping: new queries are refused, admitted ones are answered");
        drop(draining);
        signals.next().await;
        tracing::warn!("a second signal: stopping at once");
    };
    let port = http::serve(listener, Arc::new(site(plan, running)), drained(drains));
    tokio::select! {
        (unanswered, beside) = async { tokio::join!(port, beside) } => Ok(unanswered + beside),
        () = stopping => Ok(running.engine.admitted()),
        () = notify::report(running) => Ok(0),
    }
}

/// The port of gRPC, if there is one, to its end; gives the number of calls that got no answer of their own.
fn grpc_port(
    plan: &Plan,
    running: &Running,
    bound: Option<Bound>,
    drains: watch::Receiver<()>,
) -> Result<impl Future<Output = usize>, ServeError> {
    let port = match bound {
        None => None,
        Some((listener, address)) => {
            let refused = |source| ServeError::Listen { table: "grpc", listen: address, source };
            let listener = tokio::net::TcpListener::from_std(listener).map_err(refused)?;
            start_log::grpc(address);
            let Site { signature, admission, metrics, limits, .. } = site(plan, running);
            let site = grpc::Site { signature, admission, metrics, limits };
            Some(grpc::serve(listener, Arc::new(site), drained(drains)))
        }
    };
    Ok(async {
        match port {
            Some(port) => port.await,
            None => 0,
        }
    })
}

/// Resolves when the drain begins: nothing is ever sent, and then the channel closes.
async fn drained(mut drains: watch::Receiver<()>) {
    drop(drains.changed().await);
}

/// What the port serves.
fn site(plan: &Plan, running: &Running) -> Site {
    Site {
        signature: plan.signature(),
        admission: Arc::clone(&running.engine) as Arc<dyn Admission>,
        metrics: Arc::clone(&running.metrics),
        lanes: plan.config.admin.faults.then(|| Arc::clone(&running.crew) as Arc<dyn Lanes>),
        limits: Limits::new(plan.config.deployment.queue_max, plan.config.http.drain),
    }
}

/// The signals that ask a daemon to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal that it was started from is gone; `None` if it was started by `nohup`, which asks to live on.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> Result<Self, ServeError> {
        let of = |kind| signal(kind).map_err(ServeError::Signal);
        Ok(Signals {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
            hangup: (!ignores_hangup()).then(|| of(SignalKind::hangup())).transpose()?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            Some(()) = async { self.hangup.as_mut()?.recv().await } => {}
        }
    }
}

/// Whether SIGHUP was ignored when the process began, as `nohup` arranges it. Where the system does not tell, it was not.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0").trim();
    // SIGHUP is signal 1: the lowest bit.
    u64::from_str_radix(ignored, 16).is_ok_and(|ignored| ignored & 1 == 1)
}
