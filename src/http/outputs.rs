//! Predictions on their way out: the reply of an infer request, as JSON, as JSON with binary data behind it, or as classes.
//!
//! JSON has no word for values that are not finite: they are `null` there, which every JSON reader takes and numpy reads as NaN. Binary
//! data hold them bit for bit. (Triton writes `NaN` and `Infinity`, which are not JSON.)

use std::{cmp::Ordering, num::NonZeroUsize};

use serde::{Serialize, Serializer, ser::SerializeSeq};

use super::{
    Site,
    parse::{Form, Wanted},
};
use crate::query::{Confidence, Prediction, Provenance};

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
    parameters: Parameters,
    outputs: [Output<'a>; 1],
}

/// What a reply says of its predictions.
#[derive(Serialize)]
pub(super) struct Parameters {
    provenance: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<String>,
}

impl Parameters {
    /// One word and, where something was judged, one number a row.
    pub(super) fn of(predictions: &[Prediction]) -> Self {
        let words = predictions.iter().map(|prediction| prediction.provenance.as_str()).collect::<Vec<_>>();
        Parameters { provenance: words.join(","), confidence: confidences(predictions) }
    }
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<OutputParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Contents<'a>>,
}

#[derive(Serialize)]
struct OutputParameters {
    binary_data_size: usize,
}

/// What the output tensor holds.
enum Contents<'a> {
    /// All rows' values.
    Values(&'a [Prediction]),
    /// All rows' classes, as text.
    Classes(Vec<String>),
}

impl Contents<'_> {
    const fn datatype(&self) -> &'static str {
        match self {
            Contents::Values(_) => "FP32",
            Contents::Classes(_) => "BYTES",
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Contents::Values(rows) => values(rows).count() * size_of::<f32>(),
            Contents::Classes(words) => words.iter().map(|word| size_of::<u32>() + word.len()).sum(),
        }
    }

    fn append(&self, body: &mut Vec<u8>) {
        match self {
            Contents::Values(rows) => {
                values(rows).for_each(|value| body.extend_from_slice(&value.to_le_bytes()));
            }
            Contents::Classes(words) => {
                for word in words {
                    let length = u32::try_from(word.len()).expect("a number, an index and a label of the manifest");
                    body.extend(length.to_le_bytes());
                    body.extend(word.as_bytes());
                }
            }
        }
    }
}

fn values(rows: &[Prediction]) -> impl Iterator<Item = f32> {
    rows.iter().flat_map(|row| row.values.iter().copied())
}

/// One flat list.
impl Serialize for Contents<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Contents::Values(rows) => {
                let mut list = serializer.serialize_seq(Some(values(rows).count()))?;
                values(rows).try_for_each(|value| list.serialize_element(&value))?;
                list.end()
            }
            Contents::Classes(words) => words.serialize(serializer),
        }
    }
}

/// Where the `count` highest values of a row stand, the highest first. Of equal values the first comes first; what is no number comes last.
pub(super) fn highest(row: &[f32], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..row.len()).collect();
    let order = |&a: &usize, &b: &usize| match (row[a].is_nan(), row[b].is_nan()) {
        (false, false) => row[b].partial_cmp(&row[a]).unwrap_or(Ordering::Equal),
        (a, b) => a.cmp(&b),
    };
    places.sort_by(order);
    places.truncate(count);
    places
}

/// The `count` highest values of a row, each as `value:index` or, with labels, `value:index:label`.
fn classes(row: &[f32], labels: &[String], count: NonZeroUsize) -> Vec<String> {
    // In this form numbers of any size are short, and read back they are the same.
    let told = |place: usize| match labels.get(place) {
        Some(label) => format!("{:?}:{place}:{label}", row[place]),
        None => format!("{:?}:{place}", row[place]),
    };
    highest(row, count.get()).into_iter().map(told).collect()
}

