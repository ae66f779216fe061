//! Which compression a request has and a reply gets: gzip and deflate, both ways. [`Inflater`](crate::wire::Inflater) undoes the former.
//!
//! A reply is compressed if its client asks, and only from [`REPLY_BYTES_MIN`] on: many HTTP libraries ask for gzip without being told to,
//! and compressing a reply of ten values takes longer than sending it.

use std::io::{self, Write};

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use hyper::{
    HeaderMap,
    header::{ACCEPT_ENCODING, AsHeaderName, CONTENT_ENCODING},
};

use crate::wire::{ClientError, Coding, cut};

/// Shorter replies are sent as they are.
const REPLY_BYTES_MIN: usize = 1024;

impl Coding {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: hyper::header::HeaderName, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a value"));
        headers
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
