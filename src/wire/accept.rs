//! Accepting connections, under a cap.
//!
//! Over the cap nothing is accepted, so new clients wait in the kernel's backlog instead of costing memory. An accept that fails (no file
//! descriptors left) waits a moment instead of spinning.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    clock::Clock,
    metrics::{Connected, Connections},
    repeat::{Line, Repeats},
};

/// How long the loop rests after an accept that failed for want of resources.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Which of the failures to accept are logged.
#[derive(Debug)]
pub(crate) struct Failures {
    clock: Clock,
    repeats: Repeats,
}

impl Failures {
    /// None yet.
    pub(crate) fn new() -> Self {
        Failures { clock: Clock::start(), repeats: Repeats::default() }
    }
}

/// The places of a port's connections.
#[derive(Debug)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    connections: Connections,
}

/// A connection's place under the cap. Once it is dropped the place is free, and the connection counted no more.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    _connected: Connected,
}

impl Places {
    /// As many as `connections_max`, all of them free.
    pub(crate) fn new(connections_max: usize, connections: Connections) -> Self {
        Places { free: Arc::new(Semaphore::new(connections_max.clamp(1, Semaphore::MAX_PERMITS))), connections }
    }

    /// Room for one, if there is any.
    pub(crate) fn try_room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// The place of a connection that has come.
    pub(crate) fn place(&self, room: OwnedSemaphorePermit) -> Place {
        Place { _permit: room, _connected: self.connections.opened() }
    }
}

/// The next connection and its place under the cap.
pub(crate) async fn accept(listener: &TcpListener, places: &Places, failures: &mut Failures) -> (TcpStream, Place) {
    if places.free.available_permits() == 0
        && let Line::Told { left_out } = failures.repeats.next(failures.clock.now())
    {
        tracing::warn!(left_out, "every connection is in use: new ones wait until one closes");
    }
    let room = Arc::clone(&places.free).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, places.place(room)),
            // The client left while it waited: the next one is not affected.
            Err(error) if is_of_one_client(&error) => {}
            Err(error) => {
                if let Line::Told { left_out } = failures.repeats.next(failures.clock.now()) {
                    tracing::warn!(%error, left_out, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}
