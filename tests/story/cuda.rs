//! Lanes on GPUs, and what CUDA says when one breaks: through candle's own calls and kernels, on the devices of `tests/cuda-emulator`.
//!
//! They need a build with CUDA and that emulator, so `scripts/check-cuda` runs them, and other stories there, too; elsewhere they are ignored.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    alone, assert_all_answered,
    control::Control,
    daemon::{Daemon, config},
    load::{Load, Reply, send},
};

/// Half of what two base lanes can carry.
const PER_SECOND: u32 = 100;
/// The GPU that breaks, and the lane that has it.
const GPU: usize = 0;

/// GPUs that do what a file says.
struct Gpus(Control);

impl Gpus {
    fn new() -> Self {
        assert!(std::env::var_os("PARITYD_TEST_DEVICE").is_some(), "scripts/check-cuda says where the GPUs are");
        Gpus(Control::new())
    }

    /// A daemon with the lanes of a configuration on them.
    fn daemon(&self, config: &str) -> Daemon {
        let file = self.0.file();
        // As under systemd, for those that restart; nobody listens.
        let variables = [("CUDA_EMULATOR_CONTROL", file.to_str().unwrap()), ("NOTIFY_SOCKET", "/nowhere/notify")];
        Daemon::start_with(config, &variables)
    }
}

/// Emulated GPUs are slow, and so are machines that run this: half a second is not hung yet.
fn shipped() -> String {
    config("config.toml", &[("fence_ms = 30000", "fence_ms = 300"), ("hang_ms = 200", "hang_ms = 500")])
}

/// Sends a load of four seconds, during the second of which the GPU does as told; gives the replies and the other states that lanes were in.
fn break_for_a_second(gpus: &Gpus, daemon: &Daemon, lines: &str) -> (Vec<Reply>, Vec<(usize, String)>) {
    let second = Duration::from_secs(1);
    thread::scope(|scope| {
        let replies = scope.spawn(|| send(&daemon.url, Load::new(PER_SECOND, 4 * second)));
        thread::sleep(second);
        gpus.0.says(lines);
        let (broken, mut seen) = (Instant::now(), Vec::new());
        while broken.elapsed() < second {
            let states = daemon.lane_states().into_iter().enumerate();
            seen.extend(states.filter(|(_, state)| !["healthy", "straggler"].contains(&state.as_str())));
            thread::sleep(Duration::from_millis(10));
        }
        gpus.0.says("");
        (replies.join().unwrap(), seen)
    })
}

/// Nothing was lost, this lane alone was in this state, and says why in these words.
#[track_caller]
fn assert_found(daemon: &Daemon, (replies, seen): &(Vec<Reply>, Vec<(usize, String)>), state: &str, reason: &str) {
    assert_all_answered(replies, reason);
    assert!(seen.iter().any(|(_, found)| found == state), "{state} is not in {seen:?}");
    assert!(seen.iter().all(|(lane, _)| *lane == GPU), "the others are left alone: {seen:?}");
    let events = daemon.json("/admin/events").to_string();
    assert!(events.contains(reason), "{reason} is not in {events}");
}

#[test]
#[ignore = "scripts/check-cuda runs it"]
fn a_gpu_that_stands_still_costs_no_query() {
    let _alone = alone();
    let gpus = Gpus::new();
    let daemon = gpus.daemon(&shipped());
    let outcome = break_for_a_second(&gpus, &daemon, &format!("{GPU}.hangs=1\n"));
    assert_found(&daemon, &outcome, "hung", "in flight");
    daemon.wait_healed();
}

#[test]
#[ignore = "scripts/check-cuda runs it"]
fn a_gpu_without_memory_loses_slots_and_no_lane() {
    let _alone = alone();
    let gpus = Gpus::new();
    let daemon = gpus.daemon(&shipped());
    let outcome = break_for_a_second(&gpus, &daemon, &format!("{GPU}.memory_mib=0\n"));
    assert_found(&daemon, &outcome, "failed", "out of memory");
    daemon.wait_healed();
    let log = daemon.log().join("\n");
    assert!(log.contains("the GPU has too little memory left (CUDA_ERROR_OUT_OF_MEMORY)"), "{log}");
    assert!(!log.contains("did not open again"), "it kept its device: {log}");
}

