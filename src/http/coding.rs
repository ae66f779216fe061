//! Compressed bodies: gzip and deflate, both ways.
//!
//! A request is inflated as it arrives, into a buffer that stops at the longest body, so that a bomb costs no more memory than an honest
//! request. What is cut off is refused, too. `deflate` is the format with zlib's header, as HTTP defines it and clients send it.
//!
//! A reply is compressed if its client asks, and only from [`REPLY_BYTES_MIN`] on: many HTTP libraries ask for gzip without being told to,
//! and compressing a reply of ten values takes longer than sending it.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::{
    Compression, Decompress, FlushDecompress, Status,
    write::{GzEncoder, MultiGzDecoder, ZlibEncoder},
};
use hyper::{
    HeaderMap,
    header::{ACCEPT_ENCODING, AsHeaderName, CONTENT_ENCODING},
};

use super::body::Held;
use crate::wire::{ClientError, Error, cut};

/// Shorter replies are sent as they are.
const REPLY_BYTES_MIN: usize = 1024;
/// Bytes that are inflated at a time.
const STEP_BYTES: usize = 16 * 1024;

/// How a body is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Coding {
    /// Not at all.
    Identity,
    Gzip,
    Deflate,
}

impl Coding {
    fn named(word: &str) -> Option<Self> {
        let is = |name| word.eq_ignore_ascii_case(name);
        Some(match () {
            () if is("identity") => Coding::Identity,
            () if is("gzip") || is("x-gzip") => Coding::Gzip,
            () if is("deflate") => Coding::Deflate,
            () => return None,
        })
    }

    /// The word in `Content-Encoding`, if there is to be one.
    pub(super) const fn as_str(self) -> Option<&'static str> {
        match self {
            Coding::Identity => None,
            Coding::Gzip => Some("gzip"),
            Coding::Deflate => Some("deflate"),
        }
    }

    /// That of a request's body. One coding at most: two would be a bomb in a bomb.
    pub(super) fn of_request(headers: &HeaderMap) -> Result<Self, ClientError> {
        let mut found = Coding::Identity;
        for word in words(headers, CONTENT_ENCODING) {
            let wrong = |told: String| ClientError::WrongEncoding { told: cut(told) };
            match (Coding::named(&word).ok_or_else(|| wrong(word.clone()))?, found) {
                (Coding::Identity, _) => {}
                (coding, Coding::Identity) => found = coding,
                (Coding::Gzip | Coding::Deflate, Coding::Gzip | Coding::Deflate) => {
                    return Err(wrong(words(headers, CONTENT_ENCODING).join(", ")));
                }
            }
        }
        Ok(found)
    }

    /// What the client likes best for the reply, gzip before deflate; `*` is what it does not name (RFC 9110, section 12.5.3). It need not say that it
    /// takes a reply that is not compressed.
    pub(super) fn of_reply(headers: &HeaderMap) -> Self {
        let told = words(headers, ACCEPT_ENCODING);
        let told: Vec<(&str, f32)> = told.iter().map(|word| weighed(word)).collect();
        let quality = |wanted: Coding| {
            let named = told.iter().find(|(name, _)| Coding::named(name) == Some(wanted));
            let any = || told.iter().find(|(name, _)| *name == "*").filter(|_| wanted != Coding::Identity);
            named.or_else(any).map_or(0.0, |(_, quality)| *quality)
        };
        // Of two that are liked equally, the later one.
        let liked =
            [Coding::Identity, Coding::Deflate, Coding::Gzip].into_iter().filter(|coding| quality(*coding) > 0.0);
        liked.max_by(|a, b| quality(*a).total_cmp(&quality(*b))).unwrap_or(Coding::Identity)
    }

    /// `body` in this coding, and the coding that it has now.
    pub(super) fn compress(self, body: Vec<u8>) -> (Vec<u8>, Self) {
        if body.len() < REPLY_BYTES_MIN {
            return (body, Coding::Identity);
        }
        let written = match self {
            Coding::Identity => return (body, self),
            Coding::Gzip => deflated(GzEncoder::new(Vec::new(), Compression::fast()), &body, GzEncoder::finish),
            Coding::Deflate => deflated(ZlibEncoder::new(Vec::new(), Compression::fast()), &body, ZlibEncoder::finish),
        };
        (written, self)
    }
}

