//! The decoder of a learned code, out of the file that holds its encoder.

use std::path::Path;

use super::{Fault, MANIFEST_FILE, Manifest, check};
use crate::{
    code::{Decoder, Kind, Matrix, Spec},
    model::{Parameters, TensorError},
};

/// The decoder that the code `spec` was trained with; `None` for kinds that need none. It is of the bytes that `manifest` has
/// the hash of, and so is the encoder of a bundle of this manifest.
pub fn decoder(dir: &Path, manifest: &Manifest, spec: &Spec) -> Result<Option<Decoder>, Fault> {
    let Spec { kind, k, r, .. } = *spec;
    if kind != Kind::Learned {
        return Ok(None);
    }
    let rows = manifest.rows_of(kind, k, r);
    let row = rows.first().ok_or_else(|| {
        let rule = format!("has no parity model for kind = \"{kind}\", k = {k}, r = {r}");
        Fault::new(&dir.join(MANIFEST_FILE), rule, "configure a code that it has, or run `parityd train parity`")
    })?;
    let parameters = check::parameters(dir, &row.file, &row.sha256)?;
    let fault = |error| Fault::new(&dir.join(&row.file), format!("holds no decoder: {error}"), check::RESTORE);
    decoder_of(&parameters).map(Some).map_err(fault)
}

/// The decoder among some parameters.
pub fn decoder_of(parameters: &Parameters) -> Result<Decoder, TensorError> {
    let values = |name: &str| {
        let missing = || TensorError::msg(format!("tensor `{name}` is missing"));
        parameters.get(name).ok_or_else(missing)?.flatten_all()?.to_vec1::<f32>()
    };
    let matrix = |name: &str| {
        let (values, bias) = (values(&format!("{name}.weight"))?, values(&format!("{name}.bias"))?);
        Ok::<_, TensorError>(Matrix { values, bias })
    };
    let [first, second, third] = ["decoder.fc1", "decoder.fc2", "decoder.fc3"];
    Decoder::new([matrix(first)?, matrix(second)?, matrix(third)?]).map_err(TensorError::wrap)
}
