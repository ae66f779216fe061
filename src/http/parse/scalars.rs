//! Objects of single values: `parameters`, wherever they stand.
//!
//! The protocol allows strings, numbers and booleans there. Whoever reads one decides by name; what is not known is skipped, since clients
//! send what other servers understand. Lists and objects are refused under any name, as in Triton, and so is a name that stands there twice: of
//! two words on whether a reconstruction is welcome neither may be the one that counts.

use std::{collections::HashSet, fmt};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Expected;
use crate::wire::{ClientError, Scalar, cut};

/// The most names in one object.
const NAMES_MAX: usize = 1024;

/// Reads an object, or `null`, and hands each pair to `take`.
pub(super) struct Scalars<'a, F> {
    pub(super) expected: &'a Expected<'a>,
    /// Where the object stands, for errors.
    pub(super) at: &'static str,
    pub(super) take: F,
}

impl<'de, F: FnMut(&str, Scalar) -> Result<(), ClientError>> DeserializeSeed<'de> for Scalars<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&str, Scalar) -> Result<(), ClientError>> Visitor<'de> for Scalars<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object for {}", self.at)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some((name, value)) = map.next_entry::<String, Scalar>()? {
            let field = |problem| Err(ClientError::field(format!("{}.{}", self.at, cut(name.clone())), problem));
            let taken = if value == Scalar::Compound {
                field("a string, a number or a boolean is expected")
            } else if seen.len() == NAMES_MAX {
                field("too many of them")
            } else if seen.contains(&name) {
                field("given twice")
            } else {
                (self.take)(&name, value)
            };
            taken.map_err(|error| self.expected.refuse(error))?;
            seen.insert(name);
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number or a boolean")
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
        Ok(Scalar::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value as f64))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
        Ok(Scalar::Number(value))
    }

    fn visit_str<E>(self, _: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar, A::Error> {
        while list.next_element::<serde::de::IgnoredAny>()?.is_some() {}
        Ok(Scalar::Compound)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<serde::de::IgnoredAny, serde::de::IgnoredAny>()?.is_some() {}
        Ok(Scalar::Compound)
    }
}