/// What the process has of the GPU is of no use any more, though the GPU is well.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn a_broken_context_is_fenced_for_good_and_the_others_serve_on() {
    let _alone = alone();
    let gpus = Gpus::new();
    let mut daemon = gpus.daemon(&shipped());
    let outcome = break_for_a_second(&gpus, &daemon, &format!("{GPU}.fails=700\n"));
    assert_found(&daemon, &outcome, "fenced", "needs a new process");
    let log = daemon.log().join("\n");
    assert!(log.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{log}");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.lane_states()[GPU], "fenced", "canaries do not heal it");
    assert_eq!(daemon.terminate(), Some(0), "its buffers keep nobody from ending");
}

#[test]
#[ignore = "scripts/check-cuda runs it"]
fn another_process_has_a_context_of_its_own() {
    let _alone = alone();
    let gpus = Gpus::new();
    let text = shipped().replace("on_fatal = \"fence\"", "on_fatal = \"restart\"");
    let mut daemon = gpus.daemon(&text);
    let first = daemon.process();
    let replies = thread::scope(|scope| {
        let replies = scope.spawn(|| send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(5))));
        thread::sleep(Duration::from_secs(1));
        gpus.0.says(&format!("{GPU}.fails=719\n"));
        daemon.wait_until("broken", |daemon| daemon.lane_states()[GPU] == "fenced");
        // What failed was this process's, and no fault of the GPU.
        gpus.0.says("");
        replies.join().unwrap()
    });
    assert_all_answered(&replies, "a process that was succeeded");
    assert_eq!(daemon.succeeded(), Some(0));
    assert_ne!(daemon.process(), first);
    daemon.wait_healed();
    assert_all_answered(&send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(1))), "the next process");
}

/// Where tensor cores may multiply, a lane tries both orders of a picture's values, and keeps the faster one if it is right.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn pictures_lie_in_memory_as_a_gpu_is_fastest() {
    const OTHER: &str = "cuDNN gives other outputs channels last";
    let _alone = alone();
    let text = shipped().replace("precision = \"f32\"", "precision = \"tf32\"");
    assert_ne!(text, shipped());
    for (says, kernels, is_told) in [
        ("first_ms=5", "kernels=\"cudnn graphs, channels last\"", false),
        ("last_ms=5", "kernels=\"cudnn graphs\"", false),
        ("channels_last=0", "kernels=\"cudnn graphs\"", false),
        ("mixed=1", "kernels=\"cudnn graphs\"", true),
    ] {
        let gpus = Gpus::new();
        gpus.0.says(&[0, 1, 2, 3].map(|gpu| format!("{gpu}.{says}\n")).concat());
        let daemon = gpus.daemon(&text);
        gpus.0.says("");
        assert_all_answered(&send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(1))), says);
        let log = daemon.log();
        let networks: Vec<_> = log.iter().filter(|line| line.contains("a network is on its GPU")).collect();
        assert!(!networks.is_empty() && networks.iter().all(|line| line.contains(kernels)), "{says}: {networks:?}");
        assert_eq!(log.iter().any(|line| line.contains(OTHER)), is_told, "{says}");
    }
}

/// A network is cuDNN's as graphs; where the driver makes none, call by call; and where cuDNN does not take it or does not start, candle's.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn who_runs_a_network_is_what_there_is() {
    const TOLD: [&str; 3] = ["CUDA captures no graph", "cuDNN does not take this network", "cuDNN does not start"];
    let _alone = alone();
    for (says, kernels, told) in [
        ("there=1", "kernels=\"cudnn graphs\"", None),
        ("captures=0", "kernels=\"cudnn\"", Some(TOLD[0])),
        // Each engine would take more memory than is usually given; the last resort is.
        ("guesses=0", "kernels=\"cudnn graphs\"", None),
        ("cudnn=0", "kernels=\"candle\"", Some(TOLD[1])),
        ("cudnn=1008", "kernels=\"candle\"", Some(TOLD[2])),
        // What is said where it is not installed, too; it is.
        ("cudnn=1001", "kernels=\"candle\"", Some(TOLD[2])),
    ] {
        let gpus = Gpus::new();
        gpus.0.says(&[0, 1, 2, 3].map(|gpu| format!("{gpu}.{says}\n")).concat());
        let daemon = gpus.daemon(&shipped());
        assert_all_answered(&send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(1))), says);
        let log = daemon.log();
        let networks: Vec<_> = log.iter().filter(|line| line.contains("a network is on its GPU")).collect();
        assert!(!networks.is_empty() && networks.iter().all(|line| line.contains(kernels)), "{says}: {networks:?}");
        for words in TOLD {
            assert_eq!(log.iter().any(|line| line.contains(words)), told == Some(words), "{says}: {words}");
        }
    }
}

