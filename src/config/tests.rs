//! The configuration's rules as data: a text, and the faults it must be refused with.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::query::Confidence;

mod lanes;

/// The least that is valid: two base lanes, one parity lane, one deployment.
const LEAST: &str = r#"
[[lane]]
device = "cpu"
role = "base"
[[lane]]
device = "cpu"
role = "base"
[[lane]]
device = "cpu"
role = "parity"
[[deployment]]
name = "m"
weights = "w"
"#;

fn parse(text: &str) -> Result<Config, ConfigFaults> {
    Config::parse(text, Path::new("/etc/parityd"), "config.toml")
}

/// `text` is refused with exactly these lines.
#[track_caller]
fn check(text: &str, faults: &[&str]) {
    let told = match parse(text) {
        Ok(_) => String::new(),
        Err(faults) => faults.to_string(),
    };
    assert_eq!(told.lines().collect::<Vec<_>>(), faults);
}

/// The least valid text with `extra` at its end is refused with exactly these lines; `extra` begins on line 14.
#[track_caller]
fn check_least(extra: &str, faults: &[&str]) {
    check(&format!("{LEAST}{extra}"), faults);
}

#[test]
fn the_least_file_gets_the_documented_defaults() {
    let config = parse(LEAST).unwrap();
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:8000");
    assert!(!config.admin.faults);
    assert_eq!(config.health.hang, Duration::from_millis(200));
    assert_eq!(config.health.canary_first, Duration::from_millis(100));
    assert_eq!(config.health.canary_max, Duration::from_secs(5));
    assert_eq!(config.lanes().len(), 3);
    assert_eq!(config.lanes()[2].id, LaneId(2));
    assert_eq!(config.lanes()[2].role, Role::Parity);
    assert_eq!(config.warnings(), []);
}

#[test]
fn a_short_drain_is_told_as_it_was_written() {
    let told: Vec<_> = parse(&format!("{LEAST}[http]\ndrain_ms = 1.5\n"))
        .unwrap()
        .warnings()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        matches!(&told[..], [told] if told.starts_with("drain_ms = 1.5 is less than deadline_ms = 2000:")),
        "{told:?}"
    );
}

#[test]
fn a_deployment_gets_the_documented_defaults() {
    let config = parse(LEAST).unwrap();
    let deployment = &config.deployment;
    assert_eq!((deployment.version.as_str(), deployment.weights.as_path()), ("1", Path::new("/etc/parityd/w")));
    assert_eq!((deployment.batch_max, deployment.queue_max), (8, 1024));
    assert_eq!(deployment.deadline, Duration::from_secs(2));
    assert_eq!((deployment.code.k, deployment.code.r), (2, 1));
    assert_eq!(deployment.code.stripe_fill, Duration::from_millis(20));
    assert_eq!(deployment.policy.kind, PolicyKind::Coded);
    assert_eq!(deployment.policy.placement, Placement::Dedicated);
    assert!(deployment.policy.health);
    assert_eq!(deployment.policy.grace, Grace::Auto);
    assert_eq!(deployment.policy.rerun, Rerun::AtOnce);
    assert_eq!(deployment.policy.min_confidence, Confidence::NONE);
    assert_eq!(deployment.policy.default_prediction, None);
}

#[test]
fn an_empty_file_is_told_all_that_it_lacks() {
    check(
        "",
        &[
            "config.toml: lane: is required: list [[lane]] tables, or set devices = \"auto\"",
            "config.toml: deployment.weights: is required: the folder that holds manifest.toml",
            "config.toml: deployment.name: is required: clients ask for it",
        ],
    );
}

