//! The one input tensor: its words, its shape, and its values as text or as the bytes that follow the JSON.
//!
//! Values are read as soon as it is known what they are. A `shape` that asks for too many rows ends the reading before its data; `data`
//! that come before `shape` and `datatype` are passed over and read at the end. The brackets of nested `data` are not compared with
//! `shape`, as in Triton; the number of values is, and so is the depth of nesting.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Expected, dims::Dims, once, scalars::Scalars, values::Data};
use crate::{
    query::Rows,
    wire::{ClientError, Datatype, Scalar, no_shared_memory, whole},
};

/// Reads the list of inputs, which must be one.
pub(super) struct Inputs<'a>(pub(super) &'a Expected<'a>);

impl<'de> DeserializeSeed<'de> for Inputs<'_> {
    type Value = Rows;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Rows, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Inputs<'_> {
    type Value = Rows;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of tensors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Rows, A::Error> {
        let Inputs(expected) = self;
        let Some(rows) = list.next_element_seed(Tensor(expected))? else {
            return Err(expected.refuse(expected.signature.not_one_input(0)));
        };
        // The first was the model's only input, whatever the second is called.
        if list.next_element::<IgnoredAny>()?.is_some() {
            return Err(expected.refuse(expected.signature.not_one_input(2)));
        }
        Ok(rows)
    }
}

/// Reads one tensor.
struct Tensor<'a>(&'a Expected<'a>);

#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Name,
    Shape,
    Datatype,
    Parameters,
    Data,
    #[serde(other)]
    Other,
}

/// The fields of a tensor that have been read.
#[derive(Default)]
struct Fields<'de> {
    name: Option<String>,
    datatype: Option<Datatype>,
    rows: Option<usize>,
    parameters: Option<Parameters>,
    data: Option<Given<'de>>,
}

/// The tensor's `parameters`.
#[derive(Default)]
struct Parameters {
    binary_bytes: Option<u64>,
}

/// `data`, read or yet to be read.
enum Given<'de> {
    Values(Vec<f32>),
    Text(&'de RawValue),
}

impl<'de> DeserializeSeed<'de> for Tensor<'_> {
    type Value = Rows;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Rows, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Tensor<'_> {
    type Value = Rows;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tensor: an object with `name`, `shape`, `datatype` and `data`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Rows, A::Error> {
        let Tensor(expected) = self;
        let mut fields = Fields::default();
        while let Some(key) = map.next_key()? {
            self.read(&mut fields, key, &mut map)?;
        }
        let wrong = |error| expected.refuse(error);
        let is_named = fields.name.as_deref().map(|name| expected.signature.check_input(name));
        is_named.unwrap_or_else(|| Err(missing("inputs[0].name"))).map_err(wrong)?;
        let datatype = fields.datatype.ok_or_else(|| wrong(missing("inputs[0].datatype")))?;
        let rows = fields.rows.ok_or_else(|| wrong(missing("inputs[0].shape")))?;
        let binary = fields.parameters.and_then(|parameters| parameters.binary_bytes);
        let values = match (fields.data, binary) {
            (Some(Given::Values(values)), None) => values.into(),
            (Some(Given::Text(text)), None) => {
                let mut json = serde_json::Deserializer::from_str(text.get());
                let read = Data { expected, rows, datatype }.deserialize(&mut json);
                read.map_err(|error| serde::de::Error::custom(format!("inputs[0].data: {error}")))?.into()
            }
            (None, Some(bytes)) => expected.binary(rows, datatype, bytes).map_err(wrong)?,
            (None, None) => return Err(wrong(missing("inputs[0].data"))),
            (Some(_), Some(_)) => {
                return Err(expected.refuse_field("inputs[0].data", "given beside binary_data_size"));
            }
        };
        expected.signature.cut_rows(rows, values, "inputs[0].data").map_err(wrong)
    }
}

impl Tensor<'_> {
    /// Reads the value of one field.
    fn read<'de, A: MapAccess<'de>>(&self, into: &mut Fields<'de>, key: Key, map: &mut A) -> Result<(), A::Error> {
        let Tensor(expected) = self;
        match key {
            Key::Name => once(&mut into.name, "inputs[0].name", map.next_value()),
            Key::Datatype => {
                let mut word = None::<String>;
                once(&mut word, "inputs[0].datatype", map.next_value())?;
                let datatype = Datatype::read(&word.unwrap_or_default()).map_err(|error| expected.refuse(error))?;
                once(&mut into.datatype, "inputs[0].datatype", Ok(datatype))
            }
            Key::Shape => {
                let mut shape = None::<Dims>;
                once(&mut shape, "inputs[0].shape", map.next_value())?;
                let Dims(shape) = shape.unwrap_or_default();
                let rows = expected
                    .signature
                    .check_rows(&shape, expected.queue_max)
                    .map_err(|error| expected.refuse(error))?;
                once(&mut into.rows, "inputs[0].shape", Ok(rows))
            }
            Key::Parameters => {
                let mut parameters = Parameters::default();
                let take = |name: &str, value| parameters.take(name, value);
                map.next_value_seed(Scalars { expected, at: "inputs[0].parameters", take })?;
                once(&mut into.parameters, "inputs[0].parameters", Ok(parameters))
            }
            Key::Data => {
                let value = match (into.rows, into.datatype) {
                    (Some(rows), Some(datatype)) => {
                        map.next_value_seed(Data { expected, rows, datatype }).map(Given::Values)
                    }
                    _ => map.next_value().map(Given::Text),
                };
                once(&mut into.data, "inputs[0].data", value)
            }
            Key::Other => map.next_value::<IgnoredAny>().map(drop),
        }
    }
}

impl Parameters {
    fn take(&mut self, name: &str, value: Scalar) -> Result<(), ClientError> {
        match name {
            "binary_data_size" => self.binary_bytes = whole("inputs[0].parameters.binary_data_size", value)?,
            _ => no_shared_memory("inputs[0].parameters", name, value)?,
        }
        Ok(())
    }
}

fn missing(field: &'static str) -> ClientError {
    ClientError::field(field, "missing")
}

impl Expected<'_> {
    /// The tensor as the bytes after the JSON, which must be its own and no more.
    fn binary(&self, rows: usize, datatype: Datatype, told: u64) -> Result<Arc<[f32]>, ClientError> {
        let holds = rows.saturating_mul(self.signature.input.width()).saturating_mul(datatype.bytes());
        if usize::try_from(told) != Ok(holds) {
            let problem = format!("{told}, and the shape holds {holds} bytes of {}", datatype.as_str());
            return Err(ClientError::field("inputs[0].parameters.binary_data_size", problem));
        }
        let sent = self.tail.len();
        if sent < holds {
            let problem =
                format!("{told}, and {sent} bytes follow the JSON, which ends where {} says", super::JSON_LENGTH);
            return Err(ClientError::field("inputs[0].parameters.binary_data_size", problem));
        }
        self.used.set(holds);
        datatype.read_values(&self.tail[..holds], "inputs[0].data")
    }
}
