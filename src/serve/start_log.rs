//! The lines of a start: what runs, on what, how safe it is, and what to type next.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{Plan, ports::Ports};
use crate::{
    config::{Config, fault_domains},
    http::Limits,
    lane,
};

/// Before anything slow.
pub(super) fn starting(plan: &Plan) {
    let features = match (cfg!(feature = "cuda"), cfg!(feature = "cudnn")) {
        (_, true) => "cuda, cudnn",
        (true, false) => "cuda",
        (false, false) => "none",
    };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), features, "parityd starts");
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
    if plan.config.admin.faults {
        tracing::warn!("[admin] faults is on: whoever reaches the port can break lanes");
    }
    let reachable = |listen: &SocketAddr| !listen.ip().is_loopback();
    if let Some(listen) = Some(plan.config.http.listen).filter(reachable) {
        tracing::warn!(
            "[http] listen = {listen} is reachable from other machines, and there is no authentication: keep it behind a proxy"
        );
    }
    if let Some(listen) = plan.config.grpc.map(|grpc| grpc.listen).filter(reachable) {
        tracing::warn!(
            "[grpc] listen = {listen} is reachable from other machines, and there is no authentication: keep it behind a proxy"
        );
    }
}

/// What each lane is.
pub(super) fn lanes(plan: &Plan) {
    let lanes = plan.config.lanes();
    for (lane, core) in lanes.iter().zip(lane::cores(lanes)) {
        let (id, device, role) = (lane.id, &lane.device, lane.role.as_str());
        let pinned_to =
            core.filter(|core| lane::is_available(*core)).map_or_else(|| "any".to_owned(), |core| core.to_string());
        tracing::info!(lane = %id, %device, role, core = pinned_to, threads = lane.threads, "lane ready");
        if lane.stands_for.is_some() || lane.service.is_some() {
            let gpu = lane.stands_for.as_deref().unwrap_or("none");
            let service_ms = lane.service.map_or(0.0, |service| service.as_secs_f64() * 1e3);
            tracing::warn!(lane = %id, gpu, service_ms, "this lane stands for another device: for tests only");
        }
    }
}

/// There may be fewer connections than there should be places for.
pub(super) fn few_descriptors(limits: Limits, files: usize, wanted: usize) {
    let Limits { connections_max, queue_max, .. } = limits;
    tracing::warn!(
        connections_max,
        queue_max,
        files,
        wanted,
        "the file limit allows few connections: beyond connections_max, clients wait at the port instead of being refused; raise LimitNOFILE= (ulimit -Hn)"
    );
}

/// The ports are those of the process before, whatever the configuration says by now.
pub(super) fn inherited(ports: &Ports, config: &Config) {
    for (table, served, asked) in ports.unlike(config) {
        let word =
            |address: Option<SocketAddr>| address.map_or_else(|| "none".to_owned(), |address| address.to_string());
        tracing::warn!(
            table,
            served = word(served),
            configured = word(asked),
            "the port stays that of the process before until a restart"
        );
    }
}

/// All lanes are ready and the port is open.
pub(super) fn listening(plan: &Plan, address: SocketAddr) {
    let deployment = &plan.config.deployment;
    tracing::info!("protection: {}", protection(plan));
    tracing::info!(%address, deployment = deployment.name, version = deployment.version, "listening");
    let example = deployment.weights.join("example.json");
    if example.exists() {
        let file = format!("@{}", example.display());
        let (name, example, address) = (&deployment.name, quoted(&file), dialled(address));
        tracing::info!(
            "try: curl -s -H 'Content-Type: application/json' http://{address}/v2/models/{name}/infer -d {example}"
        );
    }
}

/// A word of a command line, as a shell takes it.
fn quoted(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@/._-+:,=".contains(c);
    if word.chars().all(plain) { Cow::Borrowed(word) } else { Cow::Owned(format!("'{}'", word.replace('\'', "'\\''"))) }
}

