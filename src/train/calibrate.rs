//! Calibrates codes: fits the temperature that turns a decoded output into a confidence, and counts how often it agrees with the base model.
//!
//! On the validation images, which trained no weight; the test images stay unseen. They did choose the best epoch of each parity model, by
//! stripes in their own order, so that a calibration on those very stripes would promise too much: it draws stripes of its own.

use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{TrainError, images, writable};
use crate::{
    code::{Code, SlotSet, Temperature},
    data::Images,
    eval::{Stripes, check_fit},
    model::{Device, Net},
    weights::{Bundle, Calibrated, Fault, MANIFEST_FILE, Manifest},
};

/// How often the validation images are cut into stripes anew; each image is lost once in each.
const PERMUTATIONS: u64 = 3;

/// What `train calibrate` is asked for.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    /// The folder of weights.
    pub weights: PathBuf,
    /// The folder of the data.
    pub data: PathBuf,
    /// Where the models run.
    pub device: Device,
}

/// Calibrates every code that the folder of weights has parity models of, and enters each in the manifest.
pub fn calibrate(options: &CalibrateOptions) -> Result<(), TrainError> {
    let CalibrateOptions { weights, data, device } = options;
    let bundle = Bundle::load(weights, None)?;
    let manifest = bundle.manifest();
    let codes = manifest.codes(weights)?;
    let Some(k_max) = codes.iter().map(|code| code.k()).max() else {
        return Err(TrainError::NothingToCalibrate { dir: weights.clone() });
    };
    writable(weights)?;
    let (_, validation) = images(data, k_max)?;
    check_fit(weights, &bundle, &validation)?;
    let outputs = bundle.base(device)?.predict(&validation.pixels)?;
    codes.iter().try_for_each(|code| one_code((weights, manifest), &**code, &validation, &outputs, device))
}

/// Calibrates one code of a manifest, whose parity models are all there, given the base model's `outputs` for the validation images.
pub(super) fn one_code(
    (weights, manifest): (&Path, &Manifest),
    code: &dyn Code,
    validation: &Images,
    outputs: &[f32],
    device: &Device,
) -> Result<(), TrainError> {
    // What it replaces may be for other weights, which would be refused.
    let manifest = Manifest { calibrations: Vec::new(), ..manifest.clone() };
    let bundle = Bundle::of(weights, manifest, Some(code))?;
    let nets = (0..code.r()).map(|row| bundle.parity(row, device)).collect::<Result<Vec<Net>, _>>()?;
    let calibrated = fit(&bundle, code, validation, outputs, &nets)?;
    let Calibrated { kind, k, r, temperature, agreement, rows, .. } = calibrated;
    tracing::info!(%kind, k, r, temperature, agreement, rows, "code calibrated");
    enter(weights, calibrated)
}

fn fit(
    bundle: &Bundle,
    code: &dyn Code,
    validation: &Images,
    outputs: &[f32],
    nets: &[Net],
) -> Result<Calibrated, TrainError> {
    let nets: Vec<Option<&Net>> = nets.iter().map(Some).collect();
    let (mut decoded, mut labels, mut agreement) = (Vec::new(), Vec::new(), 0.0);
    for seed in 0..PERMUTATIONS {
        let mut order: Vec<usize> = (0..validation.count()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let stripes = Stripes::run(code, validation, &order, outputs, &nets)?;
        for slot in 0..code.k() {
            stripes.reconstruct(SlotSet::only(slot), |row, output| {
                decoded.extend_from_slice(output);
                labels.push(usize::from(validation.labels[row]));
            });
        }
        agreement += stripes.agreement() / PERMUTATIONS as f64;
    }
    let round = |value: f64| (value * 1e5).round() / 1e5;
    Ok(Calibrated {
        kind: code.kind(),
        k: code.k(),
        r: code.r(),
        temperature: round(Temperature::fit(&decoded, &labels).get()),
        agreement: round(agreement),
        // Cutting the same images anew makes no more of them.
        rows: validation.count() - validation.count() % code.k(),
        weights_sha256: bundle.sha256(code.kind()),
    })
}

/// Puts a calibration into the manifest as it is *now*.
fn enter(weights: &Path, calibrated: Calibrated) -> Result<(), TrainError> {
    let Calibrated { kind, k, r, .. } = calibrated;
    Ok(Manifest::change(weights, |manifest| {
        let mut manifest = manifest?;
        if !calibrated.fits(&manifest) {
            let rule = "names other weights than those that were calibrated";
            return Err(Fault::new(&weights.join(MANIFEST_FILE), rule, "run `parityd train calibrate` again"));
        }
        manifest.calibrations.retain(|old| !old.is_of(kind, k, r));
        manifest.calibrations.push(calibrated);
        manifest.calibrations.sort_by_key(|calibrated| (calibrated.kind, calibrated.k, calibrated.r));
        Ok(manifest)
    })?)
}
