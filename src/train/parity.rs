//! Trains the parity models of a code: mean squared error to what the code wants of the base model's outputs (`ParM`, section 3.4).
//!
//! Targets are raw outputs (logits). Stripes are drawn anew each epoch from all training rows, encoded by the code that
//! serves, and validated by reconstruction: the share of single losses that come back with the base model's class.
//! The last row of a code to be trained has the code calibrated.

use std::path::{Path, PathBuf};

use candle_core::{Result, Tensor};
use rand_chacha::ChaCha8Rng;

use super::{
    Preset, Settings, TrainError, calibrate, finished,
    fit::{Lesson, Run},
    gather, labels,
};
use crate::{
    code::{Code, Reading, RunsOn, Spec},
    data::{self, Images},
    eval::Stripes,
    model::{Architecture, Device, Net, Preprocessing},
    weights::{Bundle, Fault, MANIFEST_FILE, Manifest, Parity, canary, parity_plan},
};

/// How much the probabilities of distillation are softened.
const TEMPERATURE: f64 = 3.0;

/// What `train parity` is asked for.
#[derive(Clone, Debug)]
pub struct ParityOptions {
    /// The folder of weights with the base model; the parity models go there too.
    pub weights: PathBuf,
    /// The code.
    pub code: Spec,
    /// The network; if `None` the usual one for such a code of such a base model.
    pub architecture: Option<Architecture>,
    /// The parity rows to train; all if empty.
    pub rows: Vec<usize>,
    /// The folder of the data.
    pub data: PathBuf,
    /// The settings.
    pub settings: Settings,
}

struct Stripewise<'a> {
    preset: Preset,
    /// Whether pictures are varied.
    varied: bool,
    code: &'a dyn Code,
    row: usize,
    base: &'a Net,
    train: Known<'a>,
    validation: Known<'a>,
    validation_order: Vec<usize>,
}

impl Stripewise<'_> {
    /// What the base model makes of `rows`, which are the `picked` ones, perhaps varied.
    fn base_outputs(&self, picked: &[usize], rows: &[f32]) -> Result<Vec<f32>> {
        if self.varied {
            return self.base.predict(rows);
        }
        Ok(picked.iter().flat_map(|&row| self.train.output(row)).copied().collect())
    }

    /// What is decoded of each row of each stripe if it alone is lost, from parity outputs `found` and the base model's outputs: `[rows,
    /// outputs]`. Decoding one loss is affine in the parity output, `scale * found + offset`; both come from the decoder itself.
    fn decoded(&self, found: &Tensor, base: &[f32]) -> Result<Tensor> {
        let (code, k, outputs) = (self.code, self.code.k(), self.train.width());
        let decode = |slot: usize, members: &[&[f32]], parity: &[f32]| {
            let at_hand: Vec<Option<&[f32]>> = (0..k)
                .map(|other| (other != slot).then(|| members[other]))
                .chain((0..code.r()).map(|row| (row == self.row).then_some(parity)))
                .collect();
            code.decode(slot, &at_hand).expect("one loss is recoverable with one parity output at hand")
        };
        let (zeros, ones) = (vec![0.0; outputs], vec![1.0; outputs]);
        let nothing = vec![zeros.as_slice(); k];
        let scales: Vec<f32> = (0..k).map(|slot| decode(slot, &nothing, &ones)[0]).collect();
        let offsets = by_stripe(base, (k, outputs), k * outputs, |members, offsets| {
            for (slot, offset) in offsets.chunks_exact_mut(outputs).enumerate() {
                offset.copy_from_slice(&decode(slot, members, &zeros));
            }
        });
        let stripes = found.dim(0)?;
        let scales = Tensor::from_vec(scales, (1, k, 1), found.device())?;
        let offsets = Tensor::from_vec(offsets, (stripes, k, outputs), found.device())?;
        found.unsqueeze(1)?.broadcast_mul(&scales)?.broadcast_add(&offsets)?.reshape((stripes * k, outputs))
    }
}

/// Whether each row has an output of its own, to which its label belongs.
fn has_output_a_row(code: &dyn Code) -> bool {
    match code.reading() {
        Reading::Row => false,
        Reading::Channels | Reading::Rows => true,
    }
}

/// What `write` makes of the k rows (`row_width` values each) of each stripe: `width` values a stripe, one after the other.
fn by_stripe(
    values: &[f32],
    (k, row_width): (usize, usize),
    width: usize,
    write: impl Fn(&[&[f32]], &mut [f32]),
) -> Vec<f32> {
    let mut written = vec![0.0; values.len() / (k * row_width) * width];
    for (stripe, place) in values.chunks_exact(k * row_width).zip(written.chunks_exact_mut(width)) {
        write(&stripe.chunks_exact(row_width).collect::<Vec<_>>(), place);
    }
    written
}

