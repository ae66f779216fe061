//! One chart: axes, lines, markers and a legend beside them, drawn on whatever has pixels.
//!
//! Lines are drawn in pixels, not in the chart's coordinates, so that the legend shows the very strokes of the plot. The legend stands
//! beside the plot, where it covers nothing, and is ordered by the lines' right ends. Owns plotters: whoever wants a figure gives data.

mod canvas;
mod pixels;

use std::ops::Range;

#[cfg(test)]
pub(crate) use canvas::SIZE;
pub(crate) use canvas::{Fault, to_png, to_svg};

use plotters::{
    coord::{
        Shift,
        ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter},
    },
    element::DashedPathElement,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use canvas::FONT;

/// A chart as data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// One axis.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    /// What it shows, with its unit.
    pub(crate) title: &'static str,
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) scale: Scale,
}

/// How values become places.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    /// Evenly, with marks at multiples of this.
    Even(f64),
    /// By their logarithms, with marks at 1, 2 and 5 times the powers of ten, or at these alone where that would be too many.
    Log,
}

/// A colour by its red, green and blue.
pub(crate) type Colour = RGBColor;

/// Safe for colour-blind eyes: Okabe and Ito, less their yellow, which fades on white.
pub(crate) const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x33, 0x22, 0x88),
];
/// For what every other line is held to.
pub(crate) const BLACK: RGBColor = RGBColor(0, 0, 0);
/// For what stands behind.
pub(crate) const GREY: RGBColor = RGBColor(0x77, 0x77, 0x77);

/// Decades from which on a logarithmic axis has marks at powers of ten alone.
const DECADES: f64 = 2.5;

/// One line of the plot and of the legend.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) label: String,
    pub(crate) points: Vec<(f64, f64)>,
    pub(crate) colour: RGBColor,
    pub(crate) dash: Dash,
    pub(crate) marker: Option<Marker>,
    /// Where markers stand.
    pub(crate) marks: Vec<(f64, f64)>,
    /// Whether markers are outlines: for a second line of a code.
    pub(crate) hollow: bool,
}

/// How a line is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dash {
    Solid,
    Dashed,
    Dotted,
    LongDashed,
}

/// What marks the points of a line. Shapes differ as colours do, for whoever does not see these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
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
        // The last may miss the end by a rounding.
        let is_before_end = |mark: &f64| *mark <= self.to + 1e-9;
        match self.scale {
            Scale::Even(step) => {
                let first = (self.from / step).ceil();
                (0..MARKS_MAX).map(|index| (first + f64::from(index)) * step).take_while(is_before_end).collect()
            }
            Scale::Log => {
                let many = (self.to / self.from).log10() > DECADES;
                let steps: &[f64] = if many { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let powers = (-3..7).map(|power| 10_f64.powi(power));
                powers
                    .flat_map(|power| steps.iter().map(move |step| step * power))
                    .filter(|mark| *mark >= self.from && is_before_end(mark))
                    .collect()
            }
        }
    }

    /// The share of the axis that lies before a value.
    fn share(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Even(_) => (value - self.from) / (self.to - self.from),
            Scale::Log => (value / self.from).ln() / (self.to / self.from).ln(),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[expect(clippy::cast_possible_truncation, reason = "a place between two pixels of one picture")]
    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        first + (f64::from(last - first) * self.share(*value)).round() as i32
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
    pub(crate) fn draw<DB: DrawingBackend>(&self, area: &Area<DB>) -> Drawn<DB> {
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
    pub(crate) const ALL: [Marker; 6] =
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithmic_axes_have_round_marks() {
        let axis = |from, to| Axis { title: "", from, to, scale: Scale::Log };
        assert_eq!(axis(20.0, 300.0).marks(), [20.0, 50.0, 100.0, 200.0]);
        assert_eq!(axis(1.0, 10_000.0).marks(), [1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
        assert_eq!(axis(10.0, 1_000.0).map(&100.0, (0, 200)), 100, "half of the way");
        let even = Axis { title: "", from: -0.5, to: 1.0, scale: Scale::Even(0.5) };
        assert_eq!(even.marks(), [-0.5, 0.0, 0.5, 1.0]);
    }
}