/// A library that is there and of no use is not the same as one that is not installed, whatever runs the networks then.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn a_library_that_does_not_load_says_why() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    for library in ["libcudnn.so.9", "libcudnn_graph.so.9"] {
        fs::write(folder.path().join(library), "half a library").unwrap();
    }
    let others = std::env::var("LD_LIBRARY_PATH").unwrap();
    let path = format!("{}:{others}", folder.path().display());
    let daemon = Daemon::start_with(&shipped(), &[("LD_LIBRARY_PATH", &path)]);
    assert_all_answered(&send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(1))), "candle's kernels");
    let log = daemon.log();
    assert!(
        log.iter().any(|line| line.contains("libcudnn.so.9 does not load: ") && line.contains("too short")),
        "{log:?}"
    );
    assert!(log.iter().any(|line| line.contains("kernels=\"candle\"")), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("cuDNN does not start")), "it is as good as not installed: {log:?}");
}

/// Of two calls that fail, one after the other, the first one's error says why.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn a_graph_that_is_not_made_says_why() {
    let _alone = alone();
    let gpus = Gpus::new();
    gpus.0.says(&[0, 1, 2, 3].map(|gpu| format!("{gpu}.instantiates=2\n")).concat());
    let daemon = gpus.daemon(&shipped());
    assert_all_answered(&send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(1))), "call by call");
    let log = daemon.log();
    let refused: Vec<_> = log.iter().filter(|line| line.contains("CUDA captures no graph")).collect();
    assert!(!refused.is_empty(), "{log:?}");
    assert!(refused.iter().all(|line| line.contains("CUDA_ERROR_OUT_OF_MEMORY")), "{refused:?}");
}

/// An error that CUDA has no name for may be anything; where the device does not open again for it, another process is needed.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn an_unknown_error_that_comes_again_is_of_the_process() {
    let _alone = alone();
    let gpus = Gpus::new();
    let daemon = gpus.daemon(&shipped());
    gpus.0.says(&format!("{GPU}.fails=999\n"));
    assert_all_answered(&send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(2))), "an unknown error");
    daemon.wait_until("fenced", |daemon| daemon.lane_states()[GPU] == "fenced");
    let events = daemon.json("/admin/events").to_string();
    assert!(events.contains("needs a new process"), "{events}");
    assert!(daemon.log().iter().any(|line| line.contains("CUDA_ERROR_UNKNOWN")));
}

/// Lanes open at the same time, and what each asks of its GPU would end what another captures.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn lanes_that_share_a_gpu_do_not_disturb_each_other() {
    let _alone = alone();
    let gpus = Gpus::new();
    let shared = |line: &str| match line.strip_prefix("device = \"cuda:") {
        Some(rest) => format!("device = \"cuda:0\"\nfault_domain = \"lane-{rest}\n"),
        None => format!("{line}\n"),
    };
    let text: String = shipped().lines().map(shared).collect();
    let lanes = text.matches("device = \"cuda:0\"").count();
    assert!(lanes >= 3, "{text}");
    let mut daemon = gpus.daemon(&text);
    assert_all_answered(&send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(1))), "lanes of one GPU");
    let log = daemon.log();
    let networks = log.iter().filter(|line| line.contains("kernels=\"cudnn graphs\"")).count();
    assert_eq!(networks, lanes, "{log:?}");
    assert!(!log.iter().any(|line| line.contains("captures no graph")), "{log:?}");
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
#[ignore = "scripts/check-cuda runs it"]
fn weights_that_find_no_memory_say_how_much_they_need() {
    let gpus = Gpus::new();
    gpus.0.says("2.memory_mib=0\n");
    let file = gpus.0.beside("config.toml");
    fs::write(&file, shipped()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_parityd"));
    command.arg("--config").arg(&file).env("CUDA_EMULATOR_CONTROL", gpus.0.file()).env_remove("RUST_BACKTRACE");
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "a later process may find memory: {told}");
    let words = " MiB) could not be loaded onto the device: the GPU has too little memory left";
    assert!(told.contains(words) && told.contains("lane 2"), "{told}");
}

