//! From a document to a [`Config`]: one function a table, one line a key, with its default and its rule.
//!
//! A key that is missing or wrong reads as its default (or as a placeholder, where there is none), so that the rest is still checked;
//! a document with a fault never becomes a [`Config`], so no placeholder is ever served.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    code::{DATA_MAX, Kind, SPREAD_MAX},
    job::Role,
    query::{Confidence, LaneId},
};

use super::{
    Admin, CodeSpec, Config, Deployment, Device, Grace, Grpc, Health, Hedge, Http, Lane, Lanes, NoDevice, OnFatal,
    ParityWhen, Placement, Policy, PolicyKind, Precision, Rerun,
    lanes::LANES_MAX,
    rules,
    section::Section,
    values::{
        MILLIS_MIN, Read, address, boolean, factor, millis, name, number_rows, numbers, share, text, whole, word,
    },
};

/// The variable that overrides `http.listen`.
pub(super) const HTTP_LISTEN: &str = "PARITYD_HTTP_LISTEN";

/// The variable that overrides `grpc.listen`.
pub(super) const GRPC_LISTEN: &str = "PARITYD_GRPC_LISTEN";

/// Looks up an environment variable.
pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

pub(super) fn config(root: &mut Section<'_, '_>, folder: &Path, environment: Environment<'_>) -> Config {
    // A variable that is set to nothing is not set.
    let environment: Environment<'_> = &|name| environment(name).filter(|value| !value.trim().is_empty());
    let config = Config {
        http: root.table("http", |table| http(table, environment)),
        grpc: grpc(root, environment),
        admin: root.table("admin", |table| Admin { faults: table.get("faults", boolean).unwrap_or(false) }),
        health: root.table("health", health),
        lanes: lanes(root),
        deployment: root
            .only_table("deployment", "only one deployment is served for now", |table| deployment(table, folder)),
    };
    rules::check(&config, root);
    let variables = [(GRPC_LISTEN, "grpc.listen"), (HTTP_LISTEN, "http.listen")];
    rules::ports(&config, root, &variables.map(|(variable, key)| (variable, key, environment(variable))));
    config
}

fn http(table: &mut Section<'_, '_>, environment: Environment<'_>) -> Http {
    let listen = listen(table, 8000, environment(HTTP_LISTEN).map(|value| (HTTP_LISTEN, value)));
    let drain = table.get("drain_ms", |value| millis(value, MILLIS_MIN)).unwrap_or(Duration::from_secs(10));
    Http { listen, drain }
}

/// Without its table there is no such port, so that a configuration which knows nothing of it opens none.
fn grpc(root: &mut Section<'_, '_>, environment: Environment<'_>) -> Option<Grpc> {
    let over = environment(GRPC_LISTEN).map(|value| (GRPC_LISTEN, value));
    let is_wanted = root.has("grpc") || over.is_some();
    let grpc = root.table("grpc", |table| Grpc { listen: listen(table, 8001, over) });
    is_wanted.then_some(grpc)
}

