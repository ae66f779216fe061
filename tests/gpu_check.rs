//! `scripts/gpu-check` around a program that stands for parityd: what it keeps when something fails, when there is no time, and when it is told to end.
//!
//! Time on a GPU is lent, and ends when it ends; what was measured by then must be there, and nothing may be left running. Needs Python.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "what was skipped is the test's report")]
#![expect(clippy::disallowed_methods, reason = "another process has its own clock")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// Knows one network, no GPU and one weather, of which nothing should be concluded; its daemon listens, and neither it nor who asks it ever ends, nor does the other weather. Of networks with
/// weights it knows another one, and never ends on the next.
const PROGRAM: &str = r#"#!/bin/sh
folder=${0%/bin/parityd}
case "$*" in
*"--scenarios B"*) echo '{"void_reason": "the client was late", "cells": []}'; exit 65 ;;
*"--scenarios E"*) exec sleep 300 ;;
devices*) echo '{"devices": [], "nvml": "there is none", "lanes": []}' ;;
--config*) echo $$ >"$folder/daemon"; echo 'listening url="http://127.0.0.1:9"' >&2; exec sleep 300 ;;
*"bench http"*) touch "$folder/asked"; exec sleep 300 ;;
*"--network resnet18 --weights"*) echo '{"passes": [{"network": "resnet18", "row": [3, 32, 32], "batch": 1, "kernels": "cpu", "p50_us": 20, "progress": [], "outputs": [1.0, 2.0]}]}' ;;
*"--weights"*) touch "$folder/asked"; exec sleep 300 ;;
*mlp*) echo said >&2; echo '{"passes": [{"network": "mlp", "row": [2], "batch": 1, "kernels": "cpu", "p50_us": 1, "progress": []}]}' ;;
*) echo oops >&2; exit 70 ;;
esac
"#;

/// A folder as `scripts/build-cuda` makes it. `PyTorch` is there, and damaged.
struct Folder(TempDir);

