//! Which lanes there are, and what they must be fit for.

use super::*;
use crate::query::{DeviceId, FaultDomain};

#[test]
fn gpus_are_split_between_base_and_parity() {
    let config = parse(&format!("devices = \"auto\"\n{}", LEAST.split_at(LEAST.find("[[deploy").unwrap()).1)).unwrap();
    assert_eq!((config.lanes(), config.warnings()), (&[][..], vec![]));
    // (k, r, GPUs, parity lanes); none where the GPUs are too few.
    for (k, r, count, parity) in [
        (2, 1, 3, 1),
        (2, 1, 4, 1),
        (2, 1, 5, 2),
        (2, 1, 8, 3),
        (2, 1, 2, 0),
        (4, 2, 6, 2),
        (4, 2, 5, 0),
        (3, 1, 18, 5),
    ] {
        let mut config = config.clone();
        (config.deployment.code.k, config.deployment.code.r) = (k, r);
        let gpus: Vec<_> = (0..count).map(|index| format!("GPU-{index:08}")).collect();
        let (config, warning) = config.on_gpus(&gpus).unwrap();
        assert_eq!(config.lanes().iter().filter(|lane| lane.role == Role::Parity).count(), parity, "{k} {r} {count}");
        assert_eq!(config.lanes().len(), count);
        assert_eq!(warning.is_some(), parity == 0);
        let kind = if parity == 0 { PolicyKind::None } else { PolicyKind::Coded };
        assert_eq!(config.deployment.policy.kind, kind);
        assert_eq!(parse(&config.to_string()).unwrap(), config, "the outcome is itself a valid configuration");
    }
    let told = config.on_gpus(&[]).unwrap_err().to_string();
    assert!(told.contains("found no GPU") && told.contains("device = \"cpu\""), "never a silent fall-back: {told}");
}

#[test]
fn fault_domains_are_devices_and_cpu_lanes() {
    let text = LEAST.replacen("cpu", "cuda:0", 2);
    let config = parse(&format!("{text}[[lane]]\ndevice = \"cpu\"\nrole = \"base\"")).unwrap();
    let domains = fault_domains(config.lanes());
    assert_eq!(domains, [0, 0, 1, 2].map(FaultDomain));
    let config = parse(&text).unwrap();
    assert_eq!(config.warnings(), [Warning::Unprotected { domains: 2, slots: 3 }]);
}

#[test]
fn a_named_fault_domain_joins_devices_and_splits_one() {
    let lane = |device: &str, domain: &str| format!("[[lane]]\ndevice = \"{device}\"\nrole = \"base\"\n{domain}");
    let rest = &LEAST[LEAST.find("[[deployment]]").unwrap()..];
    let named = |name: &str| format!("fault_domain = \"{name}\"\n");
    let text = [
        lane("cuda:0", &named("riser")),
        lane("cuda:1", &named("riser")),
        lane("cuda:2", ""),
        lane("cuda:2", &named("own")),
        lane("cpu", &named("riser")),
        format!("{rest}[deployment.policy]\nkind = \"none\"\n"),
    ];
    let config = parse(&text.concat()).unwrap();
    assert_eq!(fault_domains(config.lanes()), [0, 0, 1, 2, 0].map(FaultDomain));
    assert_eq!(device_ids(config.lanes()), [0, 1, 2, 2, 3].map(DeviceId), "whatever they are named");
    assert_eq!(config.warnings(), [Warning::SplitGpu { first: 2, second: 3 }]);
    assert_eq!(parse(&config.to_string()).unwrap(), config);
}

#[test]
fn lanes_that_share_a_core_are_told() {
    let text = LEAST.replace("role = \"base\"", "role = \"base\"\ncore = 1");
    assert_eq!(parse(&text).unwrap().warnings(), [Warning::SharedCore { first: 0, second: 1, core: 1 }]);
}

