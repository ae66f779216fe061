//! The report of `bench lanes` as one page of HTML.

use super::LanesReport;
use crate::{
    bench::{BenchError, cell::Cell, figures, html::Html, weather::Weather},
    chart::Dash,
};

/// What each row tells.
const HEAD: [&str; 8] = ["policy", "p50 ms", "p99", "p99.9", "decoded %", "right %", "unanswered", "jobs a query"];

/// And beside its twin in virtual time, which real lanes have none of.
const TWIN: [&str; 2] = ["real / virtual p99", "within 10 %"];

const ALONE: &str = "How long the slowest of so many queries takes: 100 is p99, 1000 is p99.9.";
const BESIDE: &str =
    "How long the slowest of so many queries takes: 100 is p99, 1000 is p99.9. Dotted: the same in virtual time.";

impl LanesReport {
    /// The page.
    pub fn html(&self) -> Result<String, BenchError> {
        let mut page = Html::new("parityd bench lanes: policies in real time");
        let LanesReport { emulated, service_ms, lanes, seconds, runs, worst, env, .. } = self;
        let what =
            if *emulated { "emulated lanes, all policies at once" } else { "real lanes, one policy after the other" };
        let late =
            if *emulated { format!("lanes came back {:.2} ms late and ", worst.lanes_late_ms) } else { String::new() };
        page.text(&format!(
            "{lanes} {what}; jobs of {service_ms:.2} ms, {runs} runs of {seconds} s. Made by `{}` on {}. In the worst run {late}queries were sent {:.2} ms late (p99).",
            env.command,
            env.cpu.as_deref().unwrap_or("an unknown processor"),
            worst.client_late_ms,
        ));
        if let Some(reason) = &self.void_reason {
            page.warning(&format!("This run is void: {reason}."));
        }
        let policies = figures::policies(&self.cells);
        for weather in Weather::ALL {
            let letter = weather.to_string();
            let of = |cells: &'_ [Cell]| -> Vec<Cell> {
                cells.iter().filter(|cell| cell.scenario == letter).cloned().collect()
            };
            let (real, simulated) = (of(&self.cells), of(&self.virtual_cells));
            if real.is_empty() {
                continue;
            }
            page.section(&format!("{weather}: {}", weather.words()));
            let (real, simulated): (Vec<&Cell>, Vec<&Cell>) = (real.iter().collect(), simulated.iter().collect());
            let sets = [(real.as_slice(), Dash::Solid, ""), (simulated.as_slice(), Dash::Dotted, ", virtual")];
            let sets = if self.emulated { &sets[..] } else { &sets[..1] };
            let title = format!("{weather}: the tail at {:.0} % load", 100.0 * real[0].load);
            page.figure(&figures::tail(&title, sets, &policies), if self.emulated { BESIDE } else { ALONE })?;
            let head = HEAD.iter().chain(TWIN.iter().filter(|_| self.emulated)).map(|&head| head.to_owned());
            page.table(&head.collect::<Vec<_>>(), &real.iter().map(|cell| self.row(cell)).collect::<Vec<_>>());
        }
        for legend in self.legend() {
            page.text(&legend);
        }
        Ok(page.finish())
    }

    fn row(&self, cell: &Cell) -> Vec<String> {
        let is_it = |one: &&super::Agreement| (&one.scenario, &one.policy) == (&cell.scenario, &cell.policy);
        let agreement = self.agreements.iter().find(is_it);
        let ratio = agreement.map_or_else(String::new, |agreement| {
            let interval =
                agreement.interval.map_or_else(String::new, |(low, high)| format!(" ({low:.3} to {high:.3})"));
            format!("{:.3}{interval}", agreement.ratio)
        });
        let within = agreement.map_or("", |agreement| match agreement.interval {
            None => "?",
            Some(_) if agreement.is_equivalent() => "yes",
            Some(_) => "no",
        });
        let [p50, p99, p999] = self.figures(cell);
        let mut row = vec![
            figures::name(cell),
            p50,
            p99,
            p999,
            format!("{:.1}", 100.0 * cell.decoded),
            cell.accuracy.map_or_else(|| "?".to_owned(), |share| format!("{:.1}", 100.0 * share)),
            format!("{:.0}", cell.unanswered * cell.queries as f64),
            format!("{:.2}", cell.jobs_per_query),
        ];
        row.extend([ratio, within.to_owned()].into_iter().filter(|_| self.emulated));
        row
    }
}
