//! Clients of other makes against the real daemon: what they call works, or fails as docs/compat.md says.
//!
//! `tests/clients/*.py` are the clients, and schemathesis, which makes requests of its own from `/openapi.json`. They need a Python with their library, named by `PARITYD_CLIENTS_PYTHON`; without one there is
//! nothing to run, and the test says so and why.

#![expect(clippy::unwrap_used, reason = "a harness ends the test when the unexpected happens")]
#![expect(clippy::print_stdout, reason = "what the client says, and what was skipped, is the test's report")]
#![expect(clippy::disallowed_methods, reason = "a client outside the daemon has its own clock")]

#[path = "story/daemon.rs"]
#[expect(dead_code, reason = "the stories ask more of a daemon than the clients need")]
mod daemon;

use std::{env, path::Path, process::Command};

use daemon::{Daemon, config};

/// A Python that has `library`, or why there is none.
fn python(library: &str) -> Result<String, String> {
    let python = env::var("PARITYD_CLIENTS_PYTHON")
        .map_err(|_| format!("PARITYD_CLIENTS_PYTHON names no Python that has {library}"))?;
    let found = Command::new(&python).args(["-c", &format!("import {library}")]).output();
    match found {
        Ok(output) if output.status.success() => Ok(python),
        Ok(output) => Err(format!("{python} has no {library}: {}", String::from_utf8_lossy(&output.stderr).trim_end())),
        Err(error) => Err(format!("{python}: {error}")),
    }
}

/// Runs one of the scripts against `address`.
fn run(script: &str, library: &str, address: impl Fn(&Daemon) -> String) {
    let python = match python(library) {
        Ok(python) => python,
        Err(why) => return println!("skipped: {why}"),
    };
    let daemon = Daemon::start(&config("config.toml", &[]));
    let output = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script))
        .args(["--url", &address(&daemon)])
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the lines above say which methods failed");
}

/// The command of docs/compat.md, and a bound on its time. Faults are left out: those that it would inject are no lie of the document's, and
/// would make its other requests fail.
#[test]
fn schemathesis_finds_no_server_error_and_no_violation_of_the_document() {
    let python = match python("schemathesis") {
        Ok(python) => python,
        Err(why) => return println!("skipped: {why}"),
    };
    let daemon = Daemon::start(&config("config.toml", &[]));
    let folder = tempfile::tempdir().unwrap();
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/schemathesis.toml");
    let output = Command::new(python)
        .args(["-m", "schemathesis.cli", "--config-file"])
        .arg(settings)
        .args([
            "run",
            &format!("{}/openapi.json", daemon.url),
            "--max-examples",
            "10",
            "--max-time",
            "40",
            "--seed",
            "1",
        ])
        .current_dir(folder.path())
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the lines above say what is wrong, and how to send it again");
}

#[test]
fn every_http_method_of_tritonclient_works_or_fails_as_documented() {
    run("triton_http.py", "tritonclient.http", |daemon| daemon.url.trim_start_matches("http://").to_owned());
}

#[test]
fn every_grpc_method_of_tritonclient_works_or_fails_as_documented() {
    run("triton_grpc.py", "tritonclient.grpc", |daemon| {
        let line = daemon.log().into_iter().find(|line| line.contains("listens for gRPC")).expect("it says where");
        let (_, address) = line.split_once("address=").expect("the address");
        address.split(' ').next().unwrap_or_default().to_owned()
    });
}
