//! The rows that are sent, as text that is ready to be joined into a body, and their labels where there are any.
//!
//! Formatting floats takes longer than a fast server takes to answer, so it is done once for each row before the load; a body is then
//! three copies of memory. Images are labelled and give an accuracy; a model of another shape gets random rows and none.

use std::{fmt::Write, path::Path};

use bytes::Bytes;
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{BenchError, Load, target::Target};
use crate::data::{self, Images, LABELS};

/// Distinct random rows: enough that no cache holds the answer by chance, fewer where rows are long.
const RANDOM_ROWS: usize = 256;
const RANDOM_VALUES: usize = 4 * 1024 * 1024;

/// Stream of the generator; the load draws from lower ones.
const STREAM: u64 = 2;

/// Where rows come from.
#[derive(Debug)]
pub(super) struct Source {
    images: Option<Images>,
    random: Vec<Vec<f32>>,
}

impl Source {
    /// Labelled test images if they fit the model, else random rows; an error only where `data` was named and is of no use.
    pub(super) fn open(named: Option<&Path>, model: &str, target: &Target, seed: u64) -> Result<Self, BenchError> {
        let classes = target.classes.is_none_or(|classes| classes == LABELS.len() as u64);
        let found = data::test(&data::locate(named));
        match (found, named) {
            (Err(error), Some(_)) => return Err(error.into()),
            (Ok(images), _) if images.width() == target.width() && classes => {
                return Ok(Source { images: Some(images), random: Vec::new() });
            }
            (Ok(images), Some(_)) => {
                return Err(BenchError::OtherData { model: model.to_owned(), width: images.width() });
            }
            (Ok(images), None) => {
                let (width, wanted) = (images.width(), target.width());
                tracing::warn!(
                    "random rows, so no accuracy: images of {width} pixels do not fit rows of {wanted} values"
                );
            }
            (Err(error), None) => tracing::warn!("random rows, so no accuracy: {error}"),
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(STREAM);
        let count = (RANDOM_VALUES / target.width().max(1)).clamp(1, RANDOM_ROWS);
        let mut row = || (0..target.width()).map(|_| random.random::<f32>()).collect();
        Ok(Source { images: None, random: (0..count).map(|_| row()).collect() })
    }

    /// How many rows there are.
    pub(super) fn count(&self) -> u32 {
        let count = self.images.as_ref().map_or(self.random.len(), Images::count);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Whether accuracy can be told.
    pub(super) fn is_labelled(&self) -> bool {
        self.images.is_some()
    }

    /// The class of a row.
    pub(super) fn label(&self, row: u32) -> Option<u8> {
        self.images.as_ref().and_then(|images| images.labels.get(row as usize).copied())
    }

    fn values(&self, row: u32) -> &[f32] {
        self.images.as_ref().map_or_else(|| self.random[row as usize].as_slice(), |images| images.row(row as usize))
    }
}

/// Bodies of the requests of one run.
#[derive(Debug)]
pub(super) struct Bodies {
    head: String,
    /// Text of each row that is ever sent; empty for others.
    rows: Vec<String>,
}

impl Bodies {
    /// Formats every row that `picks` holds.
    pub(super) fn new(load: &Load, target: &Target, source: &Source, picks: &[u32]) -> Self {
        let mut rows = vec![String::new(); source.count() as usize];
        for &row in picks {
            let text = &mut rows[row as usize];
            if text.is_empty() {
                *text = joined(source.values(row));
            }
        }
        let shape: Vec<u64> = [u64::from(load.rows)].into_iter().chain(target.row.iter().copied()).collect();
        // Only parityd knows the word, so it is sent only where it changes something.
        let parameters = if load.allow_reconstructed { "" } else { r#""parameters":{"allow_reconstructed":false},"# };
        let name = serde_json::Value::from(target.input.as_str());
        let head = format!(
            r#"{{{parameters}"inputs":[{{"name":{name},"shape":{},"datatype":"FP32","data":["#,
            serde_json::Value::from(shape)
        );
        Bodies { head, rows }
    }

    /// The body of a request with these rows.
    pub(super) fn body(&self, picks: &[u32]) -> Bytes {
        let texts = picks.iter().map(|&row| self.rows[row as usize].as_str());
        let length: usize = texts.clone().map(|text| text.len() + 1).sum();
        let mut body = String::with_capacity(self.head.len() + length + 4);
        body.push_str(&self.head);
        for (place, text) in texts.enumerate() {
            if place > 0 {
                body.push(',');
            }
            body.push_str(text);
        }
        body.push_str("]}]}");
        Bytes::from(body)
    }
}

fn joined(values: &[f32]) -> String {
    let mut text = String::with_capacity(values.len() * 8);
    for (place, value) in values.iter().enumerate() {
        let comma = if place > 0 { "," } else { "" };
        write!(text, "{comma}{value}").expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::bench::Arrivals;

    fn target(row: &[u64]) -> Target {
        let (path, input) = (String::new(), "x\"y".to_owned());
        Target { path, input, row: row.to_vec(), classes: Some(10), version: None }
    }

    fn load(rows: u32, allow_reconstructed: bool) -> Load {
        let deadline = Duration::from_secs(2);
        Load { rate: 1.0, seconds: 1.0, seed: 1, arrivals: Arrivals::Poisson, rows, deadline, allow_reconstructed }
    }

    fn images() -> Result<Source, BenchError> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        Source::open(Some(&folder), "m", &target(&[1, 28, 28]), 1)
    }

    #[test]
    fn bodies_are_the_protocols() {
        let (source, target) = (images().unwrap(), target(&[1, 28, 28]));
        let bodies = Bodies::new(&load(2, false), &target, &source, &[3, 5]);
        let body: Value = serde_json::from_slice(&bodies.body(&[5, 3])).unwrap();
        assert_eq!(body["parameters"], json!({"allow_reconstructed": false}));
        let input = &body["inputs"][0];
        assert_eq!((&input["name"], &input["shape"]), (&json!("x\"y"), &json!([2, 1, 28, 28])));
        let sent: Vec<f32> = serde_json::from_value(input["data"].clone()).unwrap();
        assert_eq!(sent, [source.values(5), source.values(3)].concat());
        let plain: Value =
            serde_json::from_slice(&Bodies::new(&load(1, true), &target, &source, &[0]).body(&[0])).unwrap();
        assert!(plain.get("parameters").is_none());
    }

    #[test]
    fn data_that_was_named_must_fit_and_be_there() {
        assert!(images().unwrap().is_labelled());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let other = Source::open(Some(&folder), "m", &target(&[4]), 1).unwrap_err();
        assert!(other.to_string().contains("leave --data out"), "{other}");
        let absent = Source::open(Some(Path::new("/nowhere")), "m", &target(&[4]), 1).unwrap_err();
        assert!(absent.to_string().contains("--data DIR"), "{absent}");
    }

    #[test]
    fn other_models_get_seeded_random_rows() {
        let rows = |seed| Source::open(None, "m", &target(&[4]), seed).unwrap();
        assert_eq!((rows(1).count(), rows(1).is_labelled(), rows(1).label(0)), (256, false, None));
        assert_eq!(rows(1).random, rows(1).random);
        assert_ne!(rows(1).random, rows(2).random);
        assert!(rows(1).random.iter().flatten().all(|value| (0.0..1.0).contains(value)));
    }
}