/// The port of gRPC is open, too. Not a word of the line before, which scripts look for.
pub(super) fn grpc(address: SocketAddr) {
    tracing::info!(%address, "listens for gRPC");
}

/// Where a client on this machine reaches an address that was listened on.
fn dialled(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What may fail, in words: of lanes if each is a fault domain of its own, else of devices.
fn protection(plan: &Plan) -> String {
    let lanes = plan.config.lanes();
    let domains = fault_domains(lanes);
    let count = |runs: &dyn Fn(usize) -> bool| {
        let mut held: Vec<u16> = (0..lanes.len()).filter(|&lane| runs(lane)).map(|lane| domains[lane].0).collect();
        held.sort_unstable();
        held.dedup();
        held.len()
    };
    let (all, base) = (count(&|_| true), count(&|lane| lanes[lane].role.runs_base()));
    let unit = if all == lanes.len() { "lanes" } else { "devices" };
    let has_others = all > base && plan.config.deployment.policy.answers_alone();
    let exact = match base {
        1 if has_others => "the one that holds the base model is needed for direct answers".to_owned(),
        1 => "the one that holds the base model is needed for any answer".to_owned(),
        base => {
            let others = if has_others { ", and approximately while none is" } else { "" };
            format!("queries are answered while one of the {base} that hold the base model is left{others}")
        }
    };
    // With the last device all is lost, whatever the code could bring back.
    let may_fail = plan.code.as_ref().map(|code| code.losses_max().min(all.saturating_sub(1)));
    match may_fail {
        None => format!("no decoding; {exact} ({all} {unit})"),
        Some(0) => format!("late predictions are decoded, and none of a device that fails; {exact}"),
        Some(losses) => {
            let words = ["none", "any one", "any two", "any three"];
            let some = words.get(losses).map_or_else(|| format!("any {losses}"), |&word| word.to_owned());
            format!("{some} of {all} {unit} may fail or be late, and predictions are decoded in time; {exact}")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_word_is_quoted_if_a_shell_would_not_take_it_whole() {
        assert_eq!(quoted("@weights/a-b/1/example.json"), "@weights/a-b/1/example.json");
        assert_eq!(quoted("@w x/it's"), r"'@w x/it'\''s'");
    }

    fn plan(edit: impl Fn(String) -> String) -> Plan {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(folder.join("config.toml")).expect("it is there");
        Plan::check(Config::parse(&edit(text), folder, "config.toml").expect("valid")).expect("weights are there")
    }

    #[test]
    fn protection_says_how_many_lanes_may_fail() {
        assert_eq!(
            protection(&plan(|text| text)),
            "any one of 3 lanes may fail or be late, and predictions are decoded in time; queries are answered while one of the 2 that \
             hold the base model is left, and approximately while none is"
        );
        let none = plan(|text| {
            text.replace("kind = \"approximate\"", "kind = \"none\"").replace("role = \"parity\"", "role = \"base\"")
        });
        assert_eq!(
            protection(&none),
            "no decoding; queries are answered while one of the 3 that hold the base model is left (3 lanes)"
        );
    }

    #[test]
    fn a_core_that_is_not_there_is_told_before_the_start() {
        assert!(plan(|text| text).warnings.is_empty());
        let plan = plan(|text| text.replacen("threads = 1", "threads = 1\ncore = 1023", 1));
        let told: Vec<_> = plan.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["lane 0: core = 1023 is not there or not for this process: the lane is not pinned"]);
    }

    #[test]
    fn lanes_of_one_device_fail_together() {
        let shared = plan(|text| text.replace("device = \"cpu\"", "device = \"cuda:0\"").replace("threads = 1", ""));
        let told = protection(&shared);
        assert_eq!(
            told,
            "late predictions are decoded, and none of a device that fails; the one that holds the base model is needed for any answer"
        );
    }
}
