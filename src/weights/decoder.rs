//! The decoder of a learned code, out of the file that holds its encoder.

use std::{fs, path::Path};

use super::{Fault, MANIFEST_FILE, Manifest, unread};
use crate::{
    code::{Decoder, Kind, Matrix, Spec},
    model::{Parameters, TensorError},
};

/// The decoder that the code `spec` was trained with; `None` for kinds that need none. The file's hash is checked where its encoder is.
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
    let file = dir.join(&row.file);
    let fault = |rule: String| Fault::new(&file, rule, "restore the file, or train it again");
    let bytes = fs::read(&file).map_err(|error| unread(&file, &error, "restore the file, or train it again"))?;
    let parameters =
        Parameters::from_safetensors(&bytes).map_err(|error| fault(format!("is no safetensors file: {error}")))?;
    decoder_of(&parameters).map(Some).map_err(|error| fault(format!("holds no decoder: {error}")))
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
