//! A driver that does not answer: nothing is known of its GPUs, and nobody waits for it.

use std::{thread, time::Duration};

use super::{Driver, PER_SECOND, assert_all_work, row};
use crate::{
    assert_all_answered, beside,
    daemon::Daemon,
    load::{Load, send},
};

/// Of what a driver says, for one GPU.
const OF_A_GPU: [&str; 4] =
    ["parityd_gpu_up", "parityd_gpu_temperature_celsius", "parityd_gpu_limited", "nv_gpu_utilization"];

/// A driver that does not answer says nothing of its GPUs.
#[test]
fn an_nvml_that_hangs_blocks_neither_service_nor_the_end() {
    let _beside = beside();
    let driver = Driver::new();
    let mut daemon = driver.daemon();
    driver.says("0.throttle = 0x40");
    daemon.wait_until("told of the heat", |daemon| daemon.metric("parityd_gpu_limited", "hw_thermal") == Some(1.0));
    driver.says("hang_ms = 600000");
    let replies = send(&daemon.url, Load::new(PER_SECOND, Duration::from_secs(2)));
    assert_all_answered(&replies, "NVML hangs");
    let told = |daemon: &Daemon, words: &str| daemon.log().iter().any(|line| line.contains(words));
    daemon.wait_until("told of it", |daemon| told(daemon, "NVML does not answer"));
    row("NVML hangs", "no lane moves, NVML is told to be unknown", None, &replies);
    assert_eq!(daemon.metric("parityd_nvml_answers", ""), Some(0.0));
    let shown = |daemon: &Daemon| OF_A_GPU.map(|name| daemon.metric(name, "000000000000").is_some());
    daemon.wait_until("showing nothing of what was", |daemon| shown(daemon) == [false; 4]);
    assert_all_work(&daemon, "nothing is known of the devices");
    driver.says("");
    daemon.wait_until("told of its end", |daemon| told(daemon, "NVML answers again"));
    daemon.wait_until("showing what is", |daemon| shown(daemon) == [true; 4]);
    daemon.wait_until("cool", |daemon| daemon.metric("parityd_gpu_limited", "hw_thermal") == Some(0.0));
    driver.says("hang_ms = 600000");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.terminate(), Some(0), "the end waits for no driver");
}
