//! The numbers of a tensor: `data`, flat or nested, from the text into one `Vec<f32>`.
//!
//! Never holds more values than the shape (or, before the shape is known, `queue_max` rows) allows, and never nests deeper than the shape
//! has dimensions. Every value is finite: JSON cannot say otherwise, and a number that overflows FP32 is refused by its index.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};

use super::Expected;
use crate::http::error::ClientError;

/// Reads `data` into one vector.
pub(super) struct Data<'a> {
    pub(super) expected: &'a Expected<'a>,
    /// How many rows the shape holds, if it has been read.
    pub(super) rows: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for Data<'_> {
    type Value = Vec<f32>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Vec<f32>, D::Error> {
        let Data { expected, rows } = self;
        let limit = rows.unwrap_or(expected.queue_max).saturating_mul(expected.input.width());
        let mut into = Vec::with_capacity(if rows.is_some() { limit.min(expected.values_max) } else { 0 });
        let levels = expected.input.shape.len() + 1;
        json.deserialize_seq(Level { expected, into: &mut into, limit, known: rows.is_some(), levels })?;
        Ok(into)
    }
}

/// Reads one level of nested `data`: a number or a list of levels.
struct Level<'a, 'v> {
    expected: &'a Expected<'a>,
    into: &'v mut Vec<f32>,
    limit: usize,
    /// Whether the limit is the shape's, and not that of the longest request.
    known: bool,
    /// How many lists may still open, one inside the other.
    levels: usize,
}

impl Level<'_, '_> {
    fn push<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        #[expect(clippy::cast_possible_truncation, reason = "tensors are f32; what does not fit is refused below")]
        let narrow = value as f32;
        if !narrow.is_finite() {
            let problem = format!("value {} is {value:e}, too large for FP32", self.into.len());
            return Err(self.expected.refuse_field("inputs[0].data", problem));
        }
        if self.into.len() < self.limit {
            self.into.push(narrow);
            return Ok(());
        }
        Err(if self.known {
            self.expected.refuse_field("inputs[0].data", format!("more values than the {} of the shape", self.limit))
        } else {
            self.expected.refuse(ClientError::TooManyRows { queue_max: self.expected.queue_max })
        })
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("numbers, flat or nested")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Level { expected, into, limit, known, levels } = self;
        let Some(levels) = levels.checked_sub(1) else {
            return Err(expected.refuse_field("inputs[0].data", "nested deeper than the shape has dimensions"));
        };
        while list.next_element_seed(Level { expected, into: &mut *into, limit, known, levels })?.is_some() {}
        Ok(())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.push(value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.push(value as f64)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.push(value as f64)
    }
}