#[test]
fn unknown_keys_are_told_with_the_nearest_known_one() {
    let unknown = |extra: &str, hint: &str| check_least(extra, &[&format!("config.toml:15: {hint}")]);
    unknown("[http]\nlisen = 1", "http.lisen: unknown key; did you mean `listen`?");
    unknown("[admin]\nfault = true", "admin.fault: unknown key; did you mean `faults`?");
    unknown("[health]\nhang = 5", "health.hang: unknown key; did you mean `hang_ms`?");
    unknown("[admin]\nzzz = 1", "admin.zzz: unknown key; known keys here are faults");
    unknown(
        "[deployment.code]\nbatch_max = 4",
        "deployment.code.batch_max: unknown key; did you mean `deployment.batch_max`?",
    );
    check_least("k = 2", &["config.toml:14: deployment.k: unknown key; did you mean `deployment.code.k`?"]);
    check_least("[htp]\nlisten = \"x\"", &["config.toml:14: htp: unknown key; did you mean `http`?"]);
}

#[test]
fn values_are_refused_with_their_rule() {
    let wrong = |extra: &str, fault: &str| check_least(extra, &[&format!("config.toml:15: {fault}")]);
    let address = "must be an IP address and a port such as \"127.0.0.1:8000\" or \"[::1]:8000\"";
    wrong("[http]\nlisten = \"localhost\"", &format!("http.listen = \"localhost\": {address}"));
    wrong("[http]\nlisten = 80", "http.listen = 80: must be a string such as \"127.0.0.1:8000\"");
    wrong("[admin]\nfaults = \"on\"", "admin.faults = \"on\": must be true or false, without quotes");
    let millis = "must be a number of milliseconds from 0.001 to 3600000";
    wrong("[health]\nhang_ms = 0", &format!("health.hang_ms = 0: {millis}"));
    wrong("[health]\nhang_ms = nan", &format!("health.hang_ms = nan: {millis}"));
    wrong("[health]\nhang_ms = \"5\"", &format!("health.hang_ms = \"5\": {millis}"));
    wrong(
        "[deployment.code]\nkind = \"xor\"",
        "deployment.code.kind = \"xor\": must be \"sum\" or \"concat\" or \"mux\" or \"compact\" or \"learned\" or \"berrut\" \
         or \"replica\"",
    );
    wrong("[deployment.code]\nk = 1", "deployment.code.k = 1: must be a whole number from 2 to 15");
    wrong("[deployment.code]\nk = 2.0", "deployment.code.k = 2.0: must be a whole number from 2 to 15");
    let needs = "needs kind = \"compact\" under [deployment.code]: that is the small model which backs queries up";
    wrong("[deployment.policy]\nkind = \"approximate\"", &format!("deployment.policy.kind = \"approximate\": {needs}"));
    wrong(
        "[deployment.policy]\nhedge_after = 0.5",
        "deployment.policy.hedge_after = 0.5: must be a number from 1 to 100",
    );
    wrong("[deployment.policy]\nhealth = true", "deployment.policy.health = true: must be \"on\" or \"none\"");
    wrong("[deployment.policy]\ngrace = 3", "deployment.policy.grace = 3: must be \"auto\" or \"none\"");
    for value in ["1.01", "-0.1", "nan", "\"0.9\""] {
        let fault = format!("deployment.policy.min_confidence = {value}: must be a number from 0 to 1");
        wrong(&format!("[deployment.policy]\nmin_confidence = {value}"), &fault);
    }
    let numbers = "must be an array of finite numbers such as [1.0, 2.0]";
    for value in ["[]", "[1.0, inf]", "[\"1\"]", "1e99", "[1e99]"] {
        let fault = format!("deployment.policy.default_prediction = {value}: {numbers}");
        wrong(&format!("[deployment.policy]\ndefault_prediction = {value}"), &fault);
    }
}

