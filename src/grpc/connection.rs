//! A connection's socket, for what HTTP/2 leaves undone: waiting for neither a silent client nor one that never reads.
//!
//! Once HTTP/2 has begun, pings find out who is gone; but a client that connects and says nothing never begins, a ping cannot be written
//! to one that does not read, and one that answers pings may still take none of its [`Replies`].

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use super::replies::Replies;
use crate::wire::{Limits, Patience};

/// What a client of HTTP/2 says first.
const PREFACE_BYTES: usize = 24;

/// A stream that is read and written with patience, but not with any amount of it.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Until this is over, the preface must have come; `None` once it has.
    silence: Option<Pin<Box<Sleep>>>,
    preface_left: usize,
    /// With writes to the socket.
    patience: Patience,
    replies: Replies,
    /// How long one of them may wait, and the next look at it while there are any.
    reply_timeout: Duration,
    look: Option<Pin<Box<Sleep>>>,
}

impl Connection {
    /// Nothing has been read yet.
    pub(super) fn new(stream: TcpStream, replies: Replies, limits: &Limits) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        Connection {
            stream,
            silence: Some(Box::pin(tokio::time::sleep(limits.header_timeout))),
            preface_left: PREFACE_BYTES,
            patience: Patience::new(limits.body_timeout),
            replies,
            reply_timeout: limits.body_timeout,
            look: None,
        }
    }

    /// Resolves when a reply has waited for too long.
    fn poll_untaken(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            // While there is none, a look that is still to come stays: it is cheaper to keep than to make.
            let waited = ready!(self.replies.poll_oldest(context));
            let Some(left) = self.reply_timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
                return Poll::Ready(());
            };
            let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
            ready!(look.as_mut().poll(context));
            self.look = None;
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.silence.is_some() {
            self.preface_left = self.preface_left.saturating_sub(buffer.filled().len() - before);
            if self.preface_left == 0 {
                self.silence = None;
            }
        }
        if read.is_ready() {
            return read;
        }
        let silent = self.silence.as_mut().is_some_and(|silence| silence.as_mut().poll(context).is_ready());
        if silent || self.poll_untaken(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.patience.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.patience.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.patience.flushed(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
