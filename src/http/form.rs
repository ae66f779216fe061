//! The file in a form, as `curl -F picture=@shoe.png` sends it (RFC 7578).
//!
//! No more of multipart than that: the first part is the file, whatever it is called, and a second one is refused, because it would
//! silently be none of what is answered.

use std::ops::Range;

use hyper::{HeaderMap, header::CONTENT_TYPE};

use super::infer::is_type;
use crate::wire::{ClientError, cut};

/// The longest boundary that RFC 2046 allows, in bytes.
const BOUNDARY_BYTES_MAX: usize = 70;

/// What stands between the parts, if the body is a form.
pub(super) fn boundary(headers: &HeaderMap) -> Result<Option<String>, ClientError> {
    if !is_type(headers, "multipart/form-data") {
        return Ok(None);
    }
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let parameters = value.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let mut boundaries = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("boundary"));
    let word = boundaries.next().map(|(_, word)| word.trim().trim_matches('"')).unwrap_or_default();
    if (1..=BOUNDARY_BYTES_MAX).contains(&word.len()) {
        Ok(Some(word.to_owned()))
    } else {
        Err(ClientError::field("Content-Type", format!("{:?} tells no boundary", cut(value.to_owned()))))
    }
}

/// Where the one file of a form stands.
pub(super) fn file(body: &[u8], boundary: &str) -> Result<Range<usize>, ClientError> {
    let wrong = |problem: &str| ClientError::picture(format!("the form {problem}"));
    let (first, between) = (format!("--{boundary}\r\n"), format!("\r\n--{boundary}"));
    let head = find(body, first.as_bytes(), 0).ok_or_else(|| wrong("has no part"))? + first.len();
    let start = find(body, b"\r\n\r\n", head).ok_or_else(|| wrong("has no part with a body"))? + 4;
    // An empty file's end begins with the line end that ended its head.
    let end = find(body, between.as_bytes(), start - 2).ok_or_else(|| wrong("ends too early"))?.max(start);
    let after = find(body, between.as_bytes(), start - 2).map_or(end, |at| at + between.len());
    if body[after..].starts_with(b"--") {
        Ok(start..end)
    } else {
        Err(wrong("has more than one part; send one picture"))
    }
}

fn find(bytes: &[u8], word: &[u8], from: usize) -> Option<usize> {
    let found = bytes.get(from..)?.windows(word.len()).position(|window| window == word);
    found.map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, value.parse().expect("a value"))])
    }

    #[test]
    fn a_form_tells_its_boundary() {
        for plain in ["image/png", "application/x-www-form-urlencoded", "multipart/mixed; boundary=x"] {
            assert_eq!(boundary(&headers(plain)), Ok(None));
        }
        let of = |value| boundary(&headers(value)).map(Option::unwrap_or_default);
        assert_eq!(of("multipart/form-data; boundary=----x").as_deref(), Ok("----x"));
        assert_eq!(of("Multipart/Form-Data; charset=utf-8; Boundary=\"a b\"").as_deref(), Ok("a b"));
        for none in ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary"] {
            assert_eq!(of(none).expect_err(none).reason(), "bad_field");
        }
    }

    #[test]
    fn the_one_file_is_found_and_anything_else_is_refused() {
        let of = |body: &str| file(body.as_bytes(), "x").map(|place| body[place].to_owned());
        assert_eq!(of("--x\r\nA: b\r\n\r\nfile\r\n--y\r\n--x--\r\n").as_deref(), Ok("file\r\n--y"));
        assert_eq!(of("preamble\r\n--x\r\nA: b\r\n\r\n\r\n--x--").as_deref(), Ok(""));
        for wrong in [
            "",
            "--x--",
            "--x\r\n",
            "--x\r\nA: b\r\n\r\nfile",
            "--x\r\nA: b\r\n\r\nfile\r\n--x\r\nA: b\r\n\r\nmore\r\n--x--",
            "--x\r\nA: b\r\n\r\nfile\r\n--x",
        ] {
            assert_eq!(of(wrong).expect_err(wrong).reason(), "bad_picture");
        }
    }
}
