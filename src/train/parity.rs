//! `train parity`: which models a code needs, what each learns from, and where it goes when it is done.
//!
//! The lessons themselves are in `stripewise` and, for encoder and decoder together, in `learned`. A model enters the manifest as it is
//! at that moment, so rows may be trained side by side.
//! The last row of a code to be trained has the code calibrated.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Backend, Settings, TrainError, calibrate, finished,
    fit::{Fitted, Run},
    learned::Joint,
    stripewise::{Known, Stripewise, has_output_a_row},
};
use crate::{
    code::{Code, Kind, Learned, Reading, Spec},
    eval::check_fit,
    model::{Architecture, Device, Encoder, Net, Parameters, Preprocessing},
    weights::{
        Bundle, Fault, MANIFEST_FILE, Manifest, Normalisation, Parity, Training, canary, decoder, decoder_of,
        encoded_plan, parity_plan, sha256,
    },
};

/// Networks with more parameters are written in half precision, as encoders are: their answers are approximate anyway.
const LARGE: usize = 1 << 19;

/// What `train parity` is asked for.
#[derive(Clone, Debug)]
pub struct ParityOptions {
    /// The folder of weights with the base model; the parity models go there too.
    pub weights: PathBuf,
    /// The code.
    pub code: Spec,
    /// The network; if `None` the usual one for such a code of such a base model.
    pub architecture: Option<Architecture>,
    /// What stands in front of the base model in a learned code; if `None` the convolutional one.
    pub encoder: Option<Encoder>,
    /// The parity rows to train; all if empty.
    pub rows: Vec<usize>,
    /// The folder of the data.
    pub data: PathBuf,
    /// Whether other models of those rows may go.
    pub replace: bool,
    /// The settings.
    pub settings: Settings,
}

impl ParityOptions {
    /// Whether there is something to train, whatever the weights are.
    pub fn check(&self) -> Result<(), TrainError> {
        let Spec { kind, r, .. } = self.code;
        self.code.check()?;
        if matches!(kind, Kind::Replica | Kind::Berrut) {
            return Err(TrainError::NothingToTrain { kind });
        }
        if let Some(&row) = self.rows.iter().find(|&&row| row >= r) {
            return Err(TrainError::NoSuchRow { row, r });
        }
        if self.encoder.is_some() && kind != Kind::Learned {
            return Err(TrainError::NoEncoder { kind });
        }
        if self.architecture.is_some() && kind == Kind::Learned {
            return Err(TrainError::BaseNetwork);
        }
        Ok(())
    }

    /// The rows to train.
    fn rows(&self) -> Vec<usize> {
        if self.rows.is_empty() { (0..self.code.r).collect() } else { self.rows.clone() }
    }

    /// The encoder, if the code learns one.
    fn encoder(&self) -> Option<Encoder> {
        (self.code.kind == Kind::Learned).then(|| self.encoder.unwrap_or(Encoder::Conv))
    }

    /// The network of its parity models; behind an encoder, the base model's.
    fn network(&self, base: Architecture, code: &dyn Code) -> Architecture {
        self.architecture.unwrap_or_else(|| usual(base, code))
    }

    /// The folder of its parity models within that of the weights.
    fn folder(&self) -> String {
        let Spec { kind, k, r, .. } = self.code;
        format!("{kind}-k{k}-r{r}")
    }

    /// The checkpoint of a row's training.
    fn checkpoint(&self, row: usize) -> PathBuf {
        self.weights.join(format!("{}/row{row}.checkpoint", self.folder()))
    }
}

