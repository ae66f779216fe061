//! `bench lanes`, `micro`, `doctor` and the pages: the commands as they are typed, short. What they measure is not asserted, only that it was measured.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// The figures mean nothing, as they should on a machine that also runs other tests.
const VOID: i32 = 65;

fn bench(arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_parityd"));
    command.arg("bench").args(arguments).current_dir(root).env("CANDLE_NUM_THREADS", "1").output().unwrap()
}

fn measured(output: &Output) -> Value {
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | VOID)), "{log}");
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {log}")).unwrap()
}

#[test]
fn emulated_lanes_are_set_beside_their_twins_in_virtual_time() {
    let folder = TempDir::new().unwrap();
    let (json, page) = (folder.path().join("lanes.json"), folder.path().join("lanes.html"));
    let page = page.to_str().unwrap();
    let output = bench(&[
        "lanes",
        "--service-ms",
        "40",
        "--seconds",
        "2",
        "--runs",
        "2",
        "--scenarios",
        "BE",
        "--data",
        "tests/data",
        "--policy",
        "none",
        "--policy",
        "approximate",
        "--html",
        page,
        "--json",
    ]);
    let report = measured(&output);
    let cells = report["cells"].as_array().unwrap();
    assert_eq!((cells.len(), report["virtual_cells"].as_array().unwrap().len()), (4, 4));
    for cell in cells {
        assert!(cell["queries"].as_u64().unwrap() > 300, "two seconds at 171 a second, twice: {cell}");
        assert!(cell["p50"]["ms"].as_f64().unwrap() >= 39.0, "no job is shorter than what was drawn for it: {cell}");
        assert!(cell["accuracy"].as_f64().unwrap() > 0.7, "models ran: {cell}");
    }
    let backup = cells.iter().find(|cell| cell["policy"] == "approximate").unwrap();
    assert!(backup["jobs_per_query"].as_f64().unwrap() > 1.4, "a backup of half a job each: {backup}");
    let agreement = &report["agreements"][0];
    assert_eq!((agreement["real_ms"].as_array().unwrap().len(), agreement["interval"].is_array()), (2, true));
    assert!(report["env"]["doctor"].is_array());
    let drawn = fs::read_to_string(page).unwrap();
    assert!(drawn.matches("<svg").count() == 2 && drawn.contains(", virtual"), "a figure for each scenario");
    // What was written can be read again.
    fs::write(&json, &output.stdout).unwrap();
    let again = bench(&["lanes", "--from", json.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&again.stdout).contains("| approximate, k = 2 |"));
}

#[test]
fn real_lanes_run_the_configuration_under_injected_faults() {
    let folder = TempDir::new().unwrap();
    let page = folder.path().join("lanes.html");
    let output = bench(&[
        "--config",
        "examples/parm.toml",
        "lanes",
        "--real",
        "--seconds",
        "1",
        "--runs",
        "1",
        "--scenarios",
        "BE",
        "--data",
        "tests/data",
        "--policy",
        "none",
        "--policy",
        "hedged",
        "--html",
        page.to_str().unwrap(),
        "--json",
    ]);
    let report = measured(&output);
    assert_eq!((report["lanes"].as_u64(), report["emulated"].as_bool()), (Some(3), Some(false)));
    let cells = report["cells"].as_array().unwrap();
    assert_eq!(cells.len(), 4);
    assert!(cells.iter().all(|cell| cell["queries"].as_u64().unwrap() > 100), "{report}");
    assert!(report["virtual_cells"].as_array().unwrap().is_empty());
    assert_eq!(report["lateness"].as_array().unwrap().len(), 4, "the client's, of each cell");
    let drawn = fs::read_to_string(page).unwrap();
    assert!(
        drawn.contains("<th>jobs a query</th></tr>") && !drawn.contains("virtual"),
        "there is no virtual time beside it"
    );
}

#[test]
fn the_simulator_draws_a_page_that_needs_nothing_from_elsewhere() {
    let folder = TempDir::new().unwrap();
    let page = folder.path().join("tail.html");
    let output = bench(&[
        "virtual",
        "--loads",
        "30,38",
        "-k",
        "2",
        "--scenarios",
        "C",
        "--seconds",
        "40",
        "--seeds",
        "1",
        "--html",
        page.to_str().unwrap(),
        "--plots",
        folder.path().to_str().unwrap(),
        "--json",
    ]);
    let report = measured(&output);
    for figure in ["hang.svg", "tail-C.svg"] {
        assert!(fs::read_to_string(folder.path().join(figure)).unwrap().contains("hedged"), "{figure}");
    }
    let lines = report["timeline"]["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 4, "a hang, under four policies");
    let cells = report["cells"].as_array().unwrap();
    let accuracy =
        |policy: &str| cells.iter().find(|cell| cell["policy"] == policy).unwrap()["accuracy"].as_f64().unwrap();
    assert!(accuracy("none") > accuracy("ParM"), "what is decoded is worth less");
    let drawn = fs::read_to_string(page).unwrap();
    assert_eq!(drawn.matches("<svg").count(), 4, "the hang, the sweep, the tail and the cost");
    for elsewhere in ["src=", "href=\"http", "@import", "url("] {
        assert!(!drawn.contains(elsewhere), "{elsewhere}");
    }
}

#[test]
fn wrong_words_are_refused_with_the_right_ones() {
    for (arguments, told) in [
        (&["virtual", "--policy", "hedge"][..], "known policies: none; replicated"),
        (&["lanes", "--scenarios", "XY"], "letters from A to J"),
        (&["virtual", "--grid", "--scenarios", "B"], "cannot be used with"),
    ] {
        let output = bench(arguments);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{log}");
        assert!(log.contains(told), "{log}");
    }
    let output = bench(&["virtual", "--weights", "weights/nowhere", "--seconds", "1"]);
    assert_eq!(output.status.code(), Some(78), "found out before anything is simulated");
    assert!(String::from_utf8_lossy(&output.stderr).contains("weights/nowhere/manifest.toml: cannot be read"));
    for arguments in [
        ["virtual", "--html", "/nowhere/x.html"],
        ["virtual", "--plots", "/proc/x"],
        ["lanes", "--html", "/nowhere/x.html"],
    ] {
        let output = bench(&arguments);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(78) && output.stdout.is_empty(), "before anything is measured: {log}");
        assert!(log.contains(arguments[2]), "{log}");
    }
    let output = bench(&["lanes", "--from", "config.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no result of `parityd bench lanes --json`"));
}

