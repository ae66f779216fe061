//! A connection's socket, for what hyper leaves undone: ending politely, and [`Patience`] with a reader that has an end.
//!
//! A server that refuses a long body answers before the body has arrived. Closing the socket then makes the kernel reset the connection,
//! and the reset overtakes the answer: the client sees "connection reset" in place of its 413. So when hyper is done with a
//! [`Socket`], dropping it hands the stream over to [`linger`], which throws the rest away for a moment. Reading the body before
//! answering would be simpler, but then whoever declares a terabyte is not answered at once.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
};

use crate::wire::{Busy, Patience};

/// The longest that a connection lingers if nobody needs its place.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// The most that it throws away.
const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A reply that has not gone to the system whole: its connection is busy with it.
pub(super) type Unwritten = Arc<Mutex<Option<Busy>>>;

/// A stream that outlives hyper's use of it, and whose writes do not wait for ever.
pub(super) struct Socket {
    stream: Option<TcpStream>,
    patience: Patience,
    unwritten: Unwritten,
    heir: Option<oneshot::Sender<TcpStream>>,
}

impl Socket {
    /// Wraps `stream`; the receiver gets it back when the socket is dropped.
    pub(super) fn new(
        stream: TcpStream,
        patience: Duration,
        unwritten: Unwritten,
    ) -> (Self, oneshot::Receiver<TcpStream>) {
        let (heir, inherited) = oneshot::channel();
        (Socket { stream: Some(stream), patience: Patience::new(patience), unwritten, heir: Some(heir) }, inherited)
    }

    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("the stream leaves in drop alone"))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let (Some(heir), Some(stream)) = (self.heir.take(), self.stream.take()) {
            // Nobody waits for it when the connection is torn down: then it closes here.
            drop(heir.send(stream));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.stream().poll_write(context, bytes);
        self.patience.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.stream().poll_write_vectored(context, slices);
        self.patience.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.stream().poll_flush(context);
        if flushed.is_ready() {
            // hyper flushes a stream once all that it had has been written to it.
            drop(self.unwritten.lock().take());
        }
        self.patience.flushed(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}

/// The stream, if anything has come on it that nobody reads; else it closes. A client that waits for its replies has sent nothing more, and whoever waits for
/// its place need not wait until it has seen that it is to close.
pub(super) fn unread(stream: TcpStream) -> Option<TcpStream> {
    // The system is asked, because the runtime tells what it has heard of so far.
    let stream = stream.into_std().ok()?;
    let is_unread = stream.peek(&mut [0]).is_ok_and(|seen| seen > 0);
    if is_unread { TcpStream::from_std(stream).ok() } else { None }
}

/// Throws away what still comes, for so long at most, on a stream that has been shut down for writing, so that closing it resets nothing.
pub(super) async fn linger(stream: TcpStream, at_most: Duration) {
    let waste = async {
        let mut waste = vec![0; 16 * 1024];
        let mut left = LINGER_BYTES_MAX;
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut waste) {
                Ok(0) => break,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    };
    // Whether it ended or ran out of time, the stream closes here.
    drop(tokio::time::timeout(at_most, waste).await);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// Writes a reply that is longer than the system's buffers to a reader that waits for `pause` after each byte; gives why that ends.
    async fn written_to(pause: Duration) -> io::ErrorKind {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut reader = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("open");
        let (stream, _) = listener.accept().await.expect("a client");
        let (mut socket, inherited) = Socket::new(stream, Duration::from_millis(200), Arc::default());
        let reading = tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                drop(reader.read_u8().await);
            }
        });
        let bytes = vec![0; 1 << 20];
        let error = loop {
            let written = poll_fn(|context| Pin::new(&mut socket).poll_write(context, &bytes)).await;
            if let Err(error) = written {
                break error;
            }
        };
        drop(socket);
        assert!(inherited.await.is_ok(), "the stream is handed on");
        reading.abort();
        error.kind()
    }

    #[tokio::test]
    async fn a_reader_that_never_reads_is_given_up() {
        assert_eq!(written_to(Duration::from_hours(1)).await, io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_reader_that_takes_byte_by_byte_is_given_up() {
        assert_eq!(written_to(Duration::from_millis(2)).await, io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn whoever_takes_a_reply_whole_has_the_same_time_for_the_next() {
        let mut patience = Patience::new(Duration::from_millis(30));
        for _ in 0..3 {
            poll_fn(|context| {
                let waits: Poll<io::Result<usize>> = patience.written(context, Poll::Pending);
                assert!(waits.is_pending());
                assert!(patience.written(context, Poll::Ready(Ok(1))).is_ready());
                Poll::Ready(())
            })
            .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(patience.flushed(Poll::Ready(Ok(()))).is_ready());
        }
    }
}