#[test]
fn deployments_are_refused_with_their_rule() {
    let wrong = |extra: &str, fault: &str| check_least(extra, &[&format!("config.toml:14: deployment.{fault}")]);
    wrong("precision = \"f64\"", "precision = \"f64\": must be \"f32\" or \"tf32\" or \"f16\" or \"bf16\"");
    let cpu = "precision = \"f16\": must be \"f32\" with lanes on a CPU, which compute in nothing else: all lanes of a deployment give the same answers";
    wrong("precision = \"f16\"", cpu);
    wrong("batch_max = 0", "batch_max = 0: must be a whole number from 1 to 1024");
    wrong("batch_max = -1", "batch_max = -1: must be a whole number from 1 to 1024");
    wrong("deadline_ms = 0", "deadline_ms = 0: must be a number of milliseconds from 0.001 to 3600000");
    wrong("queue_max = 7", "queue_max = 7: queue_max must be at least batch_max = 8, or no batch is ever full");
    let characters = "must be 1 to 64 of the characters A-Z a-z 0-9 - _ . and start with a letter or digit";
    wrong("version = \"../1\"", &format!("version = \"../1\": {characters}"));
    check_least("[[deployment]]\nname = 1", &["config.toml:14: deployment: only one deployment is served for now"]);
    check(
        &LEAST.replace("[[deployment]]", "[deployment]"),
        &["config.toml:11: deployment: must be tables: each starts with [[deployment]]"],
    );
}

#[test]
fn lanes_are_refused_with_their_rule() {
    let lane = |keys: &str, fault: &str| {
        let text = format!("{LEAST}[[lane]]\n{keys}");
        check(&text, &[&format!("config.toml:{fault}")]);
    };
    lane(
        "device = \"gpu\"\nrole = \"base\"",
        "15: lane[3].device = \"gpu\": must be \"cpu\", \"cuda:N\" (N from 0) or \"GPU-<uuid>\"",
    );
    lane(
        "device = \"cuda:01\"\nrole = \"base\"",
        "15: lane[3].device = \"cuda:01\": must be \"cpu\", \"cuda:N\" (N from 0) or \"GPU-<uuid>\"",
    );
    lane("device = \"cpu\"", "14: lane[3].role: is required: \"base\", \"parity\" or \"both\"");
    lane(
        "device = \"cpu\"\nrole = \"spare\"",
        "16: lane[3].role = \"spare\": must be \"base\" or \"parity\" or \"both\"",
    );
    lane(
        "device = \"cpu\"\nrole = \"base\"\nthreads = 65",
        "17: lane[3].threads = 65: must be a whole number from 1 to 64",
    );
    lane(
        "device = \"cuda:0\"\nrole = \"base\"\nthreads = 2",
        "17: lane[3].threads = 2: is for lanes with device = \"cpu\"",
    );
    lane(
        "device = \"cpu\"\nrole = \"both\"",
        "16: lane[3].role = \"both\": must be \"base\" or \"parity\": placement = \"dedicated\" keeps them on separate devices",
    );
    check(
        &format!("devices = \"auto\"{LEAST}"),
        &["config.toml:1: devices = \"auto\": excludes [[lane]]: keep one of the two"],
    );
    check(
        &LEAST.replacen("cpu", "cuda:0", 1).replacen("cpu", "GPU-12345678-90ab", 1),
        &["config.toml:6: lane[1].device = \"GPU-12345678-90ab\": name every GPU by index or every GPU by UUID: \
           one GPU under two names would count as two fault domains"],
    );
}

#[test]
fn roles_fit_the_policy() {
    let idle = "would idle: policy kind = \"none\" runs no parity jobs";
    check_least(
        "[deployment.policy]\nkind = \"none\"",
        &[&format!("config.toml:10: lane[2].role = \"parity\": {idle}")],
    );
    let both = "must be \"both\": with placement = \"pooled\" every lane holds both models";
    check_least(
        "[deployment.policy]\nplacement = \"pooled\"",
        &[
            &format!("config.toml:4: lane[0].role = \"base\": {both}"),
            &format!("config.toml:7: lane[1].role = \"base\": {both}"),
            &format!("config.toml:10: lane[2].role = \"parity\": {both}"),
        ],
    );
    check(
        &LEAST.replace("parity", "base"),
        &[
            "config.toml:2: lane: policy kind = \"coded\" needs a lane with role = \"parity\"; without one, set kind = \"hedged\" or \"none\"",
        ],
    );
    check(
        &LEAST.replace("base", "parity"),
        &["config.toml:2: lane: at least one lane must have role = \"base\", or nothing answers"],
    );
    let pooled = LEAST.replace("base", "both").replace("parity", "both");
    assert!(parse(&format!("{pooled}[deployment.policy]\nplacement = \"pooled\"")).is_ok());
    assert!(
        parse(&format!("{pooled}[deployment.policy]\nkind = \"none\"")).is_ok(),
        "the same lanes without redundancy"
    );
}

