//! Which runs are compared, and which are refused with what sentence.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A result of 30 seconds with 100 requests each, `micros` and a second latency of ten times that.
fn result(micros: u64) -> Value {
    let window =
        json!({"sent": 100, "answered": 100, "rows": 100, "right": 90, "latency_us": [[micros, 95], [10 * micros, 5]]});
    json!({
        "sent": 3000, "answered": 3000, "unanswered": 0,
        "status": {"200": 3000}, "provenance": {"direct": 3000},
        "accuracy": 0.9, "accuracy_reconstructed": null, "accuracy_by_provenance": {"direct": 0.9},
        "jobs_per_query": 1.5, "jobs": 4500,
        "latency_ms": {"p50": 1.0, "p90": 1.0, "p99": 10.0, "p999": 10.0, "p9999": 10.0, "max": 10.0},
        "percentiles_with_few_samples": ["p999", "p9999"],
        "lateness_ms": {"p50": 0.1, "p90": 0.1, "p99": 0.2, "p999": 1.0, "p9999": 1.0, "max": 1.0},
        "percentiles_with_late_client": [],
        "void": false, "void_reason": null,
        "load": {
            "url": "http://127.0.0.1:8000", "model": "m", "version": "1", "rate": 100.0, "seconds": 30.0, "seed": 1,
            "arrivals": "poisson", "rows": 1, "deadline_ms": 2000, "allow_reconstructed": true, "data": "images",
        },
        "server": {"name": "parityd", "version": "0.1.0"},
        "faults": [],
        "env": {
            "version": "0.1.0", "commit": null, "command": "parityd bench http", "seed": 1, "cpu": "CPU x 2",
            "governor": null, "kernel": "6.1", "features": [], "gpu": null,
        },
        "windows": vec![window; 30],
    })
}

fn compared(a: &Value, b: &Value, anyway: bool) -> Result<Comparison, BenchError> {
    let folder = TempDir::new().unwrap();
    let [a, b] = [("a.json", a), ("b.json", b)].map(|(name, value)| {
        let file = folder.path().join(name);
        fs::write(&file, value.to_string()).unwrap();
        file
    });
    compare(&CompareOptions { a, b, anyway, seed: 1 })
}

fn ratio<'c>(comparison: &'c Comparison, name: &str) -> &'c Ratio {
    comparison.ratios.iter().find(|ratio| ratio.name == name).unwrap()
}

#[test]
fn a_run_does_not_differ_from_itself() {
    let comparison = compared(&result(1000), &result(1000), false).unwrap();
    assert!(comparison.paired && comparison.notes.is_empty());
    let names: Vec<_> = comparison.ratios.iter().map(|ratio| ratio.name).collect();
    assert_eq!(names, ["p50", "p90", "p99", "p999", "answered", "accuracy", "jobs per query"]);
    assert!(comparison.ratios.iter().all(|ratio| ratio.differs == Some(false)), "{comparison:?}");
    assert!(ratio(&comparison, "p999").few_samples && !ratio(&comparison, "p99").few_samples);
    assert_eq!(comparison.table().matches("no difference shown").count(), 7, "{}", comparison.table());
}

#[test]
fn twice_the_latency_is_a_ratio_of_two() {
    let comparison = compared(&result(1000), &result(2000), false).unwrap();
    for name in ["p50", "p99"] {
        let found = ratio(&comparison, name);
        assert!((found.ratio.unwrap() - 2.0).abs() < 1e-9 && found.differs == Some(true), "{found:?}");
    }
    assert!(comparison.table().contains("b is higher"));
}

#[test]
fn unlike_runs_are_refused_with_both_values() {
    let edits: [(&str, &str, Value, &str); 6] = [
        ("env", "cpu", json!("other x 64"), "cpu is \"CPU x 2\" in the first and \"other x 64\" in the second"),
        ("env", "governor", json!("performance"), "governor is null"),
        ("env", "gpu", json!("a GPU"), "gpu is null"),
        ("load", "rate", json!(50.0), "rate is 100.0 in the first and 50.0 in the second"),
        ("load", "seed", json!(2), "seed is 1"),
        ("load", "arrivals", json!("bursty"), "arrivals"),
    ];
    for (part, field, value, told) in edits {
        let mut other = result(1000);
        other[part][field] = value;
        let error = compared(&result(1000), &other, false).unwrap_err().to_string();
        assert!(error.contains(told) && error.contains("--anyway"), "{error}");
        let comparison = compared(&result(1000), &other, true).unwrap();
        assert_eq!((comparison.notes.len(), comparison.paired), (1, part == "env"));
    }
}

#[test]
fn builds_faults_and_servers_may_differ() {
    let mut other = result(1000);
    other["env"]["commit"] = json!("abc");
    other["load"]["url"] = json!("http://other:8000");
    other["faults"] = json!([{"at": 1.0, "lane": 0, "kind": "hang", "factor": null}]);
    assert!(compared(&result(1000), &other, false).is_ok());
}

#[test]
fn void_and_foreign_files_are_refused() {
    let mut void = result(1000);
    (void["void"], void["void_reason"]) = (json!(true), json!("it was late"));
    let error = compared(&void, &result(1000), false).unwrap_err().to_string();
    assert!(error.contains("a.json is void (it was late)"), "{error}");
    assert!(compared(&void, &result(1000), true).is_ok());
    let error = compared(&json!({"rows": 1}), &result(1000), true).unwrap_err().to_string();
    assert!(error.contains("a.json is no result"), "{error}");
    let options = CompareOptions { a: "nowhere.json".into(), b: "nowhere.json".into(), anyway: true, seed: 1 };
    assert!(matches!(compare(&options), Err(BenchError::Unread { .. })));
}

#[test]
fn short_runs_are_noted() {
    let mut short = result(1000);
    short["windows"].as_array_mut().unwrap().truncate(3);
    let comparison = compared(&short, &short, false).unwrap();
    assert!(comparison.notes[0].starts_with("3 seconds are few"), "{:?}", comparison.notes);
}
