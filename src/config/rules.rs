//! Rules over several keys, and warnings.
//!
//! A rule is only checked where each key that it names was read without a fault: otherwise it would judge a placeholder.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    code::{Kind, SPREAD_MAX},
    job::Role,
};

use super::{
    CodeSpec, Config, Device, Grpc, Hedge, Lane, Lanes, ParityWhen, Placement, Policy, PolicyKind, Precision, Warning,
    lanes::{fault_domains, ready_rule, split_gpu},
    section::Section,
};

impl Config {
    /// What works, but not as well as it may look.
    pub fn warnings(&self) -> Vec<Warning> {
        let lanes = self.lanes();
        let domains = fault_domains(lanes).iter().map(|domain| domain.0).collect::<BTreeSet<_>>().len();
        let slots = self.deployment.code.k + self.deployment.code.r;
        let coded = self.deployment.policy.kind.is_coded();
        let mut warnings = Vec::new();
        if coded && self.lanes != Lanes::Auto && domains < slots {
            warnings.push(Warning::Unprotected { domains, slots });
        }
        let (drain, deadline) = (self.http.drain, self.deployment.deadline);
        if drain < deadline {
            warnings.push(Warning::ShortDrain { drain, deadline });
        }
        let hang = self.health.hang;
        if self.deployment.policy.health && hang >= deadline {
            warnings.push(Warning::LateHang { hang, deadline });
        }
        let (reserve, base) = (self.deployment.policy.reserve, self.base_lanes());
        if self.lanes != Lanes::Auto && self.reserves() && reserve >= base {
            warnings.push(Warning::NoLaneIdles { reserve, base });
        }
        if let Some((first, second)) = split_gpu(lanes) {
            warnings.push(Warning::SplitGpu { first: first.0, second: second.0 });
        }
        for (place, first) in lanes.iter().enumerate() {
            let second = lanes[place + 1..].iter().find(|lane| lane.core == first.core);
            if let (Some(core), Some(second)) = (first.core, second) {
                warnings.push(Warning::SharedCore { first: first.id.0, second: second.id.0, core });
            }
        }
        warnings
    }

    /// Whether the policy has redundancy that runs only while enough base lanes idle.
    fn reserves(&self) -> bool {
        let Policy { kind, placement, parity, .. } = self.deployment.policy;
        let pooled = placement == Placement::Pooled && parity != ParityWhen::Always;
        match kind {
            PolicyKind::None | PolicyKind::Replicated | PolicyKind::Hedged => false,
            PolicyKind::IdleCopy | PolicyKind::Adaptive => true,
            PolicyKind::Coded => pooled && self.deployment.code.kind != Kind::Berrut,
            PolicyKind::Approximate => pooled,
        }
    }
}

/// Checks what no single key can tell.
pub(super) fn check(config: &Config, root: &mut Section<'_, '_>) {
    limits(config, root);
    code(&config.deployment.code, root);
    let pooled = config.deployment.policy.placement == Placement::Pooled;
    let interpolates = config.deployment.policy.kind.is_coded() && config.deployment.code.kind == Kind::Berrut;
    rule(root, &["deployment.code.kind", "deployment.policy.placement"], pooled || !interpolates, || {
        "kind = \"berrut\" needs placement = \"pooled\": coded rows run on every lane".to_owned()
    });
    let approximate = config.deployment.policy.kind == PolicyKind::Approximate;
    let compact = config.deployment.code.kind == Kind::Compact;
    rule(root, &["deployment.code.kind", "deployment.policy.kind"], compact || !approximate, || {
        "needs kind = \"compact\" under [deployment.code]: that is the small model which backs queries up".to_owned()
    });
    let apart = config.deployment.policy.kind.is_coded() && !pooled;
    let idles = config.deployment.policy.parity == ParityWhen::Idle;
    rule(
        root,
        &["deployment.policy.kind", "deployment.policy.placement", "deployment.policy.parity"],
        !(apart && idles),
        || {
            "must be \"always\" or \"late\" with placement = \"dedicated\": lanes of parity models alone have nothing else to do".to_owned()
        },
    );
    hedges(config, root);
    if config.lanes != Lanes::Auto && root.is_sound("lane") && root.is_sound("devices") {
        devices(config.lanes(), root);
        roles(config, root);
        ready(config, root);
    }
}

