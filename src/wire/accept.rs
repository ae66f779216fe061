//! Accepting connections, as many as there are [`Places`].
//!
//! When all are taken, one more is accepted and waits for a place, for which one of the others is told to leave; the next ones wait in the
//! system's backlog instead of costing memory, and whoever has left by the time it is looked at gets none. An accept that fails (no file descriptors left) waits a moment instead of spinning.

use std::{io, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
    time::timeout,
};

use super::{Place, Places};
use crate::{
    clock::{Clock, Time},
    repeat::{Line, Repeats},
};

/// How long the loop rests after an accept that failed for want of resources.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// How long one that was told to leave has for it; then another is told, too.
const LOOK: Duration = Duration::from_millis(100);

/// Where a port's connections come in.
#[derive(Debug)]
pub(crate) struct Door {
    listener: TcpListener,
    places: Places,
    /// Accepted, and without a place so far.
    waiting: Option<TcpStream>,
    /// When somebody was last told to leave for it.
    told: Option<Time>,
    clock: Clock,
    repeats: Repeats,
}

impl Door {
    /// Opens it: whoever comes to `listener` gets one of the `places`.
    pub(crate) fn new(listener: TcpListener, places: Places) -> Self {
        Door { listener, places, waiting: None, told: None, clock: Clock::start(), repeats: Repeats::default() }
    }

    /// The next connection and its place. Nobody is lost if this is dropped before it resolves.
    pub(crate) async fn next(&mut self) -> (TcpStream, Place) {
        loop {
            let stream = match self.waiting.take() {
                Some(stream) => stream,
                None => self.accept().await,
            };
            if let Some(room) = self.places.try_room() {
                return self.placed(stream, room);
            }
            // Nobody goes, and nothing is computed, for a client that has given up: on a full port that would be most of the work.
            if has_left(&stream) {
                continue;
            }
            self.waiting = Some(stream);
            let room = self.room().await;
            let stream = self.waiting.take().expect("it was put there above, and only this takes it");
            if !has_left(&stream) {
                return self.placed(stream, room);
            }
        }
    }

    fn placed(&mut self, stream: TcpStream, room: OwnedSemaphorePermit) -> (TcpStream, Place) {
        self.places.want_none();
        self.told = None;
        (stream, self.places.place(Some(room)))
    }

    /// Closes it; gives those who had come, as many as there is room for. Not even a runtime's readiness is waited for, so what is left to chance is the moment between two
    /// system calls: after it, the system resets whoever comes.
    pub(crate) fn close(self) -> Vec<(TcpStream, Place)> {
        let Door { listener, places, waiting, .. } = self;
        let mut came: Vec<_> = waiting.into_iter().map(|stream| (stream, places.place(places.try_room()))).collect();
        match listener.into_std() {
            Ok(listener) => {
                while let Some(room) = places.try_room()
                    && let Ok((stream, _)) = listener.accept()
                    && let Ok(()) = stream.set_nonblocking(true)
                    && let Ok(stream) = TcpStream::from_std(stream)
                {
                    came.push((stream, places.place(Some(room))));
                }
            }
            Err(error) => tracing::debug!(%error, "connections that waited are reset"),
        }
        came
    }

    /// Leaves it to another process; gives whoever this one had accepted already.
    pub(crate) fn leave(self) -> Option<(TcpStream, Place)> {
        let Door { places, waiting, .. } = self;
        waiting.map(|stream| (stream, places.place(places.try_room())))
    }

    async fn accept(&mut self) -> TcpStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => return stream,
                // The client left while it waited: the next one is not affected.
                Err(error) if is_of_one_client(&error) => {}
                Err(error) => {
                    if let Line::Told { left_out } = self.repeats.next(self.clock.now()) {
                        tracing::warn!(%error, left_out, "cannot accept connections");
                    }
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    /// Room for one more, if somebody has to go for it.
    async fn room(&mut self) -> OwnedSemaphorePermit {
        loop {
            if let Some(room) = self.places.try_room() {
                return room;
            }
            let now = self.clock.now();
            let since = self.told.map(|told| now.since(told));
            if since.is_none()
                && let Line::Told { left_out } = self.repeats.next(now)
            {
                tracing::warn!(
                    left_out,
                    "every connection is in use: one that was answered, or rests, is closed for each that comes"
                );
            }
            let mut left = LOOK.saturating_sub(since.unwrap_or(LOOK));
            if left.is_zero() {
                self.places.want_one();
                (self.told, left) = (Some(now), LOOK);
            }
            if let Ok(room) = timeout(left, self.places.room()).await {
                return room;
            }
        }
    }
}

/// Whether the client has closed, or has said that it will send no more, whatever it has sent before.
fn has_left(stream: &TcpStream) -> bool {
    #[cfg(target_os = "linux")]
    const LEFT: PollFlags = PollFlags::RDHUP;
    #[cfg(not(target_os = "linux"))]
    const LEFT: PollFlags = PollFlags::HUP;
    let mut looks = [PollFd::new(stream, LEFT)];
    poll(&mut looks, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|seen| seen > 0)
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
