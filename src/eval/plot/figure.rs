//! The figures: what each shows of the rows of one network.
//!
//! A figure is data until it is drawn, so what it claims can be tested without pixels. Another one is a variant of [`Figure`], a name, a
//! sentence and a chart.

use crate::{
    chart::{Axis, BLACK, COLOURS, Chart, Colour, Dash, GREY, Line, Marker, Scale},
    eval::{Coverage, Row},
};

/// What is drawn of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Figure {
    /// `A_d` against k.
    Accuracy,
    /// `A_o` against the share of predictions that are reconstructed.
    Overall,
    /// Agreement against k.
    Agreement,
    /// How far reconstructions are from direct answers.
    Distance,
    /// Share of wrong answers among the reconstructions that a gate serves, by how many it serves.
    Risk,
}

/// Percent of predictions lost up to which overall accuracy is drawn.
const LOST_MAX: f64 = 10.0;

impl Figure {
    /// All of them, in the order of the page.
    pub(in super::super) const ALL: [Figure; 5] =
        [Figure::Accuracy, Figure::Overall, Figure::Agreement, Figure::Distance, Figure::Risk];

    /// Its name in that of its files.
    pub(in super::super) const fn name(self) -> &'static str {
        match self {
            Figure::Accuracy => "accuracy",
            Figure::Overall => "overall",
            Figure::Agreement => "agreement",
            Figure::Distance => "distance",
            Figure::Risk => "risk",
        }
    }

    /// What it shows, as a sentence for the page.
    pub(in super::super) const fn sentence(self) -> &'static str {
        match self {
            Figure::Accuracy => {
                "Accuracy of reconstructed answers, A_d, by the number k of queries that share a stripe, between that of direct answers and \
                 that of always answering the most frequent class. Points of equal k stand side by side, so that none hides another."
            }
            Figure::Overall => {
                "Overall accuracy, A_o(f) = (1 - f) A_a + f A_d, if a share f of all predictions is lost and reconstructed; the grey line is \
                 what answering the most frequent class instead would leave. `berrut` is not in it: it reconstructs every answer, so its A_o is \
                 its A_d whatever is lost."
            }
            Figure::Agreement => {
                "Share of reconstructed answers with the base model's own class, by k: what the code alone adds in errors, whether or not \
                 the base model was right."
            }
            Figure::Distance => {
                "How far reconstructions are from the direct answers that they stand for: the share of them in which no class's \
                 probability (softmax of the outputs) is off by more than what the axis says. Higher is better."
            }
            Figure::Risk => {
                "Risk against coverage: share of wrong answers among the reconstructions that are served, if those of the highest confidence \
                 are, by their share of all. Lower is better, and a line that falls to the left says that its code's confidence tells what \
                 may be served. The grey line is the risk of direct answers to all rows."
            }
        }
    }

    /// The chart of one network's rows; `codes` are all codes of all networks, so that each keeps its colour. `None` if nothing was
    /// reconstructed.
    pub(super) fn chart(self, rows: &[&Row], codes: &[&str]) -> Option<Chart> {
        let first = rows.iter().find(|row| row.a_d.is_some())?;
        let network = format!("{} ({})", first.deployment, first.architecture);
        let of_code = |row: &Row| codes.iter().position(|code| *code == row.label()).unwrap_or(0);
        let (title, x, y, lines) = match self {
            Figure::Accuracy => accuracy(rows, of_code),
            Figure::Overall => overall(rows, of_code),
            Figure::Agreement => agreement(rows, of_code),
            Figure::Distance => distance(rows, of_code),
            Figure::Risk => risk(rows, of_code),
        };
        Some(Chart { title: format!("{title}: {network}"), x, y, lines })
    }
}

