//! Pictures in the formats and forms that people send: what becomes of each, and that no bytes are a 5xx.

use std::{io::Cursor, time::Duration};

use image::{DynamicImage, ExtendedColorType, GrayImage, ImageEncoder, ImageFormat, Luma, Rgba, RgbaImage};
use parityd::{admission::Refusal, query::Accepts};
use serde_json::json;

use crate::port::{Port, Reply};

const CLASSIFY: &str = "/v2/models/adder/classify";

fn send(port: &Port, query: &str, headers: &str, body: &[u8]) -> Reply {
    let length = body.len();
    let head = format!("POST {CLASSIFY}{query} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n");
    port.ask(&[head.as_bytes(), body].concat())
}

fn written(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).expect("memory takes it");
    file.into_inner()
}

/// Two by two, a fifth of white each but for one that is black.
fn small() -> DynamicImage {
    GrayImage::from_raw(2, 2, vec![51, 51, 0, 51]).expect("four pixels").into()
}

/// A port whose rows are grey pictures of `width` x `height`.
fn canvas(width: usize, height: usize) -> Port {
    Port::with(|site| site.signature.input.shape = vec![1, height, width])
}

/// The sum of a row, told by the score: the engine's logits are the sum and its multiple, so only whether it is zero shows.
fn is_black(reply: &Reply) -> bool {
    assert_eq!(reply.status, 200, "{reply:?}");
    let score = reply.json()["classes"][0]["score"].as_f64().expect("a score");
    (score - 0.5).abs() < 1e-9
}

#[test]
fn a_picture_in_any_format_is_answered_whatever_its_content_type() {
    let port = Port::open();
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let picture = if format == ImageFormat::WebP { small().into_rgb8().into() } else { small() };
        for headers in ["", "Content-Type: application/x-www-form-urlencoded\r\n", "Content-Type: image/gif\r\n"] {
            let reply = send(&port, "", headers, &written(&picture, format));
            assert_eq!(reply.status, 200, "{format:?} {reply:?}");
            assert_eq!(
                reply.json(),
                json!({
                    "model_name": "adder",
                    "model_version": "1",
                    "parameters": {"provenance": "direct"},
                    "classes": [{"index": 1, "label": "dog", "score": 1.0}, {"index": 0, "label": "cat", "score": 0.0}],
                })
            );
        }
    }
    let one = send(&port, "?top_k=1", "", &written(&small(), ImageFormat::Png)).json();
    assert_eq!(one["classes"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_form_and_a_compressed_body_are_taken_too() {
    let port = Port::open();
    let png = written(&small(), ImageFormat::Png);
    let form = "Content-Type: multipart/form-data; boundary=----7\r\n";
    let head = "------7\r\nContent-Disposition: form-data; name=\"picture\"; filename=\"a.png\"\r\n\r\n";
    let whole = [head.as_bytes(), &png, b"\r\n------7--\r\n"].concat();
    assert_eq!(send(&port, "", form, &whole).status, 200);
    send(&port, "", form, &whole[..whole.len() - 8]).refused(400, "bad_picture");
    send(&port, "", form, &png).refused(400, "bad_picture");
    send(&port, "", "Content-Type: multipart/form-data\r\n", &whole).refused(400, "bad_field");

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &png).unwrap();
    assert_eq!(send(&port, "", "Content-Encoding: gzip\r\n", &gzip.finish().unwrap()).status, 200);
}

#[test]
fn the_query_is_the_terms_and_a_wrong_word_is_named() {
    let port = Port::open();
    let png = written(&small(), ImageFormat::Png);
    assert_eq!(send(&port, "?allow_reconstructed=false&timeout_us=1500&min_confidence=0.25", "", &png).status, 200);
    let terms = port.engine.terms();
    assert_eq!((terms.accepts, terms.timeout), (Accepts::DirectOnly, Some(Duration::from_micros(1500))));
    assert!(terms.min_confidence.is_some_and(|least| (least.get() - 0.25).abs() < 1e-9));
    for (query, field) in [("?top_k=0", "top_k"), ("?topk=3", "query"), ("?min_confidence=2", "min_confidence")] {
        let reply = send(&port, query, "", &png);
        reply.refused(400, "bad_field");
        assert!(reply.json()["error"].as_str().unwrap().starts_with(&format!("{field}: ")), "{reply:?}");
    }
    port.engine.refuse(Refusal::NotCalibrated);
    let reply = send(&port, "?min_confidence=0.5", "", &png);
    reply.refused(400, "bad_field");
    assert!(reply.json()["error"].as_str().unwrap().starts_with("min_confidence: "), "{reply:?}");
    port.engine.refuse(Refusal::Full);
    send(&port, "", "", &png).refused(429, "full");
}

#[test]
fn unusual_pictures_are_read() {
    let port = Port::open();
    let white16 = image::ImageBuffer::from_pixel(2, 2, Luma([0x3333_u16]));
    assert!(!is_black(&send(&port, "", "", &written(&white16.into(), ImageFormat::Png))));
    let clear = RgbaImage::from_pixel(2, 2, Rgba([255, 255, 255, 0]));
    assert!(is_black(&send(&port, "", "", &written(&clear.into(), ImageFormat::Png))), "transparent is black");

    let mut palette = Vec::new();
    let mut encoder = png::Encoder::new(&mut palette, 2, 2);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::One);
    encoder.set_palette(vec![0, 0, 0, 100, 100, 100]);
    encoder.write_header().unwrap().write_image_data(&[0b1000_0000, 0b0100_0000]).unwrap();
    assert!(!is_black(&send(&port, "", "", &palette)));
}

