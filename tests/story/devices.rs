//! Devices that break, as their drivers tell it: the real daemon with lanes that stand for GPUs, and a library that says of these what a file says.
//!
//! Jobs take 10 ms, half of the base lanes' time is asked for. For each way to break: every query is answered, the lane is in the right state for
//! the right reason, the others are left alone, readiness says what is so, and the lane comes back when the cause is gone.

mod events;
mod silence;

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::{
    assert_all_answered, beside,
    control::Control,
    daemon::{Daemon, config},
    load::{Load, Reply, send, send_until},
};
use serde_json::Value;

/// Half of what two base lanes can carry.
const PER_SECOND: u32 = 100;
/// The lane that breaks, in the configuration and in the driver.
const LANE: usize = 0;
const LANES: usize = 3;
/// How a lane that is slower than the others is told.
const SLOW: (&str, &str) = ("straggler", "of its expected time");

/// A driver that says what a file says.
struct Driver(Control);

impl Driver {
    fn new() -> Self {
        let driver = Driver(Control::new());
        driver.says("");
        driver
    }

    /// From now on it says this, and that there are three GPUs.
    fn says(&self, lines: &str) {
        self.0.says(&format!("count = {LANES}\n{lines}\n"));
    }

    /// A daemon whose lanes it speaks of.
    fn daemon(&self) -> Daemon {
        let variables = self.variables();
        let variables = variables.each_ref().map(|(name, value)| (*name, value.to_str().unwrap()));
        let daemon = Daemon::start_with(&lanes_of_gpus(), &variables);
        // What happens before, nobody is told.
        let heard = |line: &&String| line.contains("NVML tells this GPU's events");
        daemon.wait_until("listening to each driver", |daemon| daemon.log().iter().filter(heard).count() == LANES);
        daemon
    }
}

impl Driver {
    /// What `parityd devices --json` prints.
    fn devices(&self, daemon: &Daemon) -> Value {
        let file = self.0.beside("config.toml");
        let listen = daemon.url.trim_start_matches("http://");
        fs::write(&file, lanes_of_gpus()).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_parityd"));
        command.args(["devices", "--json", "--config"]).arg(&file).envs(self.variables());
        let output = command.env("PARITYD_HTTP_LISTEN", listen).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What makes a process ask this driver.
    fn variables(&self) -> [(&'static str, PathBuf); 2] {
        let library = std::env::current_exe().unwrap().with_file_name("libnvml_stub.so");
        assert!(library.exists(), "{} is built as a dependency of the tests", library.display());
        [("PARITYD_NVML_LIBRARY", library), ("PARITYD_NVML_STUB", self.0.file())]
    }
}

/// The shipped configuration, with lanes that stand for GPUs. Whoever has no core for a fifth of a second, on a busy machine, is not yet taken to hang.
fn lanes_of_gpus() -> String {
    let mut count = 0;
    let line = |line: &str| {
        if line != "device = \"cpu\"" {
            return format!("{line}\n");
        }
        let uuid = format!("GPU-00000000-0000-0000-0000-{count:012}");
        count += 1;
        format!("{line}\nstands_for = \"{uuid}\"\nservice_ms = 10\n")
    };
    let edits = [("fence_ms = 30000", "fence_ms = 500"), ("hang_ms = 200", "hang_ms = 1000")];
    let text: String = config("config.toml", &edits).lines().map(line).collect();
    assert_eq!(count, LANES);
    text
}

/// What became of a daemon under load while something broke.
struct Outcome {
    replies: Vec<Reply>,
    /// What the lane was to be found as: a state, and words of its reason.
    sign: (&'static str, &'static str),
    /// From the fault until then, and the whole reason.
    found: Option<(Duration, String)>,
}

/// Sends a load; a second later something breaks, until it was found and a moment longer, for so long at most; whatever it was is mended then.
fn break_for(
    daemon: &Daemon,
    lasts: Duration,
    sign: (&'static str, &'static str),
    breaks: impl FnOnce(),
    mends: impl FnOnce(),
) -> Outcome {
    let load = Load::new(PER_SECOND, lasts + Duration::from_secs(2));
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let replies = scope.spawn(|| send_until(&daemon.url, load, &enough));
        thread::sleep(Duration::from_secs(1));
        let broken = Instant::now();
        breaks();
        let mut found: Option<(Duration, String)> = None;
        while broken.elapsed()
            < found.as_ref().map_or(lasts, |(delay, _)| lasts.min(*delay + Duration::from_millis(500)))
        {
            let lanes = lanes(daemon);
            for (lane, (state, reason)) in lanes.iter().enumerate() {
                if lane == LANE && state == sign.0 && reason.contains(sign.1) {
                    found.get_or_insert_with(|| (broken.elapsed(), reason.clone()));
                }
                assert!(lane == LANE || works(state), "lane {lane} is left alone: {lanes:?}");
            }
            assert_eq!(daemon.status("/v2/health/ready"), Some(200), "two lanes are left: {lanes:?}");
            thread::sleep(Duration::from_millis(5));
        }
        mends();
        thread::sleep(Duration::from_secs(1));
        enough.store(true, Ordering::Relaxed);
        Outcome { replies: replies.join().unwrap(), sign, found }
    })
}

