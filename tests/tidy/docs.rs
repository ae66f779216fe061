//! The operator's pages against the code: what it counts, logs, refuses and reads is explained there.

use std::{collections::BTreeSet, fs, path::Path};

use parityd::config::Config;

use crate::source::{Source, root, sources};

/// The string literals of a source, tests left out, with the number of characters before each.
fn literals(source: &Source) -> Vec<(usize, String)> {
    let text: Vec<char> = source.text.chars().collect();
    let literal = |open: usize| {
        let mut escaped = false;
        let inside = text[open + 1..].iter().take_while(|&&c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            !ends
        });
        inside.collect::<String>()
    };
    // Blanked code keeps opening quotes, and every character's place.
    let opens = source.served.chars().enumerate().filter(|&(_, c)| c == '"');
    opens.map(|(open, _)| (open, literal(open))).collect()
}

/// The text of every log event: the last literal of each call to a `tracing` macro, up to its first placeholder.
fn events(source: &Source) -> BTreeSet<String> {
    let literals = literals(source);
    let served: Vec<char> = source.served.chars().collect();
    let mut found = BTreeSet::new();
    for level in ["info", "warn", "error"] {
        let call = format!("tracing::{level}!(");
        for (at, _) in source.served.match_indices(&call) {
            let start = source.served[..at].chars().count() + call.len();
            let mut depth = 1;
            let inside = served[start..].iter().take_while(|&&c| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth > 0
            });
            let end = start + inside.count();
            let last = literals.iter().rfind(|(at, _)| (start..end).contains(at));
            let text = last.and_then(|(_, text)| text.split('{').next()).unwrap_or_default().trim();
            found.extend((!text.is_empty()).then(|| text.to_owned()));
        }
    }
    found
}

/// Whether a page tells of an event, in backticks: all of it, or its start and an ellipsis.
fn tells(page: &str, event: &str) -> bool {
    page.split('`').skip(1).step_by(2).any(|told| match told.split_once('…') {
        Some((start, _)) => start.len() > 3 && event.starts_with(start.trim_end()),
        None => told == event,
    })
}

/// Words in backticks.
fn words(page: &str) -> BTreeSet<&str> {
    page.split('`').skip(1).step_by(2).collect()
}

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect(path)
}

fn source(path: &str) -> Source {
    Source::new(path, &page(path))
}

/// An operator who meets a log line at night finds it on one page.
#[test]
fn operations_md_explains_every_log_event() {
    let page = page("docs/operations.md");
    let events: BTreeSet<String> =
        sources().iter().filter(|source| source.path.starts_with("src/")).flat_map(events).collect();
    assert!(events.len() > 20, "{events:?}");
    let missing: Vec<_> = events.iter().filter(|event| !tells(&page, event)).collect();
    assert!(missing.is_empty(), "docs/operations.md tells nothing of {missing:?}");
}

/// A metric that nobody explains is looked at by nobody; one that is explained and gone sets an alert that never fires.
#[test]
fn operations_md_explains_every_metric_and_no_other() {
    let is_metric =
        |text: &str| text.starts_with("parityd_") && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let counted = counted("parityd_");
    assert!(counted.len() >= 12, "{counted:?}");
    let page = page("docs/operations.md");
    let explained: BTreeSet<String> =
        words(&page).into_iter().filter(|word| is_metric(word)).map(str::to_owned).collect();
    assert_eq!(explained, counted);
}

/// Names of metrics under `prefix` that the module of metrics registers.
fn counted(prefix: &str) -> BTreeSet<String> {
    let is_name = |text: &str| text.starts_with(prefix) && text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let files = fs::read_dir(root().join("src/metrics")).unwrap().map(|entry| entry.unwrap().file_name());
    let files = files.map(|name| format!("src/metrics/{}", name.into_string().unwrap()));
    let sources = files.chain(["src/metrics.rs".to_owned()]).map(|path| source(&path));
    sources.flat_map(|source| literals(&source)).map(|(_, text)| text).filter(|text| is_name(text)).collect()
}

/// Names of another make's are promises of what they mean there, so each is in the table that says so.
#[test]
fn compat_md_explains_every_metric_under_tritons_names() {
    let names = counted("nv_");
    assert!(names.len() >= 12, "{names:?}");
    let page = page("docs/compat.md");
    let rows: String = page.lines().filter(|line| line.starts_with("| `nv_")).collect();
    let explained: BTreeSet<String> =
        words(&rows).into_iter().filter(|word| word.starts_with("nv_")).map(str::to_owned).collect();
    assert_eq!(explained, names);
}

