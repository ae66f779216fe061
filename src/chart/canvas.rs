//! Where a chart is drawn: as SVG text and as PNG bytes, with the same geometry.
//!
//! Text is measured with a font that is part of the program, so that a figure is the same on every machine and needs no font of the
//! system. An SVG names a family only; whoever shows it may have a wider one, so the layout leaves room.

use std::{error::Error, sync::OnceLock};

use plotters::{
    prelude::{DrawingBackend, IntoDrawingArea, SVGBackend},
    style::{FontStyle, register_font},
};

use super::{Chart, pixels::Pixels};

/// Width and height in pixels: twice what a page shows, so that it stays sharp there.
pub(crate) const SIZE: (u32, u32) = (1600, 900);

/// The family that charts name.
pub(super) const FONT: &str = "sans-serif";

/// Roboto Regular, the printable ASCII and a few signs more. Apache-2.0, © Google Inc. Made from Debian's `fonts-roboto-unhinted` by
/// `pyftsubset Roboto-Regular.ttf --unicodes=U+20-7E,U+B1,U+D7,U+2013,U+2212,U+2264 --layout-features= --no-hinting --name-IDs='*'`.
static ROBOTO: &[u8] = include_bytes!("roboto-latin.ttf");

/// Whatever kept a figure from being drawn.
pub(crate) type Fault = Box<dyn Error + Send + Sync>;

/// The chart as SVG.
pub(crate) fn to_svg(chart: &Chart) -> Result<String, Fault> {
    let mut text = String::new();
    draw(chart, SVGBackend::with_string(&mut text, SIZE))?;
    Ok(text)
}

/// The chart as PNG.
pub(crate) fn to_png(chart: &Chart) -> Result<Vec<u8>, Fault> {
    let mut pixels = Pixels::new(SIZE);
    draw(chart, pixels.pen(ROBOTO)?)?;
    pixels.png()
}

fn draw<DB: DrawingBackend>(chart: &Chart, backend: DB) -> Result<(), Fault>
where
    DB::ErrorType: 'static,
{
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    if !REGISTERED.get_or_init(|| register_font(FONT, FontStyle::Normal, ROBOTO).is_ok()) {
        return Err("the embedded font cannot be read".into());
    }
    let area = backend.into_drawing_area();
    chart.draw(&area)?;
    area.present()?;
    Ok(())
}