/// Trains the parity models that are asked for, one after the other, and enters each in the manifest when it is done.
pub fn parity(options: &ParityOptions) -> Result<(), TrainError> {
    options.check()?;
    let bundle = Bundle::load(&options.weights, None)?;
    may_replace(options, bundle.manifest())?;
    super::writable(&options.weights)?;
    let (train, validation) = super::images(&options.data, options.code.k)?;
    check_fit(&options.weights, &bundle, &train)?;
    let base = bundle.base(&options.settings.backend.device())?;
    let (train_outputs, validation_outputs) = (base.predict(&train.pixels)?, base.predict(&validation.pixels)?);
    let teacher = Teacher {
        options,
        bundle: &bundle,
        base: &base,
        train: Known { images: &train, outputs: &train_outputs },
        validation: Known { images: &validation, outputs: &validation_outputs },
    };
    let input = &bundle.manifest().input.shape;
    if let Some(encoder) = options.encoder() {
        teacher.encoder(encoder, options.code.k)?;
    } else {
        let code = options.code.build(input, None)?;
        options.rows().into_iter().try_for_each(|row| teacher.row(&*code, row))?;
    }
    let manifest = Manifest::read(&options.weights)?;
    let code = options.code.build(input, decoder(&options.weights, &manifest, &options.code)?)?;
    // It is calibrated when that is trained.
    if lacks_a_row(&options.weights, &manifest, &*code) {
        return Ok(());
    }
    let weights = (options.weights.as_path(), &manifest);
    calibrate::one_code(weights, &*code, &validation, &validation_outputs, &options.settings.backend.device())
}

/// Refuses to train over parity models that are there, unless they may go or what is made is the same once more: whoever only tries something finds out
/// before anything is learned.
pub(super) fn may_replace(options: &ParityOptions, manifest: &Manifest) -> Result<(), TrainError> {
    if options.replace {
        return Ok(());
    }
    let Spec { kind, k, r, .. } = options.code;
    // What a learned code is built from is what is to be learned; it has no coefficients.
    let code = if kind == Kind::Learned { None } else { Some(options.code.build(&manifest.input.shape, None)?) };
    let base = manifest.base.architecture;
    let network = code.as_deref().map_or(base, |code| options.network(base, code));
    for row in options.rows() {
        let coefficients = code.as_deref().map_or(&[][..], |code| code.coefficients(row));
        let of_row = manifest.rows_of(kind, k, r).into_iter().find(|old| old.row == row);
        let Some(old) = of_row else { continue };
        let is_of =
            (old.architecture, old.encoder, old.coefficients.as_slice()) == (network, options.encoder(), coefficients);
        let is_same = is_of && options.settings.made(&old.training);
        if !is_same && !goes_on(old, options) {
            return Err(replaces(options, old, "--replace"));
        }
    }
    Ok(())
}

