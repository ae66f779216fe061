//! One process takes over from another without losing a query: `on_fatal = "restart"`.
//!
//! After some errors (`lane/loss`) CUDA gives a process nothing but the same error for that GPU, while a new process finds the GPU well. Other lanes serve on,
//! so the cure must not cost what they still answer. The process that has the port starts its *successor*, with one end of a socket as standard
//! input, and this is all that they say to each other:
//!
//! ```text
//! predecessor                                     successor
//!   lanes to leave out  ──────────────────────────►  loads, opens the other devices, runs canaries
//!                       ◄──────────────────────────  ready
//!   the listening ports ──────────────────────────►  accepts connections
//!                       ◄──────────────────────────  serving
//!   accepts no more, answers what it has, ends
//! ```
//!
//! What always holds: somebody accepts connections at every moment, because both do until the last word. A port (there may be two, of HTTP and
//! of gRPC) is one socket, not two on one address, so no connection waits in a queue that is closed. A successor that fails costs a line in the log and a longer wait; one whose
//! predecessor is gone before it has the port ends. A stop that comes at any moment before the last word ends both. Devices that were doubtful when it started are opened by canaries, in the background: opening a dead GPU may never return.
//!
//! *Rejected*: `exec` in place (nobody would answer while weights load), and leaving it to systemd alone (the same, and what was in flight is lost).

