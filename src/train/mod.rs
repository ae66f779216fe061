//! Training: `train base` and `train parity`, the papers' settings, the same every time for the same seed.
//!
//! Initial weights and shuffles are the same on every machine; trained weights are the same to the bit where the arithmetic is (the same
//! kind of CPU).
//! Uses the daemon's own nets, preprocessing, encoder and decoder, so what is served is what was trained. Never opens the test images.
//! Each epoch ends in a checkpoint that is replaced whole; an interrupted run loses at most an epoch and goes on with `--resume`.

mod adam;
mod all;
mod augment;
mod backend;
mod base;
mod calibrate;
mod checkpoint;
mod fit;
mod init;
mod learned;
mod norm;
mod parity;
mod preset;
mod stripewise;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use rand_chacha::ChaCha8Rng;

use crate::{
    code::{CodeError, Kind},
    data::{self, DataError, Images},
    eval::EvalError,
    model::{Architecture, Device, Encoder, NoFit, Tensor, TensorError},
    weights::{Fault, Normalisation, Training, Unchanged, WeightsError, remove_left_behind, sha256, try_write},
};
pub use adam::Adam;
pub use all::{AllOptions, Remade, all};
pub use backend::Backend;
pub use base::{BaseOptions, base};
pub use calibrate::{CalibrateOptions, calibrate};
pub use parity::{ParityOptions, parity};
pub use preset::Preset;

/// What both trainings are told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Named settings.
    pub preset: Preset,
    /// Seed of the initial weights and of every shuffle.
    pub seed: u64,
    /// Inputs of one step.
    pub batch: usize,
    /// Passes over the training rows.
    pub epochs: usize,
    /// Epochs without a better validation score after which it ends early, if so.
    pub patience: Option<usize>,
    /// Whether to go on from a checkpoint, if there is one.
    pub resume: bool,
    /// What it computes with.
    pub backend: Backend,
}

impl Settings {
    /// Whether a model was trained with these; on what and from which images a manifest does not tell.
    fn made(&self, training: &Training) -> bool {
        let Settings { preset, seed, batch, epochs, patience, .. } = *self;
        training.preset == preset.as_str()
            && (training.seed, training.batch, training.epochs, training.patience) == (seed, batch, epochs, patience)
    }

    /// Whether a model that was trained with `training` is an earlier end of the run that is to go on from `checkpoint`.
    fn go_on(&self, training: &Training, checkpoint: &Path) -> bool {
        let Settings { preset, seed, batch, epochs, patience, resume, .. } = *self;
        let of_run = (training.preset.as_str(), training.seed, training.batch) == (preset.as_str(), seed, batch);
        // One that may end before that, or begins anew for want of a checkpoint, gives a model that may be worse.
        let is_longer = epochs >= training.epochs
            && patience.is_none_or(|most| most >= training.patience.unwrap_or(training.epochs));
        resume && of_run && is_longer && checkpoint.exists()
    }
}

impl fmt::Display for Settings {
    /// As flags, `--resume` excepted: it does not change the outcome.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { preset, seed, batch, epochs, patience, .. } = self;
        write!(f, "--epochs {epochs} --batch {batch} --seed {seed} --preset {preset}")?;
        patience.map_or(Ok(()), |patience| write!(f, " --patience {patience}"))?;
        match self.backend {
            Backend::Programs => Ok(()),
            Backend::Tensors(_) => write!(f, " --device {}", self.backend),
        }
    }
}

/// What goes with a base model.
fn lost(parities: usize) -> String {
    match parities {
        0 => String::new(),
        1 => ", and the parity model that learned from it would be lost".to_owned(),
        parities => format!(", and the {parities} parity models that learned from it would be lost"),
    }
}