/// The same once it is known what came out: other images or another device give another model of the same settings. The checkpoint stays, so that nothing need be
/// learned again.
fn still_may_replace(options: &ParityOptions, row: usize, sha256: &str) -> Result<(), TrainError> {
    let Spec { kind, k, r, .. } = options.code;
    let manifest = Manifest::read(&options.weights)?;
    let of_row = manifest.rows_of(kind, k, r).into_iter().find(|old| old.row == row);
    // One that learned from another base is of no use to anybody.
    let is_of_base = |old: &&Parity| old.base_sha256 == manifest.base.sha256;
    match of_row.filter(is_of_base) {
        Some(old) if !options.replace && old.sha256 != sha256 && !goes_on(old, options) => {
            Err(replaces(options, old, "--resume --replace"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether `old` is an earlier end of the run that is to go on; that refuses a checkpoint of another network, code or base.
fn goes_on(old: &Parity, options: &ParityOptions) -> bool {
    options.settings.go_on(&old.training, &options.checkpoint(old.row))
}

fn replaces(options: &ParityOptions, old: &Parity, word: &'static str) -> TrainError {
    let &Parity { kind, k, r, row, architecture, training: Training { epochs, .. }, .. } = old;
    TrainError::ReplacesParity { dir: options.weights.clone(), kind, k, r, row, architecture, epochs, word }
}

/// Whether a row of the code is yet to be trained: it is not in the manifest, is for other coefficients or another base, or its file is gone or another.
fn lacks_a_row(weights: &Path, manifest: &Manifest, code: &dyn Code) -> bool {
    let rows = manifest.rows_of(code.kind(), code.k(), code.r());
    let is_there = |model: &Parity| match fs::read(weights.join(&model.file)) {
        Ok(bytes) => sha256(&bytes) == model.sha256,
        // What is there and cannot be read is a fault, which whoever calibrates tells.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    let is_trained = |row: usize| {
        rows.iter().any(|model| {
            model.row == row
                && model.coefficients == code.coefficients(row)
                && model.base_sha256 == manifest.base.sha256
                && is_there(model)
        })
    };
    !(0..code.r()).all(is_trained)
}

/// The network of a parity model, if nobody says otherwise: one that costs about as much a job as the base model, if there is one.
fn usual(base: Architecture, code: &dyn Code) -> Architecture {
    match code.reading() {
        Reading::Row | Reading::Channels | Reading::Encoded => base,
        Reading::Rows => base.compact(code.k()),
    }
}

/// What parity models learn from.
struct Teacher<'a> {
    options: &'a ParityOptions,
    bundle: &'a Bundle,
    base: &'a Net,
    train: Known<'a>,
    validation: Known<'a>,
}

/// A parity model that is done.
struct Trained<'a> {
    code: &'a dyn Code,
    row: usize,
    network: (Architecture, Option<Encoder>),
    fitted: &'a Fitted,
    /// What its file holds.
    stored: &'a Parameters,
    net: &'a Net,
}

impl Teacher<'_> {
    /// Trains the parity model of one row.
    fn row(&self, code: &dyn Code, row: usize) -> Result<(), TrainError> {
        let settings = &self.options.settings;
        let architecture = self.options.network(self.bundle.manifest().base.architecture, code);
        let plan = parity_plan(architecture, None, code, self.bundle.base_plan())?.plan;
        let lesson = Stripewise {
            backend: &settings.backend,
            plan: &plan,
            preprocessing: self.preprocessing(code.weight(row)),
            preset: settings.preset,
            // Full matrices have to learn each place anew, and sums of pictures that the base model has not learned teach little: with
            // variations, `sum` on the MLP lost 5 points.
            varied: settings.preset.augments() && has_output_a_row(code) && architecture.is_convolutional(),
            code,
            row,
            base: self.base,
            train: self.train,
            validation: self.validation,
            validation_order: (0..self.validation.images.count()).collect(),
        };
        let coefficients = code.coefficients(row);
        let mut fitted = self.run(row, &format!("{architecture} coefficients={coefficients:?}")).fit(&lesson)?;
        let large = plan.parameter_count() > LARGE;
        let stored = if large { halved(&mut fitted)? } else { fitted.parameters.clone() };
        let net = Net::new(&plan, lesson.preprocessing, &fitted.parameters, &Device::Cpu)?;
        self.enter(&Trained { code, row, network: (architecture, None), fitted: &fitted, stored: &stored, net: &net })
    }

    /// Trains encoder and decoder of a learned code of k rows.
    fn encoder(&self, encoder: Encoder, k: usize) -> Result<(), TrainError> {
        let settings = &self.options.settings;
        let plan = encoded_plan(encoder, k, self.bundle.base_plan()).ok_or(TrainError::NoPicture { encoder })?;
        let lesson = Joint {
            backend: &settings.backend,
            plan: &plan,
            preprocessing: self.preprocessing(1.0),
            preset: settings.preset,
            k,
            base: self.bundle.base_parameters(),
            train: self.train,
            validation: self.validation,
            validation_order: (0..self.validation.images.count()).collect(),
        };
        let mut fitted = self.run(0, &format!("encoder={encoder}")).fit(&lesson)?;
        let stored = halved(&mut fitted)?;
        let code = Learned::new(k, decoder_of(&fitted.parameters)?)?;
        let net = lesson.net(&fitted.parameters, &Backend::Programs)?;
        let architecture = self.bundle.manifest().base.architecture;
        let network = (architecture, Some(encoder));
        self.enter(&Trained { code: &code, row: 0, network, fitted: &fitted, stored: &stored, net: &net })
    }

    fn preprocessing(&self, weight: f64) -> Preprocessing {
        let Normalisation { mean, std } = self.bundle.manifest().preprocessing;
        Preprocessing { mean, std, weight }
    }

    fn run(&self, row: usize, network: &str) -> Run<'_> {
        let ParityOptions { settings, code: Spec { kind, k, .. }, .. } = self.options;
        let images = super::identity([self.train.images, self.validation.images]);
        Run {
            settings,
            identity: format!("{kind} k={k} parity of {} row={row} {network} of {images}", self.bundle.base_sha256()),
            checkpoint: self.options.checkpoint(row),
        }
    }

    /// Writes a model, and enters it in the manifest.
    fn enter(&self, trained: &Trained<'_>) -> Result<(), TrainError> {
        let Trained { code, row, network: (architecture, encoder), fitted, stored, net } = *trained;
        let bytes = stored.to_safetensors()?;
        let sha256 = sha256(&bytes);
        still_may_replace(self.options, row, &sha256)?;
        let query = canary::parity_query(code, row, self.bundle.signature().input.width());
        let parity = Parity {
            kind: code.kind(),
            k: code.k(),
            r: code.r(),
            row,
            coefficients: code.coefficients(row).to_vec(),
            architecture,
            encoder,
            file: format!("{}/row{row}.safetensors", self.options.folder()),
            sha256,
            base_sha256: self.bundle.base_sha256().to_owned(),
            preprocessing: self.bundle.manifest().preprocessing,
            canary: super::rounded(&net.predict(&query)?),
            training: finished(&self.options.settings, fitted, command(self.options, trained)),
        };
        enter(&self.options.weights, parity, &bytes)
    }
}

/// What is written of a network that none of its parameters needs more than half precision for; what is written is what runs from then on.
fn halved(fitted: &mut Fitted) -> Result<Parameters, TrainError> {
    let stored = fitted.parameters.halved()?;
    fitted.parameters = Parameters::from_safetensors(&stored.to_safetensors()?)?;
    Ok(stored)
}

/// Puts a parity model into its place and into the manifest as it is *now*: another row may have been trained meanwhile.
fn enter(weights: &Path, parity: Parity, bytes: &[u8]) -> Result<(), TrainError> {
    let (kind, k, r, row) = (parity.kind, parity.k, parity.r, parity.row);
    let file = parity.file.clone();
    Ok(Manifest::change_with(weights, (&file, bytes), |manifest| {
        let mut manifest = manifest?;
        if manifest.base.sha256 != parity.base_sha256 {
            let rule = "names another base than the one that this parity model was trained on";
            return Err(Fault::new(&weights.join(MANIFEST_FILE), rule, "train the parity model again"));
        }
        manifest.measured.retain(|measured| (measured.code.as_str(), measured.k, measured.r) != (kind.as_str(), k, r));
        manifest.calibrations.retain(|calibrated| !calibrated.is_of(kind, k, r));
        manifest.parities.retain(|old| (old.kind, old.k, old.r, old.row) != (kind, k, r, row));
        manifest.parities.push(parity);
        manifest.parities.sort_by_key(|parity| (parity.kind, parity.k, parity.r, parity.row));
        Ok(manifest)
    })?)
}

fn command(options: &ParityOptions, trained: &Trained<'_>) -> String {
    let ParityOptions { weights, code, settings, .. } = options;
    let Trained { row, network: (architecture, encoder), .. } = trained;
    let Spec { kind, k, r, coefficients, .. } = code;
    let weights = weights.display();
    let coefficients =
        coefficients.as_ref().map_or_else(String::new, |rows| format!(" --coefficients {}", written(rows)));
    let network = encoder.map_or_else(|| format!("--arch {architecture}"), |encoder| format!("--encoder {encoder}"));
    format!(
        "parityd train parity --weights {weights} --kind {kind} -k {k} -r {r} --row {row}{coefficients} {network} {settings}"
    )
}

/// Coefficients as the flag takes them.
fn written(rows: &[Vec<f32>]) -> String {
    let row = |row: &Vec<f32>| row.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
    rows.iter().map(row).collect::<Vec<_>>().join("/")
}
