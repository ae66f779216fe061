//! The body of an infer request, checked against the deployment's signature and turned into rows.
//!
//! A plain function of bytes. Everything after it sees [`Rows`] of the right width and nothing of the wire. `data` goes straight from the
//! text into one `Vec<f32>`, without a tree of JSON values: a tree takes twenty times the memory of the numbers, and the client chooses
//! the size. Binary data go straight from the body into the rows' buffer.
//!
//! JSON is read as clients write it, the numbers by [`numbers`] and the little around them by serde. If that gives no request, serde reads all of it, and
//! says what is wrong: there is one reading that refuses, and the other gives what it would have given.
//!
//! A request is one of three forms, told apart by `Inference-Header-Content-Length` alone: JSON; JSON and the bytes of its tensor; or, when
//! the header is 0, the bytes of one row and nothing else. Whatever its form, it is right as a whole before any of it is admitted.
//!
//! Fields come in any order, so each is checked as soon as it can be. Fields and parameters that are not known are skipped, since clients
//! send Triton's; what is known must have the right type. A refusal that names its field goes past serde in [`Expected::refuse`],
//! because a serde error is only text.
//!
//! `tensor` reads the input, `values` and `numbers` its numbers, `wanted` the parameters and the requested outputs.

mod dims;
mod not_finite;
mod numbers;
mod scalars;
mod tensor;
#[cfg(test)]
mod tests;
mod values;
mod wanted;

use std::{
    cell::{Cell, RefCell},
    fmt,
};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor},
};

use tensor::Inputs;
use wanted::{Outputs, ParametersSeed};

use crate::{
    admission::Terms,
    query::{Accepts, Signature},
    wire::{Call, ClientError, Datatype, Form, Wanted, check_id},
};

/// The header that tells how many bytes of the body are JSON.
pub(super) const JSON_LENGTH: &str = "Inference-Header-Content-Length";

/// Reads the body of an infer request: at most `queue_max` rows of the signature's one input. `json_bytes` is what
/// `Inference-Header-Content-Length` says, if it was sent.
///
/// # Errors
/// What the client did wrong, by its field.
pub fn parse(
    body: &[u8],
    json_bytes: Option<usize>,
    signature: &Signature,
    queue_max: usize,
) -> Result<Call, ClientError> {
    let sent = body.len();
    let split = json_bytes.map_or(Some((body, &[][..])), |bytes| body.split_at_checked(bytes));
    let beyond = || {
        let told = json_bytes.unwrap_or_default();
        ClientError::field(JSON_LENGTH, format!("{told}, and the body has {sent} bytes"))
    };
    let (json, tail) = split.ok_or_else(beyond)?;
    let expected = Expected {
        signature,
        queue_max,
        json_bytes: json.len(),
        numbers: None,
        strings: Strings::Refused,
        tail,
        used: Cell::new(0),
        verdict: RefCell::default(),
    };
    if json_bytes == Some(0) {
        return expected.raw();
    }
    match apart(&expected, json) {
        Some(call) => Ok(call),
        None => whole(&expected, json),
    }
}

/// Reads the list of numbers apart from the rest. Gives what [`whole`] gives, or nothing.
fn apart(expected: &Expected<'_>, json: &[u8]) -> Option<Call> {
    let list = numbers::find(json)?;
    let rest = [&json[..list.start], b"[]", &json[list.end..]].concat();
    Expected { numbers: Some(&json[list]), ..expected.anew() }.parse(&rest).ok()
}

/// Reads all of it with serde.
fn whole(expected: &Expected<'_>, json: &[u8]) -> Result<Call, ClientError> {
    match expected.anew().parse(json) {
        Err(ClientError::Json(error)) => match not_finite::quoted(json) {
            Some(json) => {
                Expected { json_bytes: json.len(), strings: Strings::NotFinite, ..expected.anew() }.parse(&json)
            }
            None => Err(ClientError::Json(error)),
        },
        read => read,
    }
}

