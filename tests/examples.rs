//! The examples run and say what they promise: the two programs, and the Python client against the real daemon.
//!
//! `cargo test` builds the programs beside this test. `cargo test --test examples` alone does not: build them with `cargo build --examples`.

#![expect(clippy::unwrap_used, reason = "a harness ends the test when the unexpected happens")]
#![expect(clippy::print_stdout, reason = "what the daemon logs shows when a test fails")]
#![expect(clippy::disallowed_methods, reason = "a client outside the daemon has its own clock")]

#[path = "story/daemon.rs"]
#[expect(dead_code, reason = "the stories ask more of a daemon than the client needs")]
mod daemon;

use std::{
    env,
    path::Path,
    process::{Command, Output},
};

use daemon::{Daemon, config};

/// What an example prints, with these arguments.
fn run(example: &str, arguments: &[&str]) -> Output {
    let tests = env::current_exe().unwrap();
    let program = tests.ancestors().nth(2).unwrap().join("examples").join(example);
    assert!(program.exists(), "{} is missing: cargo build --examples makes it", program.display());
    Command::new(program).args(arguments).env_remove("PARITYD_HTTP_LISTEN").output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The first three test images are a boot, a pullover and trousers; the shipped base model knows them.
#[test]
fn embed_gives_each_image_its_class_and_its_provenance() {
    let printed = text(&run("embed", &[]));
    let lines: Vec<_> = printed.lines().collect();
    let expected = ["class 9 (Ankle boot)", "class 2 (Pullover)", "class 1 (Trouser)"];
    assert_eq!(lines.len(), expected.len(), "{printed}");
    for (index, (line, class)) in lines.iter().zip(expected).enumerate() {
        // On a busy machine the small model may answer first, and with another class.
        let direct = *line == format!("image {index}: {class}, direct");
        assert!(direct || line.ends_with(", approximate"), "{line}");
    }
}

#[test]
fn one_stripe_decodes_what_it_lost() {
    let printed = text(&run("one_stripe", &[]));
    assert_eq!(printed.matches("class 9 (Ankle boot)").count(), 2, "direct and reconstructed agree:\n{printed}");
    let apart = printed.lines().find_map(|line| line.strip_prefix("farthest apart: ")).expect("it says how far");
    let apart: f32 = apart.parse().unwrap();
    assert!(apart > 0.0 && apart < 20.0, "an approximation, and not of something else: {apart}");

    let wrong = run("one_stripe", &["1000", "0"]);
    assert!(!wrong.status.success());
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("there are 1000 images"));
}

/// Success, what was printed, what was complained of.
type Told = (bool, String, String);

/// Runs examples/client.py.
fn client(url: &str, arguments: &[&str]) -> Told {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new("python3");
    command.arg(root.join("examples/client.py")).args(["--url", url]).args(arguments);
    // A developer's proxy is not for loopback.
    let output = command.env("NO_PROXY", "*").env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// The answer is of this `class`, and direct: one that a busy machine had reconstructed is asked for again.
fn assert_direct(url: &str, arguments: &[&str], class: &str) {
    let mut answers = (0..10).map(|_| client(url, arguments));
    let direct = answers.find(|(_, answer, _)| !answer.ends_with(", reconstructed"));
    assert_eq!(direct, Some((true, format!("{class}, direct"), String::new())));
}

/// Whether one of the next few queries ends in the `wanted` way.
fn ask_while_lane_0_hangs(daemon: &Daemon, arguments: &[&str], wanted: fn(&Told) -> bool) -> bool {
    daemon.fault(0, r#"{"kind": "hang"}"#);
    let found = (0..40).any(|_| wanted(&client(&daemon.url, arguments)));
    daemon.clear(0);
    daemon.wait_healthy();
    found
}

fn python_has_requests() -> bool {
    let found = Command::new("python3").args(["-c", "import requests"]).output();
    found.is_ok_and(|output| output.status.success())
}

#[test]
fn the_python_client_tells_classes_provenance_and_reasons() {
    if !python_has_requests() {
        println!("skipped: python3 with the package requests is not installed");
        return;
    }
    // A short deadline, so that a query on the hung lane is a 504 soon.
    let edits = [("batch_max = 1", "batch_max = 1\ndeadline_ms = 500")];
    let mut daemon = Daemon::start(&config("examples/parm.toml", &edits));
    let url = daemon.url.clone();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").display().to_string();
    assert_direct(&url, &[], "class 9");
    assert_direct(&url, &["--image", "1", "--data", &data], "class 2");
    let (_, _, unknown) = client(&url, &["--model", "nope"]);
    assert!(unknown.contains("404 unknown_model"), "{unknown}");

    // A base lane hangs in its next job; which query that is, the lanes decide. Whoever takes reconstructions gets one, whoever refuses
    // them misses the deadline.
    assert!(ask_while_lane_0_hangs(&daemon, &[], |(ok, class, _)| *ok && class.ends_with(", reconstructed")));
    assert!(ask_while_lane_0_hangs(&daemon, &["--direct-only"], |(ok, _, why)| !ok && why.contains("504 deadline")));

    assert_eq!(daemon.terminate(), Some(0));
    let (ok, _, down) = client(&url, &["--retries", "0"]);
    assert!(!ok && down.contains("no connection"), "{down}");
}
