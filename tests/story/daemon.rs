//! The real daemon as a child process: its own folder, its own port, its log, and an end that cannot be forgotten.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use ureq::Agent;

/// How long a daemon may take to load its weights and pass its canaries on a busy machine.
const START: Duration = Duration::from_secs(30);

/// A daemon that serves. Killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    /// `http://127.0.0.1:port`
    pub(crate) url: String,
    agent: Agent,
    log: Arc<Mutex<Vec<String>>>,
    /// Held while nobody reads its log.
    unread: Arc<Mutex<()>>,
    folder: TempDir,
    /// The process that has the port, if it is not the one that was started.
    successor: Option<u32>,
}

/// A shipped configuration with `edits` (line, replacement), on a free port, with faults on.
pub(crate) fn config(shipped: &str, edits: &[(&str, &str)]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut text = fs::read_to_string(root.join(shipped)).unwrap();
    let folder = root.join("weights/fashion-mnist/1");
    let weights = text.lines().find(|line| line.starts_with("weights = ")).expect("a deployment").to_owned();
    let absolute = format!("weights = {:?}", folder.display().to_string());
    let fixed = [
        ("listen = \"127.0.0.1:8000\"", "listen = \"127.0.0.1:0\""),
        ("listen = \"127.0.0.1:8001\"", "listen = \"127.0.0.1:0\""),
        ("faults = false", "faults = true"),
        (weights.as_str(), absolute.as_str()),
    ];
    for (line, replacement) in fixed.iter().chain(edits) {
        let lines: Vec<_> = text.lines().map(|found| if found == *line { replacement } else { found }).collect();
        assert!(text.lines().any(|found| found == *line), "{shipped} has a line {line}");
        text = lines.join("\n");
    }
    if std::env::var_os("PARITYD_TEST_DEVICE").is_some() { on_gpus(&text) } else { text }
}

/// The same with each lane on a GPU of its own: `scripts/check-cuda` runs stories there.
fn on_gpus(text: &str) -> String {
    let mut gpus = 0..;
    let place = |line: &str| match line {
        "device = \"cpu\"" => gpus.next().map(|gpu: usize| format!("device = \"cuda:{gpu}\"\n")),
        "threads = 1" => None,
        // What is emulated takes time of its own.
        _ if line.starts_with("service_ms") => None,
        _ => Some(format!("{line}\n")),
    };
    let lanes = text.lines().filter(|line| *line == "[[lane]]").count();
    let placed: String = text.lines().filter_map(place).collect();
    assert_eq!(placed.matches("device = \"cuda:").count(), lanes, "no lane stays where it was: {placed}");
    placed
}

impl Daemon {
    /// Starts `parityd serve` with this configuration; returns once it is ready.
    pub(crate) fn start(config: &str) -> Daemon {
        Daemon::start_with(config, &[])
    }

