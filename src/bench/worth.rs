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
    /// What the manifest of `dir` says of the weights that it names; nothing where there is none.
    pub(super) fn of(dir: &Path) -> Self {
        let of = |manifest: Manifest| {
            Worth(manifest.measured.iter().filter(|measured| measured.fits(&manifest)).cloned().collect())
        };
        Manifest::read(dir).map(of).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Kind;

    #[test]
    fn figures_of_other_weights_are_worth_nothing() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/fashion-mnist/1");
        let mut manifest = Manifest::read(&shipped).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let compact = Spec::of(Kind::Compact, 2, 1);
        let worth = |manifest: &Manifest| {
            manifest.write(dir.path()).unwrap();
            let worth = Worth::of(dir.path());
            (worth.direct().is_some(), worth.decoded(&compact).is_some())
        };
        assert_eq!(worth(&manifest), (true, true));
        let row = |parity: &&mut crate::weights::Parity| (parity.kind, parity.k) == (Kind::Compact, 2);
        manifest.parities.iter_mut().find(row).unwrap().sha256 = "0".repeat(64);
        assert_eq!(worth(&manifest), (true, false));
        manifest.base.sha256 = "0".repeat(64);
        assert_eq!(worth(&manifest), (false, false));
    }
}
