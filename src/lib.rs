//! parityd: a single-node, multi-GPU inference daemon that decodes the predictions of slow, hung or dead devices.
//!
//! The path of a query is `http → admission → dispatch → lane → stripe → reply`; the modules below stand in that order, from the edge
//! inwards. ARCHITECTURE.md draws the path and lists what each layer does not know.

#[cfg(not(unix))]
compile_error!("parityd ends on Unix signals and runs on Linux and macOS; on Windows, build and run it inside WSL2");

pub mod serve;

pub mod grpc;
pub mod http;

pub mod wire;

#[cfg(feature = "otlp")]
pub mod otlp;

pub mod admission;
pub mod engine;

pub mod dispatch;

pub mod lane;

pub mod model;
pub mod nvml;
pub mod weights;

pub mod health;
pub mod stripe;

pub mod code;
pub mod job;
pub mod pool;
pub mod queue;
pub mod reply;

pub mod clock;
mod descriptors;
pub mod exit;
pub mod metrics;
pub mod query;
pub mod repeat;
mod shortage;

pub mod config;

mod chart;

pub mod bench;
pub mod data;
pub mod eval;
pub mod sim;
pub mod train;