    /// The same with environment variables.
    pub(crate) fn start_with(config: &str, variables: &[(&str, &str)]) -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        fs::write(&file, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_parityd"))
            .args(["serve", "--config"])
            .arg(&file)
            // Neither the developer's port nor a backtrace for each injected panic.
            .env_remove("PARITYD_HTTP_LISTEN")
            .env_remove("PARITYD_GRPC_LISTEN")
            .env_remove("RUST_BACKTRACE")
            .env_remove("NOTIFY_SOCKET")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().expect("piped");
        let agent = agent(Duration::from_secs(5));
        let log = Arc::new(Mutex::new(Vec::new()));
        let unread: Arc<Mutex<()>> = Arc::default();
        let (log_of, unread_of) = (Arc::clone(&log), Arc::clone(&unread));
        let mut daemon =
            Daemon { child, url: String::new(), agent, log: log_of, unread: unread_of, folder, successor: None };
        let (told, bound) = mpsc::sync_channel(1);
        // Reads to the end, so that the daemon never blocks on a full pipe; what it logs shows when a test fails.
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = bound_address(&line) {
                    drop(told.try_send(address));
                }
                println!("{line}");
                log.lock().unwrap().push(line);
                drop(unread.lock());
            }
        });
        let address = bound.recv_timeout(START).expect("the daemon logs its address");
        daemon.url = format!("http://{address}");
        daemon.wait_until("ready", |daemon| daemon.status("/v2/health/ready") == Some(200));
        daemon
    }

    /// Waits until `holds`.
    pub(crate) fn wait_until(&self, what: &str, holds: impl Fn(&Daemon) -> bool) {
        let end = Instant::now() + START;
        while !holds(self) {
            assert!(Instant::now() < end, "the daemon is not {what} after {START:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn status(&self, path: &str) -> Option<u16> {
        self.agent.get(format!("{}{path}", self.url)).call().ok().map(|reply| reply.status().as_u16())
    }

    /// The JSON that a path answers.
    pub(crate) fn json(&self, path: &str) -> Value {
        self.agent.get(format!("{}{path}", self.url)).call().unwrap().body_mut().read_json().unwrap()
    }

    /// Injects a fault: the JSON body of `POST /admin/lanes/{lane}/fault`.
    pub(crate) fn fault(&self, lane: usize, fault: &str) {
        let route = format!("{}/admin/lanes/{lane}/fault", self.url);
        let reply = self.agent.post(route).content_type("application/json").send(fault).unwrap();
        assert_eq!(reply.status(), 204, "{fault}");
    }

    /// Clears the fault of a lane.
    pub(crate) fn clear(&self, lane: usize) {
        self.fault(lane, r#"{"kind": "clear"}"#);
    }

    /// The state of each lane, in the order of their ids.
    pub(crate) fn lane_states(&self) -> Vec<String> {
        let mut reply = self.agent.get(format!("{}/admin/lanes", self.url)).call().unwrap();
        let lanes: Value = reply.body_mut().read_json().unwrap();
        let lanes = lanes.as_array().or_else(|| lanes["lanes"].as_array()).expect("a list").clone();
        lanes.iter().map(|lane| lane["state"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until every lane works again.
    pub(crate) fn wait_healthy(&self) {
        self.wait_until("healthy on every lane", Daemon::is_healthy);
    }

    /// Whether every lane works.
    pub(crate) fn is_healthy(&self) -> bool {
        self.lane_states().iter().all(|state| state == "healthy")
    }

    /// The sum of a metric over those of its samples whose labels hold `labels`; `None` if there is no such sample.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> Option<f64> {
        let text = self.agent.get(format!("{}/metrics", self.url)).call().unwrap().body_mut().read_to_string().unwrap();
        let samples = text.lines().filter(|line| line.starts_with(name) && line.contains(labels));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().unwrap())
        };
        samples.filter_map(sample).reduce(|sum, value| sum + value)
    }

    /// Resident memory in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
        line.trim().trim_end_matches("kB").trim().parse().unwrap()
    }

    /// The address of gRPC's port.
    pub(crate) fn grpc(&self) -> String {
        self.log()
            .iter()
            .find_map(|line| address_in(line, "listens for gRPC"))
            .expect("it is logged before the daemon is ready")
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// From now on nobody reads what it logs, until this is dropped: the pipe fills, and then whoever writes to it waits.
    pub(crate) fn stall_log(&self) -> MutexGuard<'_, ()> {
        self.unread.lock().unwrap()
    }

    /// Sends it SIGTERM.
    pub(crate) fn signal(&self) {
        assert!(kill("-TERM", self.process()), "it is there");
    }

    /// The process that has the port.
    pub(crate) fn process(&self) -> u32 {
        self.successor.unwrap_or(self.child.id())
    }

    /// Another process has taken over from the one that was started, which ends: the story goes on with that one. Returns the exit code.
    pub(crate) fn succeeded(&mut self) -> Option<i32> {
        self.wait_until("taken over", |daemon| daemon.last_successor().is_some());
        self.follow();
        self.wait()
    }

    /// The story goes on with the process that took over last.
    pub(crate) fn follow(&mut self) {
        self.successor = self.last_successor();
    }

    fn last_successor(&self) -> Option<u32> {
        let log = self.log();
        let line = log.iter().rfind(|line| line.contains("another process has taken over"))?;
        let (_, process) = line.split_once("process=")?;
        process.split_whitespace().next()?.parse().ok()
    }

    /// Where its configuration stands, by which its processes are known.
    pub(crate) fn folder(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// Writes another configuration, for whoever reads it next.
    pub(crate) fn configure(&self, config: &str) {
        fs::write(self.folder.path().join("config.toml"), config).unwrap();
    }

    /// Waits for its end, and returns its exit code.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Asks the daemon to end, and returns its exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal();
        self.wait()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing of it is left.
        drop(self.child.kill());
        drop(self.child.wait());
        if let Some(successor) = self.successor {
            kill("-KILL", successor);
        }
    }
}

/// Whether a process was there to get the signal.
pub(crate) fn kill(signal: &str, process: u32) -> bool {
    Command::new("kill").args([signal, &process.to_string()]).stderr(Stdio::null()).status().unwrap().success()
}

/// A client with connections of its own; statuses are values, not errors.
pub(crate) fn agent(timeout: Duration) -> Agent {
    Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout)).build().into()
}

/// The address in the log line that says `listening`.
fn bound_address(line: &str) -> Option<String> {
    address_in(line, "listening")
}

/// The address in a log line that says `word`.
fn address_in(line: &str, word: &str) -> Option<String> {
    if !line.contains(word) {
        return None;
    }
    let (_, rest) = line.split_once("address")?;
    let rest = rest.trim_start_matches(['=', ':', '"', ' ']);
    let end = rest.find(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c))).unwrap_or(rest.len());
    let address = rest[..end].to_owned();
    address.rsplit_once(':').is_some_and(|(_, port)| port != "0").then_some(address)
}

#[test]
fn the_address_is_found_in_plain_and_in_json_logs() {
    let found = |line| bound_address(line).unwrap_or_default();
    assert_eq!(found("2026-01-01 INFO parityd: listening address=127.0.0.1:4711 deployment=\"m\""), "127.0.0.1:4711");
    assert_eq!(found(r#"{"fields":{"message":"listening","address":"127.0.0.1:4711"}}"#), "127.0.0.1:4711");
    assert_eq!(found("INFO listening address=[::1]:4711"), "[::1]:4711");
    assert_eq!(found("INFO lane ready address=127.0.0.1:4711"), "");
}
