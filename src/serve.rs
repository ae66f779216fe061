//! Not written yet.

use std::path::Path;

/// Not written yet.
#[derive(Debug, thiserror::Error)]
#[error("not written yet")]
pub struct ServeError;

/// Serves queries until it is told to stop.
pub fn run(_config: Option<&Path>) -> Result<(), ServeError> {
    Err(ServeError)
}

/// Checks configuration, weights and devices.
pub fn check(_config: Option<&Path>) -> Result<(), ServeError> {
    Err(ServeError)
}
