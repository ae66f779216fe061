//! Trains the parity models of a code: mean squared error to the same sum of the base model's outputs (`ParM`, section 3.4).
//!
//! Targets are raw outputs (logits), computed once. Stripes are drawn anew each epoch from all training rows, encoded by the code that
//! serves, and validated by reconstruction: the share of single losses that come back with the base model's class.

use std::path::{Path, PathBuf};

use candle_core::{Result, Tensor};

use super::{
    Settings, TrainError, finished,
    fit::{Lesson, Run},
};
use crate::{
    code::{Code, Sum},
    data::{self, Images},
    eval::{Stripes, encode},
    model::{Device, Net, Preprocessing},
    weights::{Bundle, Fault, MANIFEST_FILE, Manifest, Parity, canary},
};

/// What `train parity` is asked for.
#[derive(Clone, Debug)]
pub struct ParityOptions {
    /// The folder of weights with the base model; the parity models go there too.
    pub weights: PathBuf,
    /// The code.
    pub code: Sum,
    /// The parity rows to train; all if empty.
    pub rows: Vec<usize>,
    /// The folder of the data.
    pub data: PathBuf,
    /// The settings.
    pub settings: Settings,
}

struct Sums<'a> {
    code: &'a Sum,
    row: usize,
    train: Known<'a>,
    validation: Known<'a>,
    validation_order: Vec<usize>,
}

/// Images with the base model's outputs.
#[derive(Clone, Copy)]
struct Known<'a> {
    images: &'a Images,
    outputs: &'a [f32],
}

impl Known<'_> {
    fn output(&self, row: usize) -> &[f32] {
        let width = self.outputs.len() / self.images.count();
        &self.outputs[row * width..(row + 1) * width]
    }
}

impl Lesson for Sums<'_> {
    fn rows(&self) -> usize {
        self.train.images.count()
    }

    fn rows_per_input(&self) -> usize {
        self.code.k()
    }

    fn loss(&self, net: &Net, picked: &[usize]) -> Result<Tensor> {
        let queries = encode(self.code, self.row, self.train.images, picked);
        let outputs = net.plan().outputs;
        let mut targets = vec![0.0; picked.len() / self.code.k() * outputs];
        for (stripe, target) in picked.chunks_exact(self.code.k()).zip(targets.chunks_exact_mut(outputs)) {
            let rows: Vec<&[f32]> = stripe.iter().map(|&row| self.train.output(row)).collect();
            self.code.encode(self.row, &rows, target);
        }
        let targets = Tensor::from_vec(targets, (picked.len() / self.code.k(), outputs), net.device())?;
        candle_nn::loss::mse(&net.forward(&net.rows(&queries)?)?, &targets)
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
    let (train, validation) = data::train(&options.data)?;
    let base = bundle.base(&Device::Cpu)?;
    let (train_outputs, validation_outputs) = (base.predict(&train.pixels)?, base.predict(&validation.pixels)?);
    let all: Vec<usize> = (0..options.code.r()).collect();
    let rows = if options.rows.is_empty() { &all } else { &options.rows };
    for &row in rows {
        if row >= options.code.r() {
            return Err(TrainError::NoSuchRow { row, r: options.code.r() });
        }
        let lesson = Sums {
            code: &options.code,
            row,
            train: Known { images: &train, outputs: &train_outputs },
            validation: Known { images: &validation, outputs: &validation_outputs },
            validation_order: (0..validation.count()).collect(),
        };
        one_row(options, &bundle, &lesson)?;
    }
    Ok(())
}

fn one_row(options: &ParityOptions, bundle: &Bundle, lesson: &Sums<'_>) -> std::result::Result<(), TrainError> {
    let ParityOptions { weights, code, settings, .. } = options;
    let (row, k, r) = (lesson.row, code.k(), code.r());
    let coefficients = &code.coefficients()[row];
    let manifest = bundle.manifest();
    let normalisation = manifest.preprocessing;
    let preprocessing = Preprocessing { mean: normalisation.mean, std: normalisation.std, weight: 1.0 };
    let preprocessing = preprocessing.of_sum(coefficients);
    let run = Run {
        plan: bundle.base_plan(),
        preprocessing,
        settings,
        identity: format!("parity of {} row={row} coefficients={coefficients:?}", bundle.base_sha256()),
        checkpoint: weights.join(format!("sum-k{k}-r{r}/row{row}.checkpoint")),
        device: Device::Cpu,
    };
    let fitted = run.fit(lesson)?;
    let net = Net::new(run.plan, preprocessing, &fitted.parameters, &run.device)?;
    let file = format!("sum-k{k}-r{r}/row{row}.safetensors");
    let sha256 = super::write_parameters(&weights.join(&file), &fitted.parameters)?;
    let query = canary::parity_query(code, row, net.width());
    let parity = Parity {
        kind: "sum".to_owned(),
        k,
        r,
        row,
        coefficients: coefficients.clone(),
        architecture: manifest.base.architecture,
        file,
        sha256,
        base_sha256: bundle.base_sha256().to_owned(),
        preprocessing: normalisation,
        canary: super::rounded(&net.predict(&query)?),
        training: finished(settings, &fitted, command(options, row)),
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
    let (kind, k, r, row) = (&parity.kind, parity.k, parity.r, parity.row);
    manifest.measured.retain(|measured| (&measured.code, measured.k, measured.r) != (kind, k, r));
    manifest.parities.retain(|old| (&old.kind, old.k, old.r, old.row) != (kind, k, r, row));
    manifest.parities.push(parity);
    manifest.parities.sort_by(|a, b| (&a.kind, a.k, a.r, a.row).cmp(&(&b.kind, b.k, b.r, b.row)));
    manifest.write(weights).map_err(|error| TrainError::Write { file, error })
}

fn command(options: &ParityOptions, row: usize) -> String {
    let ParityOptions { weights, code, settings, .. } = options;
    let (k, r) = (code.k(), code.r());
    format!("parityd train parity --weights {} --kind sum -k {k} -r {r} --row {row} {settings}", weights.display())
}