/// What a build that opens no GPU cannot serve. What `devices = "auto"` stands for is known later.
pub(super) fn without_gpus(config: &Config, root: &mut Section<'_, '_>) {
    if config.lanes == Lanes::Auto {
        return;
    }
    for lane in config.lanes().iter().filter(|lane| lane.device != Device::Cpu) {
        let why = "needs a build with `--features cuda`, which this is not";
        root.fault(&format!("lane[{}].device", lane.id), why.to_owned());
    }
}

/// The two ports need addresses that do not overlap. `variables` hold what the environment says in their place.
pub(super) fn ports(config: &Config, root: &mut Section<'_, '_>, variables: &[(&str, &str, Option<String>)]) {
    let Some(Grpc { listen: grpc }) = config.grpc else { return };
    let http = config.http.listen;
    let are_read = root.is_sound("http.listen") && root.is_sound("grpc.listen");
    if !are_read || http.port() != grpc.port() || http.port() == 0 || !overlap(http.ip(), grpc.ip()) {
        return;
    }
    let why = format!("[http] and [grpc] cannot listen on {http} and {grpc}: each needs an address of its own");
    match variables.iter().find_map(|(variable, key, value)| Some((variable, key, value.as_ref()?))) {
        Some((variable, key, value)) => root.fault_elsewhere(variable, key, value, why),
        None => rule(root, &["http.listen", "grpc.listen"], false, || why),
    }
}

/// Whether one of two addresses is among those of the other. `::` is all of IPv4, too.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    let holds = |all: IpAddr, other: IpAddr| all.is_unspecified() && (all.is_ipv6() || other.is_ipv4());
    one == other || holds(one, other) || holds(other, one)
}

/// Records `rule` at the last of `keys` if it is broken, unless one of them has a fault of its own.
fn rule(root: &mut Section<'_, '_>, keys: &[&str], holds: bool, rule: impl FnOnce() -> String) {
    if !holds && keys.iter().all(|key| root.is_sound(key)) {
        // The key to blame is one that the file has: a default cannot be what its author got wrong.
        let written = keys.iter().rev().find(|key| root.was_written(key));
        let blamed = written.or(keys.last()).expect("a rule is about at least one key");
        root.fault(blamed, rule());
    }
}

fn limits(config: &Config, root: &mut Section<'_, '_>) {
    let (health, deployment) = (&config.health, &config.deployment);
    rule(root, &["health.canary_max_ms", "health.canary_first_ms"], health.canary_first <= health.canary_max, || {
        "canary_first_ms must not be more than canary_max_ms, which the waits between canaries double up to".to_owned()
    });
    let fits = deployment.queue_max >= deployment.batch_max;
    rule(root, &["deployment.batch_max", "deployment.queue_max"], fits, || {
        format!("queue_max must be at least batch_max = {}, or no batch is ever full", deployment.batch_max)
    });
    let is_cpu = |lane: &Lane| lane.device == Device::Cpu;
    let single = deployment.precision == Precision::F32;
    rule(root, &["lane", "deployment.precision"], single || !config.lanes().iter().any(is_cpu), || {
        "must be \"f32\" with lanes on a CPU, which compute in nothing else: all lanes of a deployment give the same answers".to_owned()
    });
    if let super::Grace::Fixed(grace) = deployment.policy.grace {
        rule(root, &["deployment.deadline_ms", "deployment.policy.grace_ms"], grace < deployment.deadline, || {
            "grace_ms must be less than deadline_ms, or no reconstruction is ever served".to_owned()
        });
    }
}

fn code(code: &CodeSpec, root: &mut Section<'_, '_>) {
    let (k, r) = (code.k, code.r);
    let (key_k, key_r, key_rows) = ("deployment.code.k", "deployment.code.r", "deployment.code.coefficients");
    let fits = k + r <= SPREAD_MAX;
    rule(root, &[key_r, key_k], fits, || format!("k + r must be at most {SPREAD_MAX}, is {k} + {r}"));
    if !fits || ![key_k, key_r, key_rows].iter().all(|key| root.is_sound(key)) {
        return;
    }
    let built = match &code.coefficients {
        Some(rows) if code.kind == Kind::Sum && (rows.len() != r || rows.iter().any(|row| row.len() != k)) => {
            return root.fault(key_rows, format!("must be r = {r} rows of k = {k} numbers"));
        }
        Some(_) | None => code.spec().check(),
    };
    if let Err(error) = built {
        rule(root, &[key_r, key_k, key_rows, "deployment.code.errors"], false, || error.to_string());
    }
}

