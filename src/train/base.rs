//! Trains a base model: cross-entropy on the labels.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::Result;
use rand_chacha::ChaCha8Rng;

use super::{
    Backend, Settings, TrainError, finished,
    fit::{Lesson, Loss, Run},
    gather,
    init::Dense,
    labels,
};
use crate::{
    data::{self, Images},
    eval::class,
    model::{Architecture, Device, Learner, Net, Parameters, Plan, Preprocessing},
    weights::{
        Base, Dataset, Deployment, FORMAT, Fault, Input, MANIFEST_FILE, Manifest, Normalisation, Output, canary, sha256,
    },
};

/// The base model's file within a folder of weights.
const FILE: &str = "base.safetensors";
/// Its training's, while that may go on.
const CHECKPOINT: &str = "base.checkpoint";

/// What `train base` is asked for.
#[derive(Clone, Debug)]
pub struct BaseOptions {
    /// The network.
    pub architecture: Architecture,
    /// The folder of weights to make.
    pub out: PathBuf,
    /// Deployment name.
    pub name: String,
    /// Deployment version.
    pub version: String,
    /// The folder of the data.
    pub data: PathBuf,
    /// Whether another base model there may go, and the parity models that learned from it.
    pub replace: bool,
    /// The settings.
    pub settings: Settings,
}

struct Labels<'a> {
    backend: &'a Backend,
    plan: &'a Plan,
    preprocessing: Preprocessing,
    varied: bool,
    train: &'a Images,
    validation: &'a Images,
}

impl Lesson for Labels<'_> {
    type Model = Learner;

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.plan.parameters()
    }

    fn dense(&self) -> Dense {
        Dense::Fixed
    }

    fn model(&self, parameters: &Parameters) -> Result<Learner> {
        self.backend.learner(self.plan, self.preprocessing, parameters)
    }

    fn rows(&self) -> usize {
        self.train.count()
    }

    fn rows_per_input(&self) -> usize {
        1
    }

    fn loss<'a>(&self, learner: &'a Learner, picked: &[usize], rng: &mut ChaCha8Rng) -> Result<Loss<'a>> {
        let pass = learner.forward(&gather(self.train, picked, self.varied, rng))?;
        let labels = labels(self.train, picked, pass.outputs().device())?;
        Ok(Loss { value: candle_nn::loss::cross_entropy(pass.outputs(), &labels)?, pass })
    }

    fn score(&self, parameters: &Parameters) -> Result<f64> {
        let net = self.backend.net(self.plan, self.preprocessing, parameters)?;
        let logits = net.predict(&self.validation.pixels)?;
        let outputs = logits.len() / self.validation.count();
        let right = logits.chunks(outputs).zip(&self.validation.labels);
        let right = right.filter(|(output, label)| class(output) == usize::from(**label)).count();
        Ok(right as f64 / self.validation.count() as f64)
    }
}

/// Trains a base model and writes it with its manifest. Parity models of another base in that folder leave the manifest, if they may: they
/// would be refused.
pub fn base(options: &BaseOptions) -> std::result::Result<(), TrainError> {
    may_replace(options)?;
    super::writable(&options.out)?;
    let (train, validation) = super::images(&options.data, 1)?;
    let plan = options.architecture.plan(&[1, train.size.0, train.size.1], data::LABELS.len())?;
    let normalisation = super::normalisation(&train.pixels);
    let preprocessing = Preprocessing { mean: normalisation.mean, std: normalisation.std, weight: 1.0 };
    let run = Run {
        settings: &options.settings,
        identity: format!("base {} of {}", options.architecture, super::identity([&train, &validation])),
        checkpoint: options.out.join(CHECKPOINT),
    };
    let varied = options.settings.preset.augments() && options.architecture.is_convolutional();
    let backend = &options.settings.backend;
    let fitted =
        run.fit(&Labels { backend, plan: &plan, preprocessing, varied, train: &train, validation: &validation })?;
    // The canary is what CPUs give, whatever trained it: they are the exact ones.
    let net = Net::new(&plan, preprocessing, &fitted.parameters, &Device::Cpu)?;
    let bytes = fitted.parameters.to_safetensors()?;
    let sha256 = sha256(&bytes);
    still_may_replace(options, &sha256)?;
    let base = Base {
        architecture: options.architecture,
        file: FILE.to_owned(),
        sha256,
        canary: super::rounded(&net.predict(&canary::row(net.width(), 0))?),
        training: finished(&options.settings, &fitted, command(options)),
    };
    let split = format!(
        "training images: the first {} to train, the last {} to validate; test images: measurement only",
        train.count(),
        validation.count()
    );
    Ok(Manifest::change_with(&options.out, (FILE, &bytes), |old| {
        let new = manifest(options, &plan, normalisation, split, base);
        Ok(match old {
            Ok(old) => succeed(&options.out, old, new),
            Err(_) => new,
        })
    })?)
}

