//! Accepting connections, as many as there are [`Places`].
//!
//! When all are taken, one more is accepted and waits for a place, for which one of the others is told to leave; the next ones wait in the
//! system's backlog instead of costing memory, and one of them that has left by its turn is passed over. An accept that fails (no file descriptors left) waits a moment instead of spinning.

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
            let (stream, has_waited) = match self.waiting.take() {
                Some(stream) => (stream, true),
                None => (self.accept_next().await, self.told.is_some()),
            };
            let room = self.places.try_room();
            // A client that has given up gets no place, and nobody gives one up for it. While places are free a half-closed one is let in: it may only wait for its reply.
            if (has_waited || room.is_none()) && has_left(&stream) {
                continue;
            }
            if let Some(room) = room {
                return self.placed(stream, room);
            }
            self.waiting = Some(stream);
            let room = self.room().await;
            let stream = self.waiting.take().expect("it was put there above, and only this takes it");
            if !has_left(&stream) {
                return self.placed(stream, room);
            }
        }
    }

    /// Whoever comes next. If nobody is there, nobody waits any more for a place that somebody was asked to give up.
    async fn accept_next(&mut self) -> TcpStream {
        if self.told.is_some() {
            if let Ok(stream) = timeout(Duration::ZERO, self.accept()).await {
                return stream;
            }
            self.want_none();
        }
        self.accept().await
    }

    fn placed(&mut self, stream: TcpStream, room: OwnedSemaphorePermit) -> (TcpStream, Place) {
        self.want_none();
        (stream, self.places.place(Some(room)))
    }

    fn want_none(&mut self) {
        self.places.want_none();
        self.told = None;
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
                    "every connection is in use: for each that comes, an idle or just answered one is closed"
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

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, SocketAddr, TcpStream as Client};

    use super::*;
    use crate::metrics::{Metrics, Protocol};

    async fn door(connections_max: usize) -> (Door, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let connections = Metrics::new("any", 0).connections(Protocol::Http);
        (Door::new(listener, Places::new(connections_max, Duration::ZERO, connections)), address)
    }

    fn come(address: SocketAddr) -> Client {
        Client::connect(address).expect("the port is open")
    }

    /// The place of `client`, who is the next.
    async fn let_in(door: &mut Door, client: &Client) -> Place {
        let (stream, place) = timeout(Duration::from_secs(10), door.next()).await.expect("somebody comes");
        assert_eq!(stream.peer_addr().ok(), client.local_addr().ok());
        place
    }

    async fn nobody_comes(door: &mut Door) {
        assert!(timeout(Duration::from_millis(20), door.next()).await.is_err(), "nobody has a place yet");
    }

    #[tokio::test]
    async fn who_has_sent_all_that_it_will_may_still_listen_where_there_are_places() {
        let (mut door, address) = door(1).await;
        let listens = come(address);
        listens.shutdown(Shutdown::Write).expect("it is open");
        let _place = let_in(&mut door, &listens).await;
    }

    #[tokio::test]
    async fn who_has_left_while_nobody_looked_is_passed_over() {
        let (mut door, address) = door(1).await;
        let first = come(address);
        let place = let_in(&mut door, &first).await;
        let impatient = come(address);
        nobody_comes(&mut door).await;
        drop(impatient);
        (0..20).for_each(|_| drop(come(address)));
        let last = come(address);
        drop(place);
        let _place = let_in(&mut door, &last).await;
    }

    #[tokio::test]
    async fn who_has_left_while_it_waited_is_passed_over() {
        let (mut door, address) = door(1).await;
        let first = come(address);
        let place = let_in(&mut door, &first).await;
        let (impatient, last) = (come(address), come(address));
        let leave = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop((impatient, place));
        };
        let (_place, ()) = tokio::join!(let_in(&mut door, &last), leave);
    }

    #[tokio::test]
    async fn nobody_gives_up_a_place_for_who_has_left() {
        let (mut door, address) = door(2).await;
        let clients = [come(address), come(address)];
        let stays = let_in(&mut door, &clients[0]).await;
        let goes = let_in(&mut door, &clients[1]).await;
        let activity = stays.activity();
        let _busy = [activity.busy(), goes.activity().busy()];
        let impatient = come(address);
        nobody_comes(&mut door).await;
        drop((impatient, goes));
        nobody_comes(&mut door).await;
        assert!(!activity.should_close());
    }
}
