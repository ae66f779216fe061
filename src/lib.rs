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

pub mod admission;

pub mod http;

pub mod lane;
pub mod model;
pub mod weights;

pub mod config;
pub mod engine;
pub mod serve;

pub mod data;
pub mod eval;
pub mod sim;
pub mod train;
