//! How long written bytes may wait for whoever should read them.
//!
//! The wait begins with the first byte that finds no room, and ends when everything that was to be written is; single bytes that a reader takes in
//! between do not prolong it. Otherwise whoever reads a byte every minute could keep a connection, and the reply on it, for days.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::Sleep;

/// The patience of one connection with its reader.
#[derive(Debug)]
pub(crate) struct Patience {
    longest: Duration,
    /// Until then what waits must have been written.
    over: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Nothing waits yet; when something does, for `longest` at most.
    pub(crate) const fn new(longest: Duration) -> Self {
        Patience { longest, over: None }
    }

    /// What a write came to; one that has waited for too long is an error.
    pub(crate) fn written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            return written;
        }
        let longest = self.longest;
        let over = self.over.get_or_insert_with(|| Box::pin(tokio::time::sleep(longest)));
        ready!(over.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// What a flush came to. hyper and h2 flush a stream once all that they had has been written to it.
    pub(crate) fn flushed(&mut self, flushed: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Ok(())) = flushed {
            self.over = None;
        }
        flushed
    }
}
