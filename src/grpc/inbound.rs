//! A call's body, bounded: each message is held here until it is whole; the message of a call that has only one, until the call is.
//!
//! tonic reserves the length that a message declares before it has arrived, so that a few clients could reserve all memory with five bytes each. Here
//! a declared length over the limit is refused at once, the bytes that arrive are claimed from one budget, the wait from a message's first byte
//! to its last is bounded, and only a whole message goes on to be decoded. What a compressed one becomes, tonic bounds itself; it is there for as long as it
//! takes to make rows of it, because nothing that tonic would wait for is still to come.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Sleep;
use tonic::Status;

use super::{Caller, Shared, parts::Parts, status::status};
use crate::wire::{Claim, ClientError, Error};

/// Bytes before each message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// A body that hands out whole messages.
pub(super) struct Inbound {
    body: tonic::body::Body,
    shared: Arc<Shared>,
    caller: Caller,
    claim: Claim,
    /// Where in a message the last byte was.
    place: Place,
    /// Parts of a message that is not whole; of a call with one message, all that has come.
    held: Parts,
    held_bytes: usize,
    /// Parts of whole messages.
    ready: Parts,
    /// Claimed for what has been handed out.
    spent: usize,
    patience: Option<Pin<Box<Sleep>>>,
    is_stream: bool,
    over: bool,
}

/// How much of a message has come.
#[derive(Clone, Copy, Default, Debug)]
struct Place {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    body_left: usize,
}

impl Place {
    /// Moves on by `data`; gives how much of it belongs to messages that are whole.
    fn walk(&mut self, data: &[u8], bytes_max: usize) -> Result<usize, ClientError> {
        let (mut at, mut whole) = (0, 0);
        while at < data.len() {
            if self.head_bytes < HEAD_BYTES {
                self.head[self.head_bytes] = data[at];
                self.head_bytes += 1;
                at += 1;
                if self.head_bytes == HEAD_BYTES {
                    let [_, a, b, c, d] = self.head;
                    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                    if length > bytes_max {
                        return Err(ClientError::BodyTooLong { bytes_max });
                    }
                    self.body_left = length;
                }
            } else {
                let step = self.body_left.min(data.len() - at);
                self.body_left -= step;
                at += step;
            }
            if self.head_bytes == HEAD_BYTES && self.body_left == 0 {
                *self = Place::default();
                whole = at;
            }
        }
        Ok(whole)
    }
}

impl Inbound {
    /// `body`, of which nothing has been read. A call with one message must send it in time; a stream may rest between two.
    pub(super) fn new(body: tonic::body::Body, shared: Arc<Shared>, caller: Caller, is_stream: bool) -> Self {
        let claim = shared.budget.claim();
        let patience = (!is_stream).then(|| Box::pin(tokio::time::sleep(shared.site.limits.body_timeout)));
        Inbound {
            body,
            shared,
            caller,
            claim,
            place: Place::default(),
            held: Parts::default(),
            held_bytes: 0,
            ready: Parts::default(),
            spent: 0,
            patience,
            is_stream,
            over: false,
        }
    }

    /// Takes a part as it arrived.
    fn take(&mut self, mut data: Bytes) -> Result<(), Error> {
        let limits = self.shared.site.limits;
        let bytes_max = limits.body_bytes_max(&self.shared.site.signature);
        self.claim.grow(data.len())?;
        let whole = self.place.walk(&data, bytes_max)?;
        if !self.is_stream {
            self.held_bytes += data.len();
            self.held.push(data);
            let too_long = self.held_bytes > bytes_max + HEAD_BYTES;
            return if too_long { Err(ClientError::BodyTooLong { bytes_max }.into()) } else { Ok(()) };
        }
        if whole > 0 {
            self.patience = None;
            self.ready.append(&mut self.held);
            self.ready.push(data.split_to(whole));
        }
        if !data.is_empty() {
            self.held.push(data);
            self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits.body_timeout)));
        }
        Ok(())
    }

    /// Nothing follows. Of a call with one message, what is held is whole now.
    fn last(&mut self) -> Result<(), ClientError> {
        if self.place.head_bytes > 0 {
            return Err(ClientError::BrokenBody);
        }
        self.over = true;
        self.patience = None;
        self.ready.append(&mut self.held);
        Ok(())
    }

    /// The next part of a whole message; what was handed out before it is claimed no more.
    fn next(&mut self) -> Option<Bytes> {
        let data = self.ready.pop();
        self.claim.shrink(self.spent);
        self.spent = data.as_ref().map_or(0, Bytes::len);
        data
    }

    fn end(&mut self, error: impl Into<Error>) -> Status {
        self.over = true;
        let error = error.into();
        self.shared.unanswered(&self.caller, &error);
        status(&error)
    }
}

impl http_body::Body for Inbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(data) = self.next() {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            if self.over {
                return Poll::Ready(None);
            }
            if let Some(patience) = &mut self.patience
                && patience.as_mut().poll(context).is_ready()
            {
                let timeout = self.shared.site.limits.body_timeout;
                return Poll::Ready(Some(Err(self.end(ClientError::Timeout(timeout)))));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => {
                    if let Err(error) = self.last() {
                        return Poll::Ready(Some(Err(self.end(error))));
                    }
                }
                Some(Err(status)) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(status)));
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        if let Err(error) = self.take(data) {
                            return Poll::Ready(Some(Err(self.end(error))));
                        }
                    }
                    // Requests have none that mean anything, and the end follows.
                    Err(_trailers) => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_wherever_they_are_cut() {
        // Of 0, 3 and 1 bytes.
        let bytes = [0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 7, 7, 7, 0, 0, 0, 0, 1, 9];
        let ends = [5, 13, 19];
        for cut in 0..bytes.len() {
            let mut place = Place::default();
            let (first, rest) = bytes.split_at(cut);
            let before = place.walk(first, 3).expect("short ones");
            assert_eq!(before, ends.iter().copied().filter(|&end| end <= cut).max().unwrap_or(0));
            assert_eq!(place.walk(rest, 3), Ok(rest.len()), "cut at {cut}");
        }
        let mut place = Place::default();
        assert_eq!(place.walk(&bytes, 2), Err(ClientError::BodyTooLong { bytes_max: 2 }));
    }
}
