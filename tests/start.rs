//! Starts that fail, as a supervisor sees them: which exit code, which sentence, and that the process ends at all.
//!
//! What only an editor can mend is 78, which systemd leaves alone; what may pass by itself is 75, which it tries again (`systemd/parityd.service`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "waits for another process")]
#![expect(clippy::print_stdout, reason = "what was skipped is the test's report")]

use std::{
    ffi::OsStr,
    fs,
    net::TcpListener,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Cannot start, and no restart mends it.
const CANNOT: i32 = 78;

/// May pass by itself.
const LATER: i32 = 75;

/// How long a start, or its end, may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// `program` before the shipped daemon, without the developer's environment.
fn daemon(before: &[&str], arguments: &[&str]) -> Command {
    let binary = env!("CARGO_BIN_EXE_parityd");
    let mut words = before.iter().copied().chain([binary]).chain(arguments.iter().copied());
    let mut command = Command::new(words.next().unwrap());
    command.args(words).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    for name in ["PARITYD_LOG", "PARITYD_LOG_FORMAT", "NOTIFY_SOCKET", "RUST_BACKTRACE"] {
        command.env_remove(name);
    }
    command.env("PARITYD_HTTP_LISTEN", "127.0.0.1:0").env("PARITYD_GRPC_LISTEN", "127.0.0.1:0");
    command
}

#[track_caller]
fn ends(command: &mut Command, code: i32, says: &str) {
    let (start, log) = outcome(command);
    assert_eq!(start.code(), Some(code), "{start:?} {log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains(says), "{last:?} does not say {says:?}");
}

#[test]
fn a_port_that_may_be_free_later_is_tried_again() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    ends(daemon(&[], &["serve"]).env("PARITYD_HTTP_LISTEN", &address), LATER, "set [http] listen to a free address");
    ends(daemon(&[], &["serve"]).env("PARITYD_GRPC_LISTEN", &address), LATER, "set [grpc] listen to a free address");
    // TEST-NET-1: no machine's, until somebody gives it one.
    let absent = "192.0.2.1:8000";
    ends(daemon(&[], &["serve"]).env("PARITYD_HTTP_LISTEN", absent), LATER, "wait until the address is up");
}

#[test]
fn addresses_that_nobody_can_reach_are_refused() {
    for address in ["224.0.0.1:8000", "255.255.255.255:8000", "[ff02::1]:8000"] {
        let mut check = daemon(&[], &["check"]);
        ends(check.env("PARITYD_HTTP_LISTEN", address), CANNOT, "must be an address of one machine");
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let mut check = daemon(&[], &["check"]);
    for name in
        ["PARITYD_HTTP_LISTEN", "PARITYD_GRPC_LISTEN", "PARITYD_LOG", "PARITYD_LOG_FORMAT", "PARITYD_NVML_LIBRARY"]
    {
        check.env(name, "");
    }
    let Output { status, stdout, stderr } = check.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    assert!(String::from_utf8_lossy(&stdout).contains("127.0.0.1:8000"));
    ends(daemon(&[], &["check"]).env("PARITYD_LOG_FORMAT", "xml"), 2, "--help");
}

#[test]
fn a_variable_that_is_no_text_is_refused_by_name() {
    let port = OsStr::from_bytes(b"127.0.0.1:\xff");
    for (name, key) in [("PARITYD_HTTP_LISTEN", "http.listen"), ("PARITYD_GRPC_LISTEN", "grpc.listen")] {
        ends(daemon(&[], &["check"]).env(name, port), CANNOT, &format!("{name}: {key} = "));
    }
}

/// What would be read for ever, and what a word processor may have saved.
#[test]
fn a_file_that_is_no_configuration_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, b"# fine\n# caf\xe9\n").unwrap();
    ends(&mut daemon(&[], &["check", "--config", file.to_str().unwrap()]), CANNOT, "must be UTF-8, and line 2 is not");
    fs::write(&file, "#".repeat(1 << 20)).unwrap();
    ends(&mut daemon(&[], &["check", "--config", file.to_str().unwrap()]), CANNOT, "deployment");
    ends(&mut daemon(&[], &["check", "--config", "/dev/zero"]), CANNOT, "longer than 1 MiB");
}

/// Whoever asked for it and did not get it must not take it for done.
#[test]
fn what_cannot_be_printed_is_told() {
    let full = || fs::File::create("/dev/full");
    if full().is_err() {
        println!("skipped: there is no /dev/full");
        return;
    }
    for words in [&["--help"][..], &["--version"], &["train", "parity", "--help"], &["check"]] {
        let Output { status, stderr, .. } =
            daemon(&[], words).stdout(full().unwrap()).stderr(Stdio::piped()).output().unwrap();
        let told = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(CANNOT), "{words:?}: {told}");
        assert!(told.contains("cannot write to standard output"), "{words:?}: {told}");
    }
}

