//! Why nothing could be measured. Each is a sentence for whoever measures, with the next step where there is one.

use std::{io, path::PathBuf};

use crate::{
    data::DataError,
    model::TensorError,
    weights::{Unchanged, WeightsError},
};

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// There is no data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The weights are for rows of another width or another number of classes.
    #[error("{}: the data has {width} pixels a row and labels up to {label}, which the model does not fit", dir.display())]
    OtherData {
        /// The folder of weights.
        dir: PathBuf,
        /// Pixels of a row.
        width: usize,
        /// The largest label.
        label: u8,
    },
    /// There is nothing to measure.
    #[error("no folder of weights below {}; run it where they are, or name one with --weights DIR", dir.display())]
    NoWeights {
        /// Where they were looked for.
        dir: PathBuf,
    },
    /// A folder in which folders of weights were looked for could not be read.
    #[error("{}: cannot be read: {error}; run it where the weights are, or name a folder of them with --weights DIR", dir.display())]
    Unread {
        /// The folder.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What was measured could not be written into a manifest.
    #[error(
        "{}: cannot be written: {error}; make room there or make it writable, or record into a copy of the folder",
        file.display()
    )]
    Unrecorded {
        /// The folder or file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Figures could not be written.
    #[error("{}: cannot be written: {error}; name another folder with --plots", file.display())]
    Undrawn {
        /// The folder or file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A figure could not be drawn.
    #[error("figure {name} cannot be drawn: {fault}")]
    Figure {
        /// Which one.
        name: &'static str,
        /// Why.
        fault: String,
    },
    /// Arithmetic failed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl From<Unchanged> for EvalError {
    fn from(error: Unchanged) -> Self {
        match error {
            Unchanged::Weights(error) => EvalError::Weights(error),
            Unchanged::Write { file, error } => EvalError::Unrecorded { file, error },
        }
    }
}
