//! Checkpoints: all of a run's state after a whole epoch, in one file that is replaced whole.
//!
//! Shuffles come from (seed, epoch), so variables, moments and counts are everything: a resumed run goes on to the bit as if it had
//! never stopped. A checkpoint of other settings or images is refused rather than mixed in.

use std::{collections::HashMap, fs, io, path::Path};

use candle_core::{Error, Tensor};
use safetensors::SafeTensors;

use super::TrainError;
use crate::{
    model::Parameters,
    weights::{sha256, write_whole},
};

/// What a checkpoint holds besides tensors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Progress {
    /// Whole epochs done.
    pub(super) epochs: usize,
    /// Optimiser steps done.
    pub(super) steps: i32,
    /// The epoch (from 1) of the best validation score so far; 0 before the first.
    pub(super) best_epoch: usize,
    /// That score.
    pub(super) best_score: f64,
    /// The least `--patience` with which a run comes this far.
    pub(super) patience: usize,
}

impl Progress {
    /// The least `--patience` with which a run goes on from here.
    pub(super) const fn patience_to_go_on(&self) -> usize {
        if self.epochs == 0 { 0 } else { self.epochs.saturating_sub(self.best_epoch) + 1 }
    }
}

/// Writes a checkpoint: the optimiser's state and the best parameters so far.
pub(super) fn write(
    file: &Path,
    settings: &str,
    progress: &Progress,
    state: impl Iterator<Item = (String, Tensor)>,
    best: &Parameters,
) -> Result<(), TrainError> {
    let best = best.iter().map(|(name, tensor)| (format!("best/{name}"), tensor.clone()));
    let tensors: HashMap<String, Tensor> = state.chain(best).collect();
    let entry = |name: &str, value: String| (name.to_owned(), value);
    let about = HashMap::from([
        entry("settings", sha256(settings.as_bytes())),
        entry("epochs", progress.epochs.to_string()),
        entry("steps", progress.steps.to_string()),
        entry("best_epoch", progress.best_epoch.to_string()),
        entry("best_score", progress.best_score.to_string()),
        entry("patience", progress.patience.to_string()),
    ]);
    let bytes = safetensors::serialize(&tensors, Some(about)).map_err(Error::wrap)?;
    write_whole(file, &bytes).map_err(|error| TrainError::Write { file: file.to_path_buf(), error })
}

/// A checkpoint that was read.
pub(super) struct Checkpoint {
    pub(super) progress: Progress,
    tensors: Parameters,
}

impl Checkpoint {
    /// Reads the checkpoint of a run with these settings; `None` if there is none.
    pub(super) fn read(file: &Path, settings: &str) -> Result<Option<Self>, TrainError> {
        let broken = |rule: String| TrainError::Checkpoint { file: file.to_path_buf(), rule };
        let bytes = match fs::read(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| broken(format!("cannot be read: {error}")))?,
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
        let about = header.metadata().clone().unwrap_or_default();
        let text = |name: &str| about.get(name).ok_or_else(|| broken(format!("lacks `{name}`")));
        if *text("settings")? != sha256(settings.as_bytes()) {
            return Err(broken(format!("is of a run with other settings or images than {settings}")));
        }
        let number = |name: &str| text(name)?.parse().map_err(|_| broken(format!("`{name}` is no count")));
        let steps = text("steps")?.parse().map_err(|_| broken("`steps` is no count".to_owned()))?;
        let score = text("best_score")?.parse().map_err(|_| broken("`best_score` is no number".to_owned()))?;
        let progress = Progress {
            epochs: number("epochs")?,
            steps,
            best_epoch: number("best_epoch")?,
            best_score: score,
            patience: number("patience")?,
        };
        Ok(Some(Checkpoint { progress, tensors: Parameters::from_safetensors(&bytes)? }))
    }

    /// One tensor of the optimiser's state.
    pub(super) fn tensor(&self, name: &str) -> candle_core::Result<Tensor> {
        let missing = || Error::Msg(format!("the checkpoint lacks tensor `{name}`"));
        self.tensors.get(name).cloned().ok_or_else(missing)
    }

    /// The best parameters so far.
    pub(super) fn best(&self) -> Parameters {
        let best = |(name, tensor): (&String, &Tensor)| Some((name.strip_prefix("best/")?.to_owned(), tensor.clone()));
        Parameters::new(self.tensors.iter().filter_map(best))
    }
}
