//! The daemon around a running engine: ports, signals, systemd.
//!
//! The end, in order: the first SIGTERM, SIGINT or SIGHUP turns readiness red and makes admission refuse; the port of HTTP stays open and says so;
//! admitted queries are answered, for at most `drain_ms`; the port closes; the process ends with 0. Lanes that hang are left where they
//! are, and end with the process. A second signal ends it at once. The other end is that another process takes over (`succession`): this one
//! accepts no more, answers what it has, and ends with 0.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    process,
    sync::Arc,
    thread,
};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};

use super::{
    Plan, Running, ServeError, notify,
    ports::Ports,
    room::{room_for_a_runtime, room_for_threads},
    start_log,
    succession::{Predecessor, Succession},
    systemd::{self, Systemd},
};
use crate::{
    admission::Admission,
    clock::Clock,
    config::OnFatal,
    descriptors, grpc,
    http::{self, Lanes, Limits, Site},
};

/// Threads that carry sockets; parsing a short request is their heaviest work, and a long one is parsed elsewhere.
const HTTP_THREADS: usize = 2;

/// Serves until SIGTERM, SIGINT or SIGHUP, and through the drain; or until another process takes over.
pub fn run(mut plan: Plan) -> Result<(), ServeError> {
    let mut predecessor = Predecessor::find()?;
    let (running, ports) = match &mut predecessor {
        None => {
            let ports = Ports::bind(&plan)?;
            start_log::starting(&plan);
            (Running::start(&plan)?, ports)
        }
        Some(predecessor) => {
            plan.left_out = predecessor.left_out(plan.config.lanes())?;
            start_log::starting(&plan);
            let running = Running::start(&plan)?;
            let ports = predecessor.take_over()?;
            start_log::inherited(&ports, &plan.config);
            (running, ports)
        }
    };
    let plan = &plan;
    start_log::lanes(plan);
    room_for_threads(HTTP_THREADS + 1)?;
    room_for_a_runtime()?;
    let threads =
        runtime::Builder::new_multi_thread().worker_threads(HTTP_THREADS).thread_name("http").enable_all().build();
    let runtime = threads.map_err(ServeError::Thread)?;
    #[cfg(feature = "otlp")]
    let _exporting = runtime.block_on(async { crate::otlp::start() });
    let systemd = Systemd::find().map_err(ServeError::Thread)?;
    let unanswered = runtime.block_on(serve(plan, &running, &systemd, ports, predecessor))?;
    systemd.finish();
    tracing::info!(unanswered, "stopped");
    Ok(())
}

/// Makes a port ready for the runtime; gives its address, which is not the configured one if that leaves the port to the system, or if another process
/// has bound it under an older configuration.
fn listening(
    table: &'static str,
    listen: SocketAddr,
    port: TcpListener,
) -> Result<(tokio::net::TcpListener, SocketAddr), ServeError> {
    let refused = |source| ServeError::Listen { table, listen, source };
    port.set_nonblocking(true).map_err(refused)?;
    let address = port.local_addr().map_err(refused)?;
    Ok((tokio::net::TcpListener::from_std(port).map_err(refused)?, address))
}

/// Serves to the end; gives the number of requests that got no answer of their own.
async fn serve(
    plan: &Plan,
    running: &Running,
    systemd: &Systemd,
    ports: Ports,
    predecessor: Option<Predecessor>,
) -> Result<usize, ServeError> {
    let listen = plan.config.http.listen;
    let served = ports.count();
    let copied = ports.try_clone().map_err(|source| ServeError::Listen { table: "http", listen, source })?;
    let successor = await_successor(plan, running, copied)?;
    let (listener, address) = listening("http", listen, ports.http)?;
    let mut signals = Signals::new()?;
    let (draining, drains) = watch::channel(());
    let ends = (left_to_another(successor.clone()), drained(drains.clone()));
    let limits = limits(plan, served);
    let beside = grpc_port(plan, (running, limits), ports.grpc, ends)?;
    // What could fail is done: connections are accepted as soon as the ports are polled.
    if let Some(mut predecessor) = predecessor {
        predecessor.serving()?;
    }
    start_log::listening(plan, address);
    let stopping = async move {
        signals.next().await;
        running.engine.drain();
        systemd.tell(|words| words.stopping = true);
        tracing::info!("stopping: new queries are refused, admitted ones are answered");
        drop(draining);
        signals.next().await;
        tracing::warn!("a second signal: stopping at once");
    };
    let taken_over = async {
        let process = succeeded(successor.clone()).await;
        // It hears only that one from now on.
        systemd.tell(|words| words.main = Some(process));
        tracing::warn!(process, "another process has taken over: admitted queries are answered, and this one ends");
    };
    let (answering, settles) = watch::channel(());
    let beside = async move {
        let unanswered = beside.await;
        drop(answering);
        unanswered
    };
    let site = Arc::new(site(plan, running, limits));
    let port = http::serve(listener, site, taken_over, drained(drains), drained(settles));
    let reporting = async {
        tokio::select! {
            () = notify::report(systemd, running) => {}
            _ = succeeded(successor.clone()) => std::future::pending().await,
        }
    };
    tokio::select! {
        (unanswered, beside) = async { tokio::join!(port, beside) } => Ok(unanswered + beside),
        () = stopping => Ok(running.engine.admitted()),
        () = reporting => Ok(0),
    }
}