/// One number a row if some row was decoded and judged. The base model's own answer bears 1, the default prediction 0: neither is a
/// reconstruction, so neither number is a share of right answers.
fn confidences(predictions: &[Prediction]) -> Option<String> {
    let told = |prediction: &Prediction| {
        let unjudged = match prediction.provenance {
            Provenance::Direct => Confidence::FULL,
            Provenance::Reconstructed | Provenance::Approximate | Provenance::Default => Confidence::NONE,
        };
        prediction.confidence.unwrap_or(unjudged).to_string()
    };
    let judged = predictions.iter().any(|prediction| prediction.confidence.is_some());
    judged.then(|| predictions.iter().map(told).collect::<Vec<_>>().join(","))
}

/// The reply to a request that is answered.
pub(super) fn write(site: &Site, id: Option<&str>, wanted: Wanted, predictions: &[Prediction]) -> Written {
    let signature = &site.signature;
    let (contents, row) = match wanted.classes {
        None => (Contents::Values(predictions), signature.output.shape.clone()),
        Some(count) => {
            let told = |row: &Prediction| classes(&row.values, &signature.labels, count);
            let count = count.get().min(signature.output.width());
            (Contents::Classes(predictions.iter().flat_map(told).collect()), vec![count])
        }
    };
    let binary = match wanted.form {
        Form::Json => None,
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
            data: binary.is_none().then_some(&contents),
        }],
    };
    let mut body = serde_json::to_vec(&reply).expect("replies have string keys, and writing to memory cannot fail");
    let json_bytes = binary.map(|bytes| {
        let json_bytes = body.len();
        body.reserve_exact(bytes);
        contents.append(&mut body);
        json_bytes
    });
    Written { body, json_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(values: &[f32]) -> Prediction {
        Prediction { values: values.into(), provenance: Provenance::Direct, confidence: None }
    }

    #[test]
    fn confidences_are_told_where_something_was_judged() {
        let of = |provenance, confidence| Prediction { provenance, confidence, ..prediction(&[1.0]) };
        let decoded = of(Provenance::Approximate, Confidence::new(0.9));
        let rows = [of(Provenance::Direct, None), decoded, of(Provenance::Default, None)];
        assert_eq!(confidences(&rows).as_deref(), Some("1,0.9,0"));
        assert_eq!(confidences(&rows[..1]), None);
    }

    #[test]
    fn values_are_short_and_exact_and_null_if_not_finite() {
        let rows = [prediction(&[0.1, f32::NAN, 16_777_216.0]), prediction(&[f32::INFINITY, -1e-45, f32::MAX])];
        let text = serde_json::to_string(&Contents::Values(&rows)).expect("JSON");
        assert_eq!(text, "[0.1,null,16777216.0,null,-1e-45,3.4028235e+38]");
    }

    #[test]
    fn bytes_are_counted_as_they_are_written() {
        let rows = [prediction(&[0.5, f32::NEG_INFINITY]), prediction(&[-1.0, 2.0])];
        for contents in [Contents::Values(&rows), Contents::Classes(vec!["2:1:é".into(), String::new()])] {
            let mut body = vec![7];
            contents.append(&mut body);
            assert_eq!(body.len(), 1 + contents.bytes());
        }
        let mut body = Vec::new();
        Contents::Classes(vec!["2:1".into()]).append(&mut body);
        assert_eq!(body, [3, 0, 0, 0, b'2', b':', b'1']);
    }

    #[test]
    fn classes_are_the_highest_values_in_order() {
        let count = |count| NonZeroUsize::new(count).expect("some");
        let labels = ["a", "b:c", "d", "e"].map(str::to_owned);
        assert_eq!(classes(&[1.0, 5.0, 10.0, 4.0], &[], count(2)), ["10.0:2", "5.0:1"]);
        assert_eq!(
            classes(&[-0.5, 2.25, 2.25, f32::NAN], &labels, count(9)),
            ["2.25:1:b:c", "2.25:2:d", "-0.5:0:a", "NaN:3:e"]
        );
        assert_eq!(classes(&[f32::NEG_INFINITY, f32::INFINITY], &[], count(2)), ["inf:1", "-inf:0"]);
    }
}
