//! A call's body, bounded: each message is held here until it is whole, inflated; the message of a call that has only one, until the call is.
//!
//! tonic reserves the length that a message declares before it has arrived, so that a few clients could reserve all memory with five bytes each; it
//! inflates a message in one go, whatever waits meanwhile; and it keeps the memory of a stream's longest message for as long as the stream
//! lasts. Here a declared length over the limit is refused at once, the bytes that arrive or are inflated are claimed from one budget, the wait from a
//! message's first byte to its last is bounded, and only a whole message goes on to be decoded: to tonic as if it had come so, as a [`Body`], or, of a
//! stream of requests, to whoever asks for the next [`message`](Inbound::message), so that a stream which rests holds nothing.

use std::{
    future::{Future, pending, poll_fn},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tonic::{Code, Status};

use super::{Caller, Shared, codec::decode, proto::inference::ModelInferRequest, replies::Asked, status::status};
use crate::wire::{Arriving, Claim, ClientError, Coding, Crowd, Error, Held, Inflater};

/// Bytes before each message: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;
/// The header that tells how messages are compressed, those that are.
pub(super) const ENCODING: &str = "grpc-encoding";

/// What a call's messages are like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Messages {
    /// Whether there may be more than one.
    pub(super) is_stream: bool,
    /// The longest, as it was before it was compressed.
    pub(super) bytes_max: usize,
    /// How those that are compressed are; [`Coding::Identity`] if none may be.
    pub(super) coding: Coding,
}

/// A body that hands out whole messages.
pub(super) struct Inbound {
    body: tonic::body::Body,
    shared: Arc<Shared>,
    caller: Caller,
    messages: Messages,
    asked: Asked,
    /// What has arrived and was not looked at.
    data: Bytes,
    head: Head,
    /// The message that arrives, once its head has.
    partial: Option<Partial>,
    /// The one message of a call that is not whole.
    whole: Option<Held>,
    too_late: Option<TooLate>,
    over: bool,
    out: Out,
}

/// Resolves when what arrives has taken too long, and to what that is.
type TooLate = Pin<Box<dyn Future<Output = Error> + Send>>;

/// Ends with `timeout`, or because of somebody who needs the place of what is `arriving`.
fn too_late(timeout: Duration, arriving: Option<Arriving>) -> TooLate {
    Box::pin(async move {
        let needed = async {
            match &arriving {
                Some(arriving) => arriving.is_too_late().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(timeout) => ClientError::Timeout(timeout).into(),
            () = needed => Crowd::Connections.into(),
        }
    })
}

/// As much as has come of what is before a message.
#[derive(Clone, Copy, Default, Debug)]
struct Head {
    bytes: [u8; HEAD_BYTES],
    length: usize,
}

/// A message of which so many bytes are to come.
struct Partial {
    inflater: Inflater,
    left: usize,
}

/// What a [`Body`] has handed out of a message, and what it has not.
#[derive(Default)]
struct Out {
    next: Bytes,
    claim: Option<Claim>,
}

impl Head {
    /// Takes what is its own off `data`; gives the message's flag and length once they are there.
    fn take(&mut self, data: &mut Bytes) -> Option<(u8, usize)> {
        let part = data.split_to((HEAD_BYTES - self.length).min(data.len()));
        self.bytes[self.length..self.length + part.len()].copy_from_slice(&part);
        self.length += part.len();
        if self.length < HEAD_BYTES {
            return None;
        }
        let [flag, a, b, c, d] = mem::take(self).bytes;
        Some((flag, usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX)))
    }
}

impl Inbound {
    /// `body`, of which nothing has been read. A call with one message must send it in time; a stream may rest between two.
    pub(super) fn new(
        body: tonic::body::Body,
        shared: Arc<Shared>,
        caller: Caller,
        messages: Messages,
        asked: Asked,
    ) -> Self {
        if messages.is_stream {
            asked.whole();
        }
        let timeout = shared.site.limits.body_timeout;
        let too_late = (!messages.is_stream).then(|| too_late(timeout, Some(asked.arriving())));
        Inbound {
            body,
            shared,
            caller,
            messages,
            asked,
            data: Bytes::new(),
            head: Head::default(),
            partial: None,
            whole: None,
            too_late,
            over: false,
            out: Out::default(),
        }
    }

    /// The next request of a stream of them.
    pub(super) async fn message(&mut self) -> Result<Option<ModelInferRequest>, Status> {
        match poll_fn(|context| self.poll_message(context)).await {
            None => Ok(None),
            Some(Ok(held)) => {
                let (bytes, _claim) = held.into_bytes();
                decode(bytes).map(Some)
            }
            // The client has left.
            Some(Err(status)) if status.code() == Code::Cancelled => Ok(None),
            Some(Err(status)) => Err(status),
        }
    }

