//! Room for what panics where there is none: found out before, so that whoever started the daemon is told what to raise, and may try again.

use std::{io, os::unix::net::UnixStream, sync::Arc, thread};

use parking_lot::Mutex;

use super::ServeError;

/// Pairs of files that a runtime has for itself before it has a socket to look after: what it waits with, a way to wake it, and the way of signals.
const RUNTIME_PAIRS: usize = 4;

/// Whether the system gives so many threads more. A runtime panics where it does not, and waits for ever for those that it got; the log's writer panics.
/// Ask for one more than are wanted: the system may count one that has just ended.
pub fn room_for_threads(count: usize) -> Result<(), ServeError> {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock();
    let mut threads = Vec::new();
    let given = (0..count).try_for_each(|_| {
        let gate = Arc::clone(&gate);
        threads.push(thread::Builder::new().name("room".to_owned()).spawn(move || drop(gate.lock()))?);
        Ok(())
    });
    drop(closed);
    for thread in threads {
        // It does nothing that could panic.
        drop(thread.join());
    }
    given.map_err(ServeError::Thread)
}

/// Whether the system gives the files that a runtime must have.
pub fn room_for_a_runtime() -> Result<(), ServeError> {
    let pairs = (0..RUNTIME_PAIRS).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>();
    pairs.map(drop).map_err(ServeError::Thread)
}
