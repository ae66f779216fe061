//! What a latency depends on beside the program: the machine, its settings and the build.
//!
//! Read from files of Linux; what is not there is `null` and never guessed. It is the *client's* machine. Where the server runs on another
//! one, the result says so by its URL, and what that machine is must be written down by hand.

use std::fs;

use serde::{Deserialize, Serialize};

use super::doctor::{self, Finding, Watch};
use crate::nvml;

/// Where a result was measured, and by what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Env {
    /// Version of this client.
    pub version: String,
    /// Commit that it was built from; `null` for a debug build or one outside a clone. Uncommitted edits do not show.
    pub commit: Option<String>,
    /// The command line.
    pub command: String,
    /// The seed of the load.
    pub seed: u64,
    /// Model and count of the processors.
    pub cpu: Option<String>,
    /// How the kernel chooses their frequency.
    pub governor: Option<String>,
    /// Release of the kernel.
    pub kernel: Option<String>,
    /// Features that this binary was built with.
    pub features: Vec<String>,
    /// The GPUs that NVML lists; `null` without a driver.
    pub gpu: Option<String>,
    /// What on this machine makes latencies lie, as far as it can be read, and what happened during the run.
    #[serde(default)]
    pub doctor: Vec<Finding>,
}

impl Env {
    /// This machine, after a run that was watched.
    pub(super) fn read(command: &str, seed: u64, watch: &Watch) -> Self {
        let line = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let features =
            [("cuda", cfg!(feature = "cuda")), ("cudnn", cfg!(feature = "cudnn")), ("zoo", cfg!(feature = "zoo"))];
        Env {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("PARITYD_COMMIT").map(str::to_owned),
            command: command.to_owned(),
            seed,
            cpu: line("/proc/cpuinfo").and_then(|text| cpu(&text)),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            kernel: line("/proc/sys/kernel/osrelease"),
            features: features.iter().filter(|(_, on)| *on).map(|(name, _)| (*name).to_owned()).collect(),
            gpu: gpus(),
            doctor: doctor::settings().into_iter().chain(watch.findings()).collect(),
        }
    }
}

/// `model x count` of `/proc/cpuinfo`. ARM names no model there; the count remains.
fn cpu(text: &str) -> Option<String> {
    let fields = || text.lines().filter_map(|line| line.split_once(':'));
    let count = fields().filter(|(key, _)| key.trim() == "processor").count();
    let model = fields().find(|(key, _)| key.trim() == "model name").map_or("unknown", |(_, model)| model.trim());
    (count > 0).then(|| format!("{model} x {count}"))
}

fn gpus() -> Option<String> {
    let names: Vec<String> = nvml::gpus().ok()?.into_iter().map(|gpu| gpu.name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_and_named() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n\nprocessor\t: 1\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(cpu(text).as_deref(), Some("Some CPU @ 2 GHz x 2"));
        assert_eq!(cpu("processor\t: 0\nBogoMIPS\t: 50.0\n").as_deref(), Some("unknown x 1"));
        assert_eq!(cpu(""), None);
    }
}
