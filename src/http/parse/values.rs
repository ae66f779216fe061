//! The numbers of a tensor: `data`, flat or nested, from the text into one `Vec<f32>`.
//!
//! Never holds more values than the shape allows, and never nests deeper than the shape has dimensions. A value that its datatype or FP32 does
//! not hold is refused by its index.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, SeqAccess, Unexpected, Visitor};

use super::{Expected, Strings, not_finite, numbers};
use crate::wire::{Datatype, Number};

/// Reads `data` into one vector.
pub(super) struct Data<'a> {
    pub(super) expected: &'a Expected<'a>,
    /// How many rows the shape holds.
    pub(super) rows: usize,
    pub(super) datatype: Datatype,
}

impl<'de> DeserializeSeed<'de> for Data<'_> {
    type Value = Vec<f32>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Vec<f32>, D::Error> {
        let Data { expected, rows, datatype } = self;
        let limit = rows.saturating_mul(expected.signature.input.width());
        // A value and its comma are two bytes: no declared shape makes us reserve more than the body can fill.
        let mut into = Vec::with_capacity(limit.min(expected.json_bytes / 2 + 1));
        let levels = expected.signature.input.shape.len() + 1;
        if let Some(list) = expected.numbers {
            IgnoredAny::deserialize(json)?;
            let read = numbers::read(list, datatype, limit, levels, &mut into);
            return read.map(|()| into).ok_or_else(|| D::Error::custom("not plain numbers"));
        }
        json.deserialize_seq(Level { expected, into: &mut into, limit, datatype, levels })?;
        Ok(into)
    }
}

/// Reads one level of nested `data`: a number or a list of levels.
struct Level<'a, 'v> {
    expected: &'a Expected<'a>,
    into: &'v mut Vec<f32>,
    limit: usize,
    datatype: Datatype,
    /// How many lists may still open, one inside the other.
    levels: usize,
}

impl Level<'_, '_> {
    fn push<E: serde::de::Error>(self, number: Number) -> Result<(), E> {
        let index = self.into.len();
        if index == self.limit {
            let problem = format!("more values than the {} of the shape", self.limit);
            return Err(self.expected.refuse_field("inputs[0].data", problem));
        }
        let value = self.datatype.value(number);
        let misfit = |misfit| self.expected.refuse_field("inputs[0].data", format!("value {index} {misfit}"));
        self.into.push(value.map_err(misfit)?);
        Ok(())
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
        write!(f, "numbers, flat or nested (value {})", self.into.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Level { expected, into, limit, datatype, levels } = self;
        let Some(levels) = levels.checked_sub(1) else {
            return Err(expected.refuse_field("inputs[0].data", "nested deeper than the shape has dimensions"));
        };
        while list.next_element_seed(Level { expected, into: &mut *into, limit, datatype, levels })?.is_some() {}
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<(), E> {
        match not_finite::value(word).filter(|_| self.expected.strings == Strings::NotFinite) {
            Some(value) => self.push(Number::Real(value)),
            None => Err(E::invalid_type(Unexpected::Str(word), &self)),
        }
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<(), E> {
        self.push(Number::Bool(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<(), E> {
        self.push(Number::Real(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<(), E> {
        self.push(Number::Integer(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<(), E> {
        self.push(Number::Integer(value.into()))
    }
}