/// Half cross-entropy to the labels, half Kullback-Leibler divergence to the base model's probabilities, both softened by a temperature
/// (Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2). A row of `found` and `base` each.
fn distilled(found: &Tensor, base: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let hard = candle_nn::loss::cross_entropy(found, labels)?;
    let softened = |logits: &Tensor| candle_nn::ops::log_softmax(&(logits / TEMPERATURE)?, 1);
    let (found, base) = (softened(found)?, softened(base)?);
    let divergence = (base.exp()? * (base - found)?)?.sum(1)?.mean_all()?;
    // The gradient of softened probabilities shrinks with the square of the temperature.
    (hard * 0.5)? + (divergence * (0.5 * TEMPERATURE * TEMPERATURE))?
}

/// Images with the base model's outputs.
#[derive(Clone, Copy)]
struct Known<'a> {
    images: &'a Images,
    outputs: &'a [f32],
}

impl Known<'_> {
    /// Values of one output row.
    fn width(&self) -> usize {
        self.outputs.len() / self.images.count()
    }

    fn output(&self, row: usize) -> &[f32] {
        let width = self.width();
        &self.outputs[row * width..(row + 1) * width]
    }
}

impl Lesson for Stripewise<'_> {
    fn rows(&self) -> usize {
        self.train.images.count()
    }

    fn rows_per_input(&self) -> usize {
        self.code.k()
    }

    fn loss(&self, net: &Net, picked: &[usize], rng: &mut ChaCha8Rng) -> Result<Tensor> {
        let (code, k, row, outputs) = (self.code, self.code.k(), self.row, self.train.width());
        let images = self.train.images;
        let rows = gather(images, picked, self.varied, rng);
        let base = self.base_outputs(picked, &rows)?;
        let queries = by_stripe(&rows, (k, images.width()), code.query_width(images.width()), |rows, query| {
            code.encode(row, rows, query);
        });
        let found = net.forward(&net.rows(&queries)?)?;
        let decoded = match (self.preset.distils(), has_output_a_row(code)) {
            (true, true) => found.reshape((picked.len(), outputs))?,
            (true, false) => self.decoded(&found, &base)?,
            (false, _) => {
                let targets = by_stripe(&base, (k, outputs), code.output_width(outputs), |outputs, target| {
                    code.target(row, outputs, target);
                });
                let targets = Tensor::from_vec(targets, found.shape(), net.device())?;
                return candle_nn::loss::mse(&found, &targets);
            }
        };
        let base = Tensor::from_vec(base, decoded.shape(), net.device())?;
        distilled(&decoded, &base, &labels(images, picked, net.device())?)
    }

    fn score(&self, net: &Net) -> Result<f64> {
        let nets: Vec<Option<&Net>> = (0..self.code.r()).map(|row| (row == self.row).then_some(net)).collect();
        let Known { images, outputs } = self.validation;
        Ok(Stripes::run(self.code, images, &self.validation_order, outputs, &nets)?.agreement())
    }
}

/// Trains the parity models that are asked for, one after the other, and enters each in the manifest when it is done.
pub fn parity(options: &ParityOptions) -> std::result::Result<(), TrainError> {
    let bundle = Bundle::load(&options.weights, None)?;
    let code = options.code.build(&bundle.manifest().input.shape)?;
    if code.runs_on() == RunsOn::Base {
        return Err(TrainError::NothingToTrain { kind: code.kind() });
    }
    let all: Vec<usize> = (0..code.r()).collect();
    let rows = if options.rows.is_empty() { &all } else { &options.rows };
    if let Some(&row) = rows.iter().find(|&&row| row >= code.r()) {
        return Err(TrainError::NoSuchRow { row, r: code.r() });
    }
    let base = bundle.manifest().base.architecture;
    let architecture = options.architecture.unwrap_or_else(|| usual(base, &*code));
    let (train, validation) = data::train(&options.data)?;
    let net = bundle.base(&Device::Cpu)?;
    let (train_outputs, validation_outputs) = (net.predict(&train.pixels)?, net.predict(&validation.pixels)?);
    for &row in rows {
        let lesson = Stripewise {
            preset: options.settings.preset,
            // Full matrices have to learn each place anew, and sums of pictures that the base model has not learned teach little: with
            // variations, `sum` on the MLP lost 5 points.
            varied: options.settings.preset.augments() && has_output_a_row(&*code) && architecture.is_convolutional(),
            code: &*code,
            row,
            base: &net,
            train: Known { images: &train, outputs: &train_outputs },
            validation: Known { images: &validation, outputs: &validation_outputs },
            validation_order: (0..validation.count()).collect(),
        };
        one_row(options, &bundle, architecture, &lesson)?;
    }
    // A code that still lacks a row, or has one that fits no more, is calibrated when that is trained.
    if Bundle::load_uncalibrated(&options.weights, &*code).is_err() {
        return Ok(());
    }
    calibrate::one_code(&options.weights, &*code, &validation, &validation_outputs)
}