#[test]
fn rules_over_several_keys() {
    check_least(
        "[health]\ncanary_first_ms = 9000",
        &[
            "config.toml:15: health.canary_first_ms = 9000: canary_first_ms must not be more than canary_max_ms, which the waits \
           between canaries double up to",
        ],
    );
    check_least(
        "[deployment.policy]\ngrace_ms = 2000",
        &[
            "config.toml:15: deployment.policy.grace_ms = 2000: grace_ms must be less than deadline_ms, or no reconstruction is \
           ever served",
        ],
    );
    check_least(
        "[deployment.policy]\ngrace = \"none\"\ngrace_ms = 3",
        &["config.toml:16: deployment.policy.grace_ms = 3: excludes grace: keep one of the two"],
    );
    check_least(
        "[deployment.code]\nk = 12\nr = 8",
        &["config.toml:15: deployment.code.k = 12: k + r must be at most 16, is 12 + 8"],
    );
    check_least(
        "[deployment.code]\ncoefficients = [[1, 1, 1]]",
        &["config.toml:15: deployment.code.coefficients = [[1, 1, 1]]: must be r = 1 rows of k = 2 numbers"],
    );
    check_least(
        "[deployment.code]\nr = 2\ncoefficients = [[1, 1], [2, 2]]",
        &[
            "config.toml:16: deployment.code.coefficients = [[1, 1], [2, 2]]: parity rows [0, 1] cannot tell data slots [0, 1] \
           apart: that square of coefficients is singular",
        ],
    );
}

#[test]
fn every_default_code_is_accepted() {
    for (k, r) in (2..=15).flat_map(|k| (1..=16 - k).map(move |r| (k, r))) {
        let text = format!("{LEAST}[deployment.code]\nk = {k}\nr = {r}");
        let config = parse(&text).unwrap_or_else(|faults| panic!("k = {k}, r = {r}: {faults}"));
        assert_eq!((config.deployment.code.k, config.deployment.code.r), (k, r));
    }
}

#[test]
fn syntax_errors_are_told_with_their_lines() {
    let faults = parse("[http]\nlisten = 127.0.0.1:8000\n[admin\nfaults = false\n[http]\n").unwrap_err();
    let lines: Vec<_> = faults.iter().filter_map(|fault| fault.line).collect();
    assert_eq!(lines, [2, 3, 5], "{faults}");
    assert!(faults.to_string().lines().all(|line| line.contains(": not TOML: ")), "{faults}");
}

#[test]
fn the_environment_overrides_the_file_and_is_checked_alike() {
    let text = format!("{LEAST}[http]\nlisten = \"127.0.0.1:1\"");
    let with = |value: &'static str| {
        let environment = move |name: &str| (name == "PARITYD_HTTP_LISTEN").then(|| value.to_owned());
        Config::parse_with(&text, (Path::new("."), "config.toml"), &environment, true)
    };
    assert_eq!(with("[::1]:2").unwrap().http.listen.to_string(), "[::1]:2");
    let told = with("nowhere").unwrap_err().to_string();
    assert!(told.starts_with("PARITYD_HTTP_LISTEN: http.listen = \"nowhere\": must be an IP address"), "{told}");
    for nothing in ["", " "] {
        assert_eq!(with(nothing).unwrap().http.listen.to_string(), "127.0.0.1:1", "set to nothing is not set");
    }
    for of_many in ["224.0.0.1:80", "255.255.255.255:80", "[ff02::1]:80", "[::ffff:224.0.0.1]:80"] {
        let told = with(of_many).unwrap_err().to_string();
        assert!(told.contains("must be an address of one machine"), "{told}");
    }
}

