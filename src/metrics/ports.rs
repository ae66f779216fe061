//! Connections that are open, by port.

use prometheus::{IntGauge, IntGaugeVec};

/// Which port; the `protocol` label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// HTTP.
    Http,
    /// gRPC.
    Grpc,
}

impl Protocol {
    const fn as_str(self) -> &'static str {
        match self {
            Protocol::Http => "http",
            Protocol::Grpc => "grpc",
        }
    }
}

/// The connections of a port.
#[derive(Clone, Debug)]
pub struct Connections(IntGauge);

impl Connections {
    /// Those of `protocol`; a port that is not open has no gauge.
    pub(super) fn of(family: &IntGaugeVec, protocol: Protocol) -> Self {
        Connections(family.with_label_values(&[protocol.as_str()]))
    }

    /// One more, for as long as the value lives.
    pub fn opened(&self) -> Connected {
        self.0.inc();
        Connected(self.0.clone())
    }
}

/// A connection that is counted as open.
#[derive(Debug)]
pub struct Connected(IntGauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}
