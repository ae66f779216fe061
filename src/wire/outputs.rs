//! Predictions on their way out: the one output tensor, as values or as classes, and what is told of where it comes from.
//!
//! How a protocol writes it is the protocol's affair; as bytes, it is the same in both.

use std::{cmp::Ordering, fmt, num::NonZeroUsize};

use super::Wanted;
use crate::query::{Confidence, Prediction, Provenance, Signature};

/// What the output tensor holds.
#[derive(Debug)]
pub(crate) enum Contents<'a> {
    /// All rows' values.
    Values(&'a [Prediction]),
    /// All rows' classes, as text.
    Classes(Vec<String>),
}

impl<'a> Contents<'a> {
    /// What a request wants of these predictions, and the shape of one row of it.
    pub(crate) fn new(signature: &Signature, wanted: Wanted, predictions: &'a [Prediction]) -> (Self, Vec<usize>) {
        let Some(count) = wanted.classes else {
            return (Contents::Values(predictions), signature.output.shape.clone());
        };
        let told = |row: &Prediction| classes(&row.values, &signature.labels, count);
        let words = predictions.iter().flat_map(told).collect();
        (Contents::Classes(words), vec![count.get().min(signature.output.width())])
    }

    /// The word on the wire.
    pub(crate) const fn datatype(&self) -> &'static str {
        match self {
            Contents::Values(_) => "FP32",
            Contents::Classes(_) => "BYTES",
        }
    }

    /// How many bytes [`Contents::append`] writes.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Contents::Values(rows) => values(rows).count() * size_of::<f32>(),
            Contents::Classes(words) => words.iter().map(|word| size_of::<u32>() + word.len()).sum(),
        }
    }

    /// Writes it in the protocol's binary form.
    pub(crate) fn append(&self, body: &mut Vec<u8>) {
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

/// All rows' values.
pub(crate) fn values(rows: &[Prediction]) -> impl Iterator<Item = f32> + '_ {
    rows.iter().flat_map(|row| row.values.iter().copied())
}

/// Where the `count` highest values of a row stand, the highest first. Of equal values the first comes first; what is no number comes last.
pub(crate) fn highest(row: &[f32], count: usize) -> Vec<usize> {
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
pub(crate) fn confidences(predictions: &[Prediction]) -> Option<String> {
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

/// One word a row.
pub(crate) fn provenances(predictions: &[Prediction]) -> impl fmt::Display + '_ {
    fmt::from_fn(|f| {
        predictions.iter().enumerate().try_for_each(|(row, prediction)| {
            f.write_str(if row == 0 { "" } else { "," })?;
            f.write_str(prediction.provenance.as_str())
        })
    })
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