use std::{
    env, io,
    io::{Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{self, Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::net::RecvFlags;

use super::ports::Ports;
use crate::{
    clock::{Clock, Time},
    config::Lane,
    engine::Engine,
    exit::MAY_PASS,
    query::LaneId,
};

/// Set for a successor: its standard input is the socket.
const SUCCEEDS: &str = "PARITYD_SUCCEEDS";
/// What it is set to.
const STDIN: &str = "stdin";
/// How long a successor may take to load weights and open devices; what the systemd unit gives a start.
const LOADING: Duration = Duration::from_mins(5);
/// How long it may take to say that it serves, once it has the port.
const TAKING: Duration = Duration::from_secs(10);
/// The wait for the next try grows up to so many times.
const TRIES_MAX: u32 = 10;
/// The same rest where no lane is left that could answer: there is nothing to spare.
const REST_OF_NONE: Duration = Duration::from_secs(1);
/// How long a successor that was killed may take to be gone; one that sleeps in a driver does not die.
const DYING: Duration = Duration::from_secs(5);
/// How long the log may take to write its last lines.
const LAST_LINES: Duration = Duration::from_millis(100);
/// The longest list of lanes to leave out, in bytes.
const LINE_MAX: usize = 64 * 1024;

/// The successor's words.
const READY: u8 = b'R';
const SERVING: u8 = b'S';

/// Why one process did not take over from another.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// It did not start.
    #[error("the successor did not start: {0}")]
    Start(#[source] io::Error),
    /// It ended, or said nothing for too long.
    #[error("the other process said nothing: {0}; if it failed, its log lines say why")]
    Silent(#[source] io::Error),
    /// It said something else.
    #[error("the other process sent an unexpected word of the succession")]
    Words,
    /// Somebody else has set the variable.
    #[error(
        "{SUCCEEDS} is {value:?}, and standard input is no other parityd's socket: unset it, it is for the process that a parityd starts"
    )]
    Nobody {
        /// What it says.
        value: String,
    },
    /// This process was told to stop meanwhile.
    #[error("the daemon stops")]
    Stopping,
}

/// The process that has the port, as its successor sees it.
#[derive(Debug)]
pub(super) struct Predecessor {
    socket: UnixStream,
    /// The port is here: the predecessor may end.
    taken: Arc<AtomicBool>,
}

impl Predecessor {
    /// The process that this one was started by to succeed it; `None` for any other start.
    pub(super) fn find() -> Result<Option<Self>, SuccessionError> {
        let Some(value) = env::var_os(SUCCEEDS).filter(|value| !value.is_empty()) else { return Ok(None) };
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(SuccessionError::Silent)?);
        if value != STDIN || socket.local_addr().is_err() {
            return Err(SuccessionError::Nobody { value: value.to_string_lossy().into_owned() });
        }
        Ok(Some(Predecessor { socket, taken: Arc::default() }))
    }

    /// Which of these lanes start without their devices.
    pub(super) fn left_out(&mut self, lanes: &[Lane]) -> Result<Vec<LaneId>, SuccessionError> {
        let mut line = Vec::new();
        loop {
            match read_word(&self.socket)? {
                b'\n' => break,
                _ if line.len() == LINE_MAX => return Err(SuccessionError::Words),
                byte => line.push(byte),
            }
        }
        let line = String::from_utf8(line).map_err(|_| SuccessionError::Words)?;
        self.end_with_it()?;
        let doubtful = |lane: &&Lane| line.split_whitespace().any(|name| name == name_of(lane));
        Ok(lanes.iter().filter(doubtful).map(|lane| lane.id).collect())
    }

    /// Ends this process if the predecessor ends before it gives the ports away: nobody would know of a process that may still load for minutes.
    fn end_with_it(&self) -> Result<(), SuccessionError> {
        let socket = self.socket.try_clone().map_err(SuccessionError::Silent)?;
        let taken = Arc::clone(&self.taken);
        let watch = move || {
            // The ports' word is the next that comes; it is left where it is. Who took them may have been faster.
            let heard = rustix::net::recv(&socket, &mut [0], RecvFlags::PEEK).is_ok_and(|(_, read)| read > 0);
            if !heard && !taken.load(Ordering::Acquire) {
                tracing::error!("predecessor gone: this successor ends");
                // The log writes behind a buffer, which this way to end does not wait for.
                Clock::start().pause(LAST_LINES);
                process::exit(MAY_PASS.into());
            }
        };
        thread::Builder::new().name("predecessor".to_owned()).spawn(watch).map(drop).map_err(SuccessionError::Start)
    }

    /// Every lane is loaded: takes the ports.
    pub(super) fn take_over(&mut self) -> Result<Ports, SuccessionError> {
        self.socket.write_all(&[READY]).map_err(SuccessionError::Silent)?;
        let ports = Ports::receive(&self.socket)?;
        self.taken.store(true, Ordering::Release);
        Ok(ports)
    }

    /// Connections are accepted from now on.
    pub(super) fn serving(&mut self) -> Result<(), SuccessionError> {
        self.socket.write_all(&[SERVING]).map_err(SuccessionError::Silent)
    }
}

/// What it takes to be succeeded.
#[derive(Debug)]
pub(super) struct Succession {
    pub(super) engine: Arc<Engine>,
    pub(super) lanes: Vec<Lane>,
    pub(super) ports: Ports,
    pub(super) clock: Clock,
    /// From one start to the next at least, while a lane is left that could answer; n times that after n failures.
    pub(super) rest: Duration,
}

impl Succession {
    /// Waits until a device needs another process, and until such a process has the port; gives its id. `None` if the daemon stops first.
    pub(super) fn wait(self) -> Option<u32> {
        let mut tried = self.clock.now();
        let mut times = 1;
        while self.engine.await_broken() {
            self.pause(tried, times.min(TRIES_MAX))?;
            if !self.engine.is_broken() {
                continue;
            }
            match self.succeed() {
                Ok(successor) => return Some(successor),
                Err(SuccessionError::Stopping) => return None,
                Err(error) => {
                    tracing::error!(%error, times, "no other process took over; the lanes that are left serve on");
                }
            }
            tried = self.clock.now();
            times += 1;
        }
        None
    }

    /// Until `times` rests after `since`; `None` if the daemon stops meanwhile.
    fn pause(&self, since: Time, times: u32) -> Option<()> {
        loop {
            if self.engine.is_draining() {
                return None;
            }
            let answers = self.engine.has_moving_lane(self.rest);
            let rest = if answers { self.rest } else { self.rest.min(REST_OF_NONE) };
            let left = (since + rest * times).since(self.clock.now());
            if left == Duration::ZERO {
                return Some(());
            }
            self.clock.pause(left.min(Duration::from_millis(100)));
        }
    }

    fn succeed(&self) -> Result<u32, SuccessionError> {
        let (ours, theirs) = UnixStream::pair().map_err(SuccessionError::Start)?;
        let mut child = successor(theirs).map_err(SuccessionError::Start)?;
        let id = child.id();
        tracing::warn!(process = id, "a device needs a new process: a successor starts");
        match self.hand_over(&ours) {
            Ok(()) => Ok(id),
            Err(error) => {
                // It ends by itself when it finds the socket closed, unless it is stuck in a device.
                drop(ours.shutdown(Shutdown::Both));
                end(&mut child, self.clock);
                Err(error)
            }
        }
    }

    fn hand_over(&self, mut socket: &UnixStream) -> Result<(), SuccessionError> {
        let doubtful = left_out(&self.lanes, |lane| self.engine.is_usable(lane));
        socket.write_all(format!("{}\n", doubtful.join(" ")).as_bytes()).map_err(SuccessionError::Silent)?;
        expect(socket, READY, LOADING, || self.engine.is_draining())?;
        let goes_on = || if self.engine.is_draining() { Err(SuccessionError::Stopping) } else { Ok(()) };
        goes_on()?;
        self.ports.send(socket)?;
        expect(socket, SERVING, TAKING, || false)?;
        goes_on()
    }
}

/// Names of the lanes that a successor should not wait for: those that are out of work, unless that would leave it without the base model.
fn left_out(lanes: &[Lane], is_usable: impl Fn(LaneId) -> bool) -> Vec<String> {
    let works = |lane: &&Lane| is_usable(lane.id);
    if !lanes.iter().filter(works).any(|lane| lane.role.runs_base()) {
        return Vec::new();
    }
    lanes.iter().filter(|lane| !works(lane)).map(name_of).collect()
}

/// What a lane is called between processes: its GPU, since `devices = "auto"` may count otherwise next time; else its number.
fn name_of(lane: &Lane) -> String {
    lane.gpu().map_or_else(|| lane.id.to_string(), str::to_owned)
}

/// This program with this process's arguments.
fn successor(socket: UnixStream) -> io::Result<Child> {
    let mut arguments = env::args_os();
    let name = arguments.next().unwrap_or_default();
    // The program that runs: under its name if that is still there, so that `ps` shows it; a newer one may stand in its place.
    let program = env::current_exe().ok().filter(|program| program.exists()).unwrap_or_else(|| "/proc/self/exe".into());
    let mut command = Command::new(program);
    command.arg0(name).args(arguments).env(SUCCEEDS, STDIN).stdin(Stdio::from(OwnedFd::from(socket)));
    // Set to the process that systemd started, it would keep another one from feeding the watchdog.
    command.env_remove("WATCHDOG_PID").spawn()
}

fn end(child: &mut Child, clock: Clock) {
    let until = clock.now() + DYING;
    let mut ended = child.kill().and_then(|()| child.try_wait());
    while let Ok(None) = ended
        && clock.now() < until
    {
        clock.pause(Duration::from_millis(20));
        ended = child.try_wait();
    }
    if !matches!(ended, Ok(Some(_))) {
        tracing::warn!(process = child.id(), "the successor that failed could not be ended");
    }
}

fn read_word(mut socket: &UnixStream) -> Result<u8, SuccessionError> {
    let mut word = [0];
    socket.read_exact(&mut word).map_err(SuccessionError::Silent)?;
    Ok(word[0])
}

/// Waits for one word, for `patience` at most and not once `stops` holds.
fn expect(socket: &UnixStream, word: u8, patience: Duration, stops: impl Fn() -> bool) -> Result<(), SuccessionError> {
    let step = Duration::from_millis(200);
    socket.set_read_timeout(Some(step)).map_err(SuccessionError::Silent)?;
    let mut waited = Duration::ZERO;
    loop {
        match read_word(socket) {
            Ok(found) if found == word => return Ok(()),
            Ok(_) => return Err(SuccessionError::Words),
            Err(SuccessionError::Silent(error)) if error.kind() == io::ErrorKind::WouldBlock && waited < patience => {
                if stops() {
                    return Err(SuccessionError::Stopping);
                }
                waited += step;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::ErrorKind,
        net::{TcpListener, TcpStream},
        path::Path,
        thread,
    };

    use super::*;
    use crate::config::Config;

    fn lanes() -> Vec<Lane> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(root.join("config.toml")).unwrap();
        Config::parse(&text, root, "config.toml").unwrap().lanes().to_vec()
    }

    #[test]
    fn the_ports_go_from_one_process_to_the_other() {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        for grpc in [None, Some(bind())] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let ports = Ports { http: bind(), grpc };
            let address = |port: &TcpListener| port.local_addr().unwrap();
            let addresses = (address(&ports.http), ports.grpc.as_ref().map(address));
            let successor = thread::spawn(move || {
                let mut predecessor = Predecessor { socket: theirs, taken: Arc::default() };
                let left_out = predecessor.left_out(&lanes()).unwrap();
                let ports = predecessor.take_over().unwrap();
                predecessor.serving().unwrap();
                (left_out, ports)
            });
            (&ours).write_all(b"0 2 GPU-x\n").unwrap();
            expect(&ours, READY, TAKING, || false).unwrap();
            ports.try_clone().unwrap().send(&ours).unwrap();
            expect(&ours, SERVING, TAKING, || false).unwrap();
            drop(ports);
            let (left_out, ports) = successor.join().unwrap();
            assert_eq!(left_out, [LaneId(0), LaneId(2)]);
            assert_eq!((address(&ports.http), ports.grpc.as_ref().map(address)), addresses);
            for port in [Some(ports.http), ports.grpc].into_iter().flatten() {
                let client = TcpStream::connect(address(&port)).unwrap();
                assert_eq!(port.accept().unwrap().1, address_of(&client), "the port lives on");
            }
        }
    }

    fn address_of(client: &TcpStream) -> std::net::SocketAddr {
        client.local_addr().unwrap()
    }

    #[test]
    fn who_ends_or_says_something_else_is_not_waited_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (&theirs).write_all(b"X").unwrap();
        assert!(matches!(expect(&ours, READY, TAKING, || false), Err(SuccessionError::Words)));
        assert!(matches!(expect(&ours, READY, TAKING, || true), Err(SuccessionError::Stopping)));
        assert!(matches!(expect(&ours, READY, Duration::ZERO, || false), Err(SuccessionError::Silent(_))));
        drop(theirs);
        let gone = expect(&ours, READY, TAKING, || false);
        assert!(matches!(gone, Err(SuccessionError::Silent(error)) if error.kind() == ErrorKind::UnexpectedEof));
    }

    #[test]
    fn a_successor_leaves_out_what_is_out_of_work_unless_nothing_else_is_there() {
        let lanes = lanes();
        let of = |usable: [bool; 3]| left_out(&lanes, |lane| usable[usize::from(lane.0)]);
        assert_eq!(of([false, true, false]), ["0", "2"]);
        assert_eq!(of([true; 3]), [""; 0]);
        assert_eq!(of([false, false, true]), [""; 0], "no lane with the base model is left");
    }
}
