//! `train all`: every model that some manifests describe, trained anew with the settings that they record.
//!
//! Settings come from the manifest's fields, not from the command that it quotes, and each model is trained by what `train base` and
//! `train parity` call. Base models come first: a parity model learns from the base model that stands beside it. With `resume`, a model
//! that is there already, made with the same settings from the same base, stays.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Backend, BaseOptions, ParityOptions, Preset, Settings, TrainError, base, parity};
use crate::{
    code::{Coefficients, Kind, Spec},
    eval,
    weights::{Fault, MANIFEST_FILE, Manifest, Parity, Training, sha256},
};

/// What `train all` is asked for.
#[derive(Clone, Debug)]
pub struct AllOptions {
    /// The folder whose folders of weights (`<deployment>/<version>`) are read.
    pub weights: PathBuf,
    /// The folder that gets the same folders, trained anew.
    pub out: PathBuf,
    /// The folder of the data.
    pub data: PathBuf,
    /// Passes over the training rows, if not those that are recorded.
    pub epochs: Option<usize>,
    /// Whether to keep what is there already, and to go on from checkpoints.
    pub resume: bool,
    /// Whether other models there may go, and the parity models that learned from a base model that does.
    pub replace: bool,
    /// What it computes with.
    pub backend: Backend,
}

/// A folder of weights, and the one that was made after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remade {
    /// The folder that was read.
    pub old: PathBuf,
    /// The folder that was made.
    pub new: PathBuf,
}

/// Trains every model of every manifest below `options.weights` anew.
pub fn all(options: &AllOptions) -> Result<Vec<Remade>, TrainError> {
    let AllOptions { weights, out, .. } = options;
    fs::create_dir_all(out).map_err(|error| TrainError::Write { file: out.clone(), error })?;
    if fs::canonicalize(out).ok() == fs::canonicalize(weights).ok() {
        return Err(TrainError::SameFolder { dir: out.clone() });
    }
    let remade = |old: PathBuf| {
        let new = out.join(old.strip_prefix(weights).expect("it was found below that folder"));
        Remade { old, new }
    };
    let made: Vec<Remade> = eval::shipped(weights)?.into_iter().map(remade).collect();
    // All of them before the first is trained.
    for Remade { old, new } in &made {
        let recorded = Manifest::read(old)?;
        if !has_base(options, new, &recorded, &settings(options, old, &recorded.base.training)?) {
            base::may_replace(&of_base(options, old, new, &recorded)?)?;
        }
        // One that cannot be read has been refused, or may go.
        let Ok(made) = Manifest::read(new) else { continue };
        for model in &recorded.parities {
            parity::may_replace(&of_parity(options, (old, new), &recorded, model)?, &made)?;
        }
    }
    for Remade { old, new } in &made {
        folder(options, old, new)?;
    }
    Ok(made)
}

/// What makes the base model of a manifest again.
fn of_base(options: &AllOptions, old: &Path, new: &Path, recorded: &Manifest) -> Result<BaseOptions, TrainError> {
    Ok(BaseOptions {
        architecture: recorded.base.architecture,
        out: new.to_path_buf(),
        name: recorded.deployment.name.clone(),
        version: recorded.deployment.version.clone(),
        data: options.data.clone(),
        replace: options.replace,
        settings: settings(options, old, &recorded.base.training)?,
    })
}

/// What makes a parity model of a manifest again.
fn of_parity(
    options: &AllOptions,
    (old, new): (&Path, &Path),
    recorded: &Manifest,
    model: &Parity,
) -> Result<ParityOptions, TrainError> {
    Ok(ParityOptions {
        weights: new.to_path_buf(),
        code: spec(recorded, model),
        // Behind an encoder stands the base model.
        architecture: model.encoder.is_none().then_some(model.architecture),
        encoder: model.encoder,
        rows: vec![model.row],
        data: options.data.clone(),
        replace: options.replace,
        settings: settings(options, old, &model.training)?,
    })
}

/// One folder of weights.
fn folder(options: &AllOptions, old: &Path, new: &Path) -> Result<(), TrainError> {
    let recorded = Manifest::read(old)?;
    let of_base = of_base(options, old, new, &recorded)?;
    if has_base(options, new, &recorded, &of_base.settings) {
        tracing::info!(folder = %new.display(), "kept the base model");
    } else {
        base(&of_base)?;
    }
    for model in &recorded.parities {
        let of_parity = of_parity(options, (old, new), &recorded, model)?;
        if has_parity(options, new, model, &of_parity.settings) {
            tracing::info!(folder = %new.display(), file = %model.file, "kept a parity model");
        } else {
            parity(&of_parity)?;
        }
    }
    Ok(())
}

/// The settings that a model was trained with.
fn settings(options: &AllOptions, dir: &Path, training: &Training) -> Result<Settings, TrainError> {
    let unknown = |rule| Fault::new(&dir.join(MANIFEST_FILE), rule, "use the parityd that made it");
    let Training { seed, batch, epochs, patience, .. } = *training;
    Ok(Settings {
        preset: training.preset.parse::<Preset>().map_err(unknown)?,
        seed,
        batch,
        epochs: options.epochs.unwrap_or(epochs),
        patience,
        resume: options.resume,
        backend: options.backend.clone(),
    })
}

/// The code of a parity model. Coefficients are left out where they are those of the kind, as its first training had it.
fn spec(manifest: &Manifest, model: &Parity) -> Spec {
    let &Parity { kind, k, r, .. } = model;
    let usual = Spec::of(kind, k, r);
    let coefficients: Coefficients = manifest.rows_of(kind, k, r).iter().map(|row| row.coefficients.clone()).collect();
    let of_kind = usual.build(&manifest.input.shape, None);
    let same = |code: &dyn crate::code::Code| (0..r).all(|row| code.coefficients(row) == coefficients[row]);
    if kind != Kind::Sum || coefficients.len() != r || of_kind.is_ok_and(|code| same(&*code)) {
        return usual;
    }
    Spec { coefficients: Some(coefficients), ..usual }
}

/// Whether `new` has that base model already.
fn has_base(options: &AllOptions, new: &Path, recorded: &Manifest, settings: &Settings) -> bool {
    let Ok(made) = Manifest::read(new) else { return false };
    options.resume
        && (made.base.architecture, &made.deployment) == (recorded.base.architecture, &recorded.deployment)
        && settings.made(&made.base.training)
        && is_whole(new, &made.base.file, &made.base.sha256)
}

/// Whether `new` has that parity model already, learned from the base model that is there now.
fn has_parity(options: &AllOptions, new: &Path, model: &Parity, settings: &Settings) -> bool {
    let Ok(made) = Manifest::read(new) else { return false };
    let same = |row: &&Parity| {
        (row.kind, row.k, row.r, row.row, row.architecture, row.encoder, &row.coefficients)
            == (model.kind, model.k, model.r, model.row, model.architecture, model.encoder, &model.coefficients)
    };
    let there = made.parities.iter().find(same);
    options.resume
        && there.is_some_and(|row| {
            row.base_sha256 == made.base.sha256 && settings.made(&row.training) && is_whole(new, &row.file, &row.sha256)
        })
}

fn is_whole(dir: &Path, file: &str, hash: &str) -> bool {
    fs::read(dir.join(file)).is_ok_and(|bytes| sha256(&bytes) == hash)
}
