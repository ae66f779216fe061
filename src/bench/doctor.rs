//! `bench doctor`: what on this machine makes latencies lie.
//!
//! Each finding says what was read, what it does to a tail, and what to type. What cannot be read is not there: a virtual machine shows no
//! governor, and nobody can tell what its host does. Every result carries the findings of its run; steal is that *during* the run.

mod steal;

pub use steal::Watch;

use std::fs;

use serde::{Deserialize, Serialize};

use crate::nvml;

/// More stolen time than this is told …
const STEAL_WARN: f64 = 0.005;
/// … and more than this makes a run void: one core-second in twenty went to somebody else.
const STEAL_VOID: f64 = 0.05;
/// A machine that is busier than this before anything is measured is told.
const BUSY_WARN: f64 = 0.1;
/// A millisecond's sleep that takes longer than this beyond it (p99) is told.
const SLEEP_WARN_US: f64 = 500.0;

/// What a finding means for what is measured here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Worth knowing, and nothing to be done.
    Note,
    /// Tails will be worse, or less repeatable, than they need to be.
    Warn,
    /// Figures mean nothing.
    Void,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// What was found.
    pub found: String,
    /// What that means.
    pub verdict: Verdict,
    /// What it does, and what to do; empty where all is well.
    pub advice: String,
}

fn finding(what: &str, found: impl Into<String>, verdict: Verdict, advice: &str) -> Finding {
    let advice = if verdict == Verdict::Good { String::new() } else { advice.to_owned() };
    Finding { what: what.to_owned(), found: found.into(), verdict, advice }
}

/// Everything that can be found out on this machine; takes about a second and a half.
pub fn doctor() -> Vec<Finding> {
    let watch = Watch::start();
    let late_us = watch.sleep_lateness_us();
    let mut found = settings();
    found.extend(watch.findings());
    found.extend(watch.busy().map(|busy| {
        let verdict = if busy > BUSY_WARN { Verdict::Warn } else { Verdict::Good };
        let advice = "other programs run: end them before measuring";
        finding("load of other programs", format!("{:.1} % of all cores", 100.0 * busy), verdict, advice)
    }));
    let verdict = if late_us > SLEEP_WARN_US { Verdict::Warn } else { Verdict::Good };
    let advice = "timers fire late: deadlines, hedges and the client's schedule are late by as much; look for a busy machine or a power-saving governor";
    found.push(finding("sleep of 1 ms", format!("{late_us:.0} us too long (p99)"), verdict, advice));
    found.extend(gpus());
    found
}

/// What is set, as files of Linux tell it.
pub(super) fn settings() -> Vec<Finding> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let rules: [(&str, &str, Rule, &str); 5] = [
        (
            "frequency governor",
            "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            |value| if value == "performance" { Verdict::Good } else { Verdict::Warn },
            "cores clock down between queries: `cpupower frequency-set -g performance`",
        ),
        (
            "turbo off (intel_pstate)",
            "/sys/devices/system/cpu/intel_pstate/no_turbo",
            |value| if value == "1" { Verdict::Good } else { Verdict::Warn },
            "the clock depends on heat and neighbours: write 1 to that file while you compare",
        ),
        (
            "boost",
            "/sys/devices/system/cpu/cpufreq/boost",
            |value| if value == "0" { Verdict::Good } else { Verdict::Warn },
            "the clock depends on heat and neighbours: write 0 to that file while you compare",
        ),
        (
            "SMT",
            "/sys/devices/system/cpu/smt/active",
            |value| if value == "0" { Verdict::Good } else { Verdict::Note },
            "two lanes on one core slow each other down: pin lanes (`core`) to different cores",
        ),
        (
            "clock source",
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
            |value| {
                if ["tsc", "kvm-clock", "arch_sys_counter"].contains(&value) { Verdict::Good } else { Verdict::Warn }
            },
            "reading the clock is a system call or worse: boot with `clocksource=tsc` if the processor's is stable",
        ),
    ];
    let mut found: Vec<Finding> = rules
        .into_iter()
        .filter_map(|(what, path, rule, advice)| {
            let value = read(path)?;
            let verdict = rule(&value);
            Some(finding(what, value, verdict, advice))
        })
        .collect();
    found.extend(read("/sys/fs/cgroup/cpu.max").and_then(|text| quota(&text)));
    let balancer = is_running("irqbalance");
    let verdict = if balancer { Verdict::Note } else { Verdict::Good };
    let advice = "interrupts move between cores during a run: stop it, or keep it off the lanes' cores";
    found.push(finding("irqbalance", if balancer { "runs" } else { "does not run" }, verdict, advice));
    found
}

