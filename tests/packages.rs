//! What packages, runs and checks parityd fits it: the container's files, manifests of Kubernetes and `KServe`, the toolchain of CI and container.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use parityd::config::Config;
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// What Containerfile copies from the clone, in order.
fn copied() -> Vec<String> {
    let text = read("Containerfile");
    let copies = text.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from="));
    let sources = |line: &str| {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        words[..words.len() - 1].to_vec()
    };
    copies.flat_map(sources).collect()
}

#[test]
fn the_container_copies_what_is_there_and_is_sent_nothing_else() {
    let copied = copied();
    assert!(copied.len() > 5, "{copied:?}");
    for file in &copied {
        assert!(root().join(file).exists(), "Containerfile copies {file}");
    }
    let ignore = read(".dockerignore");
    let mut kept: Vec<_> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut copied: Vec<_> = copied.iter().map(String::as_str).collect();
    kept.sort_unstable();
    copied.sort_unstable();
    assert!(ignore.lines().any(|line| line == "*"));
    assert_eq!(kept, copied, ".dockerignore lets through what Containerfile copies");
}

/// Cargo reads a manifest only where every file is that it names; the container copies no more than it must.
#[test]
fn cargo_reads_what_the_container_copies() {
    let folder = tempfile::tempdir().unwrap();
    for file in copied() {
        let (from, to) = (root().join(&file), folder.path().join(&file));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        assert!(Command::new("cp").arg("-R").args([&from, &to]).status().unwrap().success());
    }
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"])
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
}

/// A registry takes 10 MiB; pictures of a page that is read in the repository leave that to the weights. What the program embeds must come.
#[test]
fn the_crate_package_has_the_font_and_no_picture() {
    let arguments = ["package", "--list", "--offline", "--allow-dirty"];
    let cargo = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    let listed = String::from_utf8_lossy(&cargo.stdout);
    let files: Vec<&str> = listed.lines().collect();
    assert!(files.contains(&"src/chart/roboto-latin.ttf") && files.contains(&"docs/accuracy.md"), "{files:?}");
    assert_eq!(files.iter().filter(|file| file.starts_with("docs/plots")).count(), 0);
}

/// The compiler that is promised is the one that CI and the container use.
#[test]
fn one_toolchain_everywhere() {
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let version = manifest["package"]["rust-version"].as_str().unwrap().to_owned();
    for (file, line) in [
        (".github/workflows/ci.yml", format!("RUST: \"{version}\"")),
        ("Containerfile", format!("docker.io/library/rust:{version}-slim-bookworm")),
    ] {
        assert!(read(file).contains(&line), "{file} does not say {line}");
    }
}

/// The health check asks the port that the daemon listens on, in the form that runs it without a shell of its own.
#[test]
fn the_health_check_is_a_command_and_its_route_exists() {
    let text = read("Containerfile");
    let line = text.lines().find(|line| line.starts_with("HEALTHCHECK")).unwrap();
    let (_, command) = line.split_once(" CMD ").unwrap();
    let command: Vec<String> = serde_json::from_str(command).expect("exec form");
    assert_eq!(command[..2], ["bash", "-c"]);
    // The one route that the daemon names in its own protocol; a slip here would make every container unhealthy.
    assert!(command[2].contains("GET /v2/health/ready HTTP/1.1\\r\\n"), "{}", command[2]);
    assert!(text.lines().any(|line| line.starts_with("ENTRYPOINT [")), "exec form, or the shell would get SIGTERM");
}

/// The documents of a file of YAML.
fn documents(file: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(file)).unwrap()
}

/// The document of that kind.
fn kind(file: &str, kind: &str) -> Value {
    documents(file).into_iter().find(|document| document["kind"] == kind).unwrap()
}

/// What a manifest runs: its configuration, its container, and how long it waits for the end.
struct Pod {
    config: Config,
    container: Value,
    grace_s: u64,
}

fn pods() -> [Pod; 2] {
    let (plain, kserve) = ("examples/kubernetes/deployment.yaml", "examples/kserve/serving-runtime.yaml");
    let config = |file| {
        let text = kind(file, "ConfigMap")["data"]["config.toml"].as_str().unwrap().to_owned();
        Config::parse(&text, Path::new("/etc/parityd"), file).map_err(|faults| faults.to_string()).unwrap()
    };
    let spec = kind(plain, "Deployment")["spec"]["template"]["spec"].clone();
    let predictor = kind("examples/kserve/inference-service.yaml", "InferenceService")["spec"]["predictor"].clone();
    let grace_s = |spec: &Value| spec["terminationGracePeriodSeconds"].as_u64().unwrap();
    [
        Pod { config: config(plain), container: spec["containers"][0].clone(), grace_s: grace_s(&spec) },
        Pod {
            config: config(kserve),
            container: kind(kserve, "ServingRuntime")["spec"]["containers"][0].clone(),
            grace_s: grace_s(&predictor),
        },
    ]
}

