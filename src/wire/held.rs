//! A body or message, held until it is whole: within a length, and claimed from a budget as it comes.

use std::{io, mem};

use bytes::Bytes;

use super::{Budget, Claim, ClientError, Error};

/// A first part that is at least so long stays in the buffer it came in: most of that is its own. A shorter one is copied, because a client that sends a
/// byte would hold hundreds of times what is claimed for it.
const LONG: usize = 8 * 1024;

/// What has come, and its claim on the budget.
#[derive(Debug)]
pub(crate) struct Held {
    /// What came first; all of it, as a rule, and then nothing is copied.
    first: Bytes,
    /// Everything, once there is more than that.
    bytes: Vec<u8>,
    bytes_max: usize,
    claim: Claim,
    /// Why it takes no more; told apart from it by whoever writes through a decoder, which knows only of failed writes.
    refusal: Option<Error>,
}

impl Held {
    /// Nothing yet, and at most `bytes_max`.
    pub(crate) fn new(bytes_max: usize, budget: &Budget) -> Self {
        Held { first: Bytes::new(), bytes: Vec::new(), bytes_max, claim: budget.claim(), refusal: None }
    }

    /// Takes a part as it arrived, if it fits.
    pub(crate) fn take(&mut self, data: Bytes) -> Result<(), Error> {
        if data.len() < LONG || !self.as_ref().is_empty() {
            return self.push(&data);
        }
        self.claim(data.len())?;
        self.first = data;
        Ok(())
    }

    /// Takes a copy of more, if it fits.
    pub(crate) fn push(&mut self, data: &[u8]) -> Result<(), Error> {
        self.claim(data.len())?;
        self.bytes.extend_from_slice(&mem::take(&mut self.first));
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    fn claim(&mut self, bytes: usize) -> Result<(), Error> {
        if bytes > self.bytes_max - self.as_ref().len() {
            return Err(ClientError::BodyTooLong { bytes_max: self.bytes_max }.into());
        }
        self.claim.grow(bytes)
    }

    /// Why a write failed.
    pub(crate) fn take_refusal(&mut self) -> Option<Error> {
        self.refusal.take()
    }

    /// All of it, and the claim, which is to live as long.
    pub(crate) fn into_bytes(self) -> (Bytes, Claim) {
        let bytes = if self.bytes.is_empty() { self.first } else { self.bytes.into() };
        (bytes, self.claim)
    }
}

impl io::Write for Held {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self.push(data) {
            Ok(()) => Ok(data.len()),
            Err(error) => {
                self.refusal = Some(error);
                Err(io::ErrorKind::StorageFull.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        if self.bytes.is_empty() { &self.first } else { &self.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Crowd;

    #[test]
    fn a_short_part_does_not_keep_the_buffer_it_came_in_and_a_long_one_is_not_copied() {
        let buffer = Bytes::from(vec![7; 1 << 20]);
        let budget = Budget::new(1 << 20);
        let mut held = Held::new(1 << 20, &budget);
        held.take(buffer.slice(..1)).expect("it fits");
        assert!(buffer.is_unique(), "nothing else looks into it");
        drop(held);
        let mut held = Held::new(1 << 20, &budget);
        held.take(buffer.slice(1..)).expect("it fits");
        assert!(!buffer.is_unique());
        held.take(Bytes::from_static(b"x")).expect("the last that fits");
        assert!(buffer.is_unique(), "both are in one piece");
        let error = held.take(Bytes::from_static(b"x")).expect_err("one too many");
        assert_eq!(error.reason(), "body_too_long");
        let (bytes, claim) = held.into_bytes();
        assert_eq!((bytes.len(), &bytes[bytes.len() - 2..]), (1 << 20, &b"\x07x"[..]));
        assert_eq!(Held::new(9, &budget).push(&[0]), Err(Crowd::Bodies.into()), "the claim lives on");
        drop(claim);
        assert_eq!(Held::new(9, &budget).push(&[0]), Ok(()));
    }
}