/// Refuses to train over a base model that is there, and over what learned from it, unless that may go or what is made is the same once more: whoever
/// meant another folder finds out before anything is learned.
pub(super) fn may_replace(options: &BaseOptions) -> std::result::Result<(), TrainError> {
    let file = options.out.join(MANIFEST_FILE);
    // Even a link to nowhere is somebody's.
    if options.replace || fs::symlink_metadata(&file).is_err() {
        return Ok(());
    }
    let old = Manifest::read(&options.out)
        .map_err(|fault| Fault { next: "name another folder with --out, or say --replace if it may go", ..fault })?;
    let is_same = old.base.architecture == options.architecture && options.settings.made(&old.base.training);
    if is_same || goes_on(&old, options) { Ok(()) } else { Err(replaces(options, &old, "--replace")) }
}

/// The same once it is known what came out: other images or another device give another model of the same settings. The checkpoint stays, so that nothing need be learned
/// again.
fn still_may_replace(options: &BaseOptions, sha256: &str) -> std::result::Result<(), TrainError> {
    match Manifest::read(&options.out) {
        Ok(old) if !options.replace && old.base.sha256 != sha256 && !goes_on(&old, options) => {
            Err(replaces(options, &old, "--resume --replace"))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether `old` is an earlier end of the run that is to go on, and nothing has learned from it.
fn goes_on(old: &Manifest, options: &BaseOptions) -> bool {
    let is_of = old.base.architecture == options.architecture && old.parities.is_empty();
    is_of && options.settings.go_on(&old.base.training, &options.out.join(CHECKPOINT))
}

fn replaces(options: &BaseOptions, old: &Manifest, word: &'static str) -> TrainError {
    let (architecture, parities) = (old.base.architecture, old.parities.len());
    TrainError::Replaces { dir: options.out.clone(), architecture, parities, word }
}

/// What is written in the place of `old`. The very same base model, which a run that was done already gives, keeps the models that learned from it.
fn succeed(dir: &Path, old: Manifest, new: Manifest) -> Manifest {
    if (&old.base.sha256, old.base.architecture, old.preprocessing)
        == (&new.base.sha256, new.base.architecture, new.preprocessing)
    {
        let Manifest { parities, calibrations, measured, .. } = old;
        return Manifest { parities, calibrations, measured, ..new };
    }
    if !old.parities.is_empty() {
        let file = dir.join(MANIFEST_FILE);
        tracing::warn!(manifest = %file.display(), "parity models of the earlier base are left out; train them again");
    }
    new
}

fn manifest(options: &BaseOptions, plan: &Plan, preprocessing: Normalisation, split: String, base: Base) -> Manifest {
    Manifest {
        format: FORMAT,
        deployment: Deployment { name: options.name.clone(), version: options.version.clone() },
        input: Input { name: "input".to_owned(), shape: plan.input().to_vec(), range: [0.0, 1.0] },
        output: Output {
            name: "logits".to_owned(),
            shape: vec![plan.outputs()],
            labels: data::LABELS.map(str::to_owned).to_vec(),
        },
        preprocessing,
        dataset: Dataset {
            name: "fashion-mnist".to_owned(),
            licence: "MIT".to_owned(),
            source: "https://github.com/zalandoresearch/fashion-mnist (Debian package dataset-fashion-mnist)"
                .to_owned(),
            split,
        },
        base,
        parities: Vec::new(),
        calibrations: Vec::new(),
        measured: Vec::new(),
    }
}

fn command(options: &BaseOptions) -> String {
    let BaseOptions { architecture, out, name, version, settings, .. } = options;
    let out = Path::display(out);
    format!("parityd train base --arch {architecture} --out {out} --name {name} --version {version} {settings}")
}
