//! What a request wants beside its rows: its `parameters` and its `outputs`.
//!
//! Parameters that Triton knows and that mean nothing here (`priority`, `sequence_id`, …) are taken and do nothing, and so are those that
//! nobody knows; a name that starts with `triton_` is refused, as there. Both fields may come in either order, so what they say is put
//! together at the end: an output's own `binary_data` goes before the request's `binary_data_output`.

use std::{fmt, num::NonZeroUsize, time::Duration};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    Expected, once,
    scalars::{Scalar, Scalars},
};
use crate::{
    admission::Terms,
    http::error::{ClientError, MIN_CONFIDENCE},
    query::{Accepts, Confidence},
};

/// How the values of the output are written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Form {
    /// As `data`.
    #[default]
    Json,
    /// Little-endian, after the JSON.
    Binary,
}

/// How the client wants the model's one output.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Wanted {
    /// Where its values stand.
    pub form: Form,
    /// The classification extension: so many of the highest values a row, as text, in place of all of them.
    pub classes: Option<NonZeroUsize>,
}

/// The request's `parameters`.
#[derive(Default)]
pub(super) struct Parameters {
    direct_only: bool,
    min_confidence: Option<Confidence>,
    timeout: Option<Duration>,
    binary: bool,
}

impl Parameters {
    /// What they ask of the answers.
    pub(super) fn terms(&self) -> Terms {
        Terms {
            accepts: if self.direct_only { Accepts::DirectOnly } else { Accepts::Any },
            min_confidence: self.min_confidence,
            timeout: self.timeout,
        }
    }

    fn take(&mut self, name: &str, value: Scalar) -> Result<(), ClientError> {
        match name {
            "allow_reconstructed" => self.direct_only = truth("parameters.allow_reconstructed", value)? == Some(false),
            "binary_data_output" => self.binary = truth("parameters.binary_data_output", value)? == Some(true),
            "min_confidence" => self.min_confidence = confidence(value)?,
            "timeout" => {
                let micros = whole("parameters.timeout", value)?;
                // 0 is Triton's word for none.
                self.timeout = micros.filter(|&micros| micros > 0).map(Duration::from_micros);
            }
            "priority" => drop(whole("parameters.priority", value)?),
            _ if name.starts_with("triton_") => {
                let problem = format!("{name:?}: names that start with triton_ are reserved");
                return Err(ClientError::field("parameters", problem));
            }
            _ => {}
        }
        Ok(())
    }

    /// The output as these and `outputs` say together.
    pub(super) fn wanted(&self, asked: Output) -> Wanted {
        let binary = asked.binary.unwrap_or(self.binary);
        Wanted { form: if binary { Form::Binary } else { Form::Json }, classes: asked.classes }
    }
}

/// `None` if it is `null`, which stands for an absent one.
fn truth(field: &'static str, value: Scalar) -> Result<Option<bool>, ClientError> {
    match value {
        Scalar::Null => Ok(None),
        Scalar::Bool(truth) => Ok(Some(truth)),
        Scalar::Unsigned(_) | Scalar::Number(_) | Scalar::Text | Scalar::Compound => {
            Err(ClientError::field(field, "true or false is expected"))
        }
    }
}

/// `None` if it is `null`.
pub(super) fn whole(field: &'static str, value: Scalar) -> Result<Option<u64>, ClientError> {
    match value {
        Scalar::Null => Ok(None),
        Scalar::Unsigned(number) => Ok(Some(number)),
        Scalar::Bool(_) | Scalar::Number(_) | Scalar::Text | Scalar::Compound => {
            Err(ClientError::field(field, "a whole number is expected, not less than 0"))
        }
    }
}

fn confidence(value: Scalar) -> Result<Option<Confidence>, ClientError> {
    let number = match value {
        Scalar::Null => return Ok(None),
        Scalar::Unsigned(number) => number as f64,
        Scalar::Number(number) => number,
        Scalar::Bool(_) | Scalar::Text | Scalar::Compound => {
            return Err(ClientError::field(MIN_CONFIDENCE, "a number from 0 to 1 is expected"));
        }
    };
    // Rounded after the look: 1.00000001 is not from 0 to 1.
    let within = Some(number).filter(|number| (0.0..=1.0).contains(number));
    #[expect(clippy::cast_possible_truncation, reason = "confidences are f32")]
    let read = within.and_then(|number| Confidence::new(number as f32));
    let refused = || ClientError::field(MIN_CONFIDENCE, format!("a number from 0 to 1 is expected, not {number}"));
    read.map(Some).ok_or_else(refused)
}

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

/// An entry of `outputs`.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Output {
    binary: Option<bool>,
    classes: Option<NonZeroUsize>,
}

impl Output {
    fn take(&mut self, name: &str, value: Scalar) -> Result<(), ClientError> {
        match name {
            "binary_data" => self.binary = truth("outputs[0].parameters.binary_data", value)?,
            "classification" => {
                let count = whole("outputs[0].parameters.classification", value)?.unwrap_or(0);
                // More than the model has classes are all of them.
                self.classes = NonZeroUsize::new(usize::try_from(count).unwrap_or(usize::MAX));
            }
            "shared_memory_region" | "shared_memory_byte_size" | "shared_memory_offset" if value != Scalar::Null => {
                return Err(ClientError::field("outputs[0].parameters", format!("{name}: {NO_SHARED_MEMORY}")));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Why a region of shared memory is refused.
pub(super) const NO_SHARED_MEMORY: &str = "shared memory is not served; send and take tensors in the body";

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
        let served = &expected.output.name;
        let mut first = None;
        while let Some(output) = list.next_element_seed(OutputSeed(expected))? {
            if first.replace(output).is_some() {
                return Err(expected.refuse_field("outputs", format!("{served:?} is asked for more than once")));
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
        let served = &expected.output.name;
        match name {
            Some(name) if name == *served => Ok(output.unwrap_or_default()),
            Some(name) => {
                Err(expected.refuse_field("outputs[].name", format!("the model gives {served:?} and no {name:?}")))
            }
            None => Err(expected.refuse_field("outputs[].name", "missing")),
        }
    }
}