/// The network of a parity model, if nobody says otherwise: one that costs about as much a job as the base model, if there is one.
fn usual(base: Architecture, code: &dyn Code) -> Architecture {
    match code.reading() {
        Reading::Row | Reading::Channels => base,
        Reading::Rows => base.compact(code.k()),
    }
}

fn one_row(
    options: &ParityOptions,
    bundle: &Bundle,
    architecture: Architecture,
    lesson: &Stripewise<'_>,
) -> std::result::Result<(), TrainError> {
    let ParityOptions { weights, settings, .. } = options;
    let (code, row) = (lesson.code, lesson.row);
    let (kind, k, r) = (code.kind(), code.k(), code.r());
    let coefficients = code.coefficients(row);
    let manifest = bundle.manifest();
    let normalisation = manifest.preprocessing;
    let preprocessing = Preprocessing { mean: normalisation.mean, std: normalisation.std, weight: code.weight(row) };
    let plan = parity_plan(architecture, code, &manifest.input.shape, bundle.base_plan().outputs)?;
    let folder = format!("{kind}-k{k}-r{r}");
    let run = Run {
        plan: &plan,
        preprocessing,
        settings,
        identity: format!(
            "{kind} k={k} {architecture} parity of {} row={row} coefficients={coefficients:?}",
            bundle.base_sha256()
        ),
        checkpoint: weights.join(format!("{folder}/row{row}.checkpoint")),
        device: Device::Cpu,
    };
    let fitted = run.fit(lesson)?;
    let net = Net::new(run.plan, preprocessing, &fitted.parameters, &run.device)?;
    let file = format!("{folder}/row{row}.safetensors");
    let sha256 = super::write_parameters(&weights.join(&file), &fitted.parameters)?;
    let query = canary::parity_query(code, row, bundle.signature().input.width());
    let parity = Parity {
        kind,
        k,
        r,
        row,
        coefficients: coefficients.to_vec(),
        architecture,
        file,
        sha256,
        base_sha256: bundle.base_sha256().to_owned(),
        preprocessing: normalisation,
        canary: super::rounded(&net.predict(&query)?),
        training: finished(settings, &fitted, command(options, architecture, row)),
    };
    enter(weights, parity)
}

/// Puts a parity model into the manifest as it is *now*: another row may have been trained meanwhile.
fn enter(weights: &Path, parity: Parity) -> std::result::Result<(), TrainError> {
    let file = weights.join(MANIFEST_FILE);
    let mut manifest = Manifest::read(weights)?;
    if manifest.base.sha256 != parity.base_sha256 {
        let rule = "names another base than the one that this parity model was trained on".to_owned();
        return Err(Fault { file, rule, next: "train the parity model again" }.into());
    }
    let (kind, k, r, row) = (parity.kind, parity.k, parity.r, parity.row);
    manifest.measured.retain(|measured| (measured.code.as_str(), measured.k, measured.r) != (kind.as_str(), k, r));
    manifest.calibrations.retain(|calibrated| !calibrated.is_of(kind, k, r));
    manifest.parities.retain(|old| (old.kind, old.k, old.r, old.row) != (kind, k, r, row));
    manifest.parities.push(parity);
    manifest.parities.sort_by_key(|parity| (parity.kind, parity.k, parity.r, parity.row));
    manifest.write(weights).map_err(|error| TrainError::Write { file, error })
}

fn command(options: &ParityOptions, architecture: Architecture, row: usize) -> String {
    let ParityOptions { weights, code, settings, .. } = options;
    let Spec { kind, k, r, coefficients } = code;
    let weights = weights.display();
    let coefficients =
        coefficients.as_ref().map_or_else(String::new, |rows| format!(" --coefficients {}", written(rows)));
    format!(
        "parityd train parity --weights {weights} --kind {kind} -k {k} -r {r} --row {row}{coefficients} --arch {architecture} {settings}"
    )
}

/// Coefficients as the flag takes them.
fn written(rows: &[Vec<f32>]) -> String {
    let row = |row: &Vec<f32>| row.iter().map(f32::to_string).collect::<Vec<_>>().join(",");
    rows.iter().map(row).collect::<Vec<_>>().join("/")
}
