//! The shipped configurations, and what an operator is told of a broken one: the promises that config.toml makes about itself.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use parityd::config::{Config, Grace, Placement, PolicyKind, Rerun, fault_domains};

const SHIPPED: [&str; 3] = ["config.toml", "examples/parm.toml", "examples/four-gpus.toml"];

fn path(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn load(file: &str) -> Config {
    let config = Config::load(&path(file)).map_err(|faults| faults.to_string());
    config.expect("a shipped file is valid")
}

#[test]
fn shipped_files_are_valid_and_name_the_shipped_weights() {
    for file in SHIPPED {
        let config = load(file);
        assert_eq!(config.warnings(), [], "{file}");
        let weights = config.deployment.weights;
        let weights = weights.components().as_path();
        assert!(weights.ends_with("weights/fashion-mnist/1"), "{file}: {}", weights.display());
        assert_eq!((config.deployment.name.as_str(), config.deployment.version.as_str()), ("fashion-mnist", "1"));
    }
}

/// Scripts change these lines with `sed`.
#[test]
fn shipped_files_hold_the_lines_that_scripts_edit() {
    for file in SHIPPED {
        let text = fs::read_to_string(path(file)).unwrap();
        for line in ["listen = \"127.0.0.1:8000\"", "listen = \"127.0.0.1:8001\"", "faults = false"] {
            assert_eq!(text.lines().filter(|found| *found == line).count(), 1, "{file}: {line}");
        }
    }
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    for file in SHIPPED {
        let config = load(file);
        let again = Config::parse(&config.to_string(), Path::new("elsewhere"), "effective");
        assert_eq!(again.as_ref().map_err(ToString::to_string), Ok(&config), "{file}:\n{config}");
    }
}

/// config.toml says what the defaults are; with every value removed that has one, nothing changes.
#[test]
fn config_toml_states_the_defaults() {
    let text = fs::read_to_string(path("config.toml")).unwrap();
    // The kind of the code is the one choice that the file makes for its reader.
    let required = ["device", "role", "name", "weights", "kind"];
    let kept = |line: &&str| line.split_once(" = ").is_none_or(|(key, _)| required.contains(&key));
    let bare = text.lines().filter(kept).collect::<Vec<_>>().join("\n");
    let folder = path("");
    let bare = Config::parse(&bare, &folder, "bare");
    let bare = bare.expect("every key that was removed has a default");
    assert_eq!(bare, load("config.toml"));
}

/// Every key that a configuration can print is explained in config.toml, commented out or not.
#[test]
fn config_toml_holds_every_key() {
    let keys = |text: &str| -> BTreeSet<String> {
        let line = |line: &str| {
            let key = line.trim_start_matches("# ").split([' ', ':']).next().unwrap_or_default().to_owned();
            let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            plain.then_some(key)
        };
        text.lines().filter_map(line).collect()
    };
    let text = fs::read_to_string(path("config.toml")).unwrap();
    let printed = keys(&load("config.toml").to_string());
    let explained = keys(&text);
    let missing: Vec<_> = printed.difference(&explained).collect();
    assert!(printed.len() > 20 && missing.is_empty(), "config.toml does not explain {missing:?}");
}

/// The baseline of the paper stays what it is.
#[test]
fn parm_toml_is_the_papers_baseline() {
    let config = load("examples/parm.toml");
    let roles: Vec<_> = config.lanes().iter().map(|lane| lane.role.as_str()).collect();
    assert_eq!(roles, ["base", "base", "parity"]);
    let deployment = config.deployment;
    assert_eq!((deployment.code.kind.as_str(), deployment.code.k, deployment.code.r), ("sum", 2, 1));
    assert_eq!(deployment.code.coefficients, None, "(1, 1)");
    assert_eq!(deployment.batch_max, 1);
    assert_eq!(deployment.deadline, Duration::from_secs(2));
    let policy = deployment.policy;
    assert_eq!((policy.kind, policy.placement), (PolicyKind::Coded, Placement::Dedicated));
    assert_eq!((policy.health, policy.grace, policy.rerun), (false, Grace::None, Rerun::AfterDecode));
    assert_eq!(policy.default_prediction, None);
}

/// Both placements that the file describes are valid, and are what it says: pooled by uncommenting five lines, each in place of the
/// line above it.
#[test]
fn four_gpus_toml_holds_two_placements() {
    let roles = |config: &Config| config.lanes().iter().map(|lane| lane.role.as_str()).collect::<Vec<_>>();
    let dedicated = load("examples/four-gpus.toml");
    assert_eq!(roles(&dedicated), ["base", "base", "base", "parity"]);
    assert_eq!(dedicated.deployment.policy.placement, Placement::Dedicated);

    let text = fs::read_to_string(path("examples/four-gpus.toml")).unwrap();
    let mut lines: Vec<&str> = Vec::new();
    let mut swapped = 0;
    for line in text.lines() {
        match line.strip_prefix("# ").filter(|rest| rest.starts_with("role = ") || rest.starts_with("placement = ")) {
            Some(alternative) => {
                let replaced = lines.pop().expect("an alternative follows what it replaces");
                assert_eq!(replaced.split(" = ").next(), alternative.split(" = ").next(), "{line}");
                lines.push(alternative);
                swapped += 1;
            }
            None => lines.push(line),
        }
    }
    assert_eq!(swapped, 5);
    let pooled = Config::parse(&lines.join("\n"), &path("examples"), "pooled").map_err(|faults| faults.to_string());
    let pooled = pooled.expect("the alternative is valid");
    assert_eq!(roles(&pooled), ["both"; 4]);
    assert_eq!(pooled.deployment.policy.placement, Placement::Pooled);
    for config in [dedicated, pooled] {
        assert_eq!(config.warnings(), []);
        let domains: BTreeSet<_> = fault_domains(config.lanes()).iter().map(|domain| domain.0).collect();
        assert_eq!(domains.len(), 4, "each GPU is a fault domain of its own");
    }
}

#[test]
fn every_fault_is_a_line() {
    let text = r#"[http]
listen = "localhost:8000"
[admin]
fault = true
[health]
hang_ms = -1
[[lane]]
device = "gpu0"
role = "base"
[[lane]]
device = "cpu"
[[deployment]]
name = "fashion mnist"
batch_max = 8.5
[deployment.code]
kind = "xor"
k = 1
[deployment.policy]
helth = "on"
"#;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.toml");
    fs::write(&file, text).unwrap();
    let told = Config::load(&file).unwrap_err().to_string();
    let start = format!("{}:", file.display());
    let told: Vec<_> = told.lines().map(|line| line.strip_prefix(&start).expect("each names the file")).collect();
    let expected = [
        "2: http.listen = \"localhost:8000\": must be an IP address and a port such as \"127.0.0.1:8000\" or \"[::1]:8000\"",
        "4: admin.fault: unknown key; did you mean `faults`?",
        "6: health.hang_ms = -1: must be a number of milliseconds from 0.001 to 3600000",
        "8: lane[0].device = \"gpu0\": must be \"cpu\", \"cuda:N\" (N from 0) or \"GPU-<uuid>\"",
        "10: lane[1].role: is required: \"base\", \"parity\" or \"both\"",
        "12: deployment.weights: is required: the folder that holds manifest.toml",
        "13: deployment.name = \"fashion mnist\": must be 1 to 64 of the characters A-Z a-z 0-9 - _ . and start with a letter \
         or digit",
        "14: deployment.batch_max = 8.5: must be a whole number from 1 to 1024",
        "16: deployment.code.kind = \"xor\": must be \"sum\" or \"concat\" or \"mux\" or \"compact\" or \"learned\" or \"berrut\" or \
         \"replica\"",
        "17: deployment.code.k = 1: must be a whole number from 2 to 15",
        "19: deployment.policy.helth: unknown key; did you mean `health`?",
    ];
    assert_eq!(told, expected);
}