/// An alert on a metric that is not there never fires, and a panel of it stays empty.
#[test]
fn dashboard_and_alerts_name_only_metrics_that_there_are() {
    let names: BTreeSet<String> = ["parityd_", "nv_"].into_iter().flat_map(counted).collect();
    for file in ["grafana.json", "alerts.yml", "alerts.test.yml"] {
        let text = page(&format!("docs/operations/{file}"));
        let found: BTreeSet<&str> = text
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|word| word.starts_with("parityd_") || word.starts_with("nv_"))
            .collect();
        assert!(found.len() > 5, "{file}: {found:?}");
        let of = |name: &&&str| {
            ["", "_bucket", "_sum", "_count"]
                .iter()
                .any(|end| name.strip_suffix(end).is_some_and(|name| names.contains(name)))
        };
        let gone: Vec<_> = found.iter().filter(|name| !of(name)).collect();
        assert!(gone.is_empty(), "docs/operations/{file} names {gone:?}, which is no metric");
    }
}

/// The words that stand behind the arms of a source's matches.
fn arms(path: &str) -> BTreeSet<String> {
    let source = source(path);
    let arms: BTreeSet<String> = literals(&source)
        .into_iter()
        .filter(|(at, _)| source.served.chars().take(*at).collect::<String>().trim_end().ends_with("=>"))
        .map(|(_, text)| text)
        .filter(|text| text.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    assert!(arms.len() > 2, "{path} has no reasons");
    arms
}

/// A client's developer finds what to do about each refusal.
#[test]
fn operations_md_explains_every_reason() {
    let page = page("docs/operations.md");
    let words = words(&page);
    for path in ["src/wire/error.rs", "src/query.rs"] {
        // `Provenance` has words of its own, which stand with its metric.
        let missing: Vec<_> = arms(path).into_iter().filter(|word| !words.contains(word.as_str())).collect();
        assert!(missing.iter().all(|word| ["direct", "approximate"].contains(&word.as_str())), "{path}: {missing:?}");
    }
}

/// A counter that appears with its first failure hides that one from every rate.
#[test]
fn every_reason_is_counted_from_the_start() {
    let told = page("src/metrics.rs");
    let listed = told.split_once("const REASONS").and_then(|(_, rest)| rest.split_once("];")).expect("the list").0;
    let listed: BTreeSet<String> = listed.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let mut reasons = arms("src/wire/error.rs");
    reasons.extend(arms("src/query.rs"));
    for provenance in ["direct", "reconstructed", "approximate", "default"] {
        reasons.remove(provenance);
    }
    assert_eq!(listed, reasons);
}

/// Every key that a configuration can print says when to turn it.
#[test]
fn operations_md_explains_every_configuration_key() {
    let config = Config::load(Path::new(&root().join("config.toml"))).expect("it is shipped").to_string();
    let keys: BTreeSet<&str> = config
        .lines()
        .filter_map(|line| line.trim_start_matches("# ").split([' ', ':']).next())
        .filter(|key| !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    assert!(keys.len() > 20, "{keys:?}");
    let page = page("docs/operations.md");
    let words = words(&page);
    let missing: Vec<_> = keys.iter().filter(|key| !words.contains(*key)).collect();
    assert!(missing.is_empty(), "docs/operations.md does not say when to turn {missing:?}");
}

#[test]
fn literals_and_events_are_found() {
    let text = "
        // ü \"no literal\"
        counter(&registry, \"parityd_late_total\", \"ü \\\" x\");
        tracing::warn!(lane = %spec(1), error = \"x\", \"job failed\");
        tracing::info!(\"protection: {}\", told());
        tracing::error!(\"{error}\");
    ";
    let source = Source::new("src/a.rs", text);
    let found: Vec<_> = literals(&source).into_iter().map(|(_, text)| text).collect();
    assert_eq!(found, ["parityd_late_total", "ü \\\" x", "x", "job failed", "protection: {}", "{error}"]);
    assert_eq!(events(&source).into_iter().collect::<Vec<_>>(), ["job failed", "protection:"]);
}

#[test]
fn an_event_is_told_whole_or_with_an_ellipsis() {
    let page = "| `job failed` | `protection: …` | `drain_ms is over …` |";
    assert!(tells(page, "job failed") && tells(page, "protection:") && tells(page, "drain_ms is over: requests"));
    assert!(!tells(page, "job") && !tells(page, "job failed again") && !tells(page, "listening"));
}
