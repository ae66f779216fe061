//! A picture's bytes on their way to one row: told apart, measured, decoded and brought to what the model takes.
//!
//! Owns the codecs. What always holds: the size that a header tells is looked at before anything is decoded, so that a few bytes never
//! become gigabytes; whatever the bytes are, the outcome is a row or a [`ClientError`]. The format is told by the first bytes alone, because
//! curl labels a picture as a form.
//!
//! A picture becomes a row the way the makers of Fashion-MNIST made theirs from shop photographs (Xiao, Rasul, Vollgraf 2017, section 2):
//! the longer edge is brought to the model's size, the shorter one is filled up on both sides, and the ground is the low end of the
//! manifest's `input.range`. Their pictures are light on black, so what is transparent is black, too. A picture that has the model's size is
//! not touched: its row is exactly what the data set's reader makes of it.

use std::{io::Cursor, sync::Arc};

use image::{
    DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits,
    imageops::{self, FilterType},
    metadata::Orientation,
};

use crate::{query::Signature, wire::ClientError};

/// The longest file, in bytes.
pub(super) const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest picture, as decoded: 4096 x 4096 in colour.
const DECODED_BYTES_MAX: u64 = 48 * 1024 * 1024;
/// The longest edge: what scaling keeps of a picture is sixteen bytes for each pixel of its width and of the row's height.
const EDGE_MAX: u32 = 16_384;
/// What a decoder may take for itself; a progressive JPEG holds all its coefficients.
const WORKING_BYTES_MAX: u64 = 4 * DECODED_BYTES_MAX;

/// What a model sees a picture as.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Canvas {
    colours: Colours,
    width: u32,
    height: u32,
    /// Black and white.
    range: (f32, f32),
}

/// The planes of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Colours {
    Grey,
    Rgb,
}

impl Canvas {
    /// That of a model whose rows are grey or coloured pictures, `[1 or 3, height, width]`.
    pub(super) fn of(signature: &Signature) -> Option<Self> {
        let &[planes, height, width] = &signature.input.shape[..] else { return None };
        let colours = match planes {
            1 => Colours::Grey,
            3 => Colours::Rgb,
            _ => return None,
        };
        let (width, height) = (u32::try_from(width).ok()?, u32::try_from(height).ok()?);
        Some(Canvas { colours, width, height, range: signature.input_range })
    }

    /// The size at which a picture of `width` x `height` fits, with its proportions.
    fn fit(&self, width: u32, height: u32) -> (u32, u32) {
        let scaled = |edge: u32, to: u32, from: u32| {
            let (edge, to, from) = (u64::from(edge), u64::from(to), u64::from(from));
            u32::try_from((edge * to + from / 2) / from).unwrap_or(u32::MAX).max(1)
        };
        let is_wide = u64::from(width) * u64::from(self.height) >= u64::from(height) * u64::from(self.width);
        if is_wide {
            (self.width, scaled(height, self.width, width).min(self.height))
        } else {
            (scaled(width, self.height, height).min(self.width), self.height)
        }
    }

    /// The row of a picture: plane after plane, as models with convolutions read it.
    pub(super) fn row(&self, bytes: &[u8]) -> Result<Arc<[f32]>, ClientError> {
        let picture = decode(bytes)?;
        let (width, height) = self.fit(picture.width(), picture.height());
        let planes = match self.colours {
            Colours::Grey => {
                let grey = picture.into_luma8();
                let sized = if grey.dimensions() == (width, height) { grey } else { scale(&grey, width, height) };
                vec![sized.pixels().map(|pixel| pixel.0[0]).collect::<Vec<_>>()]
            }
            Colours::Rgb => {
                let colour = picture.into_rgb8();
                let sized = if colour.dimensions() == (width, height) { colour } else { scale(&colour, width, height) };
                (0..3).map(|plane| sized.pixels().map(|pixel| pixel.0[plane]).collect()).collect()
            }
        };
        Ok(planes.iter().flat_map(|plane| self.placed(plane, width, height)).collect())
    }

    /// One plane in the middle of the canvas, black around it.
    fn placed(&self, plane: &[u8], width: u32, height: u32) -> impl Iterator<Item = f32> {
        let (left, top) = ((self.width - width) / 2, (self.height - height) / 2);
        let (black, white) = self.range;
        let places = (0..self.height).flat_map(move |y| (0..self.width).map(move |x| (x, y)));
        places.map(move |(x, y)| {
            let inside = (left..left + width).contains(&x) && (top..top + height).contains(&y);
            let level = if inside { plane[index(x - left, y - top, width)] } else { 0 };
            black + (white - black) * (f32::from(level) / 255.0)
        })
    }
}

fn index(x: u32, y: u32, width: u32) -> usize {
    usize::try_from(u64::from(y) * u64::from(width) + u64::from(x)).expect("it lies in a picture that is in memory")
}

/// A triangle as wide as the step between pixels: bilinear when a picture grows, and a mean over all that falls together when it shrinks.
fn scale<P>(picture: &image::ImageBuffer<P, Vec<u8>>, width: u32, height: u32) -> image::ImageBuffer<P, Vec<u8>>
where
    P: image::Pixel<Subpixel = u8> + 'static,
{
    imageops::resize(picture, width, height, FilterType::Triangle)
}

fn wrong(problem: impl Into<String>) -> ClientError {
    ClientError::picture(problem)
}

/// The format, by the bytes that every file of it begins with.
fn format(bytes: &[u8]) -> Result<ImageFormat, ClientError> {
    match bytes {
        [] => Err(wrong("the body is empty; with curl, send a file with --data-binary @picture.png")),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(ImageFormat::Png),
        // curl's -d takes the line ends out of a file.
        [0x89, b'P', b'N', b'G', ..] => {
            Err(wrong("a PNG whose line ends were changed; with curl, use --data-binary, not -d"))
        }
        [0xff, 0xd8, 0xff, ..] => Ok(ImageFormat::Jpeg),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(ImageFormat::WebP),
        _ => Err(wrong("the body is no PNG, JPEG or WebP")),
    }
}

