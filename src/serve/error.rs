//! Why the daemon could not start. Each is a sentence for the operator, with the next step where there is one.

use std::{io, net::SocketAddr};

use super::SuccessionError;
use crate::{
    code::{CodeError, Kind},
    config::ConfigFaults,
    lane::{OpenError, Unlisted},
    query::LaneId,
    shortage::{is_short, more},
    weights::WeightsError,
};

/// What configuration and weights are refused for.
#[derive(Debug, thiserror::Error)]
pub enum StartFaults {
    /// The configuration.
    #[error("{0}")]
    Config(ConfigFaults),
    /// The configuration is for another build, and something else would keep that from starting.
    #[error("{0}\n{1}")]
    Build(ConfigFaults, Box<StartFaults>),
    /// The GPUs that `devices = "auto"` stands for, which are there and cannot be listed.
    #[error("devices = \"auto\": CUDA does not list the GPUs: {0}; `nvidia-smi` shows what the driver sees")]
    Unlisted(Unlisted),
    /// There is no such code for such rows.
    #[error("[deployment.code] {0}")]
    Code(#[from] CodeError),
    /// The weights.
    #[error("{0}")]
    Weights(WeightsError),
    /// Confidence is asked for, and the weights cannot tell it.
    #[error(
        "[deployment.policy] min_confidence is above 0, and the weights have no calibration for kind = \"{kind}\", k = {k}, r = {r}; run \
         `parityd train calibrate`"
    )]
    NotCalibrated {
        /// Kind of the code.
        kind: Kind,
        /// Data slots.
        k: usize,
        /// Parity slots.
        r: usize,
    },
    /// The default prediction has the wrong size.
    #[error("[deployment.policy] default_prediction has {given} values, but the model gives {outputs}")]
    DefaultPrediction {
        /// Values in the configuration.
        given: usize,
        /// Values of one output row.
        outputs: usize,
    },
}

impl StartFaults {
    /// Whether time may mend all of it: a driver that is not ready, files that the system has no means to open.
    pub fn may_pass(&self) -> bool {
        match self {
            StartFaults::Unlisted(_) => true,
            StartFaults::Config(faults) => faults.may_pass(),
            StartFaults::Weights(error) => error.may_pass(),
            StartFaults::Build(..)
            | StartFaults::Code(_)
            | StartFaults::NotCalibrated { .. }
            | StartFaults::DefaultPrediction { .. } => false,
        }
    }
}

impl ServeError {
    /// Whether another process, or time, may mend it, so that an unattended machine must try: a configured device, the process that this one was to
    /// succeed, a port that another process has, an address that is not up yet, what the system has no more of.
    pub fn may_pass(&self) -> bool {
        match self {
            ServeError::Lane { source: OpenError::Pool(_), .. } | ServeError::Thread(_) => true,
            ServeError::Lane { source, .. } => source.is_of_a_device(),
            // The supervisor starts it anew without one.
            ServeError::Succession(error) => !matches!(error, SuccessionError::Nobody { .. }),
            ServeError::Listen { source, .. } => {
                matches!(source.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) || is_short(source)
            }
            ServeError::Signal(source) => is_short(source),
        }
    }
}

/// What to do about a port that cannot be listened on.
fn remedy(source: &io::Error, table: &str) -> String {
    if is_short(source) {
        more(source).to_owned()
    } else if source.kind() == io::ErrorKind::PermissionDenied {
        format!("ports below 1024 need CAP_NET_BIND_SERVICE, or set [{table}] listen to a port above")
    } else if source.kind() == io::ErrorKind::AddrNotAvailable {
        format!(
            "wait until the address is up, or set [{table}] listen to one of this machine, or to 0.0.0.0 for all of them"
        )
    } else {
        format!("end who has it, or set [{table}] listen to a free address (port 0 takes any free port)")
    }
}

/// Why serving ended before it began.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port.
    #[error("cannot listen on {listen}: {source}; {}", remedy(source, table))]
    Listen {
        /// Whose port: `http` or `grpc`.
        table: &'static str,
        /// The address as configured.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A lane.
    #[error("lane {lane}: {source}")]
    Lane {
        /// The lane.
        lane: LaneId,
        /// What it said.
        source: OpenError,
    },
    /// No thread, or no runtime.
    #[error("the system gives no more threads, or what they need: {}; {}", .0, more(.0))]
    Thread(#[source] io::Error),
    /// It was to take over from another process.
    #[error("this process could not take over from another: {0}")]
    Succession(#[from] SuccessionError),
    /// No signal handler.
    #[error("signals cannot be handled: {0}")]
    Signal(#[source] io::Error),
}
