//! Figures of made-up rows: what they claim, as data, and that the files can be read by somebody else.

use std::{collections::BTreeSet, fs, io::Cursor};

use tempfile::TempDir;

use super::*;
use crate::{
    chart::{Chart, Line, SIZE},
    eval::report::tests::row,
};

fn coded(code: &'static str, k: usize, r: usize, a_d: f64) -> Row {
    Row { code, k, r, a_d: Some(a_d), ..row() }
}

/// Two networks; the second has two codes of the first, and no other.
fn rows() -> Vec<Row> {
    let mut rows = vec![
        coded("sum", 4, 1, 0.70),
        coded("sum", 2, 1, 0.83),
        coded("sum", 2, 2, 0.85),
        coded("mux", 2, 1, 0.88),
        coded("compact", 2, 1, 0.89),
    ];
    let other = |row: Row| Row { deployment: "other".to_owned(), weights_sha256: vec!["cd".to_owned()], ..row };
    rows.extend([coded("compact", 4, 1, 0.87), coded("sum", 3, 1, 0.75)].map(other));
    rows
}

fn charts(rows: &[Row], figure: Figure) -> Vec<Chart> {
    let codes = codes(rows);
    networks(rows).iter().filter_map(|network| figure.chart(&network.rows, &codes)).collect()
}

fn line<'a>(chart: &'a Chart, label: &str) -> &'a Line {
    chart.lines.iter().find(|line| line.label == label).unwrap_or_else(|| panic!("no {label} in {chart:?}"))
}

#[test]
fn every_figure_is_a_readable_svg_and_a_png_that_is_not_blank() {
    let dir = TempDir::new().unwrap();
    let files = plot(&rows(), dir.path()).unwrap();
    assert_eq!(files.len(), 2 * 2 * Figure::ALL.len(), "two networks, two formats: {files:?}");
    for file in &files {
        let bytes = fs::read(file).unwrap();
        if file.extension().is_some_and(|extension| extension == "svg") {
            let text = String::from_utf8(bytes).unwrap();
            let svg = roxmltree::Document::parse(&text).unwrap();
            let told: Vec<&str> = svg.descendants().filter_map(|node| node.text()).map(str::trim).collect();
            assert!(["sum", "compact"].iter().all(|code| told.iter().any(|told| told.starts_with(code))), "{told:?}");
        } else {
            let mut decoder = png::Decoder::new(Cursor::new(bytes));
            decoder.set_transformations(png::Transformations::EXPAND);
            let mut png = decoder.read_info().unwrap();
            let mut pixels = vec![0; png.output_buffer_size().unwrap()];
            let info = png.next_frame(&mut pixels).unwrap();
            assert_eq!((info.width, info.height), SIZE);
            let colours: BTreeSet<&[u8]> = pixels.chunks(3).collect();
            assert!(colours.contains([0x00, 0x72, 0xb2].as_slice()), "no line of `sum` in {}", file.display());
            let drawn = pixels.chunks(3).filter(|pixel| *pixel != [0xff; 3]).count();
            let share = drawn as f64 / (pixels.len() / 3) as f64;
            assert!((0.01..0.2).contains(&share), "{share} of {} is not white", file.display());
        }
    }
}

#[test]
fn the_same_rows_give_the_same_bytes() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for (a, b) in plot(&rows(), one.path()).unwrap().iter().zip(plot(&rows(), two.path()).unwrap()) {
        assert_eq!(a.file_name(), b.file_name());
        assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap(), "{}", a.display());
    }
}

#[test]
fn accuracies_stand_over_their_k_between_direct_and_default() {
    let chart = &charts(&rows(), Figure::Accuracy)[0];
    let near = |label: &str, shares: &[f64]| {
        let points = &line(chart, label).points;
        points.len() == shares.len() && points.iter().zip(shares).all(|(point, share)| (point.1 - share).abs() < 1e-9)
    };
    assert!(near("sum", &[83.0, 70.0]), "sorted by k");
    assert!(line(chart, "sum").points.iter().zip([2.0, 4.0]).all(|(point, k)| (point.0 - k).abs() < 0.2));
    assert!(line(chart, "sum r=2").hollow && !line(chart, "sum").hollow);
    assert!(near("default class (10.00 %)", &[10.0, 10.0]) && near("direct, A_a (90.00 %)", &[90.0, 90.0]));
}

