//! What is printed of a report: tables in Markdown, which a terminal shows as well.

use std::fmt::{self, Display, Write as _};

use super::{Agreement, LanesReport, Trial};
use crate::bench::{cell::Cell, weather::Weather};

/// Displays as tables in Markdown.
#[derive(Debug)]
pub struct LanesPage<'r>(&'r LanesReport);

impl LanesReport {
    /// The tables in Markdown.
    pub const fn markdown(&self) -> LanesPage<'_> {
        LanesPage(self)
    }
}

impl Display for LanesPage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LanesReport { emulated, service_ms, lanes, seconds, runs, weights, env, .. } = self.0;
        let what = if *emulated {
            "emulated lanes: real threads, queues, codes and models, only service times are drawn; all policies at once"
        } else {
            "real lanes, one policy after the other"
        };
        let cpu = env.cpu.as_deref().unwrap_or("an unknown processor");
        writeln!(
            f,
            "# Policies in real time\n\nMade by `{}` on {cpu}.\n\n{lanes} {what}. Weights: {weights}. Jobs of {service_ms:.2} ms, {runs} runs of {seconds} s.",
            env.command
        )?;
        self.lateness(f)?;
        for weather in Weather::ALL {
            let letter = weather.to_string();
            let cells: Vec<&Cell> = self.0.cells.iter().filter(|cell| cell.scenario == letter).collect();
            if cells.is_empty() {
                continue;
            }
            writeln!(f, "\n## {weather}: {}, {:.0} % load\n", weather.words(), 100.0 * cells[0].load)?;
            self.table(f, &cells)?;
        }
        for legend in self.0.legend() {
            writeln!(f, "\n{legend}")?;
        }
        if let Some(reason) = &self.0.void_reason {
            writeln!(f, "\n**This run is void**: {reason}.")?;
        }
        Ok(())
    }
}

impl LanesPage<'_> {
    fn lateness(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LanesReport { emulated, calibration, worst, .. } = self.0;
        if !calibration.is_empty() {
            let trial = |trial: &Trial| format!("{} ms: {:.2}", trial.service_ms, trial.late_ms());
            let trials: Vec<String> = calibration.iter().map(trial).collect();
            writeln!(f, "Calibration, p99 of lateness in ms by the time of a job: {}.", trials.join("; "))?;
        }
        let lanes =
            if *emulated { format!("lanes came back {:.2} ms late, ", worst.lanes_late_ms) } else { String::new() };
        writeln!(f, "In the worst run {lanes}queries were sent {:.2} ms late (p99).", worst.client_late_ms)
    }

    fn table(&self, f: &mut fmt::Formatter<'_>, cells: &[&Cell]) -> fmt::Result {
        let beside = if self.0.emulated { " p99 in virtual time | real / virtual (90 %) | within 10 % |" } else { "" };
        writeln!(f, "| policy | p50 ms | p99 | p99.9 | decoded % | right % | unanswered | jobs a query |{beside}")?;
        writeln!(f, "|---|---|---|---|---|---|---|---|{}", if self.0.emulated { "---|---|---|" } else { "" })?;
        for cell in cells {
            let mut row = format!("| {}", cell.policy);
            let mut push = |text: fmt::Arguments<'_>| row.write_fmt(text).expect("text in memory can be written to");
            if let Some(k) = cell.k {
                push(format_args!(", k = {k}"));
            }
            for figure in self.0.figures(cell) {
                push(format_args!(" | {figure}"));
            }
            let right = cell.accuracy.map_or_else(|| "?".to_owned(), |share| format!("{:.1}", 100.0 * share));
            let unanswered = cell.unanswered * cell.queries as f64;
            push(format_args!(
                " | {:.1} | {right} | {unanswered:.0} | {:.2} |",
                100.0 * cell.decoded,
                cell.jobs_per_query
            ));
            if let Some(agreement) = self.agreement(cell) {
                push(format_args!(" {} |", agreement.words()));
            }
            writeln!(f, "{row}")?;
        }
        Ok(())
    }

    fn agreement(&self, cell: &Cell) -> Option<&Agreement> {
        let is_it = |one: &&Agreement| (&one.scenario, &one.policy) == (&cell.scenario, &cell.policy);
        self.0.agreements.iter().find(is_it)
    }
}

impl Agreement {
    fn words(&self) -> String {
        let mean = self.virtual_ms.iter().sum::<f64>() / self.virtual_ms.len() as f64;
        let interval = self.interval.map_or_else(String::new, |(low, high)| format!(" ({low:.3}-{high:.3})"));
        let verdict = match self.interval {
            None => "one run tells nothing",
            Some(_) if self.is_equivalent() => "yes",
            Some(_) => "**no**",
        };
        format!("{mean:.1} | {:.3}{interval} | {verdict}", self.ratio)
    }
}
