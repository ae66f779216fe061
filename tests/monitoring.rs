//! What watches parityd fits it: alerts and the dashboard.
//!
//! Alerts and queries are held to Prometheus' own rules by `promtool` where that is installed; elsewhere the tests say what was skipped. That the
//! metrics exist is `tests/tidy`'s.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "what was skipped is part of the report")]

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

const ALERTS: &str = "docs/operations/alerts.yml";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// Every value under `key`, at any depth.
fn all<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, inner)| {
                let here = (name == key).then_some(inner);
                here.into_iter().chain(all(inner, key))
            })
            .collect(),
        Value::Array(values) => values.iter().flat_map(|inner| all(inner, key)).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// Runs promtool, or says that there is none.
fn promtool(arguments: &[&str], file: &Path) {
    match Command::new("promtool").args(arguments).arg(file).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
            assert!(output.status.success(), "promtool {arguments:?}:\n{}{}", said[0], said[1]);
        }
        Err(error) => println!("skipped: promtool {arguments:?}: {error}"),
    }
}

fn alerts() -> Vec<Value> {
    let file: Value = serde_saphyr::from_str(&read(ALERTS)).unwrap();
    file["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// What GitHub makes of a headline.
fn anchor(headline: &str) -> String {
    let kept = headline.trim_start_matches('#').trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect::<String>().replace(' ', "-")
}

#[test]
fn alerts_are_rules_and_fire_when_their_tests_say_so() {
    promtool(&["check", "rules"], &root().join(ALERTS));
    promtool(&["test", "rules"], &root().join("docs/operations/alerts.test.yml"));
}

/// Whoever is woken at night is told what has happened, what to do and where to read on.
#[test]
fn every_alert_says_what_to_do_and_is_tested() {
    let tests = read("docs/operations/alerts.test.yml");
    let alerts = alerts();
    assert!(alerts.len() > 10);
    for alert in alerts {
        let name = alert["alert"].as_str().unwrap();
        assert!(["page", "ticket", "note"].contains(&alert["labels"]["severity"].as_str().unwrap()), "{name}");
        for annotation in ["summary", "description", "action"] {
            assert!(
                alert["annotations"][annotation].as_str().is_some_and(|text| text.len() > 10),
                "{name}: {annotation}"
            );
        }
        let (page, section) = alert["annotations"]["runbook"].as_str().unwrap().split_once('#').unwrap();
        let headlines = read(page).lines().filter(|line| line.starts_with('#')).map(anchor).collect::<Vec<_>>();
        assert!(headlines.iter().any(|headline| headline == section), "{name}: {page} has no #{section}");
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name} is not tested");
    }
}

/// Queries of the dashboard, as Prometheus would get them.
#[test]
fn the_dashboard_is_whole_and_its_queries_can_be_read() {
    let dashboard: Value = serde_json::from_str(&read("docs/operations/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids: Vec<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{}", panel["title"]);
        assert!(panel["gridPos"]["x"].as_u64().unwrap() + panel["gridPos"]["w"].as_u64().unwrap() <= 24);
    }
    let rule = |(number, query): (usize, &&Value)| {
        let query = query.as_str().unwrap().replace("$__rate_interval", "5m").replace("$__range", "1h");
        assert!(!query.replace("$instance", "").contains('$'), "a variable that nobody fills: {query}");
        json!({"record": format!("panel:{number}"), "expr": query})
    };
    let rules: Vec<Value> = all(&dashboard["panels"], "expr").iter().enumerate().map(rule).collect();
    assert!(rules.len() > 20);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.json");
    fs::write(&file, json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).unwrap();
    promtool(&["check", "rules"], &file);
}
