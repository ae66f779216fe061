//! Reading a request's body: whole, within a length, a time and a share of memory.
//!
//! A declared length over the limit is refused before a byte is read. Bytes are claimed from one [`Budget`] as they arrive, not as they
//! are declared: otherwise a few clients that declare much and send nothing would shut everyone else out. The body is held whole and not
//! parsed as it comes, because admission is all or none and nothing is gained by half a request. A compressed one is inflated as it comes,
//! and the limits hold for what it becomes.
//!
//! A connection has something to answer once a request is whole, and not before: otherwise a byte of a body each would keep as many places as
//! there are for as long as a body may take. Where the place is needed meanwhile, the request is refused as one for which there is no room.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::{
    HeaderMap,
    body::{Body, Incoming},
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};

use crate::wire::{Activity, Arriving, Budget, Busy, ClientError, Coding, Crowd, Error, Held, Inflater};

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

/// A body that may be read, once.
#[derive(Debug)]
pub(super) struct Inbound {
    incoming: Incoming,
    spent: bool,
    activity: Activity,
    /// A part of its request has come, until that is whole or refused.
    arriving: Option<Arriving>,
    /// There is something to answer.
    busy: Option<Busy>,
}

impl Inbound {
    /// Nothing is read yet.
    pub(super) fn new(incoming: Incoming, activity: Activity) -> Self {
        let spent = incoming.is_end_stream();
        let (busy, arriving) = (spent.then(|| activity.busy()), (!spent).then(|| activity.arriving()));
        Inbound { incoming, spent, activity, arriving, busy }
    }

    /// What its request is until its reply is gone.
    pub(super) fn busy(self) -> Busy {
        self.busy.unwrap_or_else(|| self.activity.busy())
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
        if headers.get_all(TRANSFER_ENCODING).iter().any(|told| !told.as_bytes().eq_ignore_ascii_case(b"chunked")) {
            return Err(ClientError::field("Transfer-Encoding", "chunked alone is known").into());
        }
        let coding = Coding::of_request(headers)?;
        let declared = self.incoming.size_hint().lower();
        if usize::try_from(declared).map_or(true, |declared| declared > coding.arrives_max(allowance.bytes_max)) {
            return Err(ClientError::BodyTooLong { bytes_max: allowance.bytes_max }.into());
        }
        let arriving = self.arriving.take().unwrap_or_else(|| self.activity.arriving());
        let read = tokio::select! {
            biased;
            read = self.collect(allowance, coding) => read,
            () = arriving.is_too_late() => Err(Crowd::Connections.into()),
            () = tokio::time::sleep(allowance.timeout) => Err(ClientError::Timeout(allowance.timeout).into()),
        };
        // In this order, or it would seem to rest between the two.
        self.busy.get_or_insert_with(|| self.activity.busy());
        drop(arriving);
        read
    }

    async fn collect(&mut self, allowance: Allowance<'_>, coding: Coding) -> Result<Held, Error> {
        let held = Held::new(allowance.bytes_max, allowance.budget);
        let mut inflater = Inflater::new(coding, "Content-Encoding", held);
        while let Some(frame) = self.incoming.frame().await {
            let frame = frame.map_err(|_| ClientError::BrokenBody)?;
            let Ok(mut data) = frame.into_data() else { continue };
            while !data.is_empty() {
                inflater.step(&mut data)?;
                if inflater.works() {
                    tokio::task::yield_now().await;
                }
            }
        }
        self.spent = true;
        inflater.finish()
    }
}

/// Whether a request says that it has a body.
pub(super) fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING)
}
