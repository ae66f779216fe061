//! Figures of cells: what each shows is data, drawn by `chart`.

use super::{
    cell::Cell,
    contender::BASELINE,
    simulated::{ORACLE, Timeline},
};
use crate::chart::{Axis, BLACK, COLOURS, Chart, Dash, GREY, Line, Marker, Scale};

/// A line of a figure before it has a place.
pub(super) struct Named {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// What a cell's row is called.
pub(super) fn name(cell: &Cell) -> String {
    cell.k.map_or_else(|| cell.policy.clone(), |k| format!("{}, k={k}", cell.policy))
}

/// Policies in the order in which they come; each keeps its colour and marker on one page.
pub(super) fn policies<'c>(cells: impl IntoIterator<Item = &'c Cell>) -> Vec<String> {
    let mut policies = Vec::new();
    for cell in cells {
        if !policies.contains(&cell.policy) {
            policies.push(cell.policy.clone());
        }
    }
    policies
}

/// A line in its policy's look; a second k is dashed.
fn line(policies: &[String], policy: &str, dash: Dash, named: Named) -> Line {
    let Named { label, points } = named;
    let plain = policies.iter().filter(|known| ![BASELINE, ORACLE].contains(&known.as_str()));
    let place = plain.clone().position(|known| known == policy).unwrap_or(0);
    let (colour, marker) = match policy {
        BASELINE => (BLACK, None),
        ORACLE => (GREY, None),
        _ => (COLOURS[place % COLOURS.len()], Some(Marker::ALL[place % Marker::ALL.len()])),
    };
    let dash = if policy == ORACLE { Dash::Dotted } else { dash };
    Line { label, marks: points.clone(), points, colour, dash, marker, hollow: place >= COLOURS.len() }
}

/// Room around the values of a logarithmic axis.
fn log_axis(title: &'static str, values: impl Iterator<Item = f64>) -> Axis {
    let (least, most) =
        values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    let (least, most) = if least < most { (least, most) } else { (least.min(1.0), least.max(1.0) * 2.0) };
    Axis { title, from: (least * 0.9).max(1e-3), to: most * 1.1, scale: Scale::Log }
}

fn values(lines: &[Line]) -> impl Iterator<Item = f64> + '_ {
    lines.iter().flat_map(|line| &line.points).map(|point| point.1)
}

/// The k of cells that have one, for a title.
pub(super) fn of_k(cells: &[&Cell]) -> String {
    cells.iter().find_map(|cell| cell.k).map_or_else(String::new, |k| format!(" (k = {k})"))
}

/// p99.9 by load, in one weather; of one k, as all figures.
pub(super) fn sweep(title: &str, cells: &[&Cell], policies: &[String]) -> Chart {
    let mut lines: Vec<Line> = Vec::new();
    for cell in cells {
        let (label, point) = (cell.policy.clone(), (100.0 * cell.load, cell.p999.ms));
        match lines.iter_mut().find(|line| line.label == label) {
            Some(line) => {
                line.points.push(point);
                line.marks.push(point);
            }
            None => lines.push(line(policies, &cell.policy, Dash::Solid, Named { label, points: vec![point] })),
        }
    }
    let loads = || lines.iter().flat_map(|line| &line.points).map(|point| point.0);
    let (from, to) = (loads().fold(f64::INFINITY, f64::min), loads().fold(0.0, f64::max));
    let x = Axis { title: "load, % of all lanes", from: from - 2.0, to: to + 2.0, scale: Scale::Even(10.0) };
    let title = format!("{title}{}", of_k(cells));
    Chart { title, x, y: log_axis("p99.9, ms", values(&lines)), lines }
}

/// The share of queries that are slower, on a logarithmic axis, by their time. `dash` tells sets of cells apart.
pub(super) fn tail(title: &str, sets: &[(&[&Cell], Dash, &str)], policies: &[String]) -> Chart {
    // Beyond this, a cell of some thousand queries has no more than a handful.
    const RAREST: f64 = 10_000.0;
    let title = format!("{title}{}", sets.first().map_or_else(String::new, |(cells, ..)| of_k(cells)));
    let mut lines = Vec::new();
    for (cells, dash, suffix) in sets {
        for cell in *cells {
            let slower = |&(share, ms): &(f64, f64)| (1.0 / (1.0 - share), ms);
            let points = cell.curve.iter().filter(|(share, _)| *share < 1.0).map(slower);
            let points = points.filter(|point| point.0 <= RAREST * (1.0 + 1e-9) && point.0 >= 2.0 - 1e-9).collect();
            lines.push(line(
                policies,
                &cell.policy,
                *dash,
                Named { label: format!("{}{suffix}", cell.policy), points },
            ));
        }
    }
    let x = Axis { title: "one query in so many takes longer", from: 2.0, to: RAREST * 1.01, scale: Scale::Log };
    Chart { title, x, y: log_axis("time from arrival, ms", values(&lines)), lines }
}

/// Gap by jobs a query, with the accuracy in the legend: down and left is better.
pub(super) fn pareto(title: &str, cells: &[&Cell], policies: &[String]) -> Chart {
    let of = |cell: &&Cell| {
        let right = cell.accuracy.map_or_else(String::new, |share| format!(" ({:.1} %)", 100.0 * share));
        let (label, points) = (format!("{}{right}", cell.policy), vec![(cell.jobs_per_query, cell.gap_ms.max(0.1))]);
        let mut line = line(policies, &cell.policy, Dash::Solid, Named { label, points });
        line.marker = line.marker.or(Some(Marker::Circle));
        line
    };
    let title = format!("{title}{}", of_k(cells));
    let lines: Vec<Line> = cells.iter().map(of).collect();
    let jobs = || lines.iter().flat_map(|line| &line.points).map(|point| point.0);
    let (least, most) = (jobs().fold(1.0, f64::min), jobs().fold(1.5, f64::max));
    let x = Axis { title: "jobs a query", from: least - 0.05, to: most + 0.05, scale: Scale::Even(0.1) };
    Chart { title, x, y: log_axis("gap p99.9 - p50, ms", values(&lines)), lines }
}

/// The slowest query of each moment around a hang.
pub(super) fn hang(timeline: &Timeline) -> Chart {
    let policies: Vec<String> = timeline.lines.iter().map(|(policy, _)| policy.clone()).collect();
    let mut lines: Vec<Line> = timeline
        .lines
        .iter()
        .map(|(policy, points)| {
            let named = Named { label: policy.clone(), points: points.clone() };
            Line { marks: Vec::new(), ..line(&policies, policy, Dash::Solid, named) }
        })
        .collect();
    let y = log_axis("slowest query of 100 ms, ms", values(&lines));
    let stands = vec![(0.0, y.from), (0.0, y.to)];
    let goes_on = vec![(timeline.hang_s, y.from), (timeline.hang_s, y.to)];
    for (label, points) in [("the lane stands still", stands), ("and goes on", goes_on)] {
        let (colour, dash) = (GREY, Dash::Dashed);
        lines.push(Line {
            label: label.to_owned(),
            points,
            colour,
            dash,
            marker: None,
            marks: Vec::new(),
            hollow: false,
        });
    }
    let x = Axis { title: "seconds after a lane stands still", from: -2.0, to: 8.1, scale: Scale::Even(1.0) };
    Chart { title: "A lane hangs for five seconds".to_owned(), x, y, lines }
}
