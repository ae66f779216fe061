//! One chart: axes, lines, markers and a legend beside them, drawn on whatever has pixels.
//!
//! Lines are drawn in pixels, not in the chart's coordinates, so that the legend shows the very strokes of the plot. The legend stands
//! beside the plot, where it covers nothing, and is ordered by the lines' right ends.

use std::ops::Range;

use plotters::{
    coord::{
        Shift,
        ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter},
    },
    element::DashedPathElement,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::canvas::FONT;

/// A chart as data.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
}

/// One axis, with marks at multiples of `step`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// What it shows, with its unit.
    pub(super) title: &'static str,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) step: f64,
}

/// One line of the plot and of the legend.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) label: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) colour: RGBColor,
    pub(super) dash: Dash,
    pub(super) marker: Option<Marker>,
    /// Where markers stand.
    pub(super) marks: Vec<(f64, f64)>,
    /// Whether markers are outlines: for a second line of a code.
    pub(super) hollow: bool,
}

/// How a line is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dash {
    Solid,
    Dashed,
    Dotted,
    LongDashed,
}

/// What marks the points of a line. Shapes differ as colours do, for whoever does not see these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    Wedge,
    Cross,
}

type Area<DB> = DrawingArea<DB, Shift>;
type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

const TITLE: i32 = 34;
const TEXT: i32 = 27;
const LEGEND_WIDTH: u32 = 360;
const LEGEND_LINE: i32 = 42;
/// More marks than this would run into each other.
const MARKS_MAX: u32 = 25;
const STROKE: u32 = 4;
const RADIUS: i32 = 9;
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

impl Axis {
    fn marks(&self) -> Vec<f64> {
        let first = (self.from / self.step).ceil();
        let mark = |index: u32| (first + f64::from(index)) * self.step;
        // The last may miss the end by a rounding.
        (0..MARKS_MAX).map(mark).take_while(|mark| *mark <= self.to + 1e-9).collect()
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "a place between two pixels of one picture")]
    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        first + (f64::from(last - first) * (value - self.from) / (self.to - self.from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.marks() }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    /// Without digits that say nothing.
    fn format(mark: &f64) -> String {
        let text = format!("{mark:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

impl Chart {
    /// Draws all of it.
    pub(super) fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn<DB> {
        area.fill(&WHITE)?;
        let (width, _) = area.dim_in_pixel();
        let (plot, legend) = area.split_horizontally(width - LEGEND_WIDTH);
        let mut axes = ChartBuilder::on(&plot)
            .caption(&self.title, (FONT, TITLE).into_font().color(&INK))
            .margin(16)
            .margin_right(24)
            .x_label_area_size(84)
            .y_label_area_size(118)
            .build_cartesian_2d(self.x.clone(), self.y.clone())?;
        let text = || (FONT, TEXT).into_font().color(&INK);
        axes.configure_mesh()
            .x_desc(self.x.title)
            .y_desc(self.y.title)
            .label_style(text())
            .axis_desc_style(text())
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for line in &self.lines {
            let places = |points: &[(f64, f64)]| points.iter().map(|at| axes.backend_coord(at)).collect::<Vec<_>>();
            line.stroke(area, &places(&line.points))?;
            for at in places(&line.marks) {
                line.mark(area, at)?;
            }
        }
        self.legend(&legend)
    }

    fn legend<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn<DB> {
        let end = |line: &Line| line.points.last().map_or(f64::NEG_INFINITY, |point| point.1);
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by(|a, b| end(b).total_cmp(&end(a)));
        let style = (FONT, TEXT).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
        for (y, line) in (1..).map(|place| TITLE + 20 + LEGEND_LINE * place).zip(lines) {
            line.stroke(area, &[(8, y), (72, y)])?;
            line.mark(area, (40, y))?;
            area.draw_text(&line.label, &style, (88, y))?;
        }
        Ok(())
    }
}

impl Line {
    fn stroke<DB: DrawingBackend>(&self, area: &Area<DB>, points: &[(i32, i32)]) -> Drawn<DB> {
        let style = self.colour.stroke_width(STROKE);
        let dashed = |size: i32, gap: i32| DashedPathElement::new(points.to_vec(), size, gap, style);
        match self.dash {
            Dash::Solid => area.draw(&PathElement::new(points, style)),
            Dash::Dashed => area.draw(&dashed(16, 10)),
            Dash::Dotted => area.draw(&dashed(5, 9)),
            Dash::LongDashed => area.draw(&dashed(34, 10)),
        }
    }

    fn mark<DB: DrawingBackend>(&self, area: &Area<DB>, at: (i32, i32)) -> Drawn<DB> {
        let Some(marker) = self.marker else { return Ok(()) };
        marker.draw(area, at, RADIUS, self.colour)?;
        if self.hollow { marker.draw(area, at, RADIUS / 2, WHITE) } else { Ok(()) }
    }
}

impl Marker {
    /// All of them.
    pub(super) const ALL: [Marker; 6] =
        [Marker::Circle, Marker::Square, Marker::Triangle, Marker::Diamond, Marker::Wedge, Marker::Cross];

    fn draw<DB: DrawingBackend>(self, area: &Area<DB>, (x, y): (i32, i32), r: i32, colour: RGBColor) -> Drawn<DB> {
        let polygon = |corners: &[(i32, i32)]| {
            let placed: Vec<_> = corners.iter().map(|(right, down)| (x + right, y + down)).collect();
            area.draw(&Polygon::new(placed, colour.filled()))
        };
        let long = r + r / 3;
        match self {
            Marker::Circle => area.draw(&Circle::new((x, y), r, colour.filled())),
            Marker::Square => polygon(&[(-r, -r), (r, -r), (r, r), (-r, r)]),
            Marker::Triangle => polygon(&[(0, -long), (long, r), (-long, r)]),
            Marker::Diamond => polygon(&[(0, -long), (long, 0), (0, long), (-long, 0)]),
            Marker::Wedge => polygon(&[(0, long), (long, -r), (-long, -r)]),
            Marker::Cross => {
                let style = colour.stroke_width(STROKE);
                area.draw(&PathElement::new([(x - r, y - r), (x + r, y + r)], style))?;
                area.draw(&PathElement::new([(x - r, y + r), (x + r, y - r)], style))
            }
        }
    }
}
