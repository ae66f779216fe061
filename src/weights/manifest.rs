//! `manifest.toml`: what a folder of weights says about itself.
//!
//! Plain data with unknown keys refused. The trainer and `eval --record` write it, nobody types a hash or an accuracy; what was measured
//! is kept apart from what was trained, and goes when the model it was measured on goes. Several may write it side by side: whoever
//! changes it has its folder locked from the reading to the writing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    Calibrated, Fault, WeightsError, decoder, unread,
    whole::{Beside, lock},
};
use crate::{
    code::{Code, Coefficients, Kind, Spec},
    model::{Architecture, Encoder},
};

/// The file's name within a folder of weights.
pub const MANIFEST_FILE: &str = "manifest.toml";

/// The version of this layout that is read and written.
pub const FORMAT: u32 = 1;

/// All of `manifest.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// `[deployment]`
    pub deployment: Deployment,
    /// `[input]`
    pub input: Input,
    /// `[output]`
    pub output: Output,
    /// `[preprocessing]`
    pub preprocessing: Normalisation,
    /// `[dataset]`
    pub dataset: Dataset,
    /// `[base]`
    pub base: Base,
    /// `[[parity]]`: one a parity row.
    #[serde(default, rename = "parity", skip_serializing_if = "Vec::is_empty")]
    pub parities: Vec<Parity>,
    /// `[[calibration]]`: one a code, written by `train calibrate`.
    #[serde(default, rename = "calibration", skip_serializing_if = "Vec::is_empty")]
    pub calibrations: Vec<Calibrated>,
    /// `[[measured]]`: one a code, written by `eval --record`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<Measured>,
}

/// Under which name the weights are deployed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// Model name on the wire.
    pub name: String,
    /// Version on the wire.
    pub version: String,
}

/// The one input tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Tensor name.
    pub name: String,
    /// Shape of one row.
    pub shape: Vec<usize>,
    /// Smallest and largest value that the model was trained on.
    pub range: [f32; 2],
}

/// The one output tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Tensor name.
    pub name: String,
    /// Shape of one row.
    pub shape: Vec<usize>,
    /// Names of its values, in order.
    pub labels: Vec<String>,
}

/// How one raw row is normalised; a parity query with coefficients c takes Σc times the mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// Mean of a raw value over the training set.
    pub mean: f64,
    /// Standard deviation of a raw value over the training set.
    pub std: f64,
}

/// What it was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Short name.
    pub name: String,
    /// SPDX name of its licence.
    pub licence: String,
    /// Where it comes from.
    pub source: String,
    /// What was used for what.
    pub split: String,
}

/// How a model was trained: enough to train it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// The command that made it.
    pub command: String,
    /// Name of the settings.
    pub preset: String,
    /// Seed of the initial weights and of every shuffle.
    pub seed: u64,
    /// Rows (or stripes) of one step.
    pub batch: usize,
    /// Passes over the training set.
    pub epochs: usize,
    /// Passes without a better one after which it would have ended early, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<usize>,
    /// The pass after which it was best on the validation rows, from 1; these are its weights.
    pub best_epoch: usize,
    /// Base model: share of the validation labels hit. Parity model: share of reconstructions with the base model's class.
    pub validation: f64,
}

/// The base model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Its network.
    pub architecture: Architecture,
    /// Its weights, relative to the manifest.
    pub file: String,
    /// SHA-256 of that file, in hex.
    pub sha256: String,
    /// Its output for the canary.
    pub canary: Vec<f32>,
    /// How it was made.
    pub training: Training,
}

/// The parity model of one parity row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parity {
    /// Kind of the code.
    pub kind: Kind,
    /// Data slots.
    pub k: usize,
    /// Parity slots.
    pub r: usize,
    /// Which parity row this is (`0..r`).
    pub row: usize,
    /// Coefficients of that row (kind `sum`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coefficients: Vec<f32>,
    /// Its network; behind an encoder, the base model's.
    pub architecture: Architecture,
    /// What stands in front of the base model (kind `learned`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<Encoder>,
    /// Its weights, relative to the manifest.
    pub file: String,
    /// SHA-256 of that file, in hex.
    pub sha256: String,
    /// SHA-256 of the base weights whose outputs it learned.
    pub base_sha256: String,
    /// Normalisation that it was trained with.
    pub preprocessing: Normalisation,
    /// Its output for the canary stripe.
    pub canary: Vec<f32>,
    /// How it was made.
    pub training: Training,
}

/// What `eval --record` measured on the test images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Kind of the code; `none` for the base model alone.
    pub code: String,
    /// Data slots.
    pub k: usize,
    /// Parity slots.
    pub r: usize,
    /// Test images.
    pub rows: usize,
    /// Accuracy of direct answers.
    pub a_a: f64,
    /// Accuracy of reconstructed answers, mean over the seeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a_d: Option<f64>,
    /// Its standard deviation over the seeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a_d_sd: Option<f64>,
    /// Share of reconstructed answers with the base model's class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Seeds of the permutations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<u64>,
    /// Accuracy of reconstructed answers for each set of lost data slots (`"0"`, `"0,1"`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub a_d_by_pattern: BTreeMap<String, f64>,
    /// SHA-256 of the weights it was measured on: base, then parity rows.
    pub weights_sha256: Vec<String>,
}

impl Measured {
    /// Whether it was measured on the weights that the manifest names.
    pub fn fits(&self, manifest: &Manifest) -> bool {
        let is_of =
            |parity: &&Parity| (parity.kind.as_str(), parity.k, parity.r) == (self.code.as_str(), self.k, self.r);
        let mut rows: Vec<&Parity> = manifest.parities.iter().filter(is_of).collect();
        rows.sort_by_key(|parity| parity.row);
        let parities = rows.into_iter().map(|parity| &parity.sha256);
        std::iter::once(&manifest.base.sha256).chain(parities).eq(&self.weights_sha256)
    }
}