type Rule = fn(&str) -> Verdict;

/// `max 100000` or `200000 100000` of a control group: microseconds of processor in each period.
fn quota(text: &str) -> Option<Finding> {
    let (allowed, period) = text.split_once(' ')?;
    let cores = match allowed.parse::<f64>() {
        Ok(allowed) => Some(allowed / period.parse::<f64>().ok()?),
        Err(_) => None,
    };
    let found = cores.map_or_else(|| "none".to_owned(), |cores| format!("{cores:.1} cores"));
    let verdict = if cores.is_some() { Verdict::Warn } else { Verdict::Good };
    let advice = "a container that has used up its share stands still for the rest of a period (100 ms): raise the limit above what runs";
    Some(finding("processor quota", found, verdict, advice))
}

fn is_running(name: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .map(|entry| entry.path().join("comm"))
        .any(|comm| fs::read_to_string(comm).is_ok_and(|running| running.trim() == name))
}

/// What NVML says of each GPU; one line where there is none.
fn gpus() -> Vec<Finding> {
    let told = match nvml::standing() {
        Ok(gpus) => gpus,
        Err(error) => {
            return vec![finding("GPUs", format!("none ({error})"), Verdict::Note, "CPU lanes only")];
        }
    };
    told.into_iter()
        .flat_map(|gpu| {
            let what = |part: &str| format!("GPU {} {part}", gpu.uuid);
            let tenants = if gpu.processes == 0 { Verdict::Good } else { Verdict::Warn };
            let limits = if gpu.limits.is_empty() { Verdict::Good } else { Verdict::Warn };
            let others = "somebody else computes there: end it, or say so beside the figures";
            let throttle = "the clock is held down: cool it, or raise its limit (`nvidia-smi -q -d PERFORMANCE`)";
            let limited = if gpu.limits.is_empty() { "nothing".to_owned() } else { gpu.limits.join(", ") };
            let clock = format!("{} of {} MHz", gpu.clock_mhz, gpu.clock_max_mhz);
            [
                finding(&what("processes"), gpu.processes.to_string(), tenants, others),
                finding(&what("clock held down by"), limited, limits, throttle),
                finding(&what("clock"), clock, Verdict::Note, "lock it while you compare: `nvidia-smi -lgc`"),
            ]
        })
        .collect()
}

/// Why a run with these findings is void, if it is.
pub(super) fn void_reason(findings: &[Finding]) -> Option<String> {
    let void = findings.iter().find(|finding| finding.verdict == Verdict::Void)?;
    Some(format!("{}: {}; {}", void.what, void.found, void.advice))
}

/// The findings as a table.
pub fn doctor_table(findings: &[Finding]) -> String {
    let width =
        |of: fn(&Finding) -> &str| findings.iter().map(|finding| of(finding).chars().count()).max().unwrap_or(0);
    let (what, found) = (width(|finding| &finding.what), width(|finding| &finding.found));
    let line = |finding: &Finding| {
        let verdict = match finding.verdict {
            Verdict::Good => "good",
            Verdict::Note => "note",
            Verdict::Warn => "WARN",
            Verdict::Void => "VOID",
        };
        let Finding { what: about, found: value, advice, .. } = finding;
        format!("{verdict}  {about:what$}  {value:found$}  {advice}").trim_end().to_owned()
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_told_in_cores() {
        let told = quota("150000 100000").unwrap();
        assert_eq!((told.found.as_str(), told.verdict), ("1.5 cores", Verdict::Warn));
        let none = quota("max 100000").unwrap();
        assert_eq!((none.found.as_str(), none.verdict, none.advice.as_str()), ("none", Verdict::Good, ""));
        assert_eq!(quota("nonsense"), None);
    }

    #[test]
    fn only_a_void_finding_voids_a_run() {
        let warn = finding("SMT", "1", Verdict::Warn, "do something");
        assert_eq!(void_reason(std::slice::from_ref(&warn)), None);
        let void = finding("steal", "9 %", Verdict::Void, "move away");
        assert_eq!(void_reason(&[warn, void]).as_deref(), Some("steal: 9 %; move away"));
    }
}