impl Folder {
    /// None, and why, where there is no Python.
    fn new() -> Option<Self> {
        if Command::new("python3").arg("--version").output().is_err() {
            println!("skipped: there is no Python");
            return None;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = Folder(TempDir::new().unwrap());
        for made in ["bin", "torch"] {
            fs::create_dir(folder.at(made)).unwrap();
        }
        for file in ["scripts/gpu-check", "scripts/gpu-check-peer", "config.toml"] {
            fs::copy(root.join(file), folder.at(file.trim_start_matches("scripts/"))).unwrap();
        }
        fs::write(folder.at("torch/__init__.py"), "raise OSError('half a library')\n").unwrap();
        fs::write(folder.at("bin/parityd"), PROGRAM).unwrap();
        fs::set_permissions(folder.at("bin/parityd"), fs::Permissions::from_mode(0o755)).unwrap();
        Some(folder)
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("python3");
        command.arg(self.at("gpu-check")).args(["--device", "cpu"]).args(arguments).env("PYTHONPATH", self.0.path());
        command.env_remove("CUDA_EMULATOR_GPUS").stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn starts(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    fn runs(&self, arguments: &[&str]) -> Output {
        self.starts(arguments).wait_with_output().unwrap()
    }

    fn result(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.at(&format!("results/{name}.json"))).unwrap()).unwrap()
    }

    /// Check, outcome and what was told of each.
    fn summary(&self) -> Vec<[String; 3]> {
        let summary = self.result("summary");
        let word = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let checks = summary["checks"].as_array().unwrap();
        checks.iter().map(|row| ["check", "outcome", "told"].map(|key| word(row, key))).collect()
    }

    fn waits_for(&self, name: &str) {
        let begun = Instant::now();
        while !self.at(name).exists() {
            assert!(begun.elapsed() < Duration::from_mins(1), "{name} is not there");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn what_fails_costs_nothing_else() {
    let Some(folder) = Folder::new() else { return };
    let output = folder.runs(&["--only", "forward"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("failed: forward: ") && told.contains("oops"), "told at once: {told}");
    let forward = folder.result("forward");
    assert_eq!(forward["passes"][0]["network"], "mlp", "{forward}");
    assert_eq!(forward["wrong"].as_array().unwrap().len(), 6, "{forward}");
    let log = fs::read_to_string(folder.at("results/parityd.log")).unwrap();
    assert!(log.contains("--network mlp") && log.contains("\nsaid\n"), "of runs that end well, too: {log}");
    let torch = &folder.result("summary")["torch"];
    assert!(torch.as_str().unwrap().contains("half a library"), "{torch}");
}

#[test]
fn without_time_nothing_begins() {
    let Some(folder) = Folder::new() else { return };
    let output = folder.runs(&["--only", "forward,devices", "--budget", "0"]);
    assert_eq!(output.status.code(), Some(0), "it is no failure");
    let skipped = |name: &str| [name, "skipped", "no time"].map(str::to_owned);
    assert_eq!(folder.summary(), [skipped("forward"), skipped("devices")]);
    let output = folder.runs(&["--only", "forwards"]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}

/// It may need longer, or hang: it is neither measured nor skipped, and what was measured before is there.
#[test]
fn what_is_running_when_the_time_is_over_is_told_apart() {
    let Some(folder) = Folder::new() else { return };
    let output = folder.runs(&["--only", "policies,devices", "--budget", "4"]);
    assert_eq!(output.status.code(), Some(75), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(folder.result("policies-B")["void_reason"], "the client was late");
    let [[policies, ended, told], devices] = folder.summary().try_into().unwrap();
    assert_eq!((policies.as_str(), ended.as_str()), ("policies", "ended"), "{told}");
    for words in
        ["results/policies-B.json", "B void: the client was late", "ended by the budget after", "--scenarios E"]
    {
        assert!(told.contains(words), "{told}");
    }
    assert_eq!(devices, ["devices", "skipped", "no time"]);
}

#[test]
fn a_gpu_that_parityd_does_not_list_is_a_failure() {
    let Some(folder) = Folder::new() else { return };
    let alone = |smi: &str| {
        let program = folder.at("bin/nvidia-smi");
        fs::write(&program, format!("#!/bin/sh\n{smi}\n")).unwrap();
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", folder.at("bin").display(), std::env::var("PATH").unwrap_or_default());
        let output = folder.command(&["--only", "devices"]).env("PATH", path).output().unwrap();
        let [[_, outcome, told]] = folder.summary().try_into().unwrap();
        (output.status.code(), outcome, told)
    };
    let (code, outcome, told) = alone("exit 9");
    assert!(code == Some(0) && outcome == "measured" && told.starts_with("0 GPUs; NVML: there is none"), "{told}");
    let (code, outcome, told) = alone("echo 'NVIDIA H200, 580.1, 1 MiB'");
    assert!(code == Some(1) && outcome == "failed" && told.contains("there is none"), "{told}");
}

/// A signal reaches no Python that waits in C: `PyTorch` is asked in a process of its own.
#[test]
fn a_pytorch_that_never_returns_ends_with_its_share_of_the_time() {
    let Some(folder) = Folder::new() else { return };
    fs::write(
        folder.at("torch/__init__.py"),
        "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, {15})\ntime.sleep(300)\n",
    )
    .unwrap();
    let output = folder.runs(&["--only", "forward,devices", "--budget", "8"]);
    assert_eq!(output.status.code(), Some(75), "{}", String::from_utf8_lossy(&output.stderr));
    let [[_, forward, told], devices] = folder.summary().try_into().unwrap();
    assert!(forward == "ended" && told.contains("gpu-check-peer resnet18"), "{forward}: {told}");
    assert_eq!(devices[..2], ["devices", "measured"], "the other half of the time is left");
}

#[test]
fn figures_are_written_before_the_next_begins() {
    let Some(folder) = Folder::new() else { return };
    let peer = r#"print('{"torch": "9.9", "is_usable": true}\n{"made": [1.0, 2.5]}\n{"precision": "f32", "batch": 1, "torch_eager_us": 10}')"#;
    fs::write(folder.at("gpu-check-peer"), peer).unwrap();
    let child = folder.starts(&["--only", "forward"]);
    folder.waits_for("asked");
    let forward = folder.result("forward");
    let (pass, wrong) = (&forward["passes"][0], &forward["wrong"][0]);
    assert_eq!((&pass["torch_eager_us"], &pass["off"]), (&10.into(), &0.2.into()), "{forward}");
    assert!(wrong.as_str().unwrap().contains("2 outputs are off by 2.0e-01"), "{wrong}");
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(143));
    assert_eq!(folder.result("summary")["torch"], "9.9");
}

/// The daemon has a session of its own, and would hold the GPU.
#[test]
fn who_is_told_to_end_leaves_nothing_running() {
    let Some(folder) = Folder::new() else { return };
    let child = folder.starts(&["--only", "lanes,poison"]);
    folder.waits_for("asked");
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(143), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(folder.summary(), [["lanes", "failed", "it was told to end"].map(str::to_owned)]);
    assert!(fs::read_to_string(folder.at("results/lanes.log")).unwrap().contains("listening"));
    let daemon = fs::read_to_string(folder.at("daemon")).unwrap();
    let there = Command::new("kill").args(["-0", daemon.trim()]).stderr(Stdio::null()).status().unwrap();
    assert!(!there.success(), "its daemon is left");
}