/// Interpolated rows run on every lane, each row of a stripe on a device of its own.
#[test]
fn berrut_needs_as_many_pooled_lanes_as_it_has_workers() {
    let lanes = |role: &str, count| format!("[[lane]]\ndevice = \"cpu\"\nrole = \"{role}\"\n").repeat(count);
    let text = |count, placement: &str, extra: &str| {
        let listed =
            if placement == "pooled" { lanes("both", count) } else { lanes("base", 1) + &lanes("parity", count) };
        format!(
            "{listed}[[deployment]]\nname = \"m\"\nweights = \"w\"\n[deployment.code]\nkind = \"berrut\"\nk = 2\n{extra}\
             [deployment.policy]\nplacement = \"{placement}\"\n"
        )
    };
    let code = parse(&text(3, "pooled", "")).unwrap().deployment.code;
    assert_eq!((code.kind, code.k, code.r, code.errors), (Kind::Berrut, 2, 1, 0));
    assert_eq!(parse(&text(5, "pooled", "r = 3\nerrors = 1\n")).unwrap().deployment.code.errors, 1);
    let told = |text: &str| parse(text).unwrap_err().to_string();
    assert!(told(&text(2, "pooled", "")).contains("needs 3 fault domains (k + r), has 2"));
    assert!(told(&text(3, "dedicated", "")).contains("needs placement = \"pooled\""));
    let auto = text(0, "dedicated", "").replace(&lanes("base", 1), "");
    assert!(told(&format!("devices = \"auto\"\n{auto}")).contains("needs placement = \"pooled\""));
    assert!(told(&text(5, "pooled", "r = 2\nerrors = 1\n")).contains("needs r = 3 or more, not 2"));
}

#[test]
fn a_machine_with_too_few_base_lanes_to_be_ready_is_refused_when_its_gpus_are_known() {
    let rest = &LEAST[LEAST.find("[[deployment]]").unwrap()..];
    let config = parse(&format!("devices = \"auto\"\n{rest}[health]\nready_lanes_min = 4\n")).unwrap();
    let gpus = |count: usize| (0..count).map(|gpu| format!("GPU-{gpu}")).collect::<Vec<_>>();
    let told = config.clone().on_gpus(&gpus(4)).unwrap_err().to_string();
    assert!(told.contains("ready_lanes_min = 4: must be at most 3"), "one of four is for parity: {told}");
    assert!(config.on_gpus(&gpus(6)).is_ok());
}

#[test]
fn what_can_never_help_is_warned_of() {
    let warnings = |more: &str| parse(&format!("{LEAST}{more}")).unwrap().warnings();
    let (hang, deadline) = (Duration::from_millis(200), Duration::from_millis(200));
    assert_eq!(warnings("deadline_ms = 200\n"), [Warning::LateHang { hang, deadline }]);
    assert_eq!(warnings("deadline_ms = 201\n"), []);
    assert_eq!(warnings("deadline_ms = 200\n[deployment.policy]\nhealth = \"none\"\n"), [], "nothing is found to hang");
    let pooled = LEAST.replace("\"base\"", "\"both\"").replace("\"parity\"", "\"both\"");
    let warnings = |more: &str| {
        let policy = format!("[deployment.policy]\nplacement = \"pooled\"\n{more}");
        parse(&format!("{pooled}{policy}")).unwrap().warnings()
    };
    assert_eq!(warnings("reserve = 2\n"), []);
    assert_eq!(warnings("reserve = 3\n"), [Warning::NoLaneIdles { reserve: 3, base: 3 }]);
    assert_eq!(warnings("reserve = 3\nparity = \"always\"\n"), []);
}

/// On a lane of parity models alone no job waits for it to be idle: the word would say what is not so.
#[test]
fn parity_for_idle_lanes_needs_lanes_that_hold_both() {
    let policy = |kind: &str, parity: &str| format!("[deployment.policy]\nkind = \"{kind}\"\nparity = \"{parity}\"\n");
    let told = |text: &str| parse(text).map(drop).unwrap_err().to_string();
    let why = "deployment.policy.parity = \"idle\": must be \"always\" or \"late\" with placement = \"dedicated\"";
    assert!(told(&format!("{LEAST}{}", policy("coded", "idle"))).contains(why));
    for parity in ["always", "late"] {
        assert!(parse(&format!("{LEAST}{}", policy("coded", parity))).is_ok(), "{parity}");
    }
    let pooled = LEAST.replace("\"base\"", "\"both\"").replace("\"parity\"", "\"both\"");
    assert!(parse(&format!("{pooled}{}placement = \"pooled\"\n", policy("coded", "idle"))).is_ok());
}
