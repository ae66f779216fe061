//! What comes compressed, inflated as it arrives: gzip and deflate, the same for bodies of HTTP and messages of gRPC.
//!
//! It goes into a [`Held`] that stops at the longest body, so that a bomb costs no more memory than an honest request. What is cut off is
//! refused, too. `deflate` is the format with zlib's header, as HTTP defines it and clients send it.
//!
//! A bomb may as well be one of time: ten bits can be a block of nothing, which takes microseconds to read, and a body of them takes minutes. So
//! what arrives may be longer than what it becomes by no more than a little ([`Coding::arrives_max`]), which nobody who compresses comes near; and whoever inflates
//! goes step by step, of so much taken or made, and lets others have their turns in between.

use std::{io::Write, mem};

use bytes::{Buf, Bytes};
use flate2::{Decompress, FlushDecompress, Status, write::MultiGzDecoder};

use super::{ClientError, Error, Held};

/// Bytes that are taken in a step at most.
const STEP_BYTES: usize = 16 * 1024;
/// After so many bytes made a step takes no more; the last part of it may become a thousand times its length.
const STEP_MADE: usize = 256 * 1024;
/// Bytes that are inflated at a time.
const PART_BYTES: usize = 1024;
/// By how much what has arrived may be longer than what has been made of it, and by which part of that. A decoder keeps half of the first to itself; noise
/// becomes longer by a three-thousandth.
const WASTE_MAX: usize = 64 * 1024;
const WASTE_SHARE: usize = 256;

/// How a body or message is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coding {
    /// Not at all.
    Identity,
    Gzip,
    Deflate,
}

impl Coding {
    /// The one of that name; both protocols have the same names.
    pub(crate) fn named(word: &str) -> Option<Self> {
        let is = |name| word.eq_ignore_ascii_case(name);
        Some(match () {
            () if is("identity") => Coding::Identity,
            () if is("gzip") || is("x-gzip") => Coding::Gzip,
            () if is("deflate") => Coding::Deflate,
            () => return None,
        })
    }

    /// How many bytes may arrive that become so many.
    pub(crate) const fn arrives_max(self, bytes: usize) -> usize {
        match self {
            Coding::Identity => bytes,
            Coding::Gzip | Coding::Deflate => bytes.saturating_add(bytes / WASTE_SHARE).saturating_add(WASTE_MAX),
        }
    }

    /// Its name, if it is one of compression.
    pub(crate) const fn as_str(self) -> Option<&'static str> {
        match self {
            Coding::Identity => None,
            Coding::Gzip => Some("gzip"),
            Coding::Deflate => Some("deflate"),
        }
    }
}

/// Takes a body as it arrives and holds it as it was before it was compressed.
pub(crate) struct Inflater {
    coding: Coding,
    state: State,
    arrived: usize,
    /// The header that told the compression.
    header: &'static str,
}

enum State {
    Identity(Held),
    Gzip(Box<MultiGzDecoder<Held>>),
    Deflate(Box<Zlib>),
}

impl Inflater {
    /// Nothing has arrived in `held` of a body that `header` says to be so compressed.
    pub(crate) fn new(coding: Coding, header: &'static str, held: Held) -> Self {
        let state = match coding {
            Coding::Identity => State::Identity(held),
            Coding::Gzip => State::Gzip(Box::new(MultiGzDecoder::new(held))),
            Coding::Deflate => State::Deflate(Box::new(Zlib { held, state: Decompress::new(true), ended: false })),
        };
        Inflater { coding, state, arrived: 0, header }
    }

    /// Whether a step takes so long that others should have a turn before the next.
    pub(crate) const fn works(&self) -> bool {
        !matches!(self.coding, Coding::Identity)
    }

    /// Takes what has arrived off `data`: all of it, or as much as is inflated in a step.
    pub(crate) fn step(&mut self, data: &mut Bytes) -> Result<(), Error> {
        if let State::Identity(held) = &mut self.state {
            return held.take(mem::take(data));
        }
        let (mut taken, before) = (0, self.made());
        while !data.is_empty() && taken < STEP_BYTES && self.made() - before < STEP_MADE {
            let part = data.split_to(data.len().min(PART_BYTES));
            taken += part.len();
            self.inflate(part)?;
        }
        Ok(())
    }

