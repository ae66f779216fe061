//! Reading a request's body: whole, within a length, a time and a share of memory.
//!
//! A declared length over the limit is refused before a byte is read. Bytes are claimed from one [`Budget`] as they arrive, not as they
//! are declared: otherwise a few clients that declare much and send nothing would shut everyone else out. The body is held whole and not
//! parsed as it comes, because admission is all or none and nothing is gained by half a request. A compressed one is inflated as it comes,
//! and the limits hold for what it becomes.

use std::{io, mem, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    HeaderMap,
    body::{Body, Incoming},
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::coding::{Coding, Inflater};
use crate::wire::{Budget, Claim, ClientError, Error};

/// How much may be read, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance<'a> {
    /// The longest body.
    pub(super) bytes_max: usize,
    /// The longest wait for its end.
    pub(super) timeout: Duration,
    /// Where its bytes are claimed.
    pub(super) budget: &'a Budget,
}

/// A whole body and its claim on the budget.
#[derive(Debug)]
pub(super) struct Held {
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
    /// Nothing yet.
    pub(super) fn new(allowance: Allowance<'_>) -> Self {
        let Allowance { bytes_max, budget, .. } = allowance;
        Held { first: Bytes::new(), bytes: Vec::new(), bytes_max, claim: budget.claim(), refusal: None }
    }

    /// Takes a part as it arrived, if it fits.
    pub(super) fn take(&mut self, data: Bytes) -> Result<(), Error> {
        if !self.as_ref().is_empty() {
            return self.push(&data);
        }
        self.claim(data.len())?;
        self.first = data;
        Ok(())
    }

    /// Takes a copy of more, if it fits.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<(), Error> {
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
    pub(super) fn take_refusal(&mut self) -> Option<Error> {
        self.refusal.take()
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

/// A body that may be read, once.
#[derive(Debug)]
pub(super) struct Inbound {
    incoming: Incoming,
    spent: bool,
}

impl Inbound {
    /// Nothing is read yet.
    pub(super) fn new(incoming: Incoming) -> Self {
        let spent = incoming.is_end_stream();
        Inbound { incoming, spent }
    }

    /// Whether all of it has been read; if not, the connection cannot carry another request.
    pub(super) const fn is_spent(&self) -> bool {
        self.spent
    }

    /// Reads it to its end.
    pub(super) async fn read(&mut self, headers: &HeaderMap, allowance: Allowance<'_>) -> Result<Held, Error> {
        if !has_body(headers) {
            return Err(ClientError::NoLength.into());
        }
        let coding = Coding::of_request(headers)?;
        let declared = self.incoming.size_hint().lower();
        if usize::try_from(declared).map_or(true, |declared| declared > allowance.bytes_max) {
            return Err(ClientError::BodyTooLong { bytes_max: allowance.bytes_max }.into());
        }
        let timeout = allowance.timeout;
        let read = tokio::time::timeout(timeout, self.collect(allowance, coding)).await;
        read.unwrap_or_else(|_| Err(ClientError::Timeout(timeout).into()))
    }

    async fn collect(&mut self, allowance: Allowance<'_>, coding: Coding) -> Result<Held, Error> {
        let mut inflater = Inflater::new(coding, Held::new(allowance));
        let mut arrived = 0_usize;
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|_| ClientError::BrokenBody)?;
            let Ok(data) = frame.into_data() else { continue };
            // Compressed bytes may become nothing at all, and are still read.
            arrived = arrived.saturating_add(data.len());
            if arrived > allowance.bytes_max {
                return Err(ClientError::BodyTooLong { bytes_max: allowance.bytes_max }.into());
            }
            inflater.push(data)?;
        }
        self.spent = true;
        inflater.finish()
    }
}

/// Whether a request says that it has a body.
pub(super) fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING)
}