/// `devices = "auto"` instead of lanes.
fn with_all_gpus(text: &str) -> String {
    let lanes = text.find("[[lane]]").unwrap()..text.find("# Exactly one deployment").unwrap();
    format!("devices = \"auto\"\n{}{}", &text[..lanes.start], &text[lanes.end..])
}

/// A driver that is not ready yet is waited for, as by a lane that names its GPU; where there is no GPU, nobody waits.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn gpus_that_cannot_be_listed_yet_are_tried_again() {
    let gpus = Gpus::new();
    let file = gpus.0.beside("config.toml");
    let ends = |says: &str, text: &str, count: &str| {
        gpus.0.says(says);
        fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_parityd"));
        command.arg("--config").arg(&file).env("CUDA_EMULATOR_CONTROL", gpus.0.file()).env_remove("RUST_BACKTRACE");
        let output = command.env("CUDA_EMULATOR_GPUS", count).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let auto = with_all_gpus(&shipped());
    for text in [&auto, &shipped()] {
        let (code, told) = ends("0.init=802\n", text, "4");
        assert!(code == Some(75) && told.contains("CUDA_ERROR_SYSTEM_NOT_READY"), "{code:?} {told}");
    }
    // cuBLAS says only that it did not start.
    let (code, told) = ends("0.driver=12080\n", &shipped(), "4");
    let words = "the driver is for CUDA 12, and this was built with CUDA 13";
    assert!(code == Some(75) && told.contains(words), "{code:?} {told}");
    let (code, told) = ends("", &auto, "0");
    assert!(code == Some(78) && told.contains("found no GPU"), "{code:?} {told}");
    let (code, told) = ends("0.uuid=999\n1.uuid=999\n", &auto, "2");
    assert!(code == Some(75) && told.contains("CUDA does not list the GPUs"), "{code:?} {told}");
}

#[test]
#[ignore = "scripts/check-cuda runs it"]
fn a_gpu_that_does_not_tell_its_uuid_is_left_out() {
    let _alone = alone();
    let gpus = Gpus::new();
    gpus.0.says("1.uuid=999\n");
    let daemon = gpus.daemon(&with_all_gpus(&shipped()));
    let devices: Vec<_> =
        daemon.json("/admin/lanes").as_array().unwrap().iter().map(|lane| lane["device"].clone()).collect();
    assert_eq!(devices, [0, 2, 3].map(|gpu| format!("GPU-00000000-0000-0000-0000-{gpu:012}")));
    let log = daemon.log();
    assert!(log.iter().any(|line| line.contains("a GPU that does not answer is left out")), "{log:?}");
}

/// NVML and CUDA know a GPU by the same UUID; lanes are made of what CUDA shows this process, which may be fewer.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn all_gpus_are_taken_by_their_uuids() {
    let _alone = alone();
    let gpus = Gpus::new();
    let text = with_all_gpus(&shipped());
    let (control, file) = (gpus.0.beside("nvml"), gpus.0.file());
    fs::write(&control, "count = 4\n").unwrap();
    let library = std::env::current_exe().unwrap().with_file_name("libnvml_stub.so");
    let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let variables = [path(&library), path(&control), path(&file)];
    let daemon = Daemon::start_with(
        &text,
        &[
            ("PARITYD_NVML_LIBRARY", &variables[0]),
            ("PARITYD_NVML_STUB", &variables[1]),
            ("CUDA_EMULATOR_CONTROL", &variables[2]),
            // As `CUDA_VISIBLE_DEVICES` would.
            ("CUDA_EMULATOR_GPUS", "3"),
        ],
    );
    let told = daemon.json("/admin/lanes");
    let word = |key: &str| told.as_array().unwrap().iter().map(|lane| lane[key].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(word("role"), ["base", "base", "parity"]);
    for (gpu, device) in word("device").into_iter().enumerate() {
        assert_eq!(device, format!("GPU-00000000-0000-0000-0000-{gpu:012}"));
    }
    // What the driver says of a GPU fences the lane that CUDA runs there.
    fs::write(&control, "count = 4\n1.ret = 15\n").unwrap();
    daemon.wait_until("fenced", |daemon| daemon.lane_states() == ["healthy", "fenced", "healthy"]);
    assert_all_answered(&send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(1))), "a GPU that is lost");
}
