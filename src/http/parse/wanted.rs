//! What a request wants beside its rows, as JSON says it: its `parameters` and its `outputs`.
//!
//! Both fields may come in either order, so what they say is put together at the end.

use std::fmt;

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{Expected, once, scalars::Scalars};
use crate::wire::{Output, Parameters};

/// Reads `parameters`.
pub(super) struct ParametersSeed<'a>(pub(super) &'a Expected<'a>);

impl<'de> DeserializeSeed<'de> for ParametersSeed<'_> {
    type Value = Parameters;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Parameters, D::Error> {
        let mut parameters = Parameters::default();
        let take = |name: &str, value| parameters.take(name, value);
        Scalars { expected: self.0, at: "parameters", take }.deserialize(json)?;
        Ok(parameters)
    }
}

/// Reads `outputs`: none, an empty list and `null` ask for all of them, which is one.
pub(super) struct Outputs<'a>(pub(super) &'a Expected<'a>);

impl<'de> DeserializeSeed<'de> for Outputs<'_> {
    type Value = Output;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Output, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Outputs<'_> {
    type Value = Output;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of outputs")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Output, E> {
        Ok(Output::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Output, A::Error> {
        let Outputs(expected) = self;
        let mut first = None;
        while let Some(output) = list.next_element_seed(OutputSeed(expected))? {
            if first.replace(output).is_some() {
                return Err(expected.refuse(expected.signature.output_twice()));
            }
        }
        Ok(first.unwrap_or_default())
    }
}

/// Reads one entry, whose name must be the output's.
struct OutputSeed<'a>(&'a Expected<'a>);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum OutputKey {
    Name,
    Parameters,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for OutputSeed<'_> {
    type Value = Output;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Output, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OutputSeed<'_> {
    type Value = Output;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an output: an object with `name`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Output, A::Error> {
        let OutputSeed(expected) = self;
        let (mut name, mut output) = (None::<String>, None);
        while let Some(key) = map.next_key()? {
            match key {
                OutputKey::Name => once(&mut name, "outputs[].name", map.next_value())?,
                OutputKey::Parameters => {
                    let mut asked = Output::default();
                    let take = |name: &str, value| asked.take(name, value);
                    map.next_value_seed(Scalars { expected, at: "outputs[0].parameters", take })?;
                    once(&mut output, "outputs[].parameters", Ok(asked))?;
                }
                OutputKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let name = name.ok_or_else(|| expected.refuse_field("outputs[].name", "missing"))?;
        expected.signature.check_output(&name).map_err(|error| expected.refuse(error))?;
        Ok(output.unwrap_or_default())
    }
}
