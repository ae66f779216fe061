//! Predictions on their way out: the reply of an infer request, as JSON, as JSON with binary data behind it, or as classes.
//!
//! JSON has no word for values that are not finite: they are `null` there, which every JSON reader takes and numpy reads as NaN. Binary
//! data hold them bit for bit. (Triton writes `NaN` and `Infinity`, which are not JSON.)

use serde::{Serialize, Serializer, ser::SerializeSeq};

use super::Site;
use crate::{
    query::Prediction,
    wire::{Contents, Form, Wanted, confidences, provenances, values},
};

/// What a reply is expected to take besides its values, so that its memory seldom grows.
const HEAD_BYTES: usize = 384;
/// What JSON takes for a byte of the binary form, about as much: twelve characters for a value with its comma.
const TEXT_BYTES: usize = 3;

/// The body of a reply.
pub(super) struct Written {
    pub(super) body: Vec<u8>,
    /// How much of it is JSON, if that is not all.
    pub(super) json_bytes: Option<usize>,
}

#[derive(Serialize)]
struct InferReply<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    parameters: Parameters<'a>,
    outputs: [Output<'a>; 1],
}

/// What a reply says of its predictions.
#[derive(Serialize)]
pub(super) struct Parameters<'a> {
    #[serde(serialize_with = "serialize_provenances")]
    provenance: &'a [Prediction],
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<String>,
}

impl<'a> Parameters<'a> {
    /// One word and, where something was judged, one number a row.
    pub(super) fn of(predictions: &'a [Prediction]) -> Self {
        Parameters { provenance: predictions, confidence: confidences(predictions) }
    }
}

fn serialize_provenances<S: Serializer>(predictions: &&[Prediction], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&provenances(predictions))
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<OutputParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

#[derive(Serialize)]
struct OutputParameters {
    binary_data_size: usize,
}

/// The values in JSON: one flat list.
struct Data<'a>(&'a Contents<'a>);

impl Serialize for Data<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Contents::Values(rows) => {
                let mut list = serializer.serialize_seq(Some(values(rows).count()))?;
                values(rows).try_for_each(|value| list.serialize_element(&value))?;
                list.end()
            }
            Contents::Classes(words) => words.serialize(serializer),
        }
    }
}

/// The reply to a request that is answered.
pub(super) fn write(site: &Site, id: Option<&str>, wanted: Wanted, predictions: &[Prediction]) -> Written {
    let signature = &site.signature;
    let (contents, row) = Contents::new(signature, wanted, predictions);
    let binary = match wanted.form {
        Form::Typed => None,
        Form::Binary => Some(contents.bytes()),
    };
    let reply = InferReply {
        model_name: &signature.name,
        model_version: &signature.version,
        id,
        parameters: Parameters::of(predictions),
        outputs: [Output {
            name: &signature.output.name,
            datatype: contents.datatype(),
            shape: std::iter::once(predictions.len()).chain(row).collect(),
            parameters: binary.map(|binary_data_size| OutputParameters { binary_data_size }),
            data: binary.is_none().then_some(Data(&contents)),
        }],
    };
    let expected = binary.unwrap_or_else(|| contents.bytes() * TEXT_BYTES);
    let mut body = Vec::with_capacity(HEAD_BYTES + expected);
    serde_json::to_writer(&mut body, &reply).expect("replies have string keys, and writing to memory cannot fail");
    let json_bytes = binary.map(|_| {
        let json_bytes = body.len();
        contents.append(&mut body);
        json_bytes
    });
    Written { body, json_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Provenance;

    fn prediction(values: &[f32]) -> Prediction {
        Prediction { values: values.into(), provenance: Provenance::Direct, confidence: None }
    }

    #[test]
    fn values_are_short_and_exact_and_null_if_not_finite() {
        let rows = [prediction(&[0.1, f32::NAN, 16_777_216.0]), prediction(&[f32::INFINITY, -1e-45, f32::MAX])];
        let text = serde_json::to_string(&Data(&Contents::Values(&rows))).expect("JSON");
        assert_eq!(text, "[0.1,null,16777216.0,null,-1e-45,3.4028235e+38]");
    }
}
