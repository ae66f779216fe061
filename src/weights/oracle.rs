//! The exact oracle: a folder of *linear* weights that are their own parity models, so a reconstruction equals the direct answer but for
//! rounding, with no training and no data.
//!
//! Tests of lanes, of the daemon and of `eval` make one where they need weights whose right answers are known beforehand. It lives in
//! the library because tests of every layer use it; nothing that serves does.

use std::path::Path;

use super::{
    Base, Dataset, Deployment, FORMAT, Input, Manifest, Normalisation, Output, Parity, Training, canary, sha256,
    write_whole,
};
use crate::{
    code::Code,
    model::{Architecture, Device, Net, Parameters, Preprocessing, Tensor},
};

/// Any normalisation would do; one that is not the identity shows where it is forgotten.
const PREPROCESSING: Normalisation = Normalisation { mean: 0.25, std: 0.5 };

/// Why no oracle was written.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct OracleError(#[from] Box<dyn std::error::Error + Send + Sync>);

/// Writes a folder of linear weights for rows of `shape` and `outputs` values, with parity rows for `code`.
///
/// Weight (o, i) is ((7 o + 3 i) mod 11) / 5 - 1: fixed, of both signs, different for each class.
pub fn write(dir: &Path, shape: &[usize], outputs: usize, code: &dyn Code) -> Result<(), OracleError> {
    let any = |error: Box<dyn std::error::Error + Send + Sync>| OracleError(error);
    write_folder(dir, shape, outputs, code).map_err(any)
}

fn write_folder(
    dir: &Path,
    shape: &[usize],
    outputs: usize,
    code: &dyn Code,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let plan = Architecture::Linear.plan(shape, outputs)?;
    let width: usize = shape.iter().product();
    let weight = |o: usize, i: usize| ((7 * o + 3 * i) % 11) as f32 / 5.0 - 1.0;
    let weights: Vec<f32> = (0..outputs).flat_map(|o| (0..width).map(move |i| weight(o, i))).collect();
    let tensor = Tensor::from_vec(weights, (outputs, width), &Device::Cpu)?;
    let parameters = Parameters::new([("fc1.weight".to_owned(), tensor)]);
    let bytes = parameters.to_safetensors()?;
    let preprocessing = Preprocessing { mean: PREPROCESSING.mean, std: PREPROCESSING.std, weight: 1.0 };
    let output = |preprocessing, input: &[f32]| {
        Net::new(&plan, preprocessing, &parameters, &Device::Cpu).and_then(|net| net.predict(input))
    };
    let base = Base {
        architecture: Architecture::Linear,
        file: "base.safetensors".to_owned(),
        sha256: sha256(&bytes),
        canary: output(preprocessing, &canary::row(width, 0))?,
        training: untrained(),
    };
    write_whole(&dir.join(&base.file), &bytes)?;
    let mut manifest = manifest(shape, outputs, base);
    for row in 0..code.r() {
        let (kind, k, r) = (code.kind(), code.k(), code.r());
        let query = canary::parity_query(code, row, width);
        let parity = Parity {
            kind,
            k,
            r,
            row,
            coefficients: code.coefficients(row).to_vec(),
            architecture: Architecture::Linear,
            encoder: None,
            file: format!("{kind}-k{k}-r{r}/row{row}.safetensors"),
            sha256: sha256(&bytes),
            base_sha256: sha256(&bytes),
            preprocessing: PREPROCESSING,
            canary: output(Preprocessing { weight: code.weight(row), ..preprocessing }, &query)?,
            training: untrained(),
        };
        write_whole(&dir.join(&parity.file), &bytes)?;
        manifest.parities.push(parity);
    }
    Ok(manifest.write(dir)?)
}

fn manifest(shape: &[usize], outputs: usize, base: Base) -> Manifest {
    Manifest {
        format: FORMAT,
        deployment: Deployment { name: "oracle".to_owned(), version: "1".to_owned() },
        input: Input { name: "input".to_owned(), shape: shape.to_vec(), range: [0.0, 1.0] },
        output: Output { name: "logits".to_owned(), shape: vec![outputs], labels: Vec::new() },
        preprocessing: PREPROCESSING,
        dataset: Dataset {
            name: "none".to_owned(),
            licence: "none".to_owned(),
            source: "made by a formula".to_owned(),
            split: "none".to_owned(),
        },
        base,
        parities: Vec::new(),
        calibrations: Vec::new(),
        measured: Vec::new(),
    }
}

fn untrained() -> Training {
    Training {
        command: "none".to_owned(),
        preset: "none".to_owned(),
        seed: 0,
        batch: 0,
        epochs: 0,
        patience: None,
        best_epoch: 0,
        validation: 0.0,
    }
}
