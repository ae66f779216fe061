//! Predictions as a response's message.
//!
//! Values are bytes in `raw_output_contents`, as Triton's are, unless the request says `binary_data` or `binary_data_output` = false.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Site,
    proto::inference::{
        InferParameter, InferTensorContents, ModelInferResponse, ModelStreamInferResponse,
        infer_parameter::ParameterChoice, model_infer_response::InferOutputTensor,
    },
    status::{code, word},
};
use crate::{
    query::Prediction,
    wire::{Contents, Error, Form, Wanted, confidences, provenances, values},
};

/// The response to a request that is answered.
pub(super) fn response(
    site: &Site,
    id: Option<String>,
    wanted: Wanted,
    predictions: &[Prediction],
) -> ModelInferResponse {
    let signature = &site.signature;
    let (contents, row) = Contents::new(signature, wanted, predictions);
    let mut output = InferOutputTensor {
        name: signature.output.name.clone(),
        datatype: contents.datatype().to_owned(),
        shape: std::iter::once(predictions.len()).chain(row).map(dim).collect(),
        ..InferOutputTensor::default()
    };
    let mut raw_output_contents = Vec::new();
    match wanted.form {
        Form::Binary => {
            let mut bytes = Vec::with_capacity(contents.bytes());
            contents.append(&mut bytes);
            raw_output_contents.push(bytes.into());
        }
        Form::Typed => output.contents = Some(typed(contents)),
    }
    let told = [("provenance", Some(provenances(predictions).to_string())), ("confidence", confidences(predictions))];
    let told = told.into_iter().filter_map(|(name, text)| Some((name.to_owned(), parameter(text?))));
    ModelInferResponse {
        model_name: signature.name.clone(),
        model_version: signature.version.clone(),
        id: id.unwrap_or_default(),
        parameters: told.collect(),
        outputs: vec![output],
        raw_output_contents,
    }
}

fn typed(contents: Contents<'_>) -> InferTensorContents {
    match contents {
        Contents::Values(rows) => {
            InferTensorContents { fp32_contents: values(rows).collect(), ..InferTensorContents::default() }
        }
        Contents::Classes(words) => InferTensorContents {
            bytes_contents: words.into_iter().map(Bytes::from).collect(),
            ..InferTensorContents::default()
        },
    }
}

/// A length as shapes have it.
pub(super) fn dim(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn parameter(text: impl Into<String>) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::StringParam(text.into())) }
}

fn truth(truth: bool) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(truth)) }
}

/// A response in a stream. Clients of Triton's look there for the last one of a request; here a request has one.
pub(super) fn streamed(mut response: ModelInferResponse) -> ModelStreamInferResponse {
    response.parameters.insert("triton_final_response".to_owned(), truth(true));
    ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
}

/// What a stream says of a request that failed: the stream goes on, so this is no status.
pub(super) fn failed(id: String, error: &Error) -> ModelStreamInferResponse {
    let parameters = BTreeMap::from([
        ("code".to_owned(), parameter(word(code(error)))),
        ("reason".to_owned(), parameter(error.reason())),
        ("retryable".to_owned(), truth(error.retryable())),
    ]);
    ModelStreamInferResponse {
        error_message: error.to_string(),
        infer_response: Some(ModelInferResponse { id, parameters, ..ModelInferResponse::default() }),
    }
}
