//! A result for people: one fact a line, aligned.

use super::{Report, report::QUANTILES};

/// Marks a percentile that too few requests lie beyond.
pub(super) const FEW: &str = "~";

/// Marks a percentile that owes much to the client.
pub(super) const LATE: &str = "!";

/// Columns side by side: the first to the left, the others to the right.
pub(super) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

impl Report {
    /// As a table; a void run says so first.
    pub fn table(&self) -> String {
        let mut text = String::new();
        if let Some(reason) = &self.void_reason {
            text = format!("VOID: {reason}\n\n");
        }
        text += &facts(&[
            ("server", self.told_server()),
            ("load", self.told_load()),
            ("faults", self.told_faults()),
            ("sent", self.sent.to_string()),
            ("answered", format!("{} ({})", self.answered, percent(self.answered, self.sent))),
            ("status", told_counts(self.status.iter().map(|(word, count)| (word.clone(), *count)))),
            ("jobs per query", self.jobs_per_query.map_or_else(|| "not told".to_owned(), |jobs| format!("{jobs:.3}"))),
        ]);
        format!("{text}\n\n{}\n\n{}", self.provenances(), self.latencies())
    }

    fn told_server(&self) -> String {
        let (name, version) = (&self.server.name, &self.server.version);
        let told = format!("{name} {version}");
        let told = if name.is_empty() { "a server that does not tell its name" } else { told.trim() };
        format!("{told} at {}", self.load.url)
    }

    fn told_load(&self) -> String {
        let load = &self.load;
        let rows = if load.rows == 1 { "1 row".to_owned() } else { format!("{} rows", load.rows) };
        let strict = if load.allow_reconstructed { "" } else { ", nothing reconstructed" };
        format!(
            "{}/s of {rows} to {} for {} s, {}, seed {}, deadline {} ms, data {}{strict}",
            load.rate, load.model, load.seconds, load.arrivals, load.seed, load.deadline_ms, load.data
        )
    }

    fn told_faults(&self) -> String {
        let one = |fault: &super::FaultReport| {
            let factor = fault.factor.map_or_else(String::new, |factor| format!(" {factor}"));
            format!("{}{factor} on lane {} at {} s", fault.kind, fault.lane, fault.at)
        };
        let told: Vec<String> = self.faults.iter().map(one).collect();
        if told.is_empty() { "none".to_owned() } else { told.join(", ") }
    }

    fn provenances(&self) -> String {
        let accuracy = |word: &str| self.accuracy_by_provenance.get(word).copied();
        let told =
            |accuracy: Option<f64>| accuracy.map_or_else(|| "-".to_owned(), |share| format!("{:.2} %", 100.0 * share));
        let rows: u64 = self.provenance.values().sum();
        let mut lines = vec![["rows", "count", "share", "accuracy"].map(str::to_owned).to_vec()];
        for (word, &count) in &self.provenance {
            lines.push(vec![word.clone(), count.to_string(), percent(count, rows), told(accuracy(word))]);
        }
        lines.push(vec!["all".to_owned(), rows.to_string(), percent(rows, rows), told(self.accuracy)]);
        aligned(&lines)
    }

    fn latencies(&self) -> String {
        let marks = |name: &str| {
            let marked = |names: &[String], mark| if names.iter().any(|marked| marked == name) { mark } else { "" };
            marked(&self.percentiles_with_few_samples, FEW).to_owned()
                + marked(&self.percentiles_with_late_client, LATE)
        };
        let mut lines = vec![vec!["ms".to_owned()], vec!["latency".to_owned()], vec!["client's lateness".to_owned()]];
        let values = self.latency_ms.values().into_iter().zip(self.lateness_ms.values());
        for ((name, _), (latency, lateness)) in QUANTILES.iter().zip(values) {
            lines[0].push((*name).to_owned());
            lines[1].push(format!("{}{latency:.2}", marks(name)));
            lines[2].push(format!("{lateness:.2}"));
        }
        lines[0].push("max".to_owned());
        lines[1].push(format!("{:.2}", self.latency_ms.max));
        lines[2].push(format!("{:.2}", self.lateness_ms.max));
        let few = !self.percentiles_with_few_samples.is_empty();
        let few = few.then(|| format!("{FEW} fewer than 10 requests lie beyond it: send more before you rely on it"));
        let late = !self.percentiles_with_late_client.is_empty();
        let late = late.then(|| format!("{LATE} more than a quarter of it may be this client's own lateness"));
        [aligned(&lines)].into_iter().chain(few).chain(late).collect::<Vec<_>>().join("\n")
    }
}

fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = facts.iter().map(|(name, fact)| format!("{name:<width$}  {fact}")).collect();
    lines.join("\n")
}

fn told_counts(counts: impl Iterator<Item = (String, u64)>) -> String {
    counts.map(|(word, count)| format!("{word}: {count}")).collect::<Vec<_>>().join(", ")
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.2} %", 100.0 * part as f64 / whole as f64) }
}