fn deflated<W: Write>(mut encoder: W, body: &[u8], finish: impl FnOnce(W) -> io::Result<Vec<u8>>) -> Vec<u8> {
    let written = encoder.write_all(body).and_then(|()| finish(encoder));
    written.expect("writing to memory cannot fail")
}

/// An entry of `Accept-Encoding`: what it names, and how much it is liked.
fn weighed(word: &str) -> (&str, f32) {
    let mut parts = word.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (name, quality.map_or(1.0, |text| text.parse().unwrap_or(0.0)))
}

/// The entries of a header that is a list.
fn words(headers: &HeaderMap, name: impl AsHeaderName) -> Vec<String> {
    let values = headers.get_all(name).iter();
    let texts = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let words = texts.flat_map(|text| text.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>());
    words.filter(|word| !word.is_empty()).collect()
}

/// Takes a body as it arrives and holds it as it was before it was compressed.
pub(super) enum Inflater {
    Identity(Held),
    Gzip(Box<MultiGzDecoder<Held>>),
    Deflate(Box<Zlib>),
}

/// The body is not what its `Content-Encoding` says, or ends too early.
fn broken(coding: &str) -> Error {
    ClientError::field("Content-Encoding", format!("the body is no whole {coding}")).into()
}

impl Inflater {
    /// Nothing has arrived.
    pub(super) fn new(coding: Coding, held: Held) -> Self {
        match coding {
            Coding::Identity => Inflater::Identity(held),
            Coding::Gzip => Inflater::Gzip(Box::new(MultiGzDecoder::new(held))),
            Coding::Deflate => {
                let state = Decompress::new(true);
                Inflater::Deflate(Box::new(Zlib { held, state, ended: false }))
            }
        }
    }

    /// More of the body.
    pub(super) fn push(&mut self, data: Bytes) -> Result<(), Error> {
        match self {
            Inflater::Identity(held) => held.take(data),
            Inflater::Gzip(decoder) => {
                let written = decoder.write_all(&data);
                written.map_err(|_| decoder.get_mut().take_refusal().unwrap_or_else(|| broken("gzip")))
            }
            Inflater::Deflate(zlib) => zlib.push(&data),
        }
    }

    /// The body is over.
    pub(super) fn finish(self) -> Result<Held, Error> {
        match self {
            Inflater::Identity(held) => Ok(held),
            Inflater::Gzip(mut decoder) => match decoder.try_finish() {
                Ok(()) => decoder.finish().map_err(|_| broken("gzip")),
                Err(_) => Err(decoder.get_mut().take_refusal().unwrap_or_else(|| broken("gzip"))),
            },
            Inflater::Deflate(zlib) if zlib.ended => Ok(zlib.held),
            Inflater::Deflate(_) => Err(broken("deflate")),
        }
    }
}

/// Inflates zlib's format. Not flate2's own writer, which does not notice an end that comes too early.
pub(super) struct Zlib {
    held: Held,
    state: Decompress,
    ended: bool,
}

