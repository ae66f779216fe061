//! Replies of one connection that its client has not taken, and since when.
//!
//! Over HTTP/2 a client says how much it takes. One that takes nothing leaves its replies in memory, and its connection looks alive: it answers pings. So
//! every part of a reply carries an [`Untaken`] with it until the last byte of it has gone to the socket, wherever h2 keeps it meanwhile, and
//! a [`Connection`](super::connection) whose oldest has waited for too long ends.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tonic::Status;

use crate::{
    clock::{Clock, Time},
    wire::{Activity, Arriving, Busy},
};

/// The replies of one connection.
#[derive(Clone, Debug)]
pub(super) struct Replies(Arc<Waits>);

#[derive(Debug)]
struct Waits {
    clock: Clock,
    activity: Activity,
    parts: Mutex<Parts>,
}

#[derive(Default, Debug)]
struct Parts {
    /// Since when each of them waits, in no order. A connection has few.
    since: Vec<Time>,
    /// Who wants to know when there is a first one.
    connection: Option<Waker>,
}

/// A part of a reply.
struct Untaken {
    bytes: Bytes,
    since: Time,
    waits: Arc<Waits>,
    _busy: Busy,
}

/// A call that is to be answered, until its reply has ended.
pub(super) struct Open {
    replies: Replies,
    asked: Asked,
}

/// Whether a call has asked for anything: a connection has something to answer from then on. Otherwise a byte of a message would keep its place for
/// as long as a message may take.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    activity: Activity,
    busy: Arc<Mutex<Option<Busy>>>,
}

impl Asked {
    /// What it asks has not come whole, for as long as that lives.
    pub(super) fn arriving(&self) -> Arriving {
        self.activity.arriving()
    }

    /// It has, whole.
    pub(super) fn whole(&self) {
        self.busy.lock().get_or_insert_with(|| self.activity.busy());
    }
}

impl Replies {
    /// None yet; `activity` is the connection's.
    pub(super) fn new(activity: Activity) -> Self {
        Replies(Arc::new(Waits { clock: Clock::start(), activity, parts: Mutex::default() }))
    }

    /// A call has come.
    pub(super) fn open(self) -> Open {
        let asked = Asked { activity: self.0.activity.clone(), busy: Arc::default() };
        Open { replies: self, asked }
    }

    /// How long the oldest part has waited; resolves once there is one.
    pub(super) fn poll_oldest(&self, context: &mut Context<'_>) -> Poll<Duration> {
        let mut parts = self.0.parts.lock();
        if let Some(oldest) = parts.since.iter().min() {
            return Poll::Ready(self.0.clock.now().since(*oldest));
        }
        match &mut parts.connection {
            Some(known) => known.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// The same bytes, known to wait for as long as any of them is kept.
    fn untaken(&self, bytes: Bytes) -> Bytes {
        let (since, waits) = (self.0.clock.now(), Arc::clone(&self.0));
        let mut parts = waits.parts.lock();
        parts.since.push(since);
        let connection = parts.connection.take();
        drop(parts);
        connection.into_iter().for_each(Waker::wake);
        let busy = waits.activity.busy();
        Bytes::from_owner(Untaken { bytes, since, waits, _busy: busy })
    }
}

impl Open {
    /// For whoever takes what it asks.
    pub(super) fn asked(&self) -> Asked {
        self.asked.clone()
    }

    /// Its reply lasts for as long as its client likes, and whoever needs the connection's place need not wait for its end.
    pub(super) fn stands(self) -> Self {
        drop(self.asked.busy.lock().take());
        self
    }

    /// A reply's body, whose parts are known to wait.
    pub(super) fn body(self, body: tonic::body::Body) -> tonic::body::Body {
        tonic::body::Body::new(Outbound { body, call: self })
    }
}

impl AsRef<[u8]> for Untaken {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        let since = &mut self.waits.parts.lock().since;
        if let Some(place) = since.iter().position(|&time| time == self.since) {
            since.swap_remove(place);
        }
    }
}

/// A reply's body.
struct Outbound {
    body: tonic::body::Body,
    call: Open,
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| Ok(frame?.map_data(|bytes| self.call.replies.untaken(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;
    use crate::{
        metrics::{Metrics, Protocol},
        wire::Places,
    };

    #[test]
    fn a_part_waits_until_the_last_of_its_bytes_is_gone_and_the_first_is_told() {
        let told = Arc::new(Told(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&told));
        let mut context = Context::from_waker(&waker);
        let place = Places::new(1, Duration::ZERO, Metrics::new("any", 0).connections(Protocol::Grpc)).place(None);
        let replies = Replies::new(place.activity());
        assert!(replies.poll_oldest(&mut context).is_pending());
        let mut first = replies.untaken(Bytes::from_static(b"abc"));
        let second = replies.untaken(Bytes::from_static(b"de"));
        assert_eq!(told.0.load(Ordering::Relaxed), 1, "the connection looks, and then by itself");
        let begun = first.split_to(1);
        assert_eq!((&begun[..], &first[..], &second[..]), (&b"a"[..], &b"bc"[..], &b"de"[..]));
        drop((begun, second));
        assert!(replies.poll_oldest(&mut context).is_ready(), "two bytes are left");
        assert!(!place.rests(), "the connection keeps its place for them");
        drop(first);
        assert!(place.rests());
        assert!(replies.poll_oldest(&mut context).is_pending());
    }

    struct Told(AtomicUsize);

    impl Wake for Told {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
