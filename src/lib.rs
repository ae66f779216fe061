//! parityd: a single-node, multi-GPU inference daemon that decodes the predictions of slow, hung or dead devices.
//!
//! The path of a query is the order of the modules: `http → admission → dispatch → lane → stripe → reply`. ARCHITECTURE.md draws it.

pub mod clock;
pub mod metrics;
pub mod query;

pub mod job;
pub mod queue;
pub mod reply;

pub mod code;
pub mod health;
pub mod stripe;

pub mod dispatch;

pub mod config;