#[test]
fn overall_accuracy_falls_with_the_share_lost() {
    let chart = &charts(&rows(), Figure::Overall)[0];
    let points = &line(chart, "sum k=2").points;
    assert!((points[0].1 - 90.0).abs() < 1e-9 && (points[2].0 - 10.0).abs() < 1e-9);
    assert!((points[2].1 - (0.9 * 90.0 + 0.1 * 83.0)).abs() < 1e-9);
    // At the end of the default's line, what it says is still so.
    let &(lost, a_o) = line(chart, "default class").points.last().unwrap();
    assert!((a_o - ((100.0 - lost) * 0.9 + lost * 0.1)).abs() < 1e-9 && lost < 10.0);
}

#[test]
fn distances_are_drawn_as_shares() {
    let chart = &charts(&rows(), Figure::Distance)[0];
    let points: Vec<(f64, f64)> = line(chart, "mux k=2").points.clone();
    let expected = [(0.0, 0.0), (0.2, 50.0), (1.0, 100.0)];
    let near = |(a, b): (&(f64, f64), &(f64, f64))| (a.0 - b.0).abs() < 1e-6 && (a.1 - b.1).abs() < 1e-6;
    assert!(points.len() == 3 && points.iter().zip(&expected).all(near), "{points:?}");
}

#[test]
fn risks_are_what_is_wrong_among_the_served() {
    let chart = &charts(&rows(), Figure::Risk)[0];
    let at = |label: &str| line(chart, label).points[0];
    let near = |point: (f64, f64), expected: (f64, f64)| {
        (point.0 - expected.0).abs() < 1e-6 && (point.1 - expected.1).abs() < 1e-6
    };
    assert!(near(at("mux k=2"), (95.0, 17.0)) && near(at("direct (10.00 %)"), (50.0, 10.0)), "{chart:?}");
}

#[test]
fn nothing_is_drawn_outside_the_axes() {
    for figure in Figure::ALL {
        for Chart { x, y, lines, .. } in charts(&rows(), figure) {
            for (at, value) in lines.iter().flat_map(|line| &line.points) {
                assert!((x.from..=x.to).contains(at), "{figure:?}: {at} is not between {x:?}");
                assert!((y.from - 1e-9..=y.to + 1e-9).contains(value), "{figure:?}: {value} is not between {y:?}");
            }
        }
    }
}

#[test]
fn a_code_keeps_its_colour_in_every_figure() {
    for figure in Figure::ALL {
        let colours = |label: &str| {
            let charts = charts(&rows(), figure);
            let colour = |chart: &Chart| chart.lines.iter().find(|line| line.label.starts_with(label)).unwrap().colour;
            charts.iter().map(colour).collect::<Vec<_>>()
        };
        assert_eq!(colours("compact")[0], colours("compact")[1]);
        assert_ne!(colours("compact")[0], colours("sum")[0]);
    }
}

#[test]
fn versions_of_a_deployment_have_files_of_their_own() {
    let mut rows = vec![coded("sum", 2, 1, 0.8), coded("sum", 2, 1, 0.7)];
    assert_eq!(networks(&rows).len(), 1);
    rows[1].weights_sha256 = vec!["0123456789".to_owned()];
    let stems: Vec<String> = networks(&rows).into_iter().map(|network| network.stem).collect();
    assert_eq!(stems, ["fashion-mnist-ab", "fashion-mnist-01234567"]);
}

#[test]
fn the_page_shows_the_files_that_are_drawn() {
    let dir = TempDir::new().unwrap();
    let page = crate::eval::markdown(&rows());
    for file in plot(&rows(), dir.path()).unwrap() {
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(page.contains(&format!("(plots/{name})")), "{name}");
    }
}

#[test]
fn a_base_model_alone_has_no_figure() {
    let dir = TempDir::new().unwrap();
    assert!(plot(&[Row { a_d: None, ..row() }], dir.path()).unwrap().is_empty());
}