#[test]
fn networks_are_timed_and_wrong_ones_refused() {
    let output = bench(&["forward", "--network", "mlp", "--batches", "1,3", "--seconds", "0.01", "--json"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(log.matches("a batch is timed").count(), 2, "each is told when it is measured: {log}");
    let report = measured(&output);
    let passes = report["passes"].as_array().unwrap();
    assert_eq!((report["device"].as_str(), passes.len()), (Some("cpu"), 2));
    assert_eq!(passes[1]["batch"], 3);
    assert!(passes.iter().all(|pass| pass["p50_us"].as_f64().unwrap() > 0.0 && pass.get("outputs").is_none()));
    let told = passes[1]["progress"].as_array().unwrap();
    let last = told.last().expect("a batch tells of its steps");
    assert!(last["done"].as_f64().is_some_and(|done| (0.999..1.001).contains(&done)), "{told:?}");
    assert!(told.iter().all(|word| word["at"].as_f64().is_some_and(|at| (0.0..=1.0).contains(&at))), "{told:?}");
    let wrong = |arguments: &[&str], code, told: &str| {
        let output = bench(arguments);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && log.contains(told), "{log}");
    };
    wrong(&["forward", "--device", "gpu"], 2, "must be \"cpu\"");
    wrong(&["forward", "--network", "alexnet"], 2, "alexnet");
    for precision in ["tf32", "f16", "bf16"] {
        wrong(&["forward", "--network", "mlp", "--precision", precision], 2, "CPUs compute in f32 alone");
    }
    wrong(&["forward", "--network", "lenet5", "--weights", "Cargo.toml"], 78, "Cargo.toml");
    #[cfg(not(feature = "cuda"))]
    wrong(&["forward", "--device", "cuda:0"], 78, "--features cuda");
}

#[test]
fn the_doctor_and_the_small_figures_are_told() {
    let findings: Value = serde_json::from_slice(&bench(&["doctor", "--json"]).stdout).unwrap();
    let told: Vec<&str> =
        findings.as_array().unwrap().iter().map(|finding| finding["what"].as_str().unwrap()).collect();
    assert!(told.contains(&"irqbalance") && told.contains(&"sleep of 1 ms"), "{told:?}");
    let figures = measured(&bench(&["micro", "--json"]));
    let figures = figures["figures"].as_array().unwrap();
    assert!(
        figures.len() >= 10 && figures.iter().all(|figure| figure["p50_ns"].as_f64().unwrap() > 0.0),
        "{figures:?}"
    );
}

/// Whoever reads the page can make it again.
#[test]
fn what_a_simulation_says_it_was_made_by_makes_it_again() {
    let folder = TempDir::new().unwrap();
    let run = [
        "virtual",
        "--loads",
        "30",
        "-k",
        "2",
        "--scenarios",
        "D",
        "--policy",
        "none",
        "--seconds",
        "1",
        "--seeds",
        "1",
    ];
    let page = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let told = page(&bench(&run));
    let made =
        format!("    parityd bench {} --json > tail.json\n    parityd bench virtual --from tail.json\n", run.join(" "));
    assert!(told.contains(&made) && !told.contains("docs/benchmarks"), "{told}");
    let json = folder.path().join("tail.json");
    fs::write(&json, bench(&[&run[..], &["--json"]].concat()).stdout).unwrap();
    let again = page(&bench(&["virtual", "--from", json.to_str().unwrap()]));
    let table = |page: &str| page.split_once("## D").map(|(_, table)| table.to_owned());
    assert!(again.contains(&made) && table(&again).is_some() && table(&again) == table(&told), "{again}");
}

#[test]
fn the_load_goes_where_the_named_configuration_listens() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("config.toml");
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml")).unwrap();
    // Nobody listens there.
    for (listen, code, told) in
        [("0.0.0.0:1", 78, "http://127.0.0.1:1"), ("127.0.0.1:0", 2, "name the server with --url")]
    {
        fs::write(&file, text.replace("listen = \"127.0.0.1:8000\"", &format!("listen = {listen:?}"))).unwrap();
        let output = bench(&["--config", file.to_str().unwrap(), "http", "--seconds", "1"]);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && log.contains(told), "{log}");
    }
}
