//! What the daemon tells systemd, heard on a socket in its place; and the unit file, judged by systemd's own tools where they are.

use std::{
    fs, iter,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    beside,
    daemon::{Daemon, config},
    load::{Load, send},
    statuses,
};

const WATCHDOG: Duration = Duration::from_millis(800);

/// The socket that systemd would listen on.
struct Supervisor(UnixDatagram);

impl Supervisor {
    /// Starts a daemon that reports here.
    fn start(config: &str) -> (Supervisor, Daemon, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let watchdog = WATCHDOG.as_micros().to_string();
        let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", watchdog.as_str())];
        (Supervisor(socket), Daemon::start_with(config, &variables), folder)
    }

    fn hear(&self) -> String {
        let mut bytes = [0; 4096];
        let read = self.0.recv(&mut bytes).expect("the daemon says something in time");
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    }

    /// The first message with `word` in it.
    fn hear_of(&self, word: &str) -> String {
        let until = Instant::now() + Duration::from_secs(30);
        let mut messages = iter::repeat_with(|| self.hear()).inspect(|message| {
            assert!(Instant::now() < until, "nothing is heard of {word}, but {message}");
        });
        messages.find(|message| message.contains(word)).unwrap()
    }

    /// Forgets what has been said.
    fn forget(&self) {
        self.0.set_nonblocking(true).unwrap();
        while self.0.recv(&mut [0; 4096]).is_ok() {}
        self.0.set_nonblocking(false).unwrap();
    }
}

#[test]
fn it_is_told_of_readiness_life_and_the_end() {
    let _beside = beside();
    let (systemd, mut daemon, _folder) = Supervisor::start(&config("config.toml", &[]));
    let ready = systemd.hear_of("READY=1");
    assert!(ready.contains("STATUS=3 of 3 lanes healthy; answered 0 direct"), "{ready}");
    systemd.hear_of("WATCHDOG=1");
    daemon.fault(0, r#"{"kind": "error"}"#);
    // Enough for the lane to get one, however the machine wakes its threads.
    send(&daemon.url, Load::new(100, Duration::from_millis(500)));
    let status = systemd.hear_of("2 of 3 lanes healthy");
    assert!(status.contains("lane 0 failed") || status.contains("lane 0 probation"), "{status}");
    systemd.hear_of("WATCHDOG=1");
    daemon.signal();
    systemd.hear_of("STOPPING=1");
    assert_eq!(daemon.wait(), Some(0));
}

/// Its socket holds few words, and whoever writes into a full one waits: nobody who answers queries does.
#[test]
fn a_systemd_that_does_not_listen_keeps_no_query_waiting() {
    let _beside = beside();
    let (systemd, mut daemon, _folder) = Supervisor::start(&config("config.toml", &[]));
    // A word every fifth of a second, two at a time: far more than any socket of the kind holds.
    let words: usize =
        fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").map_or(10, |text| text.trim().parse().unwrap());
    thread::sleep(WATCHDOG / 8 * u32::try_from(words.min(40)).unwrap() + 2 * WATCHDOG);
    let replies = send(&daemon.url, Load::new(100, Duration::from_secs(1)));
    assert!(replies.iter().all(|reply| reply.status == 200), "{:?}", statuses(&replies));
    daemon.signal();
    assert_eq!(daemon.wait(), Some(0), "not even the end waits for long");
    assert!(systemd.hear().contains("READY=1"), "what it was told first");
}

/// Only the main process is listened to, so systemd hears which one that is, and then that one: with all lanes well.
#[test]
fn it_is_told_which_process_took_over() {
    let _beside = beside();
    let restarts = [("fence_ms = 30000", "fence_ms = 100"), ("on_fatal = \"fence\"", "on_fatal = \"restart\"")];
    let (systemd, mut daemon, _folder) = Supervisor::start(&config("config.toml", &restarts));
    systemd.hear_of("WATCHDOG=1");
    daemon.fault(0, r#"{"kind": "fatal"}"#);
    send(&daemon.url, Load::new(100, Duration::from_millis(500)));
    let told = systemd.hear_of("MAINPID=");
    assert_eq!(daemon.succeeded(), Some(0));
    assert_eq!(told.trim(), format!("MAINPID={}", daemon.process()));
    systemd.forget();
    daemon.wait_healed();
    systemd.hear_of("STATUS=3 of 3 lanes healthy");
    systemd.hear_of("WATCHDOG=1");
}

/// A daemon none of whose lanes can answer is not alive, whatever its threads do. The paper's baseline calls such lanes healthy.
#[test]
fn the_watchdog_starves_when_every_base_lane_is_stuck_and_is_fed_when_one_comes_back() {
    let _beside = beside();
    let (systemd, daemon, _folder) = Supervisor::start(&config("examples/parm.toml", &[]));
    systemd.hear_of("WATCHDOG=1");
    for lane in [0, 1] {
        daemon.fault(lane, r#"{"kind": "hang"}"#);
    }
    thread::scope(|scope| {
        scope.spawn(|| send(&daemon.url, Load::new(20, Duration::from_millis(200))));
        thread::sleep(2 * WATCHDOG);
        systemd.forget();
        let until = Instant::now() + 2 * WATCHDOG;
        while Instant::now() < until {
            let told = systemd.hear();
            assert!(!told.contains("WATCHDOG=1"), "nothing answers, and yet: {told}");
        }
        daemon.clear(1);
        systemd.hear_of("WATCHDOG=1");
    });
}

/// While the small model answers, a new process could only answer less.
#[test]
fn the_watchdog_is_fed_while_approximate_answers_are_left() {
    let _beside = beside();
    let (systemd, daemon, _folder) = Supervisor::start(&config("config.toml", &[]));
    assert_eq!(daemon.metric("parityd_ready", ""), Some(1.0));
    for lane in [0, 1] {
        daemon.fault(lane, r#"{"kind": "hang"}"#);
        send(&daemon.url, Load::new(20, Duration::from_millis(500)));
    }
    daemon.wait_until("no base lane is left", |daemon| daemon.metric("parityd_ready", "") == Some(0.0));
    thread::sleep(2 * WATCHDOG);
    systemd.forget();
    let replies = send(&daemon.url, Load::new(20, Duration::from_millis(500)));
    assert!(replies.iter().all(|reply| reply.status == 200), "{:?}", statuses(&replies));
    systemd.hear_of("WATCHDOG=1");
}

/// `systemd/verify.sh` says "skipped" itself where there is no systemd.
#[test]
fn the_unit_file_passes_systemds_own_checks() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/verify.sh");
    let run = Command::new("bash").arg(script).arg(env!("CARGO_BIN_EXE_parityd")).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    println!("{told}");
    assert!(run.status.success(), "{told}");
    assert!(told.contains("exposure") || told.contains("skipped"), "{told}");
}