/// `listen`, or what a variable says in its place.
fn listen(table: &mut Section<'_, '_>, port: u16, over: Option<(&'static str, String)>) -> SocketAddr {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let file = table.get("listen", |value| address(text(value, &default.to_string())?));
    let over = over.and_then(|(variable, value)| {
        let read = address(&value);
        read.map_err(|rule| table.fault_elsewhere(variable, "listen", &value, rule)).ok()
    });
    over.or(file).unwrap_or(default)
}

fn health(table: &mut Section<'_, '_>) -> Health {
    let mut millis_of =
        |key, default| table.get(key, |value| millis(value, MILLIS_MIN)).unwrap_or(Duration::from_millis(default));
    let (hang, canary_first) = (millis_of("hang_ms", 200), millis_of("canary_first_ms", 100));
    let (canary_max, probe) = (millis_of("canary_max_ms", 5000), millis_of("probe_ms", 250));
    let fence = millis_of("fence_ms", 30_000);
    let on_fatal = OnFatal::ALL.map(|what| (what.as_str(), what));
    let every = table.get("canary_every", |value| whole(value, 0..=1_000_000)).unwrap_or(100);
    Health {
        hang,
        canary_first,
        canary_max,
        probe,
        fence,
        canary_every: u32::try_from(every).ok().filter(|every| *every > 0),
        ready_lanes_min: table.get("ready_lanes_min", |value| whole(value, 1..=LANES_MAX)).unwrap_or(1),
        on_fatal: table.get("on_fatal", |value| word(value, &on_fatal)).unwrap_or(OnFatal::Fence),
    }
}

fn lanes(root: &mut Section<'_, '_>) -> Lanes {
    let auto = root.get("devices", |value| word(value, &[("auto", ())]));
    let listed = root.tables("lane", lane);
    match (root.has("devices"), root.has("lane")) {
        (true, true) => root.fault("devices", "excludes [[lane]]: keep one of the two".to_owned()),
        (false, false) => root.fault("lane", "is required: list [[lane]] tables, or set devices = \"auto\"".to_owned()),
        (true, false) | (false, true) => {}
    }
    if listed.len() > LANES_MAX {
        root.fault("lane", format!("at most {LANES_MAX} lanes"));
    }
    if auto.is_some() { Lanes::Auto } else { Lanes::Listed(listed) }
}

fn lane(table: &mut Section<'_, '_>, index: usize) -> Lane {
    let roles = [Role::Base, Role::Parity, Role::Both].map(|role| (role.as_str(), role));
    let found = table.need("device", "\"cpu\", \"cuda:N\" or \"GPU-<uuid>\"", device);
    let role = table.need("role", "\"base\", \"parity\" or \"both\"", |value| word(value, &roles));
    let core = table.get("core", |value| whole(value, 0..=1023));
    let threads = table.get("threads", |value| whole(value, 1..=64));
    let fault_domain = table.get("fault_domain", |value| name(value, "riser-1"));
    let stands_for = table.get("stands_for", |value| match device(value)? {
        Device::CudaUuid(uuid) => Ok(uuid),
        Device::Cpu | Device::Cuda(_) => Err("must be \"GPU-<uuid>\"".to_owned()),
    });
    let service = table.get("service_ms", |value| millis(value, MILLIS_MIN));
    let cpu_only =
        [("threads", threads.is_some()), ("stands_for", stands_for.is_some()), ("service_ms", service.is_some())];
    if found.as_ref().is_some_and(|device| *device != Device::Cpu) {
        for (key, _) in cpu_only.into_iter().filter(|(_, given)| *given) {
            table.fault(key, "is for lanes with device = \"cpu\"".to_owned());
        }
    }
    Lane {
        id: LaneId(u16::try_from(index).unwrap_or(u16::MAX)),
        device: found.unwrap_or(Device::Cpu),
        role: role.unwrap_or(Role::Base),
        core,
        threads: threads.unwrap_or(1),
        fault_domain,
        stands_for,
        service,
    }
}

fn device(value: &toml::de::DeValue<'_>) -> Read<Device> {
    let device: Device = value.as_str().unwrap_or_default().parse().map_err(|error: NoDevice| error.to_string())?;
    match device {
        Device::Cuda(index) if index >= LANES_MAX => Err(NoDevice.to_string()),
        Device::Cpu | Device::Cuda(_) | Device::CudaUuid(_) => Ok(device),
    }
}

fn deployment(table: &mut Section<'_, '_>, folder: &Path) -> Deployment {
    let weights = table.need("weights", "the folder that holds manifest.toml", |value| {
        text(value, "weights/fashion-mnist/1").map(|weights| place(folder, weights))
    });
    Deployment {
        name: table.need("name", "clients ask for it", |value| name(value, "fashion-mnist")).unwrap_or_default(),
        version: table.get("version", |value| name(value, "1")).unwrap_or_else(|| "1".to_owned()),
        weights: weights.unwrap_or_default(),
        deadline: table.get("deadline_ms", |value| millis(value, MILLIS_MIN)).unwrap_or(Duration::from_secs(2)),
        batch_max: table.get("batch_max", |value| whole(value, 1..=1024)).unwrap_or(8),
        queue_max: table.get("queue_max", |value| whole(value, 1..=1_048_576)).unwrap_or(1024),
        precision: table.get("precision", |value| word(value, &Precision::WORDS)).unwrap_or(Precision::F32),
        code: table.table("code", code),
        policy: table.table("policy", policy),
    }
}

/// A relative path is relative to the file, not to where the daemon was started; absolute from here on.
fn place(folder: &Path, path: &str) -> PathBuf {
    let path = folder.join(path);
    std::path::absolute(&path).unwrap_or(path)
}

fn code(table: &mut Section<'_, '_>) -> CodeSpec {
    let served = Kind::ALL.map(|kind| (kind.as_str(), kind));
    let found = table.get("kind", |value| word(value, &served));
    CodeSpec {
        kind: found.unwrap_or(Kind::Sum),
        k: table.get("k", |value| whole(value, 2..=DATA_MAX)).unwrap_or(2),
        r: table.get("r", |value| whole(value, 1..=SPREAD_MAX - 2)).unwrap_or(1),
        coefficients: table.get("coefficients", number_rows),
        errors: table.get("errors", |value| whole(value, 0..=SPREAD_MAX)).unwrap_or(0),
        stripe_fill: table.get("stripe_fill_ms", |value| millis(value, 0.0)).unwrap_or(Duration::from_millis(20)),
    }
}

fn policy(table: &mut Section<'_, '_>) -> Policy {
    let found = table.get("kind", |value| word(value, &PolicyKind::WORDS));
    let placements = [("dedicated", Placement::Dedicated), ("pooled", Placement::Pooled)];
    let reruns = [("at_once", Rerun::AtOnce), ("after_decode", Rerun::AfterDecode)];
    let placement = table.get("placement", |value| word(value, &placements)).unwrap_or(Placement::Dedicated);
    let usual = Policy::usual(found.unwrap_or(PolicyKind::Coded), placement);
    Policy {
        health: table.get("health", |value| word(value, &[("on", true), ("none", false)])).unwrap_or(usual.health),
        hedge: table.get("hedge", |value| word(value, &Hedge::WORDS)).unwrap_or(usual.hedge),
        hedge_after: table.get("hedge_after", factor).unwrap_or(usual.hedge_after),
        parity: table.get("parity", |value| word(value, &ParityWhen::WORDS)).unwrap_or(usual.parity),
        reserve: table.get("reserve", |value| whole(value, 0..=LANES_MAX)).unwrap_or(usual.reserve),
        grace: grace(table).unwrap_or(usual.grace),
        rerun: table.get("rerun", |value| word(value, &reruns)).unwrap_or(usual.rerun),
        min_confidence: table.get("min_confidence", share).and_then(Confidence::new).unwrap_or(usual.min_confidence),
        default_prediction: table.get("default_prediction", numbers),
        ..usual
    }
}

/// `grace` is a word and `grace_ms` a time: two keys, so that neither has two types.
fn grace(table: &mut Section<'_, '_>) -> Option<Grace> {
    let named = table.get("grace", |value| word(value, &[("auto", Grace::Auto), ("none", Grace::None)]));
    let fixed = table.get("grace_ms", |value| millis(value, 0.0)).map(Grace::Fixed);
    if table.has("grace") && table.has("grace_ms") {
        table.fault("grace_ms", "excludes grace: keep one of the two".to_owned());
    }
    fixed.or(named)
}