/// What a string among numbers is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strings {
    /// A mistake.
    Refused,
    /// A word that [`not_finite`] has quoted; others are a mistake.
    NotFinite,
}

/// What the request is held against.
struct Expected<'a> {
    signature: &'a Signature,
    queue_max: usize,
    json_bytes: usize,
    /// The list that stood where the JSON has an empty one, as the tensor's `data`.
    numbers: Option<&'a [u8]>,
    strings: Strings,
    /// The bytes after the JSON.
    tail: &'a [u8],
    /// How many of them are a tensor's.
    used: Cell<usize>,
    verdict: RefCell<Option<ClientError>>,
}

impl<'a> Expected<'a> {
    /// The same, of which nothing has been read.
    fn anew(&self) -> Expected<'a> {
        Expected { used: Cell::new(0), verdict: RefCell::default(), ..*self }
    }

    fn parse(&self, json: &[u8]) -> Result<Call, ClientError> {
        if json.is_empty() {
            let problem = "the body is empty; send a JSON object with `inputs`";
            return Err(ClientError::Json(problem.to_owned()));
        }
        // All of it, what is passed over included: serde looks at the rest only.
        let text = str::from_utf8(json).map_err(|error| {
            ClientError::Json(format!("the body is not UTF-8 from byte {} on", error.valid_up_to()))
        })?;
        let mut json = serde_json::Deserializer::from_str(text);
        let call = Seed(self).deserialize(&mut json).and_then(|call| json.end().map(|()| call));
        let call = call.map_err(|error| self.verdict.take().unwrap_or_else(|| ClientError::json(&error)))?;
        match self.tail.len() - self.used.get() {
            0 => Ok(call),
            rest => Err(ClientError::field(JSON_LENGTH, format!("{rest} bytes follow that belong to no tensor"))),
        }
    }

    /// A raw request: the bytes of one row in the model's own datatype. Such a client reads no JSON, so its answer is binary, too.
    fn raw(&self) -> Result<Call, ClientError> {
        let (sent, holds) = (self.tail.len(), self.signature.input.width() * Datatype::Fp32.bytes());
        if sent != holds {
            let problem = format!("0 means that the body is one row of {holds} bytes; it has {sent}");
            return Err(ClientError::field(JSON_LENGTH, problem));
        }
        let field = "inputs[0].data";
        let rows = self.signature.cut_rows(1, Datatype::Fp32.read_values(self.tail, field)?, field)?;
        let terms = Terms { accepts: Accepts::Any, min_confidence: None, timeout: None };
        Ok(Call { id: None, terms, wanted: Wanted { form: Form::Binary, classes: None }, rows })
    }

    /// Ends the reading with `error`.
    fn refuse<E: serde::de::Error>(&self, error: ClientError) -> E {
        let text = E::custom(&error);
        *self.verdict.borrow_mut() = Some(error);
        text
    }

    fn refuse_field<E: serde::de::Error>(&self, field: &'static str, problem: impl Into<String>) -> E {
        self.refuse(ClientError::field(field, problem))
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
                CallKey::Id => {
                    once(&mut id, "id", map.next_value::<Option<String>>())?;
                    let checked = id.iter().flatten().try_for_each(|id| check_id(id));
                    checked.map_err(|error| expected.refuse(error))?;
                }
                CallKey::Parameters => {
                    once(&mut parameters, "parameters", map.next_value_seed(ParametersSeed(expected)))?;
                }
                CallKey::Inputs => once(&mut inputs, "inputs", map.next_value_seed(Inputs(expected)))?,
                CallKey::Outputs => once(&mut outputs, "outputs", map.next_value_seed(Outputs(expected)))?,
                CallKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let rows = inputs.ok_or_else(|| expected.refuse_field("inputs", "missing"))?;
        let parameters = parameters.unwrap_or_default();
        let wanted = parameters.wanted(outputs.unwrap_or_default(), Form::Typed);
        Ok(Call { id: id.flatten(), terms: parameters.terms(), wanted, rows })
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
