//! What a query is, and what a prediction is: plain data that every layer above shares.
//!
//! Owns the words of the project as types: lanes, rows, provenance, failures. Nothing here acts. A [`Row`] is a window into its
//! request's buffer, so admitting n rows copies none of them; a [`Values`] is shared, so that a late comparison and a reply can hold
//! the same prediction.

use std::{fmt, ops::Deref, sync::Arc};

use crate::clock::Time;

/// Index of a lane's `[[lane]]` in the configuration; stable for the life of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LaneId(pub u16);

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What fails together: a device, unless the configuration names it. Numbered by the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FaultDomain(pub u16);

/// A GPU, or on CPU a lane: what lanes share that are on one. Numbered by the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DeviceId(pub u16);

/// The output values of one model row, host memory.
pub type Values = Arc<[f32]>;

impl LaneId {
    /// Its place among the lanes.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One input row: a window into the buffer of the request that brought it. By default it is empty and holds no buffer.
#[derive(Clone, Default)]
pub struct Row {
    buffer: Option<Arc<[f32]>>,
    start: usize,
    len: usize,
}

impl Row {
    /// A row that is the whole of `values`.
    pub fn whole(values: impl Into<Arc<[f32]>>) -> Self {
        let buffer = values.into();
        Row { start: 0, len: buffer.len(), buffer: Some(buffer) }
    }

    /// Whether it is the same window into the same buffer.
    pub fn is_same(&self, other: &Row) -> bool {
        std::ptr::eq(&raw const **self, &raw const **other)
    }
}

impl Deref for Row {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[self.start..self.start + self.len])
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({} values)", self.len)
    }
}

/// The rows of one request, row-major; at least one row, all of the same width.
#[derive(Clone, Debug)]
pub struct Rows {
    buffer: Arc<[f32]>,
    width: usize,
}

impl Rows {
    /// Cuts `buffer` into rows of `width` values; `None` unless that leaves at least one row and no rest.
    pub fn new(buffer: impl Into<Arc<[f32]>>, width: usize) -> Option<Self> {
        let buffer = buffer.into();
        let whole = width > 0 && !buffer.is_empty() && buffer.len().is_multiple_of(width);
        whole.then_some(Rows { buffer, width })
    }

    /// How many rows; never zero.
    pub fn count(&self) -> usize {
        self.buffer.len() / self.width
    }

    /// The rows in order, each a window into the shared buffer.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Row> + '_ {
        (0..self.count()).map(|index| Row {
            buffer: Some(Arc::clone(&self.buffer)),
            start: index * self.width,
            len: self.width,
        })
    }
}

/// Which predictions a client takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accepts {
    /// Any provenance; the reply says which it was.
    Any,
    /// Direct only (`allow_reconstructed = false`).
    DirectOnly,
}

/// How likely a decoded prediction is right: a calibrated score from 0 to 1. `code` computes it, clients and policies ask for a least one.
#[derive(Clone, Copy, PartialEq, PartialOrd, Debug)]
pub struct Confidence(f32);

impl Confidence {
    /// Nothing is known in its favour; asking for this much is asking for nothing.
    pub const NONE: Confidence = Confidence(0.0);
    /// That of an answer of the base model itself.
    pub const FULL: Confidence = Confidence(1.0);

    /// `None` unless `value` is from 0 to 1.
    pub fn new(value: f32) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Confidence(value))
    }

    /// The number.
    pub const fn get(self) -> f32 {
        self.0
    }
}

impl fmt::Display for Confidence {
    /// As few digits as tell it apart from every other: what a reply says compares with a limit as the value itself does.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One admitted input row with its terms.
#[derive(Clone, Debug)]
pub struct Query {
    /// The input, raw as the client sent it: preprocessing is the model's.
    pub row: Row,
    /// When admission let it in; latency and grace count from here.
    pub admitted: Time,
    /// By when it is answered, whatever happens (plus the timer's slack).
    pub deadline: Time,
    /// What the client takes.
    pub accepts: Accepts,
    /// A decoded prediction with less is not served; the query goes on waiting for its direct answer.
    pub min_confidence: Confidence,
    /// Whether every value lies in the manifest's input range. Rows outside run unprotected: they would spoil a parity
    /// query's range too, and their direct output is served even if it is not finite.
    pub in_range: bool,
}

/// Where a prediction came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Provenance {
    /// The base model ran on this very row.
    Direct,
    /// Decoded from other slots of its stripe.
    Reconstructed,
    /// A cheaper model's answer.
    Approximate,
    /// The configured default prediction, at the deadline.
    Default,
}

impl Provenance {
    /// All of them, in the order of the metrics.
    pub const ALL: [Provenance; 4] =
        [Provenance::Direct, Provenance::Reconstructed, Provenance::Approximate, Provenance::Default];

    /// The word used on the wire, in metrics and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Provenance::Direct => "direct",
            Provenance::Reconstructed => "reconstructed",
            Provenance::Approximate => "approximate",
            Provenance::Default => "default",
        }
    }
}

/// One output row.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// The output values (logits, for a classifier).
    pub values: Values,
    /// Where they came from.
    pub provenance: Provenance,
    /// How likely they are right, if they were decoded and the code is calibrated.
    pub confidence: Option<Confidence>,
}

/// Why an admitted query got no prediction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing acceptable was there by the deadline.
    #[error("no acceptable prediction by the deadline")]
    Deadline,
    /// Lost on two lanes: the row itself is taken to be the cause.
    #[error("the row was lost on two lanes, so it is taken to be the cause")]
    QueryFault,
    /// The daemon ended before the query did.
    #[error("the daemon stopped before the query was answered")]
    Stopped,
}

impl Failure {
    /// The `reason` on the wire and in `parityd_errors_total`.
    pub const fn reason(self) -> &'static str {
        match self {
            Failure::Deadline => "deadline",
            Failure::QueryFault => "query_fault",
            Failure::Stopped => "stopped",
        }
    }
}

/// What an admitted query ends with, exactly once.
pub type Answer = Result<Prediction, Failure>;

/// Name and row shape of one tensor of a deployment.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Tensor name on the wire.
    pub name: String,
    /// Shape of one row, without the leading row dimension.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Values in one row.
    pub fn width(&self) -> usize {
        self.shape.iter().product()
    }
}

/// What a deployment takes and gives: all that a client of it must know.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// Deployment name, the model name on the wire.
    pub name: String,
    /// Version, as on the wire.
    pub version: String,
    /// The architecture's name, told as `platform`.
    pub platform: String,
    /// The one input, FP32.
    pub input: TensorSpec,
    /// Values outside these bounds (inclusive) run unprotected.
    pub input_range: (f32, f32),
    /// The one output, FP32.
    pub output: TensorSpec,
    /// Names of the output's values, in order; empty if the manifest has none.
    pub labels: Vec<String>,
}
