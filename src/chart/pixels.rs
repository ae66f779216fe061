//! Pixels that a chart is drawn on, and their PNG.
//!
//! Not plotters' own bitmap: its text leaves out what each letter wants of space, so that words fall apart. Colours are mixed in quarters
//! only; then they fit a palette, and a figure is a third of the size.

use std::{convert::Infallible, io::Cursor};

use ab_glyph::{Font, FontRef, PxScale, ScaleFont, point};
use plotters_backend::{
    BackendColor, BackendCoord, BackendTextStyle, DrawingBackend, DrawingErrorKind,
    text_anchor::{HPos, VPos},
};

use super::canvas::Fault;

/// Steps between no colour and all of it.
const STEPS: f64 = 4.0;

/// Width, height, and red, green and blue of each pixel.
#[derive(Debug)]
pub(crate) struct Pixels {
    size: (u32, u32),
    values: Vec<[u8; 3]>,
}

/// Draws on pixels.
#[derive(Debug)]
pub(crate) struct Pen<'a> {
    pixels: &'a mut Pixels,
    font: FontRef<'static>,
}

type Drawn = Result<(), DrawingErrorKind<Infallible>>;

impl Pixels {
    /// A white area.
    pub(crate) fn new(size: (u32, u32)) -> Self {
        Pixels { size, values: vec![[u8::MAX; 3]; size.0 as usize * size.1 as usize] }
    }

    /// What draws on it, and writes with this font.
    pub(crate) fn pen(&mut self, font: &'static [u8]) -> Result<Pen<'_>, Fault> {
        Ok(Pen { pixels: self, font: FontRef::try_from_slice(font)? })
    }

    /// The bytes of a PNG file.
    pub(crate) fn png(&self) -> Result<Vec<u8>, Fault> {
        let mut bytes = Cursor::new(Vec::new());
        let mut encoder = png::Encoder::new(&mut bytes, self.size.0, self.size.1);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_compression(png::Compression::High);
        let data = if let Some((palette, indices)) = self.indexed() {
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette(palette);
            // Indices are names: their differences say nothing.
            encoder.set_filter(png::Filter::NoFilter);
            indices
        } else {
            encoder.set_color(png::ColorType::Rgb);
            self.values.concat()
        };
        encoder.write_header()?.write_image_data(&data)?;
        Ok(bytes.into_inner())
    }

    /// A palette, and an index into it for each pixel; `None` if there are too many colours.
    fn indexed(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut palette: Vec<[u8; 3]> = Vec::new();
        let mut index = |pixel: &[u8; 3]| {
            let known = palette.iter().position(|colour| colour == pixel);
            let index = known.unwrap_or_else(|| {
                palette.push(*pixel);
                palette.len() - 1
            });
            u8::try_from(index).ok()
        };
        let indices = self.values.iter().map(&mut index).collect::<Option<Vec<u8>>>()?;
        Some((palette.concat(), indices))
    }
}

impl DrawingBackend for Pen<'_> {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.pixels.size
    }

    fn ensure_prepared(&mut self) -> Drawn {
        Ok(())
    }

    fn present(&mut self) -> Drawn {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, colour: BackendColor) -> Drawn {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return Ok(()) };
        let (width, height) = self.pixels.size;
        if x >= width || y >= height {
            return Ok(());
        }
        let (red, green, blue) = colour.rgb;
        let share = (colour.alpha * STEPS).round() / STEPS;
        let pixel = &mut self.pixels.values[y as usize * width as usize + x as usize];
        for (value, new) in pixel.iter_mut().zip([red, green, blue]) {
            *value = mixed(*value, new, share);
        }
        Ok(())
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: BackendCoord) -> Drawn {
        // An SVG's font size is this part of plotters' size, and so it is here.
        let em = length(style.size() / 1.24);
        let font = self.font.clone();
        let scale = PxScale::from(em * font.height_unscaled() / font.units_per_em().unwrap_or(1_000.0));
        let font = font.as_scaled(scale);
        let width: f32 = text.chars().map(|letter| font.h_advance(font.glyph_id(letter))).sum();
        let mut caret = match style.anchor().h_pos {
            HPos::Left => 0.0,
            HPos::Center => -width / 2.0,
            HPos::Right => -width,
        };
        let baseline = em
            * match style.anchor().v_pos {
                VPos::Top => 0.76,
                VPos::Center => 0.35,
                VPos::Bottom => -0.25,
            };
        for letter in text.chars() {
            let glyph = font.glyph_id(letter).with_scale_and_position(scale, point(caret, baseline));
            caret += font.h_advance(glyph.id);
            let Some(outline) = font.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            outline.draw(|right, down, cover| {
                let place = |corner: f32, offset: u32| pixel(corner + offset as f32);
                let (x, y) = style.transform().transform(place(corner.x, right), place(corner.y, down));
                let colour = style.color().mix(f64::from(cover));
                let drawn = self.draw_pixel((at.0 + x, at.1 + y), colour);
                debug_assert!(drawn.is_ok(), "nothing here fails");
            });
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a length in a picture")]
const fn length(pixels: f64) -> f32 {
    pixels as f32
}

#[expect(clippy::cast_possible_truncation, reason = "a place in a picture")]
const fn pixel(place: f32) -> i32 {
    place.round() as i32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two values of 0..=255")]
fn mixed(old: u8, new: u8, share: f64) -> u8 {
    (f64::from(old) * (1.0 - share) + f64::from(new) * share).round() as u8
}