/// The picture upright, with what is transparent made black. Of a picture that moves, the first frame.
fn decode(bytes: &[u8]) -> Result<DynamicImage, ClientError> {
    let format = format(bytes)?;
    if is_cut_off(format, bytes) {
        return Err(wrong("the file ends too early"));
    }
    let unreadable = |error: image::ImageError| wrong(error.to_string());
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(WORKING_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() > DECODED_BYTES_MAX || width.max(height) > EDGE_MAX {
        let (bytes_max, edge_max) = (DECODED_BYTES_MAX, EDGE_MAX);
        return Err(ClientError::PictureTooLarge { width, height, bytes_max, edge_max });
    }
    // A camera's word on which side is up; one that cannot be read is none.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    picture.apply_orientation(orientation);
    Ok(if picture.color().has_alpha() { on_black(picture) } else { picture })
}

/// Whether a file lacks its end where its decoder would not mind: that fills up what is missing of a JPEG, and takes of an animation what
/// there is. A WebP says how long it is. A PNG's decoder misses pixels by itself.
fn is_cut_off(format: ImageFormat, bytes: &[u8]) -> bool {
    if format == ImageFormat::Jpeg {
        return !has_end(bytes);
    }
    let told = bytes.get(4..8).and_then(|told| told.try_into().ok()).map_or(0, u32::from_le_bytes);
    format == ImageFormat::WebP && usize::try_from(told).map_or(true, |told| told > bytes.len() - 8)
}

/// Whether a JPEG's first picture has its end. Segments are passed over by their length: what is in one, such as the small picture for an overview, is none of
/// our markers. So is what follows the end, where phones put films. Within a scan, as between segments, what is no marker is skipped.
fn has_end(jpeg: &[u8]) -> bool {
    // What begins it has been seen.
    let mut rest = jpeg.get(2..).unwrap_or_default();
    let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 1 | 0xd0..=0xd8 | 0xff);
    while let Some(at) = rest.windows(2).position(is_marker) {
        if rest[at + 1] == 0xd9 {
            return true;
        }
        let segment = &rest[at + 2..];
        let Some(&[high, low]) = segment.first_chunk() else { return false };
        rest = segment.get(usize::from(u16::from_be_bytes([high, low]))..).unwrap_or_default();
    }
    false
}

fn on_black(picture: DynamicImage) -> DynamicImage {
    let mut picture = picture.into_rgba8();
    for pixel in picture.pixels_mut() {
        let [colours @ .., alpha] = &mut pixel.0;
        for level in colours {
            let covered = (u16::from(*level) * u16::from(*alpha) + 127) / 255;
            *level = u8::try_from(covered).expect("a share of a byte");
        }
    }
    DynamicImage::ImageRgba8(picture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::TensorSpec;

    fn signature(shape: &[usize]) -> Signature {
        let spec = |shape: &[usize]| TensorSpec { name: "x".into(), shape: shape.into() };
        Signature {
            name: "m".into(),
            version: "1".into(),
            platform: "p".into(),
            input: spec(shape),
            input_range: (-1.0, 1.0),
            output: spec(&[2]),
            labels: Vec::new(),
        }
    }

    fn canvas(colours: Colours, width: u32, height: u32) -> Canvas {
        Canvas { colours, width, height, range: (-1.0, 1.0) }
    }

    fn png(picture: impl Into<DynamicImage>) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        picture.into().write_to(&mut file, ImageFormat::Png).expect("a PNG");
        file.into_inner()
    }

    #[test]
    fn proportions_are_kept_and_no_edge_vanishes() {
        let canvas = canvas(Colours::Grey, 28, 14);
        for ((width, height), fits) in [
            ((28, 14), (28, 14)),
            ((56, 28), (28, 14)),
            ((1, 1), (14, 14)),
            ((10, 1000), (1, 14)),
            ((100_000, 1), (28, 1)),
            ((1000, 100), (28, 3)),
        ] {
            assert_eq!(canvas.fit(width, height), fits, "{width} x {height}");
        }
    }

    #[test]
    fn black_and_white_are_the_ends_of_the_range_and_the_ground_is_black() {
        let white = png(image::GrayImage::from_pixel(1, 2, image::Luma([255])));
        let row = canvas(Colours::Grey, 4, 2).row(&white).expect("a picture");
        assert_eq!(row[..], [-1.0, 1.0, -1.0, -1.0, -1.0, 1.0, -1.0, -1.0]);
    }

    #[test]
    fn colours_are_planes_and_what_is_transparent_is_black() {
        let pixels = vec![255, 0, 0, 255, 255, 255, 255, 0];
        let picture = image::RgbaImage::from_raw(2, 1, pixels).expect("two pixels");
        let row = canvas(Colours::Rgb, 2, 1).row(&png(picture)).expect("a picture");
        assert_eq!(row[..], [1.0, -1.0, -1.0, -1.0, -1.0, -1.0]);
    }

    #[test]
    fn only_pictures_have_a_canvas() {
        let of = |shape: &[usize]| Canvas::of(&signature(shape));
        assert_eq!(of(&[1, 14, 28]), Some(canvas(Colours::Grey, 28, 14)));
        assert_eq!(of(&[3, 14, 28]), Some(canvas(Colours::Rgb, 28, 14)));
        for shape in [&[784][..], &[28, 28], &[2, 28, 28], &[1, 1, 28, 28]] {
            assert_eq!(of(shape), None, "{shape:?}");
        }
    }
}