/// Why a training ended without a model.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// There is no data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The base weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The architecture does not fit the data.
    #[error(transparent)]
    NoFit(#[from] NoFit),
    /// No folder of weights could be found, or its model is for other data.
    #[error(transparent)]
    Folders(#[from] EvalError),
    /// What is read would be written over.
    #[error("{} holds the weights to train anew; name another folder with --out", dir.display())]
    SameFolder {
        /// The folder.
        dir: PathBuf,
    },
    /// Another base model would be written over.
    #[error(
        "{} holds a base model ({architecture}) that this would replace{}; name another folder with --out, or say {word} if it may go",
        dir.display(), lost(*parities)
    )]
    Replaces {
        /// The folder.
        dir: PathBuf,
        /// The network of the base model that is there.
        architecture: Architecture,
        /// How many parity models learned from it.
        parities: usize,
        /// With which it may go, and nothing is learned twice.
        word: &'static str,
    },
    /// Another parity model would be written over.
    #[error(
        "{} holds a parity model (kind = \"{kind}\", k = {k}, r = {r}, row {row}; {architecture}, {epochs} epochs) that this would replace; say {word} \
         if it may go, or do so in a copy of the folder",
        dir.display()
    )]
    ReplacesParity {
        /// The folder.
        dir: PathBuf,
        /// Kind of the code.
        kind: Kind,
        /// Data slots.
        k: usize,
        /// Parity slots.
        r: usize,
        /// The parity row.
        row: usize,
        /// The network of the parity model that is there.
        architecture: Architecture,
        /// Those that it was trained for.
        epochs: usize,
        /// With which it may go, and nothing is learned twice.
        word: &'static str,
    },
    /// The code has no such parity row.
    #[error("there is no parity row {row}: r = {r}")]
    NoSuchRow {
        /// What was asked for.
        row: usize,
        /// How many there are, counted from 0.
        r: usize,
    },
    /// The code runs on the base model.
    #[error("kind = \"{kind}\" runs on the base model: there is no parity model to train")]
    NothingToTrain {
        /// The kind.
        kind: Kind,
    },
    /// Only learned codes have one.
    #[error("kind = \"{kind}\" has no encoder network: --encoder is for \"learned\"")]
    NoEncoder {
        /// The kind.
        kind: Kind,
    },
    /// The network behind an encoder is given.
    #[error("kind = \"learned\" runs on the base model: --arch is for other kinds, --encoder for this one")]
    BaseNetwork,
    /// The rows are no pictures.
    #[error("encoder {encoder} needs rows of [channels, height, width]")]
    NoPicture {
        /// The encoder.
        encoder: Encoder,
    },
    /// Not one stripe to choose the best epoch by, or to calibrate with.
    #[error(
        "{}: a fifth of its training images, {validation}, is set aside to validate, and {least} are needed; name a folder with {} training images or more \
         with --data",
        dir.display(), 5 * least
    )]
    TooFewImages {
        /// The folder of the data.
        dir: PathBuf,
        /// How many there are.
        validation: usize,
        /// How many there must be.
        least: usize,
    },
    /// The folder of weights has the base model alone.
    #[error("{}: no parity models to calibrate; make some with `parityd train parity`", dir.display())]
    NothingToCalibrate {
        /// The folder.
        dir: PathBuf,
    },
    /// There is no such code.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The checkpoint cannot be used.
    #[error("{} {rule}; delete it, or run without --resume", file.display())]
    Checkpoint {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        rule: String,
    },
    /// The loss became infinite or no number.
    #[error("the loss was no number in step {step} of epoch {epoch}; try another seed")]
    Diverged {
        /// From 1.
        epoch: usize,
        /// From 0.
        step: usize,
    },
    /// A file could not be written.
    #[error("{}: cannot be written: {error}; make room there or make it writable, and run this again (a training goes on with `--resume`)", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Arithmetic failed.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl From<Unchanged> for TrainError {
    fn from(error: Unchanged) -> Self {
        match error {
            Unchanged::Weights(error) => TrainError::Weights(error),
            Unchanged::Write { file, error } => TrainError::Write { file, error },
        }
    }
}

impl From<Fault> for TrainError {
    fn from(fault: Fault) -> Self {
        TrainError::Weights(fault.into())
    }
}

/// Training and validation images, at least `least` of the latter: k for a stripe.
fn images(dir: &Path, least: usize) -> Result<(Images, Images), TrainError> {
    let (train, validation) = data::train(dir)?;
    if validation.count() < least {
        return Err(TrainError::TooFewImages { dir: dir.to_path_buf(), validation: validation.count(), least });
    }
    Ok((train, validation))
}

/// The pixels of some images, one after the other, varied if asked for.
fn gather(images: &Images, picked: &[usize], varied: bool, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut rows = Vec::with_capacity(picked.len() * images.width());
    for &row in picked {
        if varied {
            augment::append(images.row(row), images.size, rng, &mut rows);
        } else {
            rows.extend_from_slice(images.row(row));
        }
    }
    rows
}

/// The labels of some images.
fn labels(images: &Images, picked: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    let labels: Vec<u32> = picked.iter().map(|&row| u32::from(images.labels[row])).collect();
    Tensor::from_vec(labels, picked.len(), device)
}

/// What tells these images from others in a checkpoint: how many, in which order, and how dark.
fn identity(images: [&Images; 2]) -> String {
    let of = |images: &Images| {
        format!("rows={} labels={} {:?}", images.count(), sha256(&images.labels), normalisation(&images.pixels))
    };
    images.map(of).join(" and ")
}

/// Mean and standard deviation of a pixel, to six digits.
fn normalisation(pixels: &[f32]) -> Normalisation {
    let count = pixels.len() as f64;
    let mean = pixels.iter().copied().map(f64::from).sum::<f64>() / count;
    let variance = pixels.iter().map(|&pixel| (f64::from(pixel) - mean).powi(2)).sum::<f64>() / count;
    let round = |value: f64| (value * 1e6).round() / 1e6;
    Normalisation { mean: round(mean), std: round(variance.sqrt()) }
}

/// Whether files can be written in a folder, which is made if it is not there: found out before anything is learned. What runs that were killed left
/// there goes.
fn writable(folder: &Path) -> Result<(), TrainError> {
    remove_left_behind(folder);
    try_write(folder).map_err(|error| TrainError::Write { file: folder.to_path_buf(), error })
}

fn finished(settings: &Settings, fitted: &fit::Fitted, command: String) -> Training {
    Training {
        command,
        preset: settings.preset.to_string(),
        seed: settings.seed,
        batch: settings.batch,
        epochs: settings.epochs,
        patience: settings.patience,
        best_epoch: fitted.best_epoch,
        validation: fitted.best_score,
    }
}

/// Values to five digits after the point: finer than the canary's tolerance, short in the manifest.
fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| (value * 1e5).round() / 1e5).collect()
}
