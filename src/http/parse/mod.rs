//! The JSON of an infer request, checked against the deployment's signature and turned into rows.
//!
//! Everything after this sees [`Rows`] of the right width and no bytes. `data` goes straight from the text into one `Vec<f32>`, flat or
//! nested, without a tree of JSON values: a tree takes twenty times the memory of the numbers, and the client chooses the size. The
//! brackets of nested `data` are not compared with `shape`, as in Triton; the number of values is, and so is the depth of nesting.
//!
//! Fields come in any order, so each is checked as soon as it can be: a `shape` that asks for too many rows ends the reading before its
//! data, and data without a shape ends at what `queue_max` rows hold. Fields and parameters that are not known are skipped, since clients
//! send Triton's; what is known must have the right type. A refusal that has its own status goes past serde in [`Expected::verdict`],
//! because a serde error is only text.

#[cfg(test)]
mod tests;
mod values;

use std::{cell::RefCell, fmt, marker::PhantomData};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use values::Data;

use super::error::{ClientError, MIN_CONFIDENCE};
use crate::query::{Accepts, Confidence, Rows, Signature, TensorSpec};

/// An infer request that can be admitted.
#[derive(Clone, Debug)]
pub struct Call {
    /// To be repeated in the reply, even if it is empty.
    pub id: Option<String>,
    /// Which predictions the client takes.
    pub accepts: Accepts,
    /// The least confidence of a reconstruction that the client takes, if it says.
    pub min_confidence: Option<Confidence>,
    /// At least one row, each as wide as the input.
    pub rows: Rows,
}

/// Reads the body of an infer request: at most `queue_max` rows of the signature's one input.
///
/// # Errors
/// What the client did wrong, by its field.
pub fn parse(body: &[u8], signature: &Signature, queue_max: usize) -> Result<Call, ClientError> {
    if body.is_empty() {
        let problem = "the body is empty; send a JSON object with `inputs`";
        return Err(ClientError::Json(problem.to_owned()));
    }
    let expected = Expected {
        input: &signature.input,
        output: &signature.output,
        queue_max,
        // A value and its comma are two bytes: no declared shape makes us reserve more than the body can fill.
        values_max: body.len() / 2 + 1,
        verdict: RefCell::default(),
    };
    let mut json = serde_json::Deserializer::from_slice(body);
    let call = Seed(&expected).deserialize(&mut json).and_then(|call| json.end().map(|()| call));
    call.map_err(|error| expected.verdict.take().unwrap_or_else(|| ClientError::json(&error)))
}

/// What the request is held against.
struct Expected<'a> {
    input: &'a TensorSpec,
    output: &'a TensorSpec,
    queue_max: usize,
    values_max: usize,
    verdict: RefCell<Option<ClientError>>,
}

impl Expected<'_> {
    /// Ends the reading with `error`.
    fn refuse<E: serde::de::Error>(&self, error: ClientError) -> E {
        let text = E::custom(&error);
        *self.verdict.borrow_mut() = Some(error);
        text
    }

    fn refuse_field<E: serde::de::Error>(&self, field: &'static str, problem: impl Into<String>) -> E {
        self.refuse(ClientError::field(field, problem))
    }

    /// The shape that is right, as text.
    fn shape(&self) -> String {
        let dims = self.input.shape.iter().map(ToString::to_string);
        format!("[{}]", std::iter::once("n".to_owned()).chain(dims).collect::<Vec<_>>().join(", "))
    }

    /// How many rows `shape` holds.
    fn rows(&self, shape: &[u64]) -> Result<usize, ClientError> {
        let field = "inputs[0].shape";
        let row = shape.get(1..).unwrap_or_default();
        let same = |(&dim, &want): (&u64, &usize)| usize::try_from(dim) == Ok(want);
        if shape.is_empty() || row.len() != self.input.shape.len() || !row.iter().zip(&self.input.shape).all(same) {
            return Err(ClientError::field(field, format!("{shape:?}, and {} is expected", self.shape())));
        }
        match usize::try_from(shape[0]) {
            Ok(0) => Err(ClientError::field(field, "a request has at least one row")),
            Ok(rows) if rows <= self.queue_max => Ok(rows),
            Ok(_) | Err(_) => Err(ClientError::TooManyRows { queue_max: self.queue_max }),
        }
    }
}

/// Reads the top level.
struct Seed<'a>(&'a Expected<'a>);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum CallKey {
    Id,
    Parameters,
    Inputs,
    Outputs,
    #[serde(other)]
    Other,
}

#[derive(Deserialize, Default)]
struct Parameters {
    allow_reconstructed: Option<bool>,
    #[serde(default, deserialize_with = "min_confidence")]
    min_confidence: Option<f64>,
}

/// A number, or an error that names the parameter.
fn min_confidence<'de, D: Deserializer<'de>>(json: D) -> Result<Option<f64>, D::Error> {
    let read = Option::<f64>::deserialize(json);
    read.map_err(|error| serde::de::Error::custom(format!("min_confidence: {error}")))
}