/// Whether nothing was found to be wrong with a lane. On a busy machine it may have been late twice for want of a core, which is no fault of a story.
fn works(state: &str) -> bool {
    ["healthy", "straggler"].contains(&state)
}

/// Nothing was found to be wrong with any lane.
#[track_caller]
fn assert_all_work(daemon: &Daemon, why: &str) {
    let states = daemon.lane_states();
    assert!(states.iter().all(|state| works(state)), "{why}: {states:?}");
}

/// State and reason of each lane.
fn lanes(daemon: &Daemon) -> Vec<(String, String)> {
    let told: Value = daemon.json("/admin/lanes");
    let word = |lane: &Value, key: &str| lane[key].as_str().unwrap().to_owned();
    told.as_array().unwrap().iter().map(|lane| (word(lane, "state"), word(lane, "reason"))).collect()
}

/// A row of the table of docs/benchmarks/faults.md.
fn row(what: &str, found: &str, delay: Option<Duration>, replies: &[Reply]) {
    let count = |holds: &dyn Fn(&Reply) -> bool| replies.iter().filter(|reply| holds(reply)).count();
    let lost = count(&|reply| reply.status != 200);
    let decoded = count(&Reply::is_decoded);
    let delay = delay.map_or_else(|| "–".to_owned(), |delay| delay.as_millis().to_string());
    println!("TABLE | {what} | {found} | {delay} | {} | {lost} | {decoded} |", replies.len());
}

/// Every query was answered, the lane was found as what it was to be, within `limit`, and comes back.
fn check(daemon: &Daemon, outcome: &Outcome, what: &str, limit: Duration) {
    assert_all_answered(&outcome.replies, what);
    let state = outcome.sign.0;
    let (delay, why) = outcome.found.as_ref().unwrap_or_else(|| unreachable!("{what} was not found"));
    row(what, &format!("{state}: {why}"), Some(*delay), &outcome.replies);
    // The machine may take its time, too.
    assert!(*delay <= 2 * limit, "{what} was found after {delay:?}");
    daemon.wait_until("healthy again", |daemon| {
        // A straggler is on trial until queries have shown that it is fast.
        send(&daemon.url, Load::new(PER_SECOND, Duration::from_millis(100)));
        daemon.lane_states().iter().all(|state| state == "healthy")
    });
    let events = daemon.json("/admin/events");
    let told = |event: &Value| event["lane"] == LANE && event["to"] == state;
    assert!(events.as_array().unwrap().iter().any(told), "{what}: {events}");
}