#[test]
fn without_its_table_or_variable_there_is_no_port_of_grpc() {
    let with = |table: &str, value: Option<&'static str>| {
        let environment = move |name: &str| value.filter(|_| name == "PARITYD_GRPC_LISTEN").map(str::to_owned);
        let text = format!("{table}{LEAST}");
        let config = Config::parse_with(&text, (Path::new(""), "test.toml"), &environment, true);
        config.map(|config| config.grpc.map(|grpc| grpc.listen.to_string())).map_err(|faults| faults.to_string())
    };
    assert_eq!(with("", None), Ok(None));
    assert_eq!(with("[grpc]\n", None), Ok(Some("127.0.0.1:8001".into())));
    assert_eq!(with("[grpc]\nlisten = \"[::1]:9\"\n", None), Ok(Some("[::1]:9".into())));
    assert_eq!(with("", Some("127.0.0.1:0")), Ok(Some("127.0.0.1:0".into())));
    assert_eq!(with("", Some("")), Ok(None));
    assert_eq!(with("[grpc]\nlisten = \"[::1]:9\"\n", Some("[::1]:8")), Ok(Some("[::1]:8".into())));
    let told = with("", Some("nowhere")).unwrap_err();
    assert!(told.starts_with("PARITYD_GRPC_LISTEN: grpc.listen = \"nowhere\": must be an IP address"), "{told}");
    let told = with("[grpc]\nlisten = \"127.0.0.1:8000\"\n", None).unwrap_err();
    assert!(told.contains("[http] and [grpc] cannot listen on 127.0.0.1:8000 and 127.0.0.1:8000"), "{told}");
    let told = with("[grpc]\n", Some("127.0.0.1:8000")).unwrap_err();
    assert!(told.starts_with("PARITYD_GRPC_LISTEN: grpc.listen = \"127.0.0.1:8000\": [http] and"), "{told}");
    for (address, overlaps) in [("0.0.0.0", true), ("[::]", true), ("[::ffff:127.0.0.1]", true), ("[::1]", false)] {
        let table = format!("[grpc]\nlisten = \"{address}:8000\"\n");
        assert_eq!(with(&table, None).is_err(), overlaps, "{address}");
    }
    assert!(with("[grpc]\nport = 1\n", None).unwrap_err().contains("grpc.port: unknown key"));
}

#[test]
fn a_file_is_found_or_the_next_step_is_told() {
    assert_eq!(find(Some(Path::new("x.toml"))).unwrap(), Path::new("x.toml"));
    let told = Config::load(Path::new("no/such.toml")).unwrap_err().to_string();
    assert!(told.starts_with("no/such.toml: cannot be read: "), "{told}");
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        drop(parse(&text));
    }

    #[test]
    fn no_broken_file_panics(at in 0..200_usize, length in 0..40_usize, text in "[\\[\\]a-z0-9=\"'.{},\n-]{0,12}") {
        let mut broken = LEAST.to_owned();
        let at = at.min(broken.len());
        broken.replace_range(at..(at + length).min(broken.len()), &text);
        if let Err(faults) = parse(&broken) {
            prop_assert_eq!(faults.to_string().lines().count(), faults.iter().count(), "one fault a line");
        }
    }

    #[test]
    fn any_time_survives_printing(nanos in 1_000_u64..3_600_000_000_000) {
        let mut config = parse(LEAST).unwrap();
        config.health.hang = Duration::from_nanos(nanos);
        prop_assert_eq!(parse(&config.to_string()).unwrap().health.hang, config.health.hang);
    }

    #[test]
    fn any_confidence_survives_printing(least in 0.0_f32..=1.0) {
        let mut config = parse(LEAST).unwrap();
        config.deployment.policy.min_confidence = Confidence::new(least).unwrap();
        prop_assert_eq!(parse(&config.to_string()).unwrap(), config);
    }

    #[test]
    fn any_numbers_survive_printing(values in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 1..9)) {
        let mut config = parse(LEAST).unwrap();
        config.deployment.policy.default_prediction = Some(values);
        prop_assert_eq!(parse(&config.to_string()).unwrap(), config);
    }
}
