//! The report of `bench virtual` as one page of HTML.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{VirtualReport, page::entry, targets};
use crate::{
    bench::{
        BenchError,
        cell::{Cell, OF_FEW},
        figures,
        html::Html,
        table::FEW,
        weather::Weather,
    },
    chart::{self, Chart, Dash},
    weights::write_page,
};

/// The load whose tails and costs are drawn, if it was run.
const LOAD: f64 = 0.38;

impl VirtualReport {
    /// The page.
    pub fn html(&self) -> Result<String, BenchError> {
        let mut page = Html::new("parityd bench virtual: tail latency of all policies");
        let VirtualReport { service_ms, lanes, seconds, seeds, env, .. } = self;
        page.text(&format!(
            "{lanes} lanes, jobs of {service_ms} ms, {seeds} runs of {seconds} s a cell, on the daemon's own core under a virtual clock. Made by `{}`, \
             parityd {}. A query without an answer counts as its deadline, 2 s.",
            env.command, env.version
        ));
        let all = targets::all(self);
        if !all.is_empty() {
            page.section("Targets");
            let words = |target: targets::Target| {
                let met = if target.is_met { "met" } else { "missed" };
                vec![target.words, target.bound, target.found, met.to_owned()]
            };
            let head = ["asked", "bound", "found, at worst", ""].map(str::to_owned);
            page.table(&head, &all.into_iter().map(words).collect::<Vec<_>>());
        }
        if let Some(timeline) = &self.timeline {
            page.section("A hang");
            page.figure(
                &figures::hang(timeline),
                "The slowest query of every 100 ms, by its arrival, around a hang of one lane in scenario C. Without redundancy the query that hangs with its \
                 lane has no answer by its deadline, and a pair of slow lanes shows all the time.",
            )?;
        }
        let policies = figures::policies(&self.cells);
        for weather in Weather::ALL {
            let letter = weather.to_string();
            let cells: Vec<&Cell> = self.cells.iter().filter(|cell| cell.scenario == letter).collect();
            if !cells.is_empty() {
                section(&mut page, weather, &cells, &policies)?;
            }
        }
        if self.cells.iter().any(Cell::is_of_few) {
            page.text(&format!("{FEW} {OF_FEW}."));
        }
        Ok(page.finish())
    }
}

impl VirtualReport {
    /// Draws figures for other pages, the hang and the tail in each weather, as SVG into `dir`; gives the files.
    pub fn plot(&self, dir: &Path) -> Result<Vec<PathBuf>, BenchError> {
        let policies = figures::policies(&self.cells);
        let mut charts: Vec<(String, Chart)> = Vec::new();
        charts.extend(self.timeline.as_ref().map(|timeline| ("hang".to_owned(), figures::hang(timeline))));
        for weather in Weather::ALL {
            let letter = weather.to_string();
            let cells: Vec<&Cell> = self.cells.iter().filter(|cell| cell.scenario == letter).collect();
            if !cells.is_empty() {
                charts.push((format!("tail-{letter}"), tail(weather, &cells, &policies)));
            }
        }
        let unwritten = |file: &Path, error| BenchError::Unwritten { file: file.to_path_buf(), error };
        fs::create_dir_all(dir).map_err(|error| unwritten(dir, error))?;
        let mut files = Vec::new();
        for (name, chart) in charts {
            let file = dir.join(format!("{name}.svg"));
            let drawn =
                chart::to_svg(&chart).map_err(|fault| BenchError::Figure { title: name, fault: fault.to_string() })?;
            write_page(&file, drawn.as_bytes()).map_err(|error| unwritten(&file, error))?;
            files.push(file);
        }
        Ok(files)
    }
}

/// Those of the smallest k.
fn of_one_k<'c>(cells: &[&'c Cell]) -> Vec<&'c Cell> {
    let k = cells.iter().filter_map(|cell| cell.k).min();
    cells.iter().copied().filter(|cell| cell.k.is_none() || cell.k == k).collect()
}

/// Those at the load that is nearest to the usual one.
fn at_one_load<'c>(cells: &[&'c Cell]) -> Vec<&'c Cell> {
    let near = |cell: &Cell| (cell.load - LOAD).abs();
    let nearest = cells.iter().map(|cell| near(cell)).fold(f64::INFINITY, f64::min);
    cells.iter().copied().filter(|cell| near(cell) <= nearest + 1e-9).collect()
}

fn tail(weather: Weather, cells: &[&Cell], policies: &[String]) -> Chart {
    let cells = at_one_load(&of_one_k(cells));
    let load = cells.first().map_or(0.0, |cell| 100.0 * cell.load);
    figures::tail(&format!("{weather}: the tail at {load:.0} % load"), &[(&cells, Dash::Solid, "")], policies)
}

fn section(page: &mut Html, weather: Weather, cells: &[&Cell], policies: &[String]) -> Result<(), BenchError> {
    let words = weather.words();
    page.section(&format!("{weather}: {words}"));
    let one_k = of_one_k(cells);
    let title = format!("{weather}: p99.9 by load");
    page.figure(
        &figures::sweep(&title, &one_k, policies),
        "p99.9 from arrival to answer, by load, on logarithmic milliseconds.",
    )?;
    page.figure(
        &tail(weather, cells, policies),
        "How long the slowest of so many queries takes: 100 is p99, 1000 is p99.9.",
    )?;
    let at_load = at_one_load(&one_k);
    let load = at_load.first().map_or(0.0, |cell| 100.0 * cell.load);
    page.figure(
        &figures::pareto(&format!("{weather}: what it costs, at {load:.0} % load"), &at_load, policies),
        "Gap between p99.9 and p50 by jobs a query; beside each policy, the share of answers that are right.",
    )?;
    let (head, rows) = table(cells);
    page.text(
        "p50 / p99 / p99.9 in ms ± half the 95 % interval of p99.9 [gap of `none` over the policy's own; % decoded; % right; jobs a query].",
    );
    page.table(&head, &rows);
    Ok(())
}

fn table(cells: &[&Cell]) -> (Vec<String>, Vec<Vec<String>>) {
    let mut loads: Vec<f64> = cells.iter().map(|cell| cell.load).collect();
    loads.sort_unstable_by(f64::total_cmp);
    loads.dedup();
    let mut names: Vec<String> = Vec::new();
    for cell in cells {
        let name = figures::name(cell);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let at = |name: &str, load: f64| {
        let cell = cells.iter().find(|cell| figures::name(cell) == name && (cell.load - load).abs() < 1e-9);
        cell.map_or_else(String::new, |cell| entry(cell))
    };
    let row = |name: String| {
        let entries: Vec<String> = loads.iter().map(|&load| at(&name, load)).collect();
        [vec![name], entries].concat()
    };
    let head = loads.iter().map(|load| format!("{:.0} %", 100.0 * load));
    (std::iter::once("policy".to_owned()).chain(head).collect(), names.into_iter().map(row).collect())
}
