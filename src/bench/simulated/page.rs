//! The page of a report, made of that alone: `docs/benchmarks/tail.md` is one.

use std::fmt::{self, Display, Write as _};

use super::{
    VirtualReport,
    targets::{self, Target},
};
use crate::bench::{
    cell::{Cell, OF_FEW},
    contender::BASELINE,
    table::FEW,
    weather::Weather,
};

/// Displays as the page's tables, in Markdown.
#[derive(Debug)]
pub struct Page<'r>(pub(super) &'r VirtualReport);

impl VirtualReport {
    /// As JSON.
    ///
    /// # Panics
    ///
    /// If a figure is not a finite number, which would be a bug.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("plain data has a JSON form")
    }

    /// The tables in Markdown.
    pub const fn markdown(&self) -> Page<'_> {
        Page(self)
    }

    fn of(&self, weather: Weather) -> Vec<&Cell> {
        let letter = weather.to_string();
        self.cells.iter().filter(|cell| cell.scenario == letter).collect()
    }
}

impl Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        head(f, report)?;
        let targets = targets::all(report);
        if !targets.is_empty() {
            writeln!(f, "\n## Targets\n\n| asked | bound | found, at worst | |\n|---|---|---|---|")?;
        }
        for Target { words, bound, found, is_met } in targets {
            let mark = if is_met { "met" } else { "**missed**" };
            writeln!(f, "| {words} | {bound} | {found} | {mark} |")?;
        }
        for weather in Weather::ALL {
            let cells = report.of(weather);
            if cells.is_empty() {
                continue;
            }
            writeln!(f, "\n## {weather}: {}\n", weather.words())?;
            table(f, &cells)?;
        }
        if report.cells.iter().any(Cell::is_of_few) {
            writeln!(f, "\n{FEW} {OF_FEW}.")?;
        }
        Ok(())
    }
}

/// What the tables are, and how to read them.
fn head(f: &mut fmt::Formatter<'_>, report: &VirtualReport) -> fmt::Result {
    let VirtualReport { service_ms, lanes, seconds, seeds, env, .. } = report;
    let unknown = || "an unknown processor".to_owned();
    let cpu = env.cpu.clone().unwrap_or_else(unknown);
    writeln!(
        f,
        "# Tail latency of all policies\n\nMade by\n\n    {}{} > tail.json\n    parityd bench virtual --from tail.json\n",
        env.command,
        // What this page can be made of again, whatever the run printed.
        if env.command.split(' ').any(|word| word == "--json") { "" } else { " --json" }
    )?;
    write!(
        f,
        "on the daemon's own core (dispatch, stripes, health, timers) under a virtual clock, so the machine does not matter: {cpu}, {:.0} queries a second \
         of its time. {lanes} lanes for every policy, Poisson arrivals, jobs of {service_ms} ms with 3 % lognormal jitter, batch 1, {seeds} runs of {seconds} s a \
         cell, all policies under the same arrivals and the same weather. Load is base work over what all lanes can carry. What runs is not undone: a job that has \
         started goes on to its end.\n\n\
         Not in it: the cost of the core itself, of encoders, decoders and copies; batching. Accuracy follows from how many answers are decoded and from what \
         LeNet-5 and its codes were measured at (docs/accuracy.md).\n\n\
         A cell is p50 / p99 / p99.9 in ms ± half the 95 % interval of p99.9 (Student's, over the runs) [gap p99.9 - p50 of `none` over the policy's own; % of queries \
         answered by what was decoded; % of answers that are right; jobs a query, one of a small model counted as what it costs]. A query without an answer counts as its deadline, 2 s.\n\n\
         `none` is equal resources: all lanes hold the base model, one shared queue. ParM: `sum`, dedicated parity lanes, no grace, no health. `coded`: `mux`, \
         whose answers need no other member. `approximate` and `adaptive`: the small model of `compact`, a job of 1/k for each query. `oracle` knows how fast each lane will be and runs each query once, in the order of arrival, on the lane that has it \
         done first; it cannot know which jobs will stall. It shows what foresight is worth at loads at which queues are short; it is no bound. \
         [policies.md](../policies.md) says what follows.\n",
        report.queries_per_second
    )
}

fn key(cell: &Cell) -> (String, Option<usize>) {
    (cell.policy.clone(), cell.k)
}

fn table(f: &mut fmt::Formatter<'_>, cells: &[&Cell]) -> fmt::Result {
    let mut loads: Vec<f64> = cells.iter().map(|cell| cell.load).collect();
    loads.sort_unstable_by(f64::total_cmp);
    loads.dedup();
    let mut rows = Vec::new();
    for cell in cells {
        if !rows.contains(&key(cell)) {
            rows.push(key(cell));
        }
    }
    write!(f, "| policy |")?;
    for load in &loads {
        write!(f, " {:.0} % |", 100.0 * load)?;
    }
    writeln!(f, "\n|---|{}", "---|".repeat(loads.len()))?;
    for (policy, k) in rows {
        let with = k.map_or_else(String::new, |k| format!(", k = {k}"));
        write!(f, "| {policy}{with} |")?;
        for load in &loads {
            let is_there = |cell: &&&Cell| key(cell) == (policy.clone(), k) && (cell.load - load).abs() < 1e-9;
            match cells.iter().find(is_there) {
                Some(cell) => write!(f, " {} |", entry(cell))?,
                None => write!(f, " |")?,
            }
        }
        writeln!(f)?;
    }
    Ok(())
}

/// The gap's factor over equal resources; nothing where either is overloaded, or equal resources were not run.
pub(super) fn factor(cell: &Cell) -> String {
    let unknown = if cell.policy == BASELINE { "1" } else { "–" };
    cell.gap_factor.map_or_else(|| unknown.to_owned(), |factor| format!("{factor:.1}"))
}

/// p50 / p99 / p99.9 ± half its interval [factor of the gap; % decoded; jobs a query].
pub(super) fn entry(cell: &Cell) -> String {
    let mut text = cell.figures(0).join(" / ");
    let mut push = |part: fmt::Arguments<'_>| text.write_fmt(part).expect("text in memory can be written to");
    if let Some(half) = cell.p999.half {
        push(format_args!(" ± {half:.0}"));
    }
    let factor = factor(cell);
    let right = cell.accuracy.map_or_else(|| "?".to_owned(), |share| format!("{:.1}", 100.0 * share));
    push(format_args!(" [{factor}; {:.1}; {right}; {:.2}]", 100.0 * cell.decoded, cell.jobs_per_query));
    if cell.unanswered > 0.0 {
        push(format_args!(" {:.2} % lost", 100.0 * cell.unanswered));
    }
    text
}