#[derive(Deserialize)]
struct Output {
    name: String,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Call;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Call, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Call;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `inputs`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Call, A::Error> {
        let Seed(expected) = self;
        let (mut id, mut parameters, mut inputs, mut outputs) = (None, None, None, None);
        while let Some(key) = map.next_key()? {
            match key {
                CallKey::Id => once(&mut id, "id", map.next_value::<Option<String>>())?,
                CallKey::Parameters => {
                    once(&mut parameters, "parameters", map.next_value::<Option<Object<Parameters>>>())?;
                }
                CallKey::Inputs => once(&mut inputs, "inputs", map.next_value_seed(Inputs(expected)))?,
                CallKey::Outputs => {
                    once(&mut outputs, "outputs", map.next_value::<Option<Vec<Object<Output>>>>())?;
                }
                CallKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        check_outputs(expected, &outputs.flatten().unwrap_or_default())?;
        let rows = inputs.ok_or_else(|| expected.refuse_field("inputs", "missing"))?;
        let parameters = parameters.flatten().map(|Object(parameters)| parameters).unwrap_or_default();
        let accepts = if parameters.allow_reconstructed.unwrap_or(true) { Accepts::Any } else { Accepts::DirectOnly };
        let min_confidence = parameters.min_confidence.map(|least| confidence(expected, least)).transpose()?;
        Ok(Call { id: id.flatten(), accepts, min_confidence, rows })
    }
}

fn confidence<E: serde::de::Error>(expected: &Expected<'_>, least: f64) -> Result<Confidence, E> {
    // Rounded after the look: 1.00000001 is not from 0 to 1.
    let within = Some(least).filter(|least| (0.0..=1.0).contains(least));
    #[expect(clippy::cast_possible_truncation, reason = "confidences are f32")]
    let read = within.and_then(|least| Confidence::new(least as f32));
    read.ok_or_else(|| expected.refuse_field(MIN_CONFIDENCE, format!("a number from 0 to 1 is expected, not {least}")))
}

fn check_outputs<E: serde::de::Error>(expected: &Expected<'_>, outputs: &[Object<Output>]) -> Result<(), E> {
    let served = &expected.output.name;
    if let Some(Object(output)) = outputs.iter().find(|Object(output)| output.name != *served) {
        let problem = format!("the model gives {served:?} and no {:?}", output.name);
        return Err(expected.refuse_field("outputs[].name", problem));
    }
    if outputs.len() > 1 {
        return Err(expected.refuse_field("outputs", format!("{served:?} is asked for more than once")));
    }
    Ok(())
}

/// Reads the list of inputs, which must be one.
struct Inputs<'a>(&'a Expected<'a>);

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
        let name = &expected.input.name;
        let Some(rows) = list.next_element_seed(Tensor(expected))? else {
            return Err(expected.refuse_field("inputs", format!("the input {name:?} is missing")));
        };
        // The first was the model's only input, whatever the second is called.
        if list.next_element::<IgnoredAny>()?.is_some() {
            return Err(expected.refuse_field("inputs", format!("exactly one tensor is expected, {name:?}")));
        }
        Ok(rows)
    }
}

/// Reads one tensor.
struct Tensor<'a>(&'a Expected<'a>);

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum TensorKey {
    Name,
    Shape,
    Datatype,
    Parameters,
    Data,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct TensorParameters {
    binary_data_size: Option<IgnoredAny>,
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
        let (mut name, mut datatype, mut parameters) = (None::<String>, None::<String>, None);
        let (mut shape, mut rows, mut data) = (None::<Vec<u64>>, None, None);
        while let Some(key) = map.next_key()? {
            match key {
                TensorKey::Name => once(&mut name, "inputs[0].name", map.next_value())?,
                TensorKey::Datatype => once(&mut datatype, "inputs[0].datatype", map.next_value())?,
                TensorKey::Shape => {
                    once(&mut shape, "inputs[0].shape", map.next_value())?;
                    let shape = shape.as_deref().unwrap_or_default();
                    rows = Some(expected.rows(shape).map_err(|error| expected.refuse(error))?);
                }
                TensorKey::Parameters => {
                    let value = map.next_value::<Option<Object<TensorParameters>>>();
                    once(&mut parameters, "inputs[0].parameters", value)?;
                }
                TensorKey::Data => {
                    let value = map.next_value_seed(Data { expected, rows });
                    once(&mut data, "inputs[0].data", value)?;
                }
                TensorKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let binary = parameters.flatten().is_some_and(|Object(parameters)| parameters.binary_data_size.is_some());
        check_words(expected, name.as_deref(), datatype.as_deref())?;
        if binary {
            return Err(expected.refuse(ClientError::BinaryTensors));
        }
        let count = rows.ok_or_else(|| expected.refuse_field("inputs[0].shape", "missing"))?;
        let data = data.ok_or_else(|| expected.refuse_field("inputs[0].data", "missing"))?;
        let (found, width) = (data.len(), expected.input.width());
        Rows::new(data, width).filter(|rows| rows.count() == count).ok_or_else(|| {
            let problem = format!("{found} values, and the shape holds {}", count * width);
            expected.refuse_field("inputs[0].data", problem)
        })
    }
}

fn check_words<E: serde::de::Error>(
    expected: &Expected<'_>,
    name: Option<&str>,
    datatype: Option<&str>,
) -> Result<(), E> {
    let words = [("inputs[0].name", name, expected.input.name.as_str()), ("inputs[0].datatype", datatype, "FP32")];
    for (field, found, want) in words {
        match found {
            Some(found) if found == want => {}
            Some(found) => return Err(expected.refuse_field(field, format!("{want:?} is expected, not {found:?}"))),
            None => return Err(expected.refuse_field(field, "missing")),
        }
    }
    Ok(())
}

/// An object read as `T`: serde's derive would also take a list for a struct.
struct Object<T>(T);

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_map(ObjectVisitor(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Fills `place` with a field's value, which must be well typed and the first of its name.
fn once<T, E: serde::de::Error>(place: &mut Option<T>, field: &str, value: Result<T, E>) -> Result<(), E> {
    let value = value.map_err(|error| E::custom(format!("{field}: {error}")))?;
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom(format!("{field}: given twice"))),
    }
}
