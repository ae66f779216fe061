//! `[[calibration]]` of a manifest: how the decoded outputs of a code are judged, bound to the weights that they come from.
//!
//! Parity models that were trained again err elsewhere, so a calibration for other weights is a fault like any other hash that does not
//! match, never a number that is used all the same. There is at most one a code; a code may have none, and then nothing of it is judged.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Fault, MANIFEST_FILE, Manifest};
use crate::code::{Calibration, Code, Kind, Temperature};

const AGAIN: &str = "fit it again with `parityd train calibrate`";

/// What `train calibrate` fitted on the validation rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibrated {
    /// Kind of the code.
    pub kind: Kind,
    /// Data slots.
    pub k: usize,
    /// Parity slots.
    pub r: usize,
    /// What decoded outputs are divided by before the softmax.
    pub temperature: f64,
    /// Share of decoded outputs with the class of the base model's own.
    pub agreement: f64,
    /// Decoded outputs that it was fitted on: each single loss of each stripe of the validation rows.
    pub rows: usize,
    /// SHA-256 of the weights it was fitted on: base, then parity rows.
    pub weights_sha256: Vec<String>,
}

impl Calibrated {
    /// Whether it is of this code.
    pub fn is_of(&self, kind: Kind, k: usize, r: usize) -> bool {
        (self.kind, self.k, self.r) == (kind, k, r)
    }

    /// Whether it was fitted on the weights that the manifest names.
    pub fn fits(&self, manifest: &Manifest) -> bool {
        let parities = manifest.rows_of(self.kind, self.k, self.r).into_iter().map(|parity| &parity.sha256);
        std::iter::once(&manifest.base.sha256).chain(parities).eq(&self.weights_sha256)
    }

    fn read(&self) -> Option<Calibration> {
        let agreement = Some(self.agreement).filter(|share| (0.0..=1.0).contains(share) && self.rows > 0)?;
        Some(Calibration { temperature: Temperature::new(self.temperature)?, agreement, rows: self.rows })
    }
}

/// The calibration of `code`, if there is one; reasons in `faults` if it cannot be used.
pub(super) fn check(dir: &Path, manifest: &Manifest, code: &dyn Code, faults: &mut Vec<Fault>) -> Option<Calibration> {
    let (kind, k, r) = (code.kind(), code.k(), code.r());
    let mut fault = |rule: &str| {
        let rule = format!("has a calibration for kind = \"{kind}\", k = {k}, r = {r} {rule}");
        faults.push(Fault::new(&dir.join(MANIFEST_FILE), rule, AGAIN));
    };
    let mut of_code = manifest.calibrations.iter().filter(|calibrated| calibrated.is_of(kind, k, r));
    let calibrated = of_code.next()?;
    if of_code.next().is_some() {
        fault("twice");
    }
    if !calibrated.fits(manifest) {
        fault("that was fitted for other weights");
    }
    let read = calibrated.read();
    if read.is_none() {
        fault("that needs a temperature above 0, an agreement from 0 to 1 and at least one row");
    }
    read
}