/// Why a manifest stays as it was.
#[derive(Debug, thiserror::Error)]
pub enum Unchanged {
    /// It cannot be read, or not be changed like that.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// It cannot be written, or its folder not be locked.
    #[error("{}: cannot be written: {error}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Manifest {
    /// Reads `manifest.toml` of `dir`.
    pub fn read(dir: &Path) -> Result<Self, Fault> {
        let file = dir.join(MANIFEST_FILE);
        let text = has_an_end(&file).and_then(|()| fs::read_to_string(&file)).map_err(|error| {
            unread(&file, &error, "name a folder of weights, or make one with `parityd train base`")
        })?;
        let manifest: Manifest = toml::from_str(&text).map_err(|error| {
            let error = error.to_string();
            Fault::new(
                &file,
                format!("is no manifest: {}", error.trim_end()),
                "let the command that made it make it again",
            )
        })?;
        if manifest.format != FORMAT {
            let rule = format!("has format {}, and this parityd reads {FORMAT}", manifest.format);
            return Err(Fault::new(&file, rule, "use the parityd that made it, or make it again"));
        }
        Ok(manifest)
    }

    /// Makes a new `manifest.toml` of `dir` out of what is there, which nobody else changes meanwhile.
    pub fn change(
        dir: &Path,
        change: impl FnOnce(Result<Self, Fault>) -> Result<Self, Fault>,
    ) -> Result<(), Unchanged> {
        let unwritten = |error| Unchanged::Write { file: dir.join(MANIFEST_FILE), error };
        let _locked = lock(dir).map_err(unwritten)?;
        change(Manifest::read(dir)).map_err(WeightsError::from)?.write(dir).map_err(unwritten)
    }

    /// The same, where the new manifest names new weights: these bytes, in `file` of `dir`. The old ones stay until the manifest may change and both
    /// are on the disk, for weights that their manifest does not name are served by nobody.
    pub fn change_with(
        dir: &Path,
        (file, bytes): (&str, &[u8]),
        change: impl FnOnce(Result<Self, Fault>) -> Result<Self, Fault>,
    ) -> Result<(), Unchanged> {
        let unwritten = |file: &str| {
            let file = dir.join(file);
            move |error| Unchanged::Write { file, error }
        };
        let weights = Beside::write(&dir.join(file), bytes).map_err(unwritten(file))?;
        let _locked = lock(dir).map_err(unwritten(MANIFEST_FILE))?;
        let changed = change(Manifest::read(dir)).map_err(WeightsError::from)?;
        let manifest = changed.beside(dir).map_err(unwritten(MANIFEST_FILE))?;
        weights.take_place().map_err(unwritten(file))?;
        manifest.take_place().map_err(unwritten(MANIFEST_FILE))
    }

    /// Writes `manifest.toml` of `dir`, whole or not at all.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        self.beside(dir)?.take_place()
    }

    fn beside(&self, dir: &Path) -> io::Result<Beside> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let header =
            "# Written by `parityd train` and `parityd eval --record`; hashes bind it to the files beside it.\n";
        Beside::write(&dir.join(MANIFEST_FILE), format!("{header}{text}").as_bytes())
    }

    /// The parity rows of one code, by row.
    pub fn rows_of(&self, kind: Kind, k: usize, r: usize) -> Vec<&Parity> {
        let mut rows: Vec<&Parity> =
            self.parities.iter().filter(|parity| (parity.kind, parity.k, parity.r) == (kind, k, r)).collect();
        rows.sort_by_key(|parity| parity.row);
        rows
    }

    /// The codes that it has parity rows of, in the order of the manifest.
    ///
    /// Fails where it does not have every row of a code, or its kind, sizes and coefficients make none.
    pub fn codes(&self, dir: &Path) -> Result<Vec<Arc<dyn Code>>, Fault> {
        let fault = |rule, next| Fault::new(&dir.join(MANIFEST_FILE), rule, next);
        let mut seen = BTreeSet::new();
        let mut codes = Vec::new();
        for &Parity { kind, k, r, .. } in &self.parities {
            if !seen.insert((kind, k, r)) {
                continue;
            }
            let rows = self.rows_of(kind, k, r);
            if !rows.iter().map(|row| row.row).eq(0..r) {
                let rule = format!("does not have each parity row of kind = \"{kind}\", k = {k}, r = {r} once");
                return Err(fault(rule, "train the missing ones with `parityd train parity`"));
            }
            let coefficients: Coefficients = rows.iter().map(|row| row.coefficients.clone()).collect();
            let coefficients = (kind == Kind::Sum).then_some(coefficients);
            let spec = Spec { coefficients, ..Spec::of(kind, k, r) };
            let decoder = decoder(dir, self, &spec)?;
            codes.push(spec.build(&self.input.shape, decoder).map_err(|error| {
                fault(format!("has parity rows that make no code: {error}"), "let `parityd train` write the manifest")
            })?);
        }
        Ok(codes)
    }
}

/// Whether reading it ends: a pipe waits for who writes, and a device may go on for ever.
pub(super) fn has_an_end(file: &Path) -> io::Result<()> {
    let kind = fs::metadata(file)?.file_type();
    if kind.is_file() || kind.is_dir() {
        Ok(())
    } else {
        Err(io::Error::other("it is a pipe or a device, and no file"))
    }
}