/// Each lane, and together with whatever else is wrong.
#[test]
fn lanes_on_gpus_are_faults_of_a_build_that_opens_none() {
    let text = fs::read_to_string(path("examples/four-gpus.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    fs::write(&file, text.replace("faults = false", "faults = 1")).unwrap();
    assert_eq!(Config::load(&file).unwrap_err().iter().count(), 1);
    let told = Config::load_for(&file, false).unwrap_err();
    let keys: Vec<_> = told.iter().map(|fault| fault.key.as_str()).collect();
    let lanes = ["lane[0].device", "lane[1].device", "lane[2].device", "lane[3].device"];
    assert_eq!(keys.iter().filter(|key| lanes.contains(key)).count(), 4, "{told}");
    assert!(keys.len() == 5 && keys.contains(&"admin.faults"), "{told}");
    assert!(told.iter().filter(|fault| fault.rule.contains("--features cuda")).all(|fault| fault.line.is_some()));
}

/// The weights, too: they are the same for the build that it needs.
#[cfg(not(feature = "cuda"))]
#[test]
fn a_configuration_for_gpus_has_its_weights_checked_by_any_build() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let told = |text: &str| {
        fs::write(&file, text).unwrap();
        parityd::serve::Plan::load(Some(&file)).unwrap_err().to_string()
    };
    let text = fs::read_to_string(path("examples/four-gpus.toml")).unwrap();
    let of_both = told(&text);
    assert_eq!(of_both.matches("--features cuda").count(), 4, "{of_both}");
    assert!(of_both.contains("manifest.toml: cannot be read"), "{of_both}");
    let weights = path("weights/fashion-mnist/1");
    let line = text.lines().find(|line| line.starts_with("weights = ")).unwrap();
    let of_build = told(&text.replace(line, &format!("weights = {:?}", weights.display().to_string())));
    assert_eq!(of_build.lines().count(), 4, "{of_build}");
}
