//! `bench http` and `bench compare` as they are run: the real client against the real daemon, with a lane that hangs meanwhile.
//!
//! What is counted must add up, and what cannot be measured must be told with its exit code. No time is asserted: how late anything is
//! depends on the machine that runs the tests.

#![expect(clippy::unwrap_used, reason = "a harness ends the test when the unexpected happens")]
#![expect(clippy::print_stdout, reason = "what is measured and logged shows when a test fails")]
#![expect(clippy::disallowed_methods, reason = "a client outside the daemon has its own clock")]

#[path = "story/daemon.rs"]
#[expect(dead_code, reason = "the stories use more of it")]
mod daemon;

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use daemon::{Daemon, config};

/// Exit codes that `main` documents.
const USAGE: i32 = 2;
const VOID: i32 = 65;
const CANNOT_START: i32 = 78;
const INTERRUPTED: i32 = 130;

fn parityd(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parityd"));
    command.arg("bench").args(arguments).env_remove("PARITYD_DATA").env_remove("PARITYD_LOG");
    let output = command.output().unwrap();
    println!("{arguments:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// `bench http` with the images of the tests.
fn http(url: &str, arguments: &[&str]) -> Output {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    parityd(&[&["http", "--url", url, "--data", data], arguments].concat())
}

/// The result of a run that took place, void or not: the machine may be busy.
fn measured(output: &Output) -> Value {
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let code = if result["void"].as_bool().unwrap() { VOID } else { 0 };
    assert_eq!(output.status.code(), Some(code), "{result}");
    result
}

#[track_caller]
fn refused(output: &Output, code: i32, told: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(told) && output.stdout.is_empty(), "{told:?} is not in\n{stderr}");
}

fn sum(counts: &Value) -> u64 {
    counts.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

#[test]
fn a_run_with_a_hung_lane_adds_up() {
    let daemon = Daemon::start(&config("config.toml", &[]));
    let faults = ["--fault", "1:0:hang", "--fault", "2s:0:clear"];
    let load = ["--json", "--rate", "60", "--seconds", "3", "--rows", "2", "--deadline-ms", "5000"];
    let result = measured(&http(&daemon.url, &[&load[..], &faults[..]].concat()));

    let count = |name: &str| result[name].as_u64().unwrap();
    assert!(count("sent") > 100, "{result}");
    assert_eq!(count("sent"), count("answered") + count("unanswered"));
    assert_eq!(count("sent"), sum(&result["status"]));
    assert_eq!(sum(&result["provenance"]), 2 * count("answered"));
    assert!(result["provenance"].get("unlabelled").is_none(), "{result}");
    assert!(result["accuracy"].as_f64().unwrap() > 0.8, "{result}");
    assert!(result["jobs_per_query"].as_f64().unwrap() >= 1.0, "{result}");
    let windows = result["windows"].as_array().unwrap();
    let all = |name: &str| windows.iter().map(|window| window[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((all("sent"), all("answered")), (count("sent"), count("answered")));
    assert_eq!(result["faults"].as_array().unwrap().len(), 2);
    assert_eq!(result["server"]["name"], "parityd");
    daemon.wait_healthy();

    compare_with_itself(&result);
}

fn compare_with_itself(result: &Value) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("run.json");
    fs::write(&file, result.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let output = parityd(&["compare", file, file, "--json", "--anyway"]);
    assert!(output.status.success());
    let comparison: Value = serde_json::from_slice(&output.stdout).unwrap();
    for ratio in comparison["ratios"].as_array().unwrap() {
        assert_eq!(ratio["differs"], false, "{ratio}");
    }
    fs::write(file, "{}").unwrap();
    refused(&parityd(&["compare", file, file]), CANNOT_START, "is no result");
}

#[test]
fn faults_are_cleared_at_the_end() {
    let daemon = Daemon::start(&config("config.toml", &[]));
    let load = ["--json", "--rate", "40", "--seconds", "1.5", "--arrivals", "bursty", "--no-reconstructed"];
    let result = measured(&http(&daemon.url, &[&load[..], &["--fault", "0.5:1:slow:2"]].concat()));
    assert_eq!(result["faults"][0]["factor"], 2.0);
    let provenance = result["provenance"].as_object().unwrap();
    assert!(provenance.iter().all(|(word, count)| word == "direct" || *count == 0), "{result}");
    daemon.wait_healthy();
    assert_eq!(faults(&daemon.url), 0);
}

#[test]
fn whoever_interrupts_it_faults_are_cleared() {
    let daemon = Daemon::start(&config("config.toml", &[]));
    for signal in ["-INT", "-TERM", "-HUP"] {
        interrupted(&daemon, signal);
    }
}

fn interrupted(daemon: &Daemon, signal: &str) {
    let client = Command::new(env!("CARGO_BIN_EXE_parityd"))
        .args(["bench", "http", "--url", &daemon.url, "--rate", "20", "--seconds", "600", "--fault", "0:0:hang"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    daemon.wait_until("given a fault", |daemon| faults(&daemon.url) == 1);
    assert!(Command::new("kill").args([signal, &client.id().to_string()]).status().unwrap().success());
    refused(&client.wait_with_output().unwrap(), INTERRUPTED, "interrupted");
    assert_eq!(faults(&daemon.url), 0);
}

#[test]
fn what_is_overdue_is_not_sent() {
    let daemon = Daemon::start(&config("config.toml", &[]));
    let load = ["--rate", "50", "--seconds", "5", "--deadline-ms", "500", "--json"];
    let client = Command::new(env!("CARGO_BIN_EXE_parityd"))
        .args([&["bench", "http", "--url", &daemon.url][..], &load[..]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    daemon.wait_until("asked", |daemon| {
        daemon.metric("nv_inference_request_success", "").is_some_and(|asked| asked > 0.0)
    });
    let freeze = |signal: &str| Command::new("kill").args([signal, &client.id().to_string()]).status().unwrap();
    assert!(freeze("-STOP").success());
    thread::sleep(Duration::from_secs(3));
    assert!(freeze("-CONT").success());
    let result = measured(&client.wait_with_output().unwrap());
    assert_eq!(result["sent"].as_u64().unwrap(), sum(&result["status"]));
    // About 125 were due while the client stood still, and more than half a second before it went on.
    let told = result["void_reason"].as_str().unwrap();
    let overdue = told.strip_suffix(" requests were not sent, because this client came to them after their deadline; give it a core of its own or lower --rate");
    let overdue: u64 = overdue.unwrap_or_else(|| panic!("{result}")).parse().unwrap();
    assert!(overdue > 50 && overdue <= result["status"]["none"].as_u64().unwrap(), "{result}");
}

/// How many lanes have an injected fault.
fn faults(url: &str) -> usize {
    let mut reply = daemon::agent(Duration::from_secs(5)).get(format!("{url}/admin/lanes")).call().unwrap();
    let lanes: Vec<Value> = reply.body_mut().read_json().unwrap();
    lanes.iter().filter(|lane| !lane["fault"].is_null()).count()
}

#[test]
fn what_cannot_be_measured_is_told() {
    let daemon = Daemon::start(&config("config.toml", &[]).replace("faults = true", "faults = false"));
    let short = ["--seconds", "1"];
    let with = |more: &[&'static str]| http(&daemon.url, &[&short[..], more].concat());
    refused(&with(&["--model", "mnist"]), CANNOT_START, "fashion-mnist");
    refused(&with(&["--fault", "0.5:0:hang"]), CANNOT_START, "faults = true");
    refused(&with(&["--rows", "0"]), USAGE, "--rows");
    refused(&with(&["--fault", "0.5:0:hung"]), USAGE, "none of");
    refused(&with(&["--fault", "5:0:hang"]), USAGE, "--seconds");
    refused(&with(&["--rate", "0"]), USAGE, "from 0.001");
    let named = parityd(&["http", "--url", &daemon.url, "--seconds", "1", "--data", "nowhere"]);
    refused(&named, CANNOT_START, "dataset-fashion-mnist");
    refused(&parityd(&["http", "--url", "https://localhost"]), USAGE, "http only");
}

/// Answers one request as another server of the protocol might: no provenance, nested outputs, one request a connection.
/// Every fifth infer request is refused. Its metrics count the next of `jobs`; there are none if those are over.
fn foreign(mut stream: TcpStream, infers: &mut u32, jobs: &mut impl Iterator<Item = u64>) {
    let mut request = Vec::new();
    let length = |head: &str| {
        let fields = head.lines().filter_map(|line| line.split_once(": "));
        let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        lengths.next().map_or(0, |(_, value)| value.parse().unwrap())
    };
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if text.split_once("\r\n\r\n").is_some_and(|(head, body)| body.len() >= length(head)) {
            break;
        }
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).unwrap();
        if count == 0 {
            // A connection that was opened only to see that somebody listens.
            return;
        }
        request.extend_from_slice(&chunk[..count]);
    }
    let text = String::from_utf8_lossy(&request);
    let infer = text.starts_with("POST /v2/models/other/infer ");
    *infers += u32::from(infer);
    let counted;
    let (status, body) = match text.split(' ').nth(1).unwrap() {
        "/metrics" => match jobs.next() {
            Some(count) => {
                counted = format!("parityd_jobs_total{{kind=\"data\"}} {count}\n");
                ("200 OK", counted.as_str())
            }
            None => ("404 Not Found", ""),
        },
        "/v2/models/other" => {
            ("200 OK", r#"{"name": "other", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}"#)
        }
        _ if infer && infers.is_multiple_of(5) => ("503 Service Unavailable", r#"{"error": "full"}"#),
        _ if infer => ("200 OK", r#"{"outputs": [{"name": "y", "data": [[1, 2]]}]}"#),
        _ => ("404 Not Found", ""),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all((head + body).as_bytes()).unwrap();
}

/// The result of a second of load on such a server.
fn measured_elsewhere(jobs: Vec<u64>) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the process.
    thread::spawn(move || {
        let (mut infers, mut jobs) = (0, jobs.into_iter());
        listener.incoming().for_each(|stream| foreign(stream.unwrap(), &mut infers, &mut jobs));
    });
    let load = ["--url", &url, "--model", "other", "--rate", "50", "--seconds", "1", "--deadline-ms", "5000", "--json"];
    measured(&parityd(&[&["http"], &load[..]].concat()))
}

#[test]
fn jobs_of_a_server_that_was_started_anew_are_not_told() {
    let result = measured_elsewhere(vec![40, 100]);
    assert_eq!(result["jobs"], 60, "{result}");
    let result = measured_elsewhere(vec![40, 7]);
    assert!(result["jobs"].is_null() && result["jobs_per_query"].is_null(), "{result}");
}

#[test]
fn a_server_that_is_not_ours_is_measured_too() {
    let result = measured_elsewhere(Vec::new());
    let (sent, answered) = (result["sent"].as_u64().unwrap(), result["answered"].as_u64().unwrap());
    assert_eq!((result["unanswered"].as_u64(), result["status"]["503"].as_u64()), (Some(sent / 5), Some(sent / 5)));
    assert_eq!(result["provenance"]["unlabelled"], answered);
    assert_eq!(sum(&result["provenance"]), answered);
    for unknown in ["accuracy", "accuracy_reconstructed", "jobs_per_query"] {
        assert!(result[unknown].is_null(), "{unknown}: {result}");
    }
    assert!(result["latency_ms"]["max"].as_f64().unwrap() >= 5000.0, "a refusal counts as the deadline");
}

#[test]
fn nobody_listens() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = http(&format!("http://127.0.0.1:{port}"), &["--seconds", "1"]);
    refused(&output, CANNOT_START, "cargo run --release");
}
