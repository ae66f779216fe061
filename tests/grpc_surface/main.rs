//! The surface of the gRPC port: the real server on a free port, in front of an engine of a few lines, which is the one of `http_surface`.
//!
//! Clients are tonic's, and raw sockets for what no client would send.

#[expect(clippy::unwrap_used, reason = "a harness ends the test when the unexpected happens")]
#[path = "../http_surface/engine.rs"]
mod engine;
#[expect(clippy::unwrap_used, reason = "a harness ends the test when the unexpected happens")]
mod port;
#[expect(clippy::unwrap_used, clippy::panic, reason = "a harness ends the test when the unexpected happens")]
mod raw;

/// Held by tests that take much of it: one measures what the process has.
static MEMORY: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

mod drain;
mod limits;
mod messages;
mod requests;
mod streams;