    /// Takes a part of what is compressed.
    fn inflate(&mut self, part: Bytes) -> Result<(), Error> {
        self.arrived = self.arrived.saturating_add(part.len());
        match &mut self.state {
            State::Identity(held) => held.take(part)?,
            State::Gzip(decoder) => {
                let written = decoder.write_all(&part);
                written.map_err(|_| decoder.get_mut().take_refusal().unwrap_or_else(|| broken("gzip", self.header)))?;
            }
            State::Deflate(zlib) => {
                zlib.push(part).map_err(|error| error.unwrap_or_else(|| broken("deflate", self.header)))?;
            }
        }
        let (arrived, made) = (self.arrived, self.made());
        if arrived > self.coding.arrives_max(made) {
            let problem = format!("{arrived} bytes were sent for {made}: compress it as a whole, or not at all");
            return Err(ClientError::field(self.header, problem).into());
        }
        Ok(())
    }

    /// Bytes that it has become so far.
    fn made(&self) -> usize {
        match &self.state {
            State::Identity(held) => held.as_ref().len(),
            State::Gzip(decoder) => decoder.get_ref().as_ref().len(),
            State::Deflate(zlib) => zlib.held.as_ref().len(),
        }
    }

    /// The body is over.
    pub(crate) fn finish(self) -> Result<Held, Error> {
        match self.state {
            State::Identity(held) => Ok(held),
            State::Gzip(mut decoder) => match decoder.try_finish() {
                Ok(()) => decoder.finish().map_err(|_| broken("gzip", self.header)),
                Err(_) => Err(decoder.get_mut().take_refusal().unwrap_or_else(|| broken("gzip", self.header))),
            },
            State::Deflate(zlib) if zlib.ended => Ok(zlib.held),
            State::Deflate(_) => Err(broken("deflate", self.header)),
        }
    }
}

/// The body is not what its header says, or ends too early.
fn broken(coding: &str, header: &'static str) -> Error {
    ClientError::field(header, format!("the body is no whole {coding}")).into()
}

/// Inflates zlib's format. Not flate2's own writer, which does not notice an end that comes too early.
struct Zlib {
    held: Held,
    state: Decompress,
    ended: bool,
}

