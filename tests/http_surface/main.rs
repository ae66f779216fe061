//! The port's whole surface: the real HTTP server on a free port, in front of an engine of a few lines.
//!
//! The engine answers through [`Admitted`](parityd::reply::Admitted), as the real one does, so what is proven here about permits and
//! clients that leave holds for the daemon too. Clients are raw sockets: most of what matters (half a body, a wrong length, leaving) no
//! HTTP client would send.

#[expect(clippy::unwrap_used, reason = "a harness ends the test when the unexpected happens")]
mod engine;
#[expect(clippy::unwrap_used, reason = "a harness ends the test when the unexpected happens")]
mod port;

mod clients;
mod coding;
mod drain;
mod extensions;
mod pictures;
mod places;
mod requests;
mod tensors;
mod traces;
