//! The effective configuration as TOML: every key with the value in force, defaults included. Reading it back gives the same [`Config`].

use std::{fmt, time::Duration};

use toml::Value;

use crate::code::{Kind, Sum};

use super::{CodeSpec, Config, Device, Grace, Hedge, Lane, Lanes, ParityWhen, Placement, Policy, Precision, Rerun};

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let deployment = &self.deployment;
        if self.lanes == Lanes::Auto {
            writeln!(f, "devices = \"auto\"\n")?;
        }
        writeln!(f, "[http]\nlisten = {}", text(&self.http.listen.to_string()))?;
        writeln!(f, "drain_ms = {}", millis(self.http.drain))?;
        match &self.grpc {
            Some(grpc) => writeln!(f, "\n[grpc]\nlisten = {}", text(&grpc.listen.to_string()))?,
            None => writeln!(f, "\n# [grpc]: none, so that nothing listens for it")?,
        }
        writeln!(f, "\n[admin]\nfaults = {}", self.admin.faults)?;
        writeln!(f, "\n[health]\nhang_ms = {}", millis(self.health.hang))?;
        writeln!(f, "canary_first_ms = {}", millis(self.health.canary_first))?;
        writeln!(f, "canary_max_ms = {}", millis(self.health.canary_max))?;
        writeln!(f, "probe_ms = {}", millis(self.health.probe))?;
        writeln!(f, "fence_ms = {}", millis(self.health.fence))?;
        writeln!(f, "canary_every = {}", self.health.canary_every.unwrap_or(0))?;
        writeln!(f, "ready_lanes_min = {}", self.health.ready_lanes_min)?;
        writeln!(f, "on_fatal = {}", text(self.health.on_fatal.as_str()))?;
        for each in self.lanes() {
            lane(f, each)?;
        }
        writeln!(f, "\n[[deployment]]\nname = {}", text(&deployment.name))?;
        writeln!(f, "version = {}", text(&deployment.version))?;
        writeln!(f, "weights = {}", text(&deployment.weights.to_string_lossy()))?;
        writeln!(f, "deadline_ms = {}", millis(deployment.deadline))?;
        writeln!(f, "batch_max = {}\nqueue_max = {}", deployment.batch_max, deployment.queue_max)?;
        writeln!(f, "precision = {}", text(word_of(&Precision::WORDS, &deployment.precision)))?;
        code(f, &deployment.code)?;
        policy(f, &deployment.policy)
    }
}

fn lane(f: &mut fmt::Formatter<'_>, lane: &Lane) -> fmt::Result {
    writeln!(
        f,
        "\n[[lane]]  # {}\ndevice = {}\nrole = {}",
        lane.id,
        text(&lane.device.to_string()),
        text(lane.role.as_str())
    )?;
    match lane.core {
        Some(core) => writeln!(f, "core = {core}")?,
        None => writeln!(f, "# core: chosen by the daemon")?,
    }
    if lane.device == Device::Cpu {
        writeln!(f, "threads = {}", lane.threads)?;
    }
    if let Some(domain) = &lane.fault_domain {
        writeln!(f, "fault_domain = {}", text(domain))?;
    }
    if let Some(gpu) = &lane.stands_for {
        writeln!(f, "stands_for = {}", text(gpu))?;
    }
    if let Some(service) = lane.service {
        writeln!(f, "service_ms = {}", millis(service))?;
    }
    Ok(())
}

fn code(f: &mut fmt::Formatter<'_>, code: &CodeSpec) -> fmt::Result {
    writeln!(f, "\n[deployment.code]\nkind = {}\nk = {}\nr = {}", text(code.kind.as_str()), code.k, code.r)?;
    match (&code.coefficients, Sum::with_defaults(code.k, code.r)) {
        (Some(rows), _) => writeln!(f, "coefficients = {}", number_rows(rows))?,
        (None, Ok(sum)) if code.kind == Kind::Sum => {
            writeln!(f, "# coefficients: the code's own, {}", number_rows(sum.rows()))?;
        }
        (None, _) => {}
    }
    if code.kind == Kind::Berrut {
        writeln!(f, "errors = {}", code.errors)?;
    }
    writeln!(f, "stripe_fill_ms = {}", millis(code.stripe_fill))
}

fn policy(f: &mut fmt::Formatter<'_>, policy: &Policy) -> fmt::Result {
    let kind = policy.kind.as_str();
    let placement = match policy.placement {
        Placement::Dedicated => "dedicated",
        Placement::Pooled => "pooled",
    };
    let health = if policy.health { "on" } else { "none" };
    let rerun = match policy.rerun {
        Rerun::AtOnce => "at_once",
        Rerun::AfterDecode => "after_decode",
    };
    writeln!(f, "\n[deployment.policy]\nkind = {}\nplacement = {}", text(kind), text(placement))?;
    writeln!(f, "health = {}", text(health))?;
    writeln!(f, "hedge = {}", text(word_of(&Hedge::WORDS, &policy.hedge)))?;
    writeln!(f, "hedge_after = {:?}", policy.hedge_after)?;
    writeln!(f, "parity = {}", text(word_of(&ParityWhen::WORDS, &policy.parity)))?;
    writeln!(f, "reserve = {}", policy.reserve)?;
    match policy.grace {
        Grace::None => writeln!(f, "grace = \"none\"")?,
        Grace::Auto => writeln!(f, "grace = \"auto\"")?,
        Grace::Fixed(grace) => writeln!(f, "grace_ms = {}", millis(grace))?,
    }
    writeln!(f, "rerun = {}", text(rerun))?;
    writeln!(f, "min_confidence = {:?}", policy.min_confidence.get())?;
    match &policy.default_prediction {
        Some(values) => writeln!(f, "default_prediction = {}", numbers(values)),
        None => writeln!(f, "# default_prediction: none"),
    }
}

fn word_of<T: PartialEq>(words: &[(&'static str, T)], meaning: &T) -> &'static str {
    words.iter().find(|(_, each)| each == meaning).expect("every meaning has a word").0
}

/// A quoted TOML string.
fn text(text: &str) -> String {
    Value::from(text).to_string()
}

/// Milliseconds, with as many decimals as it takes: nanoseconds are kept.
pub(super) fn millis(duration: Duration) -> String {
    let (whole, rest) = (duration.as_millis(), duration.as_nanos() % 1_000_000);
    if rest == 0 { whole.to_string() } else { format!("{whole}.{rest:06}").trim_end_matches('0').to_owned() }
}

fn numbers(values: &[f32]) -> String {
    let values: Vec<_> = values.iter().map(|value| format!("{value:?}")).collect();
    format!("[{}]", values.join(", "))
}

fn number_rows(rows: &[Vec<f32>]) -> String {
    let rows: Vec<_> = rows.iter().map(|row| numbers(row)).collect();
    format!("[{}]", rows.join(", "))
}