#[test]
fn a_variable_of_successions_that_somebody_else_set_is_named() {
    for value in ["1", "stdin"] {
        ends(daemon(&[], &["serve"]).env("PARITYD_SUCCEEDS", value), CANNOT, "PARITYD_SUCCEEDS is");
    }
}

/// Files: from too few for anything to enough to serve.
#[test]
fn a_process_without_files_is_tried_again() {
    if is_absent("prlimit") {
        return;
    }
    let (mut serves, mut ports) = (false, 0);
    // Each number: of one more than the program's own start needs, one port is bound and the other is not. Whoever runs the tests may have some open, too.
    for files in 3..100 {
        let limit = format!("--nofile={files}");
        let (start, log) = outcome(&mut daemon(&["prlimit", &limit], &["serve"]));
        if start == Start::Served {
            serves = true;
            break;
        }
        match start.code() {
            Some(LATER) => {
                assert!(log.contains("LimitNOFILE="), "{files}: {log}");
                ports += usize::from(log.contains("cannot listen on"));
            }
            // The program does not even begin.
            _ => assert!(log.contains("shared librar"), "{files}: {start:?} {log}"),
        }
    }
    assert!(serves && ports > 0, "{ports} starts found no file for a port");
    let load = ["bench", "http", "--url", "http://127.0.0.1:1", "--rate", "1", "--seconds", "1"];
    for limit in ["--nofile=6", "--nofile=9"] {
        ends(&mut daemon(&["prlimit", limit], &load), LATER, "raise LimitNOFILE= (ulimit -n)");
    }
}

/// Threads: a runtime that gets one of two panics, and unwinding would wait for the one for ever, with the port bound.
#[test]
fn a_process_without_threads_ends_and_is_tried_again() {
    if is_absent("prlimit") || is_absent("setpriv") {
        return;
    }
    let user = Command::new("id").arg("-u").output().unwrap();
    if user.stdout != b"0\n" {
        println!("skipped: only root can start a process whose threads are counted apart from its own");
        return;
    }
    // Of the user that nobody is: what it may read lies elsewhere.
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let binary = folder.path().join("parityd");
    fs::hard_link(env!("CARGO_BIN_EXE_parityd"), &binary)
        .or_else(|_| fs::copy(env!("CARGO_BIN_EXE_parityd"), &binary).map(drop))
        .unwrap();
    let weights = folder.path().join("weights/fashion-mnist/1");
    assert!(Command::new("cp").arg("-r").arg(root.join("weights")).arg(folder.path()).status().unwrap().success());
    assert!(weights.is_dir());
    fs::copy(root.join("config.toml"), folder.path().join("config.toml")).unwrap();
    assert!(Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()).status().unwrap().success());
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (mut serves, mut later) = (false, 0);
    for threads in 1..40 {
        let limit = format!("--nproc={threads}");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--clear-groups", "prlimit", &limit]).arg(&binary).arg("serve");
        command.current_dir(folder.path()).stdin(Stdio::null()).env_remove("PARITYD_LOG").env_remove("NOTIFY_SOCKET");
        command.env("PARITYD_HTTP_LISTEN", "127.0.0.1:0").env("PARITYD_GRPC_LISTEN", "127.0.0.1:0");
        let (start, log) = outcome(&mut command);
        if start == Start::Served {
            serves = true;
            break;
        }
        match start.code() {
            Some(LATER) => {
                assert!(
                    log.contains("TasksMax=") || log.contains("did not open") || log.contains("threads"),
                    "{threads}: {log}"
                );
                later += 1;
            }
            // Not even a shell's program starts.
            _ => assert!(threads < 3 && start.code().is_some(), "{threads}: {start:?} {log}"),
        }
    }
    assert!(serves && later > 2, "{later} starts found too few threads");
}

/// Says so where a program of Linux's is not installed.
fn is_absent(program: &str) -> bool {
    let absent = Command::new(program).arg("--version").output().is_err();
    if absent {
        println!("skipped: there is no {program}");
    }
    absent
}

/// What became of a start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Start {
    /// It served, and then was ended.
    Served,
    /// It ended by itself.
    Ended(ExitStatus),
}

impl Start {
    /// The exit code, if it ended by itself and not by a signal.
    fn code(self) -> Option<i32> {
        match self {
            Start::Served => None,
            Start::Ended(status) => status.code(),
        }
    }
}

/// What becomes of a start, and its log.
#[track_caller]
fn outcome(command: &mut Command) -> (Start, String) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut child: Child = command.stdout(Stdio::null()).stderr(log.reopen().unwrap()).spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        let told = || fs::read_to_string(log.path()).unwrap_or_default();
        if let Some(status) = child.try_wait().unwrap() {
            return (Start::Ended(status), told());
        }
        if told().contains("listening") {
            child.kill().and_then(|()| child.wait()).unwrap();
            return (Start::Served, told());
        }
        let late = Instant::now() > end;
        if late {
            child.kill().and_then(|()| child.wait()).unwrap();
        }
        assert!(!late, "it neither serves nor ends: {}", told());
        thread::sleep(Duration::from_millis(10));
    }
}