/// Pictures of 16 x 8, one half black and one white, seen as two pixels.
#[test]
fn forms_that_other_programs_write_are_read() {
    let port = canvas(2, 1);
    for (name, bytes) in [
        ("cmyk.jpg", &include_bytes!("../data/pictures/cmyk.jpg")[..]),
        ("progressive.jpg", include_bytes!("../data/pictures/progressive.jpg")),
        ("turned.jpg", include_bytes!("../data/pictures/turned.jpg")),
        ("animated.webp", include_bytes!("../data/pictures/animated.webp")),
    ] {
        let reply = send(&port, "", "", bytes);
        assert!(!is_black(&reply), "{name}: one half is white");
        for end in [4, 20, bytes.len() / 2, bytes.len() - 3] {
            send(&port, "", "", &bytes[..end]).refused(400, "bad_picture");
        }
    }
}

/// Phones put a film behind a picture's end, and its bytes may look like a scan's start.
#[test]
fn what_follows_a_jpegs_end_is_nothing_of_it() {
    let port = canvas(2, 1);
    let film = b"\0\0\0\x18ftypmp42\xff\xda";
    for name in ["cmyk", "progressive", "turned"] {
        let path = format!("{}/tests/data/pictures/{name}.jpg", env!("CARGO_MANIFEST_DIR"));
        let whole = std::fs::read(path).expect("it is there");
        let alone = send(&port, "", "", &whole);
        assert_eq!(alone.status, 200, "{name}");
        let followed = send(&port, "", "", &[&whole, &film[..]].concat());
        assert_eq!((followed.status, &followed.body), (200, &alone.body), "{name}");
        // An end that stands in a comment is not the picture's.
        let cut = &whole[..whole.len() - 20];
        let comment = [&cut[..2], b"\xff\xfe\0\x04\xff\xd9", &cut[2..]].concat();
        send(&port, "", "", &comment).refused(400, "bad_picture");
    }
}

#[test]
fn bytes_that_are_no_picture_are_refused_by_name() {
    let port = Port::open();
    let whole: Vec<Vec<u8>> = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP]
        .map(|format| written(&DynamicImage::ImageRgb8(image::RgbImage::new(9, 9)), format))
        .into();
    // The last bytes of a PNG say that it is over, and nothing of its pixels.
    for bytes in whole.iter().flat_map(|bytes| [1, 8, 14, bytes.len() / 2, bytes.len() - 17].map(|end| &bytes[..end])) {
        send(&port, "", "", bytes).refused(400, "bad_picture");
    }
    for bytes in [&b"GIF89a"[..], b"{}", b"", b"<svg/>", b"\x89PNG\x1a\n"] {
        send(&port, "", "", bytes).refused(400, "bad_picture");
    }
    port.get(CLASSIFY).refused(405, "wrong_verb");
    port.ask(format!("POST {CLASSIFY} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).refused(411, "no_length");
    let long = format!("POST {CLASSIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n");
    port.ask(long.as_bytes()).refused(413, "body_too_long");
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    let port = Port::open();
    let picture = DynamicImage::ImageRgb8(image::RgbImage::new(9, 9));

    let png = |sides: [u32; 2]| {
        let mut png = written(&picture, ImageFormat::Png);
        png[16..24].copy_from_slice(&sides.map(u32::to_be_bytes).concat());
        let mut crc = flate2::Crc::new();
        crc.update(&png[12..29]);
        png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        png
    };

    let mut jpeg = written(&picture, ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame");
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff; 4]);

    let mut webp = written(&picture, ImageFormat::WebP);
    let start = webp.windows(4).position(|word| word == b"VP8L").expect("a lossless chunk") + 9;
    webp[start..start + 3].copy_from_slice(&[0xfe, 0xbf, 0xff]);
    webp[start + 3] |= 0x0f;

    for (name, bytes) in [("PNG", png([65_536; 2])), ("a long PNG", png([16_385, 1])), ("JPEG", jpeg), ("WebP", webp)] {
        let reply = send(&port, "", "", &bytes);
        assert_eq!((name, reply.status), (name, 413), "{reply:?}");
        reply.refused(413, "picture_too_large");
    }
}

/// Every byte of a file, changed: whatever the decoders make of it, it is an answer or a refusal.
#[test]
fn no_changed_byte_is_a_bug() {
    let port = canvas(9, 9);
    let noise: Vec<u8> = (0..9 * 9 * 3_u32).map(|n| u8::try_from(n * 7919 % 251).unwrap()).collect();
    let picture = DynamicImage::ImageRgb8(image::RgbImage::from_raw(9, 9, noise).unwrap());
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
        let whole = written(&picture, format);
        for place in (0..whole.len()).step_by(whole.len() / 150 + 1) {
            for change in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] ^= change;
                let status = send(&port, "", "", &bytes).status;
                assert!(matches!(status, 200 | 400 | 413), "{format:?}, byte {place}: {status}");
            }
        }
    }
}

#[test]
fn a_model_without_pictures_says_so_and_colours_are_taken_where_it_has_them() {
    let flat = Port::with(|site| site.signature.input.shape = vec![784]);
    send(&flat, "", "", &written(&small(), ImageFormat::Png)).refused(404, "not_served");
    let colour = Port::with(|site| site.signature.input.shape = vec![3, 5, 7]);
    assert_eq!(send(&colour, "", "", &written(&small(), ImageFormat::Png)).status, 200);
    let mut rgb = Vec::new();
    let pixels = [200, 0, 0, 200, 0, 0];
    image::codecs::jpeg::JpegEncoder::new(&mut rgb).write_image(&pixels, 2, 1, ExtendedColorType::Rgb8).unwrap();
    assert_eq!(send(&colour, "", "", &rgb).status, 200);
}