impl Zlib {
    /// Takes more; without an error of its own, what came is not zlib's format.
    fn push(&mut self, mut data: Bytes) -> Result<(), Option<Error>> {
        let mut step = [0; STEP_BYTES];
        loop {
            if self.ended {
                return if data.is_empty() { Ok(()) } else { Err(None) };
            }
            let (taken, made) = (self.state.total_in(), self.state.total_out());
            let status = self.state.decompress(&data, &mut step, FlushDecompress::None);
            let advance = |from, to| usize::try_from(to - from).unwrap_or(usize::MAX);
            let (taken, made) = (advance(taken, self.state.total_in()), advance(made, self.state.total_out()));
            self.held.push(&step[..made])?;
            data.advance(taken);
            match status {
                Ok(Status::StreamEnd) => self.ended = true,
                // A full step may have left something behind, even when all input is taken.
                Ok(Status::Ok | Status::BufError) if made == STEP_BYTES => {}
                Ok(Status::Ok | Status::BufError) if data.is_empty() => return Ok(()),
                Ok(Status::Ok | Status::BufError) if taken > 0 || made > 0 => {}
                Ok(Status::Ok | Status::BufError) | Err(_) => return Err(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{
        Compress, Compression, FlushCompress,
        write::{GzEncoder, ZlibEncoder},
    };

    use super::*;
    use crate::wire::Budget;

    fn compressed(coding: Coding, text: &[u8]) -> Vec<u8> {
        let write = |encoder: &mut dyn Write| encoder.write_all(text).expect("to memory");
        match coding {
            Coding::Identity => text.to_vec(),
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                write(&mut encoder);
                encoder.finish().expect("to memory")
            }
            Coding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                write(&mut encoder);
                encoder.finish().expect("to memory")
            }
        }
    }

    fn inflate(coding: Coding, body: &[u8], bytes_max: usize, step: usize) -> Result<Vec<u8>, Error> {
        let budget = Budget::new(1 << 20);
        let mut inflater = Inflater::new(coding, "Content-Encoding", Held::new(bytes_max, &budget));
        for part in body.chunks(step) {
            let mut part = Bytes::copy_from_slice(part);
            while !part.is_empty() {
                inflater.step(&mut part)?;
            }
        }
        inflater.finish().map(|held| held.as_ref().to_vec())
    }

    #[test]
    fn what_is_compressed_comes_back_in_steps_of_any_size() {
        // Some of it compresses to almost nothing, so that one step of input makes many of output.
        let text: Vec<u8> = (0..50_000_u32).flat_map(|n| (n / 9_000 * n).to_le_bytes()).collect();
        for coding in [Coding::Gzip, Coding::Deflate] {
            let body = compressed(coding, &text);
            assert!(body.len() < text.len());
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

    /// As many zeros, of a thousandth of their length.
    fn bomb(bytes: usize) -> Vec<u8> {
        let mut bomb = Vec::with_capacity(1 << 20);
        let mut state = Compress::new(Compression::best(), true);
        state.compress_vec(&vec![0; bytes], &mut bomb, FlushCompress::Finish).expect("a stream");
        assert!(bomb.len() < bytes / 600);
        bomb
    }

    #[test]
    fn a_step_is_short_whatever_becomes_of_it() {
        let budget = Budget::new(64 << 20);
        for (coding, body) in
            [(Coding::Deflate, bomb(64 << 20)), (Coding::Gzip, compressed(Coding::Gzip, &vec![0; 32 << 20]))]
        {
            let mut inflater = Inflater::new(coding, "Content-Encoding", Held::new(64 << 20, &budget));
            let (mut left, mut made) = (Bytes::from(body), 0);
            while !left.is_empty() {
                inflater.step(&mut left).expect("it fits");
                let step = inflater.made() - made;
                made += step;
                assert!(step <= STEP_MADE + 1040 * PART_BYTES, "{coding:?}: {step} bytes at once");
            }
            assert!(made >= 32 << 20 >> 1);
        }
    }

    /// zlib adds 320 bytes to each MiB of noise.
    #[test]
    fn noise_of_any_length_is_honest() {
        for mib in [1, 200, 2000] {
            assert!(Coding::Gzip.arrives_max(mib << 20) > (mib << 20) + 400 * mib);
        }
        assert_eq!(Coding::Identity.arrives_max(7), 7);
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = bomb(64 << 20);
        let error = inflate(Coding::Deflate, &bomb, 10_000, bomb.len()).expect_err("a bomb");
        assert_eq!(error.reason(), "body_too_long");
    }

    /// Both take far more time than memory.
    #[test]
    fn what_becomes_nothing_is_refused_before_much_of_it_is_read() {
        // Four blocks of ten bits: not the last, of fixed codes, and ended at once.
        let blocks = [0x02, 0x08, 0x20, 0x80, 0x00].repeat(100_000);
        let nothing = [&[0x78, 0x01][..], &blocks, &[0x01, 0, 0, 0xff, 0xff, 0, 0, 0, 1]].concat();
        let members = compressed(Coding::Gzip, b"").repeat(20_000);
        for (coding, body) in [(Coding::Deflate, nothing), (Coding::Gzip, members)] {
            let error = inflate(coding, &body, 1 << 20, body.len()).expect_err("nothing is made of it");
            assert!(error.to_string().starts_with("Content-Encoding: 66560 bytes were sent for 0"), "{error}");
        }
        // What cannot be compressed becomes longer, and is honest.
        let mut seed = 1_u32;
        let noise = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed.to_be_bytes()[0]
        });
        let noise: Vec<u8> = noise.take(1 << 19).collect();
        for coding in [Coding::Gzip, Coding::Deflate] {
            let body = compressed(coding, &noise);
            assert!(body.len() > noise.len());
            assert_eq!(inflate(coding, &body, noise.len(), body.len()).as_deref(), Ok(&noise[..]));
        }
    }
}
