//! What answers are worth: accuracies that `eval --record` wrote into a manifest.
//!
//! Under a virtual clock nothing is computed, so the accuracy of a run follows from its provenance: `(1 - f) A_a + f A_d` for a decoded share f.

use std::path::Path;

use crate::{
    code::Spec,
    weights::{Manifest, Measured},
};

/// Accuracies of one folder of weights.
#[derive(Clone, Debug, Default)]
pub(super) struct Worth(Vec<Measured>);

impl Worth {
    /// What the manifest of `dir` says; nothing where there is none.
    pub(super) fn of(dir: &Path) -> Self {
        Manifest::read(dir).map(|manifest| Worth(manifest.measured)).unwrap_or_default()
    }

    /// That of direct answers.
    pub(super) fn direct(&self) -> Option<f64> {
        self.0.first().map(|measured| measured.a_a)
    }

    /// That of decoded ones.
    pub(super) fn decoded(&self, code: &Spec) -> Option<f64> {
        let is_it = |measured: &&Measured| {
            (measured.code.as_str(), measured.k, measured.r) == (code.kind.as_str(), code.k, code.r)
        };
        self.0.iter().find(is_it)?.a_d
    }
}