impl Zlib {
    fn push(&mut self, mut data: &[u8]) -> Result<(), Error> {
        let mut step = [0; STEP_BYTES];
        loop {
            if self.ended {
                return if data.is_empty() { Ok(()) } else { Err(broken("deflate")) };
            }
            let (taken, made) = (self.state.total_in(), self.state.total_out());
            let status = self.state.decompress(data, &mut step, FlushDecompress::None);
            let advance = |from, to| usize::try_from(to - from).unwrap_or(usize::MAX);
            let (taken, made) = (advance(taken, self.state.total_in()), advance(made, self.state.total_out()));
            self.held.push(&step[..made])?;
            data = &data[taken..];
            match status {
                Ok(Status::StreamEnd) => self.ended = true,
                // A full step may have left something behind, even when all input is taken.
                Ok(Status::Ok | Status::BufError) if made == STEP_BYTES => {}
                Ok(Status::Ok | Status::BufError) if data.is_empty() => return Ok(()),
                Ok(Status::Ok | Status::BufError) if taken > 0 || made > 0 => {}
                Ok(Status::Ok | Status::BufError) | Err(_) => return Err(broken("deflate")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flate2::{Compress, FlushCompress};

    use super::*;
    use crate::{http::body::Allowance, wire::Budget};

    fn headers(name: hyper::header::HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a value"));
        headers
    }

    fn inflate(coding: Coding, body: &[u8], bytes_max: usize, step: usize) -> Result<Vec<u8>, Error> {
        let budget = Budget::new(1 << 20);
        let allowance = Allowance { bytes_max, timeout: Duration::from_secs(1), budget: &budget };
        let mut inflater = Inflater::new(coding, Held::new(allowance));
        for part in body.chunks(step) {
            inflater.push(Bytes::copy_from_slice(part))?;
        }
        inflater.finish().map(|held| held.as_ref().to_vec())
    }

    #[test]
    fn what_is_compressed_comes_back_in_steps_of_any_size() {
        // Some of it compresses to almost nothing, so that one step of input makes many of output.
        let text: Vec<u8> = (0..50_000_u32).flat_map(|n| (n / 9_000 * n).to_le_bytes()).collect();
        for coding in [Coding::Gzip, Coding::Deflate] {
            let (body, now) = coding.compress(text.clone());
            assert_eq!((now, body.len() < text.len()), (coding, true));
            for step in [1, 7, 1000, body.len()] {
                assert_eq!(inflate(coding, &body, text.len(), step).as_deref(), Ok(&text[..]), "{coding:?} {step}");
            }
            let error = inflate(coding, &body, text.len() - 1, 1000).expect_err("one byte too long");
            assert_eq!(error.reason(), "body_too_long");
            for end in [0, 1, 5, body.len() / 2, body.len() - 1] {
                let error = inflate(coding, &body[..end], text.len(), 1000).expect_err("cut off");
                assert_eq!(error.reason(), "bad_field", "{coding:?} {end}");
            }
            let error = inflate(coding, b"{\"inputs\":[]}", 100, 1000).expect_err("plain text");
            assert!(error.to_string().starts_with("Content-Encoding: "), "{error}");
            let longer = [&body[..], b"xxxxxxxxxxxxxxxxxxxxxxxxxx"].concat();
            assert!(inflate(coding, &longer, text.len(), 1000).is_err(), "{coding:?}");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let mut bomb = Vec::with_capacity(1 << 20);
        let mut state = Compress::new(Compression::best(), true);
        state.compress_vec(&vec![0; 64 << 20], &mut bomb, FlushCompress::Finish).expect("a stream");
        assert!(bomb.len() < 100_000);
        let error = inflate(Coding::Deflate, &bomb, 10_000, bomb.len()).expect_err("a bomb");
        assert_eq!(error.reason(), "body_too_long");
    }

    #[test]
    fn one_coding_is_taken_and_unknown_ones_are_refused() {
        let of = |value| Coding::of_request(&headers(CONTENT_ENCODING, value));
        assert_eq!(Coding::of_request(&HeaderMap::new()), Ok(Coding::Identity));
        assert_eq!(
            (of("GZIP"), of("deflate"), of("identity, gzip")),
            (Ok(Coding::Gzip), Ok(Coding::Deflate), of("gzip"))
        );
        for value in ["br", "zstd", "gzip, gzip", "gzip deflate"] {
            assert_eq!(of(value).expect_err(value).reason(), "wrong_content_encoding");
        }
    }

    #[test]
    fn the_reply_is_as_the_client_likes_it_best() {
        let of = |value| Coding::of_reply(&headers(ACCEPT_ENCODING, value));
        assert_eq!(Coding::of_reply(&HeaderMap::new()), Coding::Identity);
        for value in ["gzip", "deflate, gzip, br, zstd", "*", "deflate;q=0.5, gzip;q=0.5", "gzip;q=1.0, deflate;q=0.9"]
        {
            assert_eq!(of(value), Coding::Gzip, "{value}");
        }
        for value in ["deflate", "gzip;q=0, deflate", "gzip;q=0.1, deflate;q=0.9", "gzip;q=0, *", "gzip;q=0.1, *;q=0.9"]
        {
            assert_eq!(of(value), Coding::Deflate, "{value}");
        }
        for value in ["identity", "br", "gzip;q=0", "gzip;q=x", "", "*;q=0", "identity, gzip;q=0.5", "gzip;q=nan"] {
            assert_eq!(of(value), Coding::Identity, "{value}");
        }
    }

    #[test]
    fn short_replies_are_left_alone() {
        let short = vec![b' '; REPLY_BYTES_MIN - 1];
        assert_eq!(Coding::Gzip.compress(short.clone()), (short, Coding::Identity));
    }
}
