//! What a request asks for beside its rows: its parameters, and how it wants its output.
//!
//! The words are the same in both protocols, and so is what they may say. Parameters that Triton knows and that mean nothing here (`priority`,
//! `sequence_id`, …) are taken and do nothing, and so are those that nobody knows; a name that starts with `triton_` is refused, as there. An
//! output's own `binary_data` goes before the request's `binary_data_output`.

use std::{num::NonZeroUsize, time::Duration};

use super::{ClientError, error::MIN_CONFIDENCE};
use crate::{
    admission::Terms,
    query::{Accepts, Confidence},
};

/// The longest `id` of a request, in bytes: it is kept until the client has taken the reply, and no budget counts it.
pub(crate) const ID_BYTES_MAX: usize = 1024;

/// Refuses an `id` that is too long to be kept.
pub(crate) fn check_id(id: &str) -> Result<(), ClientError> {
    let fits = id.len() <= ID_BYTES_MAX;
    if fits { Ok(()) } else { Err(ClientError::field("id", format!("longer than {ID_BYTES_MAX} bytes"))) }
}

/// The value of a parameter.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Unsigned(u64),
    /// Negative or fractional.
    Number(f64),
    /// Of no parameter that we know is the text of interest.
    Text,
    /// A list or an object.
    Compound,
}

/// How the values of the output are written.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Form {
    /// As numbers: `data` of JSON, or `contents` of a message.
    #[default]
    Typed,
    /// As bytes, little-endian: after the JSON, or in `raw_output_contents`.
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
pub(crate) struct Parameters {
    direct_only: bool,
    min_confidence: Option<Confidence>,
    timeout: Option<Duration>,
    binary: Option<bool>,
}

impl Parameters {
    /// What they ask of the answers.
    pub(crate) fn terms(&self) -> Terms {
        Terms {
            accepts: if self.direct_only { Accepts::DirectOnly } else { Accepts::Any },
            min_confidence: self.min_confidence,
            timeout: self.timeout,
        }
    }

    /// Takes one of them.
    pub(crate) fn take(&mut self, name: &str, value: Scalar) -> Result<(), ClientError> {
        match name {
            "allow_reconstructed" => self.direct_only = truth("parameters.allow_reconstructed", value)? == Some(false),
            "binary_data_output" => self.binary = truth("parameters.binary_data_output", value)?,
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

    /// The output as these and `outputs` say together; `usual` is the form of a protocol where neither says.
    pub(crate) fn wanted(&self, asked: Output, usual: Form) -> Wanted {
        let form = match asked.binary.or(self.binary) {
            Some(true) => Form::Binary,
            Some(false) => Form::Typed,
            None => usual,
        };
        Wanted { form, classes: asked.classes }
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
pub(crate) fn whole(field: &'static str, value: Scalar) -> Result<Option<u64>, ClientError> {
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

/// An entry of `outputs`.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Output {
    binary: Option<bool>,
    classes: Option<NonZeroUsize>,
}

impl Output {
    /// Takes one of them.
    pub(crate) fn take(&mut self, name: &str, value: Scalar) -> Result<(), ClientError> {
        match name {
            "binary_data" => self.binary = truth("outputs[0].parameters.binary_data", value)?,
            "classification" => {
                let count = whole("outputs[0].parameters.classification", value)?.unwrap_or(0);
                // More than the model has classes are all of them.
                self.classes = NonZeroUsize::new(usize::try_from(count).unwrap_or(usize::MAX));
            }
            _ => no_shared_memory("outputs[0].parameters", name, value)?,
        }
        Ok(())
    }
}

/// Refuses a parameter of a tensor that puts it into shared memory.
pub(crate) fn no_shared_memory(field: &'static str, name: &str, value: Scalar) -> Result<(), ClientError> {
    match name {
        "shared_memory_region" | "shared_memory_byte_size" | "shared_memory_offset" if value != Scalar::Null => {
            let problem = format!("{name}: shared memory is not served; send and take tensors in the body");
            Err(ClientError::field(field, problem))
        }
        _ => Ok(()),
    }
}
