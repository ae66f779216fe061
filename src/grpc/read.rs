//! A request's message, checked against the deployment's signature and turned into rows.
//!
//! The rules are those of HTTP; what is its own is where values stand: as bytes in `raw_input_contents`, or as numbers in the list of the
//! tensor's datatype. Bytes go straight from the message into the rows' buffer.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::proto::inference::{
    InferParameter, InferTensorContents, ModelInferRequest,
    infer_parameter::ParameterChoice,
    model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
};
use crate::{
    query::{Rows, Signature},
    wire::{Call, ClientError, Datatype, Form, Number, Output, Parameters, Scalar, check_id, no_shared_memory},
};

/// Where the values of an input may stand.
const CONTENTS: &str = "inputs[0].contents";
const RAW: &str = "raw_input_contents[0]";

/// Triton's word for a last, empty response, which its client sends with each request of a stream that asks for one. Here every response is a last one.
const FINAL_RESPONSE: &str = "triton_enable_empty_final_response";

/// Reads an infer request: at most `queue_max` rows of the signature's one input.
pub(super) fn read(request: ModelInferRequest, signature: &Signature, queue_max: usize) -> Result<Call, ClientError> {
    check_id(&request.id)?;
    signature.check_model(&request.model_name, named(&request.model_version))?;
    let mut parameters = Parameters::default();
    for (name, value) in scalars(&request.parameters).filter(|(name, _)| *name != FINAL_RESPONSE) {
        parameters.take(name, value)?;
    }
    let given = request.inputs.len();
    let [input] = <[InferInputTensor; 1]>::try_from(request.inputs).map_err(|_| signature.not_one_input(given))?;
    let wanted = parameters.wanted(output(&request.outputs, signature)?, Form::Binary);
    let rows = rows(input, &request.raw_input_contents, signature, queue_max)?;
    let id = Some(request.id).filter(|id| !id.is_empty());
    Ok(Call { id, terms: parameters.terms(), wanted, rows })
}

/// A version that a client means; empty is its word for any.
pub(super) fn named(version: &str) -> Option<&str> {
    Some(version).filter(|version| !version.is_empty())
}

fn scalars(parameters: &BTreeMap<String, InferParameter>) -> impl Iterator<Item = (&str, Scalar)> {
    parameters.iter().map(|(name, value)| (name.as_str(), scalar(value)))
}

fn scalar(value: &InferParameter) -> Scalar {
    match value.parameter_choice {
        None => Scalar::Null,
        Some(ParameterChoice::BoolParam(truth)) => Scalar::Bool(truth),
        Some(ParameterChoice::Int64Param(number)) => match u64::try_from(number) {
            Ok(number) => Scalar::Unsigned(number),
            Err(_) => Scalar::Number(number as f64),
        },
        Some(ParameterChoice::Uint64Param(number)) => Scalar::Unsigned(number),
        Some(ParameterChoice::DoubleParam(number)) => Scalar::Number(number),
        Some(ParameterChoice::StringParam(_)) => Scalar::Text,
    }
}

fn output(outputs: &[InferRequestedOutputTensor], signature: &Signature) -> Result<Output, ClientError> {
    let mut asked = Output::default();
    for output in outputs {
        signature.check_output(&output.name)?;
        scalars(&output.parameters).try_for_each(|(name, value)| asked.take(name, value))?;
    }
    if outputs.len() > 1 { Err(signature.output_twice()) } else { Ok(asked) }
}

fn rows(input: InferInputTensor, raw: &[Bytes], signature: &Signature, queue_max: usize) -> Result<Rows, ClientError> {
    signature.check_input(&input.name)?;
    scalars(&input.parameters).try_for_each(|(name, value)| no_shared_memory("inputs[0].parameters", name, value))?;
    let datatype = Datatype::read(&input.datatype)?;
    let rows = signature.check_rows(&input.shape, queue_max)?;
    let contents = input.contents.filter(|contents| *contents != InferTensorContents::default());
    match (raw, contents) {
        ([bytes], None) => {
            let holds = rows.saturating_mul(signature.input.width()).saturating_mul(datatype.bytes());
            if bytes.len() != holds {
                let problem = format!("{} bytes, and the shape holds {holds} of {}", bytes.len(), datatype.as_str());
                return Err(ClientError::field(RAW, problem));
            }
            signature.cut_rows(rows, datatype.read_values(bytes, RAW)?, RAW)
        }
        ([], contents) => signature.cut_rows(rows, typed(datatype, contents.unwrap_or_default())?, CONTENTS),
        ([_], Some(_)) => Err(ClientError::field(CONTENTS, "given beside raw_input_contents")),
        (raw, _) => {
            let problem = format!("{} tensors, and the request has one input", raw.len());
            Err(ClientError::field("raw_input_contents", problem))
        }
    }
}

/// Values of the list that is the datatype's; no other may have any.
fn typed(datatype: Datatype, contents: InferTensorContents) -> Result<Arc<[f32]>, ClientError> {
    let list = list_of(datatype)
        .ok_or_else(|| ClientError::field(CONTENTS, format!("{} comes in raw_input_contents", datatype.as_str())))?;
    let lengths = [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ];
    if let Some((other, _)) = lengths.iter().find(|&&(name, length)| name != list && length > 0) {
        let problem = format!("{other} has values, and those of {} stand in {list}", datatype.as_str());
        return Err(ClientError::field(CONTENTS, problem));
    }
    match list {
        "bool_contents" => numbers(datatype, contents.bool_contents, Number::Bool),
        "int_contents" => numbers(datatype, contents.int_contents, |value| Number::Integer(value.into())),
        "int64_contents" => numbers(datatype, contents.int64_contents, |value| Number::Integer(value.into())),
        "uint_contents" => numbers(datatype, contents.uint_contents, |value| Number::Integer(value.into())),
        "uint64_contents" => numbers(datatype, contents.uint64_contents, |value| Number::Integer(value.into())),
        "fp64_contents" => numbers(datatype, contents.fp64_contents, Number::Real),
        _ => Ok(contents.fp32_contents.into()),
    }
}

/// The list that holds values of a datatype; none holds 16-bit floats.
const fn list_of(datatype: Datatype) -> Option<&'static str> {
    Some(match datatype {
        Datatype::Bool => "bool_contents",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "int_contents",
        Datatype::Int64 => "int64_contents",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "uint_contents",
        Datatype::Uint64 => "uint64_contents",
        Datatype::Fp32 => "fp32_contents",
        Datatype::Fp64 => "fp64_contents",
        Datatype::Fp16 | Datatype::Bf16 => return None,
    })
}

fn numbers<T>(datatype: Datatype, values: Vec<T>, number: impl Fn(T) -> Number) -> Result<Arc<[f32]>, ClientError> {
    let read = |(index, value)| {
        let misfit = |misfit| ClientError::field(CONTENTS, format!("value {index} {misfit}"));
        datatype.value(number(value)).map_err(misfit)
    };
    values.into_iter().enumerate().map(read).collect()
}