fn hedges(config: &Config, root: &mut Section<'_, '_>) {
    let Policy { kind, hedge, .. } = config.deployment.policy;
    let keys = ["deployment.policy.kind", "deployment.policy.hedge"];
    rule(root, &keys, kind != PolicyKind::None || hedge == Hedge::None, || {
        "must be \"none\" with kind = \"none\", which runs nothing twice; kind = \"hedged\" does".to_owned()
    });
    rule(root, &keys, kind != PolicyKind::Hedged || hedge != Hedge::None, || {
        "must not be \"none\" with kind = \"hedged\", which does nothing else".to_owned()
    });
}

fn devices(lanes: &[Lane], root: &mut Section<'_, '_>) {
    let by_index = lanes.iter().any(|lane| matches!(lane.device, Device::Cuda(_)));
    let by_uuid = lanes.iter().find(|lane| matches!(lane.device, Device::CudaUuid(_)));
    if let Some(lane) = by_uuid.filter(|_| by_index) {
        let why =
            "name every GPU by index or every GPU by UUID: one GPU under two names would count as two fault domains";
        root.fault(&format!("lane[{}].device", lane.id), why.to_owned());
    }
}

fn ready(config: &Config, root: &mut Section<'_, '_>) {
    let (base, least) = (config.base_lanes(), config.health.ready_lanes_min);
    rule(root, &["lane", "health.ready_lanes_min"], least <= base.max(1), || ready_rule(base));
}

/// What each lane holds must fit the policy: nothing idles, nothing is missing.
fn roles(config: &Config, root: &mut Section<'_, '_>) {
    let policy = &config.deployment.policy;
    if !root.is_sound("deployment.policy.kind") || !root.is_sound("deployment.policy.placement") {
        return;
    }
    let lanes = config.lanes();
    for lane in lanes {
        let wrong = match (policy.kind.is_coded(), policy.placement, lane.role) {
            (false, _, Role::Parity) => {
                &format!("would idle: policy kind = \"{}\" runs no parity jobs", policy.kind.as_str())
            }
            (true, Placement::Dedicated, Role::Both) => {
                "must be \"base\" or \"parity\": placement = \"dedicated\" keeps them on separate devices"
            }
            (true, Placement::Pooled, Role::Base | Role::Parity) => {
                "must be \"both\": with placement = \"pooled\" every lane holds both models"
            }
            (false, _, Role::Base | Role::Both)
            | (true, Placement::Dedicated, Role::Base | Role::Parity)
            | (true, Placement::Pooled, Role::Both) => continue,
        };
        root.fault(&format!("lane[{}].role", lane.id), wrong.to_owned());
    }
    if !root.is_sound("lane") {
        return;
    }
    if !lanes.iter().any(|lane| lane.role.runs_base()) {
        root.fault("lane", "at least one lane must have role = \"base\", or nothing answers".to_owned());
    }
    if policy.kind.is_coded() && config.deployment.code.kind == Kind::Berrut {
        workers(config, root);
    }
    if policy.kind.is_coded() && !lanes.iter().any(|lane| lane.role.runs_parity()) {
        let why = format!(
            "policy kind = \"{}\" needs a lane with role = \"parity\"; without one, set kind = \"hedged\" or \"none\"",
            policy.kind.as_str()
        );
        root.fault("lane", why);
    }
}

/// A code that is not systematic has its rows on every lane, and each row of a stripe on a device of its own.
fn workers(config: &Config, root: &mut Section<'_, '_>) {
    let CodeSpec { k, r, .. } = config.deployment.code;
    let domains = fault_domains(config.lanes()).iter().map(|domain| domain.0).collect::<BTreeSet<_>>().len();
    if domains < k + r {
        let why = format!("kind = \"berrut\" needs {} fault domains (k + r), has {domains}", k + r);
        root.fault("lane", why);
    }
}