    /// The next whole message.
    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Held, Status>>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            if let Some(too_late) = &mut self.too_late
                && let Poll::Ready(error) = too_late.as_mut().poll(context)
            {
                return Poll::Ready(Some(Err(self.end(error))));
            }
            if !self.data.is_empty() {
                match self.step() {
                    Ok(Step::Whole(held)) => return Poll::Ready(Some(Ok(held))),
                    Ok(Step::Quick) => continue,
                    Ok(Step::Long) => {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Err(error) => return Poll::Ready(Some(Err(self.end(error)))),
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                None => return Poll::Ready(self.last().map_err(|error| self.end(error)).transpose()),
                Some(Err(status)) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(status)));
                }
                // Trailers of a request mean nothing, and the end follows.
                Some(Ok(frame)) => self.data = frame.into_data().unwrap_or_default(),
            }
        }
    }

    /// Goes on through what has arrived.
    fn step(&mut self) -> Result<Step, Error> {
        if self.whole.is_some() {
            return Err(ClientError::field("message", "a call of this method has one, and no more").into());
        }
        if self.messages.is_stream {
            let timeout = self.shared.site.limits.body_timeout;
            self.too_late.get_or_insert_with(|| too_late(timeout, None));
        }
        let mut partial = match self.partial.take() {
            Some(partial) => partial,
            None => match self.head.take(&mut self.data) {
                Some(head) => self.begin(head)?,
                None => return Ok(Step::Quick),
            },
        };
        let part = self.data.slice(..partial.left.min(self.data.len()));
        let mut unread = part.clone();
        partial.inflater.step(&mut unread)?;
        let read = part.len() - unread.len();
        self.data.advance(read);
        partial.left -= read;
        let is_long = partial.inflater.works();
        if partial.left > 0 {
            self.partial = Some(partial);
            return Ok(if is_long { Step::Long } else { Step::Quick });
        }
        let held = partial.inflater.finish()?;
        if self.messages.is_stream {
            self.too_late = None;
            return Ok(Step::Whole(held));
        }
        self.whole = Some(held);
        Ok(Step::Quick)
    }

    /// A message of which the head has come.
    fn begin(&self, (flag, length): (u8, usize)) -> Result<Partial, Error> {
        let Messages { bytes_max, coding, .. } = self.messages;
        let coding = match (flag, coding) {
            (0, _) => Coding::Identity,
            (1, Coding::Gzip | Coding::Deflate) => coding,
            (1, Coding::Identity) => {
                return Err(ClientError::field(ENCODING, "missing, and a message says that it is compressed").into());
            }
            (flag, _) => return Err(ClientError::field("message", format!("begins with {flag}, not 0 or 1")).into()),
        };
        if length > coding.arrives_max(bytes_max) {
            return Err(ClientError::BodyTooLong { bytes_max }.into());
        }
        let held = Held::new(bytes_max, &self.shared.budget);
        Ok(Partial { inflater: Inflater::new(coding, ENCODING, held), left: length })
    }

    /// Nothing follows. Of a call with one message, what is held is whole now.
    fn last(&mut self) -> Result<Option<Held>, ClientError> {
        if self.head.length > 0 || self.partial.is_some() {
            return Err(ClientError::BrokenBody);
        }
        self.is_over();
        Ok(self.whole.take())
    }

    /// Nothing more is read, and there is something to answer.
    fn is_over(&mut self) {
        self.over = true;
        // In this order, or the connection would seem to rest between the two.
        self.asked.whole();
        self.too_late = None;
    }

    fn end(&mut self, error: impl Into<Error>) -> Status {
        self.is_over();
        let error = error.into();
        self.shared.unanswered(&self.caller, &error);
        status(&error)
    }
}

/// What came of a look at what has arrived.
enum Step {
    /// A message that may go on.
    Whole(Held),
    /// Nothing yet.
    Quick,
    /// Nothing yet, and others should have their turn.
    Long,
}

/// As tonic takes them: each with its head, and never compressed. What was handed out before is claimed no more.
impl Body for Inbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.out.next.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(mem::take(&mut self.out.next)))));
        }
        self.out.claim = None;
        let message = match ready!(self.poll_message(context)) {
            Some(Ok(message)) => message,
            Some(Err(status)) => return Poll::Ready(Some(Err(status))),
            None => return Poll::Ready(None),
        };
        let (bytes, claim) = message.into_bytes();
        let length = u32::try_from(bytes.len()).expect("a longer one is refused");
        let head = [&[0][..], &length.to_be_bytes()].concat();
        self.out = Out { next: bytes, claim: Some(claim) };
        Poll::Ready(Some(Ok(Frame::data(head.into()))))
    }
}

/// The requests of a stream, beside its call, which itself has an empty body.
#[derive(Clone)]
pub(super) struct Requests(Arc<Mutex<Option<Inbound>>>);

impl Requests {
    pub(super) fn new(inbound: Inbound) -> Self {
        Requests(Arc::new(Mutex::new(Some(inbound))))
    }

    /// All of them, once.
    pub(super) fn take(&self) -> Option<Inbound> {
        self.0.lock().take()
    }
}