/// Ports are those of the image's environment, probes ask for routes that there are, and nobody is killed while it drains.
#[test]
fn manifests_fit_the_image_and_the_daemon() {
    let openapi: Value = serde_json::from_str(&read("src/http/openapi.json")).unwrap();
    let containerfile = read("Containerfile");
    assert!(containerfile.contains("PARITYD_HTTP_LISTEN=0.0.0.0:8000 PARITYD_GRPC_LISTEN=0.0.0.0:8001"));
    for Pod { config, container, grace_s } in pods() {
        let ports: Vec<_> =
            container["ports"].as_array().unwrap().iter().map(|port| port["containerPort"].clone()).collect();
        assert_eq!(ports, [8000, 8001], "HTTP first, gRPC second");
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let asked = &container[probe]["httpGet"];
            let path = asked["path"].as_str().unwrap();
            assert!(openapi["paths"][path]["get"].is_object(), "{probe}: {path}");
            assert!(asked["port"] == "http" || asked["port"] == 8000, "{probe}");
        }
        let wait = &container["lifecycle"]["preStop"]["exec"]["command"];
        assert_eq!(wait[0], "sleep");
        let wait_s: u64 = wait[1].as_str().unwrap().parse().unwrap();
        assert!(grace_s >= wait_s + config.http.drain.as_secs() + 2, "{grace_s} s are too short");
        let resources = &container["resources"];
        assert_eq!(resources["requests"], resources["limits"], "whole cores need that");
        assert!(resources["limits"]["nvidia.com/gpu"].is_string());
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        assert!(config.grpc.is_some(), "the second port is served");
    }
}

#[test]
fn the_service_and_its_scrape_name_the_ports_of_the_pod() {
    let file = "examples/kubernetes/deployment.yaml";
    let (deployment, service) = (kind(file, "Deployment"), kind(file, "Service"));
    let template = &deployment["spec"]["template"];
    assert_eq!(template["metadata"]["annotations"]["prometheus.io/port"], "8000");
    assert_eq!(template["metadata"]["labels"], service["spec"]["selector"]);
    assert_eq!(template["metadata"]["labels"], deployment["spec"]["selector"]["matchLabels"]);
    let named: Vec<_> = template["spec"]["containers"][0]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["name"].clone())
        .collect();
    let asked: Vec<_> =
        service["spec"]["ports"].as_array().unwrap().iter().map(|port| port["targetPort"].clone()).collect();
    assert_eq!(named, asked);
    // The configuration lies where the daemon looks for it, and its weights where the image has them.
    let mount = &template["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/etc/parityd/config.toml");
    let [plain, _] = pods();
    let inside = plain.config.deployment.weights.strip_prefix("/etc/parityd").unwrap().to_owned();
    assert!(root().join(inside).join("manifest.toml").exists(), "COPY weights /etc/parityd/weights");
}

#[test]
fn kserve_finds_runtime_model_and_weights() {
    let runtime = kind("examples/kserve/serving-runtime.yaml", "ServingRuntime");
    let service = kind("examples/kserve/inference-service.yaml", "InferenceService");
    let model = &service["spec"]["predictor"]["model"];
    assert_eq!(model["runtime"], runtime["metadata"]["name"]);
    let format = &runtime["spec"]["supportedModelFormats"][0];
    assert_eq!(
        (&model["modelFormat"]["name"], &model["modelFormat"]["version"]),
        (&format["name"], &format["version"])
    );
    assert_eq!(runtime["spec"]["protocolVersions"], json!(["v2", "grpc-v2"]));
    let [_, Pod { config, container, .. }] = pods();
    assert_eq!(service["metadata"]["name"], config.deployment.name, "clients ask for /v2/models/NAME");
    assert_eq!(config.deployment.weights, PathBuf::from("/mnt/models"));
    assert_eq!(container["name"], "kserve-container");
    let mount = container["volumeMounts"][0]["mountPath"].as_str().unwrap();
    assert_eq!(container["args"][2], format!("{mount}/config.toml"));
    let environment = container["env"].as_array().unwrap();
    for (name, value) in [("PARITYD_HTTP_LISTEN", "0.0.0.0:8000"), ("PARITYD_GRPC_LISTEN", "0.0.0.0:8001")] {
        assert!(environment.contains(&json!({"name": name, "value": value})), "{name}");
    }
    assert!(runtime["spec"]["annotations"]["prometheus.kserve.io/port"] == "8000");
}