type Parts = (&'static str, Axis, Axis, Vec<Line>);

fn accuracy(rows: &[&Row], of_code: impl Fn(&Row) -> usize) -> Parts {
    let x = k_axis(rows);
    let level = |label: &str, share: f64, colour| {
        let points = vec![(x.from, 100.0 * share), (x.to, 100.0 * share)];
        plain(format!("{label} ({:.2} %)", 100.0 * share), points, colour)
    };
    let mut lines = vec![level("direct, A_a", rows[0].a_a, BLACK), level("default class", rows[0].a_default, GREY)];
    lines.extend(by_k(rows, of_code, |row| row.a_d));
    ("Accuracy of reconstructed answers", x, percent("A_d, % of test images", 0.0, 100.0), lines)
}

fn agreement(rows: &[&Row], of_code: impl Fn(&Row) -> usize) -> Parts {
    let lines = by_k(rows, of_code, |row| row.agreement);
    let y = percent("same class as the direct answer, %", (least(&lines) / 10.0).floor() * 10.0, 100.0);
    ("Agreement with direct answers", k_axis(rows), y, lines)
}

fn overall(rows: &[&Row], of_code: impl Fn(&Row) -> usize) -> Parts {
    let at = |row: &Row, a_d: f64, lost: f64| (lost, (100.0 - lost) * row.a_a + lost * a_d);
    let points = |row: &Row| {
        let a_d = row.a_d.filter(|_| row.is_systematic())?;
        Some([0.0, LOST_MAX / 2.0, LOST_MAX].map(|lost| at(row, a_d, lost)).to_vec())
    };
    let mut lines = by_row(rows, of_code, points);
    // They all meet where nothing is lost.
    for line in &mut lines {
        line.marks = line.points[1..].to_vec();
    }
    let row = rows[0];
    // At least a point, should all lines be level, or none be left.
    let lowest = least(&lines).min(100.0 * row.a_a - 1.0);
    let (from, to) = ((2.0 * lowest).floor() / 2.0, (200.0 * row.a_a).ceil() / 2.0);
    // The default's line falls far below the others; it is shown down to where the axis ends.
    let leaves = ((100.0 * row.a_a - from) / (row.a_a - row.a_default)).min(LOST_MAX);
    let points = [0.0, leaves].map(|lost| at(row, row.a_default, lost)).to_vec();
    lines.push(plain("default class".to_owned(), points, GREY));
    let x = Axis { title: "predictions lost, f, %", from: 0.0, to: LOST_MAX, scale: Scale::Even(1.0) };
    ("Overall accuracy", x, Axis { title: "A_o, % of predictions", from, to, scale: Scale::Even(0.5) }, lines)
}

fn distance(rows: &[&Row], of_code: impl Fn(&Row) -> usize) -> Parts {
    let curve = |row: &Row| {
        let last = row.distances.len().checked_sub(1).filter(|last| *last > 0)?;
        let share = |place: usize| 100.0 * place as f64 / last as f64;
        Some(row.distances.iter().enumerate().map(|(place, &off)| (f64::from(off), share(place))).collect())
    };
    let mut lines = by_row(rows, of_code, curve);
    // At 50 %, 60 % … 90 %; below, the curves run into each other.
    for line in &mut lines {
        line.marks = line.points.iter().copied().skip(50).step_by(10).take(5).collect();
    }
    let x = Axis { title: "largest difference of a class's probability", from: 0.0, to: 1.0, scale: Scale::Even(0.1) };
    ("Distance from direct answers", x, percent("reconstructed answers within it, %", 0.0, 100.0), lines)
}

fn risk(rows: &[&Row], of_code: impl Fn(&Row) -> usize) -> Parts {
    let points = |row: &Row| {
        let point = |at: &Coverage| (100.0 * at.coverage, 100.0 * (1.0 - at.a_d));
        Some(row.coverage.iter().map(point).collect()).filter(|points: &Vec<_>| !points.is_empty())
    };
    let mut lines = by_row(rows, of_code, points);
    for line in &mut lines {
        line.marks.clone_from(&line.points);
    }
    let x = Axis { title: "reconstructions served, %", from: 50.0, to: 100.0, scale: Scale::Even(10.0) };
    let most = lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(5.0, f64::max);
    let direct = 100.0 * (1.0 - rows[0].a_a);
    lines.push(plain(format!("direct ({direct:.2} %)"), vec![(x.from, direct), (x.to, direct)], GREY));
    let y = percent("wrong among the served, %", 0.0, (most.max(direct) / 5.0).ceil() * 5.0);
    ("Risk against coverage", x, y, lines)
}

fn least(lines: &[Line]) -> f64 {
    lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(100.0, f64::min)
}

fn percent(title: &'static str, from: f64, to: f64) -> Axis {
    Axis { title, from, to, scale: Scale::Even(if to - from > 50.0 { 10.0 } else { 5.0 }) }
}

/// The axis of k, with room beside the first and the last.
fn k_axis(rows: &[&Row]) -> Axis {
    let ks = || rows.iter().filter(|row| row.a_d.is_some()).map(|row| row.k as f64);
    let (least, most) = (ks().fold(f64::INFINITY, f64::min), ks().fold(0.0, f64::max));
    Axis { title: "data slots of a stripe, k", from: least - 0.5, to: most + 0.5, scale: Scale::Even(1.0) }
}

/// A line of no code.
fn plain(label: String, points: Vec<(f64, f64)>, colour: Colour) -> Line {
    Line { label, points, colour, dash: Dash::Solid, marker: None, marks: Vec::new(), hollow: false }
}

/// A line in the colour and with the marker of the code at `place`; whatever has several parity slots is told apart by hollow markers.
fn coded(row: &Row, place: usize, what: &str, dash: Dash, points: Vec<(f64, f64)>) -> Line {
    let parities = if row.r == 1 { String::new() } else { format!(" r={}", row.r) };
    Line {
        label: format!("{}{what}{parities}", row.label()),
        points,
        colour: COLOURS[place % COLOURS.len()],
        dash,
        marker: Some(Marker::ALL[place % Marker::ALL.len()]),
        marks: Vec::new(),
        hollow: row.r > 1,
    }
}

/// A line for each code and r, with a point for each k.
fn by_k(rows: &[&Row], of_code: impl Fn(&Row) -> usize, share: impl Fn(&Row) -> Option<f64>) -> Vec<Line> {
    let mut lines: Vec<((&str, usize), Line)> = Vec::new();
    for row in rows {
        let Some(share) = share(row) else { continue };
        let (key, point) = ((row.label(), row.r), (row.k as f64, 100.0 * share));
        match lines.iter_mut().find(|(known, _)| *known == key) {
            Some((_, line)) => line.points.push(point),
            None => lines.push((key, coded(row, of_code(row), "", Dash::Solid, vec![point]))),
        }
    }
    let mut lines: Vec<Line> = lines.into_iter().map(|(_, line)| line).collect();
    let middle = (lines.len() as f64 - 1.0) / 2.0;
    for (place, line) in lines.iter_mut().enumerate() {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        // Side by side, or equal shares would hide one another.
        line.points.iter_mut().for_each(|point| point.0 += 0.05 * (place as f64 - middle));
        line.marks.clone_from(&line.points);
    }
    lines
}

/// A line for each row, broken by its k.
fn by_row(
    rows: &[&Row],
    of_code: impl Fn(&Row) -> usize,
    points: impl Fn(&Row) -> Option<Vec<(f64, f64)>>,
) -> Vec<Line> {
    let line = |row: &&Row| {
        let dash = match row.k {
            2 => Dash::Solid,
            3 => Dash::Dashed,
            4 => Dash::Dotted,
            _ => Dash::LongDashed,
        };
        Some(coded(row, of_code(row), &format!(" k={}", row.k), dash, points(row)?))
    };
    rows.iter().filter_map(line).collect()
}