/// What hears of a successor that has the port, if there may be one.
fn await_successor(plan: &Plan, running: &Running, ports: Ports) -> Result<watch::Receiver<Option<u32>>, ServeError> {
    let (tell, told) = watch::channel(None);
    if plan.config.health.on_fatal == OnFatal::Fence {
        return Ok(told);
    }
    if process::id() == 1 || !systemd::is_there() {
        // A container ends with its first process, or with that one's child; other supervisors would start a second daemon when this one ends.
        tracing::warn!(
            "no successor can start (NOTIFY_SOCKET is not set, or this is process 1): devices that break are fenced"
        );
        return Ok(told);
    }
    let succession = Succession {
        engine: Arc::clone(&running.engine),
        lanes: plan.config.lanes().to_vec(),
        ports,
        clock: Clock::start(),
        rest: plan.config.health.fence,
    };
    let wait = move || {
        if let Some(process) = succession.wait() {
            tell.send_replace(Some(process));
        }
    };
    thread::Builder::new().name("succession".to_owned()).spawn(wait).map_err(ServeError::Thread)?;
    Ok(told)
}

/// Resolves when another process has the port; gives its id.
async fn succeeded(mut told: watch::Receiver<Option<u32>>) -> u32 {
    let process = told.wait_for(Option::is_some).await.ok().and_then(|process| *process);
    match process {
        Some(process) => process,
        // Nobody is left who could say so.
        None => std::future::pending().await,
    }
}

/// The port of gRPC, if there is one, until it is `taken_over` or drained; gives the number of calls that got no answer of their own.
fn grpc_port(
    plan: &Plan,
    (running, limits): (&Running, Limits),
    port: Option<TcpListener>,
    (taken_over, drained): (impl Future<Output = ()>, impl Future<Output = ()>),
) -> Result<impl Future<Output = usize>, ServeError> {
    let listen = plan.config.grpc.map_or(plan.config.http.listen, |grpc| grpc.listen);
    let bound = port.map(|port| listening("grpc", listen, port)).transpose()?;
    if let Some((_, address)) = &bound {
        start_log::grpc(*address);
    }
    let Site { signature, admission, metrics, limits, .. } = site(plan, running, limits);
    let site = Arc::new(grpc::Site { signature, admission, metrics, limits });
    Ok(async {
        match bound {
            Some((listener, _)) => grpc::serve(listener, site, taken_over, drained).await,
            None => 0,
        }
    })
}

/// Resolves when another process has the ports.
async fn left_to_another(successor: watch::Receiver<Option<u32>>) {
    let _process: u32 = succeeded(successor).await;
}

/// Resolves when the drain begins, or gRPC's port has ended: nothing is ever sent, and then the channel closes.
async fn drained(mut drains: watch::Receiver<()>) {
    drop(drains.changed().await);
}

/// What the port serves.
fn site(plan: &Plan, running: &Running, limits: Limits) -> Site {
    Site {
        signature: plan.signature(),
        admission: Arc::clone(&running.engine) as Arc<dyn Admission>,
        metrics: Arc::clone(&running.metrics),
        lanes: plan.config.admin.faults.then(|| Arc::clone(&running.crew) as Arc<dyn Lanes>),
        limits,
    }
}

/// What clients of each of so many ports may take; says so if that is less than it should be.
fn limits(plan: &Plan, ports: usize) -> Limits {
    let usual = Limits::new(plan.config.deployment.queue_max, plan.config.http.drain);
    let wanted = usual.descriptors(ports);
    let files = descriptors::at_least(wanted);
    let limits = usual.within(files, ports);
    if limits != usual {
        start_log::few_descriptors(limits, files, wanted);
    }
    limits
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