#[test]
fn faults_that_jobs_show_are_found_and_healed() {
    let _beside = beside();
    let driver = Driver::new();
    let daemon = driver.daemon();
    let second = Duration::from_secs(1);
    for (what, fault, state, reason, limit) in [
        ("slow x3", r#"{"kind": "slow", "factor": 3}"#, "straggler", "of its expected time", 2 * second),
        ("hang", r#"{"kind": "hang"}"#, "hung", "in flight", 2 * second),
        ("panic", r#"{"kind": "panic"}"#, "failed", "panic", second),
        ("error", r#"{"kind": "error"}"#, "failed", "error", second),
        ("fatal error", r#"{"kind": "fatal"}"#, "fenced", "needs a new process", second),
        ("no memory", r#"{"kind": "out_of_memory"}"#, "failed", "out of memory", second),
        ("NaN", r#"{"kind": "nan"}"#, "failed", "non-finite", second),
        ("garbage", r#"{"kind": "garbage"}"#, "failed", "canary", 5 * second),
    ] {
        let outcome =
            break_for(&daemon, limit + second, (state, reason), || daemon.fault(LANE, fault), || daemon.clear(LANE));
        check(&daemon, &outcome, what, limit);
    }
}

/// A thread cannot be ended; the device is well, and another thread takes the lane.
#[test]
fn a_thread_that_never_comes_back_is_replaced() {
    let _beside = beside();
    let driver = Driver::new();
    let daemon = driver.daemon();
    let second = Duration::from_secs(1);
    for _ in 0..2 {
        let stuck = || daemon.fault(LANE, r#"{"kind": "stuck"}"#);
        let outcome = break_for(&daemon, 3 * second, ("hung", "in flight"), stuck, || ());
        check(&daemon, &outcome, "stuck", 2 * second);
    }
    let replaced = |line: &String| line.contains("another thread runs the lane");
    assert_eq!(daemon.log().iter().filter(|line| replaced(line)).count(), 2);
    let replies = send(&daemon.url, Load::new(PER_SECOND, second));
    assert_all_answered(&replies, "with another thread");
}

#[test]
fn what_the_driver_tells_of_a_gpu_fences_its_lane_at_once() {
    let _beside = beside();
    let driver = Driver::new();
    let daemon = driver.daemon();
    let second = Duration::from_secs(1);
    for (what, lines, reason) in [
        // An event: it is over as soon as it is told.
        ("Xid 79", "0.xid = 1:79", "Xid 79"),
        ("GPU lost", "0.ret = 15", "lost"),
        ("reset required", "0.ret = 16", "must be reset"),
        ("recovery action", "0.recovery = 1", "recovery action 1"),
        ("row of memory lost", "0.field145 = 1", "could not be replaced"),
    ] {
        // Events keep their numbers, or they would be told again.
        let kept = if what == "Xid 79" { "" } else { "0.xid = 1:79\n" };
        let breaks = || driver.says(&format!("{kept}{lines}"));
        let outcome = break_for(&daemon, 3 * second, ("fenced", reason), breaks, || driver.says("0.xid = 1:79"));
        check(&daemon, &outcome, what, 2 * second);
    }
    assert_eq!(daemon.metric("parityd_gpu_xid_total", "xid=\"79\""), Some(1.0));
    assert!(daemon.metric("parityd_gpu_temperature_celsius", "000000000000").is_some());
    // Counters are what the driver says, and absent where it says nothing; a row that waits for a reset is told alone.
    assert_eq!(daemon.metric("parityd_gpu_ecc_uncorrected", "000000000000"), None);
    driver.says("0.xid = 1:79\n0.field4 = 7\n0.field94 = 3\n0.field144 = 1");
    daemon.wait_until("told of errors", |daemon| {
        daemon.metric("parityd_gpu_ecc_uncorrected", "000000000000") == Some(7.0)
    });
    assert_eq!(daemon.metric("parityd_gpu_pcie_replays", "000000000000"), Some(3.0));
    assert_eq!(daemon.metric("parityd_gpu_pcie_generation", "000000000000"), Some(5.0));
    assert_all_work(&daemon, "told, and no more");
}

/// A part of a GPU that MIG made has one id for CUDA and another for NVML: what NVML never had it has not lost.
#[test]
fn a_gpu_that_nvml_never_knew_is_not_lost() {
    let _beside = beside();
    let driver = Driver::new();
    let own = "0.uuid = MIG-00000000-0000-0000-0000-000000000000";
    driver.says(own);
    let variables = driver.variables();
    let variables = variables.each_ref().map(|(name, value)| (*name, value.to_str().unwrap()));
    let daemon = Daemon::start_with(&lanes_of_gpus(), &variables);
    let told = || daemon.log().iter().filter(|line| line.contains("NVML does not know this GPU")).count();
    daemon.wait_until("told of it", |_| told() > 0);
    // Two more looks.
    assert_all_answered(&send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(3))), "a GPU unknown to NVML");
    assert_all_work(&daemon, "nothing is known of it");
    assert_eq!((told(), daemon.metric("parityd_gpu_up", "000000000000")), (1, None));
    // Once NVML has had it, it may lose it.
    driver.says("");
    daemon.wait_until("found", |daemon| daemon.metric("parityd_gpu_up", "000000000000") == Some(1.0));
    driver.says(own);
    daemon.wait_until("fenced", |daemon| daemon.lane_states()[LANE] == "fenced");
}

/// Xid 31 is a broken program, perhaps another tenant's: the lane proves that it is well, and loses nothing.
#[test]
fn an_xid_of_a_program_asks_for_a_canary_and_no_more() {
    let _beside = beside();
    let driver = Driver::new();
    let daemon = driver.daemon();
    let canaries = || daemon.metric("parityd_jobs_total", "canary").unwrap_or(0.0);
    let before = canaries();
    driver.says("0.xid = 1:31");
    daemon.wait_until("checked", |_| canaries() > before);
    assert_all_work(&daemon, "checked, and no more");
}

#[test]
fn a_clock_that_is_held_down_sharpens_the_eye_and_takes_nothing_away() {
    let _beside = beside();
    let driver = Driver::new();
    let daemon = driver.daemon();
    let limited = || daemon.metric("parityd_gpu_limited", "hw_thermal").unwrap_or(0.0);
    driver.says("0.throttle = 0x40");
    daemon.wait_until("told of the heat", |_| limited() > 0.5);
    let replies = send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(1)));
    assert_all_answered(&replies, "throttled");
    assert_all_work(&daemon, "heat alone is no fault");
    let slow = || daemon.fault(LANE, r#"{"kind": "slow", "factor": 3}"#);
    let outcome = break_for(&daemon, Duration::from_secs(3), SLOW, slow, || daemon.clear(LANE));
    check(&daemon, &outcome, "throttle, slow x3", Duration::from_secs(2));
    driver.says("");
    daemon.wait_until("cool", |_| limited() < 0.5);
}

#[test]
fn without_nvml_lanes_are_judged_by_their_jobs() {
    let _beside = beside();
    let nowhere = [("PARITYD_NVML_LIBRARY", "/nowhere/libnvidia-ml.so")];
    let daemon = Daemon::start_with(&lanes_of_gpus(), &nowhere);
    let slow = || daemon.fault(LANE, r#"{"kind": "slow", "factor": 3}"#);
    let outcome = break_for(&daemon, Duration::from_secs(3), SLOW, slow, || daemon.clear(LANE));
    check(&daemon, &outcome, "no NVML, slow x3", Duration::from_secs(2));
    let lines: Vec<_> = daemon.log().into_iter().filter(|line| line.contains("NVML cannot be opened")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
}

#[test]
fn devices_lists_gpus_lanes_and_their_states() {
    let _beside = beside();
    let driver = Driver::new();
    let daemon = driver.daemon();
    driver.says("0.ret = 15");
    daemon.wait_until("fenced", |daemon| daemon.lane_states()[LANE] == "fenced");
    driver.says("");
    let listed = driver.devices(&daemon);
    assert_eq!(listed["devices"].as_array().unwrap().len(), LANES);
    assert_eq!(listed["devices"][0]["uuid"], "GPU-00000000-0000-0000-0000-000000000000");
    let lane = &listed["lanes"][LANE];
    assert_eq!(
        (&lane["device"], &lane["state"], &lane["reason"]),
        (&"cpu".into(), &"fenced".into(), &"the GPU is lost".into())
    );
    drop(daemon);
    // Nothing is there: no driver, no daemon, no configuration.
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_parityd"));
    command.current_dir(folder.path()).args(["devices"]).env("PARITYD_NVML_LIBRARY", "/nowhere/libnvidia-ml.so");
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("no GPUs: ") && told.contains("no lanes: "), "{told}");
}

/// When all are slow, slow is normal, and nobody is left out.
#[test]
fn when_all_lanes_are_slow_none_is_left_out_for_long() {
    let _beside = beside();
    let driver = Driver::new();
    let daemon = driver.daemon();
    for lane in 0..LANES {
        daemon.fault(lane, r#"{"kind": "slow", "factor": 3}"#);
    }
    let replies = send(&daemon.url, Load::new(PER_SECOND / 4, Duration::from_secs(4)));
    assert_all_answered(&replies, "all slow");
    row("all lanes slow x3, a quarter of the load", "at most one lane is a straggler", None, &replies);
    let base = &daemon.lane_states()[..2];
    assert!(base.iter().filter(|state| *state == "straggler").count() <= 1, "{base:?}");
    assert_eq!(daemon.status("/v2/health/ready"), Some(200));
}

/// Ready means that queries can be answered, not that the process lives.
#[test]
fn readiness_goes_with_the_last_base_lane_and_comes_back_with_the_first() {
    let _beside = beside();
    let driver = Driver::new();
    let daemon = driver.daemon();
    driver.says("0.ret = 15\n1.ret = 15");
    daemon.wait_until("not ready", |daemon| daemon.status("/v2/health/ready") == Some(503));
    assert_eq!(daemon.status("/v2/health/live"), Some(200));
    assert_eq!(daemon.lane_states()[..2], ["fenced", "fenced"]);
    driver.says("1.ret = 15");
    daemon.wait_until("ready again", |daemon| daemon.status("/v2/health/ready") == Some(200));
}
