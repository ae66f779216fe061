//! What the parser takes and what it refuses.

mod apart;
mod forms;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    http::status::Status,
    query::{Confidence, TensorSpec},
};

const QUEUE_MAX: usize = 4;

/// Rows of 1x2x2.
fn signature() -> Signature {
    Signature {
        name: "m".into(),
        version: "1".into(),
        platform: "p".into(),
        input: TensorSpec { name: "input".into(), shape: vec![1, 2, 2] },
        input_range: (0.0, 1.0),
        output: TensorSpec { name: "logits".into(), shape: vec![3] },
        labels: vec![],
    }
}

fn read(body: &str) -> Result<Call, ClientError> {
    parse(body.as_bytes(), None, &signature(), QUEUE_MAX)
}

fn tensor() -> Value {
    json!({"name": "input", "shape": [1, 1, 2, 2], "datatype": "FP32", "data": [1, 2.5, -3, 4e0]})
}

fn with(field: &str, value: Value) -> String {
    let mut tensor = tensor();
    tensor[field] = value;
    json!({ "inputs": [tensor] }).to_string()
}

/// A body whose data come last, as clients write it; `json!` sorts fields by name.
fn ordered(datatype: &str, data: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"input","shape":[1,1,2,2],"datatype":"{datatype}","data":{data}}}]}}"#)
}

fn values(call: &Call) -> Vec<f32> {
    call.rows.iter().flat_map(|row| row.to_vec()).collect()
}

#[track_caller]
fn refused(body: &str, status: u16, word: &str) {
    let error = read(body).expect_err(body);
    assert_eq!(error.status().as_u16(), status, "{body}: {error}");
    assert!(error.to_string().contains(word), "{body}: {error:?} does not say {word:?}");
}

#[test]
fn flat_and_nested_data_are_the_same_rows() {
    let flat = read(&with("data", json!([1, 2.5, -3, 4e0]))).expect("flat");
    let nested = read(&with("data", json!([[[[1, 2.5], [-3, 4]]]]))).expect("nested");
    let partly = read(&with("data", json!([[1, 2.5, -3, 4]]))).expect("one list a row");
    assert_eq!(values(&flat), [1.0, 2.5, -3.0, 4.0]);
    assert_eq!(values(&flat), values(&nested));
    assert_eq!(values(&flat), values(&partly));
    assert_eq!(values(&flat), values(&read(&ordered("FP32", "[[1,2.5],[-3,4e0]]")).expect("data last")));
    assert_eq!((flat.id, flat.terms.accepts, flat.rows.count()), (None, Accepts::Any, 1));
}

#[test]
fn fields_come_in_any_order_and_unknown_ones_are_skipped() {
    let body = r#"{"x": [[{}]], "outputs": [{"parameters": {"binary_data": false}, "name": "logits"}],
        "inputs": [{"data": [0,1,2,3,4,5,6,7], "y": null, "datatype": "FP32", "shape": [2,1,2,2],
        "parameters": {"z": 1}, "name": "input"}],
        "parameters": {"priority": 3, "timeout": 5000, "allow_reconstructed": false}, "id": ""}"#;
    let call = read(body).expect(body);
    assert_eq!((call.id.as_deref(), call.terms.accepts, call.rows.count()), (Some(""), Accepts::DirectOnly, 2));
    assert_eq!(values(&call), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
}

#[test]
fn a_least_confidence_is_a_number_from_0_to_1() {
    let asked = |least: Value| json!({"parameters": {"min_confidence": least}, "inputs": [tensor()]}).to_string();
    for (least, read_as) in [(json!(0.9), Some(0.9)), (json!(0), Some(0.0)), (json!(1), Some(1.0)), (Value::Null, None)]
    {
        let call = read(&asked(least)).expect("from 0 to 1");
        assert_eq!(call.terms.min_confidence, read_as.and_then(Confidence::new));
    }
    for least in [json!(1.000_000_001), json!(-0.1), json!("0.9"), json!(true), json!([0.9])] {
        refused(&asked(least), 400, "min_confidence");
    }
}

#[test]
fn null_stands_for_an_absent_field() {
    let body = json!({"id": null, "parameters": null, "outputs": null, "inputs": [tensor()]}).to_string();
    let call = read(&body).expect("nulls");
    assert_eq!((call.id, call.terms.accepts), (None, Accepts::Any));
    read(&with("parameters", Value::Null)).expect("null parameters of a tensor");
    read(&json!({"outputs": [], "inputs": [tensor()]}).to_string()).expect("an empty list asks for all outputs");
}

#[test]
fn what_is_not_utf_8_is_refused_wherever_it_stands() {
    let mut body = json!({"inputs": [tensor()], "ignored": "??"}).to_string().into_bytes();
    let place = body.iter().position(|byte| *byte == b'?').expect("it is there");
    body[place] = 0x8f;
    let error = parse(&body, None, &signature(), 8).expect_err("bytes that are no text");
    assert_eq!(
        (error.reason(), error.to_string()),
        ("bad_json", format!("the body is not UTF-8 from byte {place} on"))
    );
}

#[test]
fn a_wrong_top_level_is_named() {
    for body in ["", "{", "[]", "3", "null", "\"x\"", "{\"inputs\":[", "{}x", "\u{feff}{}"] {
        refused(body, 400, "");
    }
    refused("{}", 400, "inputs: missing");
    refused(r#"{"inputs":[]}"#, 400, "input");
    refused(r#"{"inputs":{}}"#, 400, "inputs: invalid type");
    refused(r#"{"inputs":[3]}"#, 400, "a tensor");
    refused(&json!({"id": 5, "inputs": [tensor()]}).to_string(), 400, "id: invalid type");
    refused(&json!({"id": "x".repeat(1025), "inputs": [tensor()]}).to_string(), 400, "id: longer than 1024 bytes");
    refused(&json!({"parameters": [], "inputs": [tensor()]}).to_string(), 400, "parameters: invalid type");
    let body = json!({"parameters": {"allow_reconstructed": "no"}, "inputs": [tensor()]}).to_string();
    refused(&body, 400, "parameters");
    refused(&json!({"inputs": [tensor(), tensor()]}).to_string(), 400, "inputs: exactly one");
    refused(&json!({"outputs": [{"name": "probs"}], "inputs": [tensor()]}).to_string(), 400, "outputs[].name");
    refused(&json!({"outputs": [["logits"]], "inputs": [tensor()]}).to_string(), 400, "outputs");
    let twice = json!({"outputs": [{"name": "logits"}, {"name": "logits"}], "inputs": [tensor()]});
    refused(&twice.to_string(), 400, "more than once");
    refused(&format!("{{\"id\":\"a\",\"id\":\"b\",\"inputs\":[{}]}}", tensor()), 400, "id: given twice");
}

/// Neither of two words on the same may be the one that counts.
#[test]
fn a_parameter_is_given_once_and_there_are_not_too_many() {
    let twice = r#"{"allow_reconstructed":false,"allow_reconstructed":true}"#;
    let with = |parameters: &str| format!("{{\"parameters\":{parameters},\"inputs\":[{}]}}", tensor());
    refused(&with(twice), 400, "parameters.allow_reconstructed: given twice");
    let many: Vec<String> = (0..1025).map(|number| format!("\"n{number}\":1")).collect();
    refused(&with(&format!("{{{}}}", many.join(","))), 400, "parameters.n1024: too many of them");
    read(&with(&format!("{{{}}}", many[..1024].join(",")))).expect("as many as may be");
}

#[test]
fn a_wrong_tensor_is_named() {
    for field in ["name", "shape", "datatype", "data"] {
        let mut tensor = tensor();
        tensor.as_object_mut().expect("an object").remove(field);
        refused(&json!({ "inputs": [tensor] }).to_string(), 400, &format!("inputs[0].{field}: missing"));
    }
    refused(&with("name", json!("image")), 400, "inputs[0].name");
    refused(&with("name", json!(1)), 400, "inputs[0].name");
    refused(&with("datatype", json!("BYTES")), 400, "inputs[0].datatype: \"BYTES\" is none of BOOL, UINT8");
    refused(&with("datatype", json!("FP16")), 400, "FP16 must be binary data");
    for shape in [json!([4]), json!([]), json!([1, 2, 2]), json!([1, 1, 2, 3]), json!([1, 1, 1, 2, 2])] {
        refused(&with("shape", shape), 400, "[n, 1, 2, 2] is expected");
    }
    refused(&with("shape", json!([0, 1, 2, 2])), 400, "at least one row");
    refused(&with("shape", json!(vec![1; 65])), 400, "inputs[0].shape: more than 64 dimensions");
    for shape in [json!([-1, 1, 2, 2]), json!([1.5, 1, 2, 2]), json!("x"), json!([null]), json!(4)] {
        refused(&with("shape", shape), 400, "inputs[0].shape");
    }
    for region in ["shared_memory_region", "shared_memory_byte_size"] {
        refused(&with("parameters", json!({ region: 1 })), 400, region);
    }
}

#[test]
fn too_many_rows_end_the_reading_before_their_data() {
    refused(&with("shape", json!([QUEUE_MAX + 1, 1, 2, 2])), 413, "4 rows");
    refused(&with("shape", json!([u64::MAX, 1, 2, 2])), 413, "4 rows");
    // The data are not even JSON: nobody looks at them.
    refused(r#"{"inputs":[{"shape":[5,1,2,2],"data":[oops"#, 413, "rows");
    refused(r#"{"inputs":[{"data":[0],"shape":[5,1,2,2]"#, 413, "rows");
}

#[test]
fn wrong_data_are_named() {
    refused(&with("data", json!([1, 2, 3])), 400, "3 values, and the shape holds 4");
    refused(&with("data", json!([])), 400, "0 values");
    refused(&with("data", json!([1, 2, 3, 4, 5])), 400, "more values than the 4");
    refused(r#"{"inputs":[{"shape":[1,1,2,2],"datatype":"FP32","data":[1,2,3,4,5,oops"#, 400, "more values than the 4");
    for data in [json!(1), json!("1"), json!({}), json!(null), json!([1, 2, 3, null]), json!([1, 2, 3, "4"])] {
        refused(&with("data", data), 400, "inputs[0].data");
    }
    for data in [json!([true, 1, 1, 1]), json!([[1, 2], {}, 3])] {
        refused(&with("data", data), 400, "inputs[0].data");
    }
    refused(&with("data", json!([1, 2, 3, 1e39])), 400, "value 3 is 1e39, too large for FP32");
    for number in ["1e999", "-1e999", "nan", "01", "1.", "--1", "--Infinity"] {
        refused(&with("data", json!([0])).replace("[0]", &format!("[1,2,3,{number}]")), 400, "");
    }
    refused(&with("data", json!([[[[[1, 2, 3, 4]]]]])), 400, "nested deeper");
    let brackets = "[".repeat(100_000);
    refused(&ordered("FP32", &brackets), 400, "nested deeper");
    refused(&with("data", json!([0])).replace("[0]", &brackets), 400, "inputs[0].data");
    let deep = format!("{{\"unknown\":{}", "[".repeat(100_000));
    refused(&deep, 400, "");
}

#[test]
fn an_error_does_not_repeat_a_long_text() {
    let error = read(&with("name", json!("x".repeat(10_000)))).expect_err("a wrong name");
    assert!(error.to_string().len() < 400);
    let error = read(&with("shape", json!("x".repeat(10_000)))).expect_err("a wrong shape");
    assert!(error.to_string().len() < 400);
}

/// Texts that look like requests: words of the protocol, brackets and numbers in any order.
fn nearly_json() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("{"),
        Just("}"),
        Just("["),
        Just("]"),
        Just(","),
        Just(":"),
        Just("\"inputs\""),
        Just("\"name\""),
        Just("\"input\""),
        Just("\"shape\""),
        Just("[1,1,2,2]"),
        Just("\"datatype\""),
        Just("\"FP32\""),
        Just("\"data\""),
        Just("\"parameters\""),
        Just("1"),
        Just("-0.5e3"),
        Just("null"),
        Just("\"\\ud800\""),
        Just("18446744073709551616"),
        Just("{\"inputs\":[{\"data\":["),
        Just("{\"inputs\":[{\"shape\":["),
    ];
    proptest::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn random_text_is_a_4xx_or_a_request(body in nearly_json()) {
        if let Err(error) = read(&body) {
            prop_assert!(error.status().is_client_error());
        }
    }

    #[test]
    fn random_bytes_are_a_4xx(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let error = parse(&body, None, &signature(), QUEUE_MAX).expect_err("no request by chance");
        prop_assert!(error.status().is_client_error());
    }

    #[test]
    fn a_changed_byte_never_panics(at in 0_usize..200, byte in any::<u8>()) {
        let mut body = with("id", json!("x")).into_bytes();
        let at = at % body.len();
        body[at] = byte;
        if let Err(error) = parse(&body, None, &signature(), QUEUE_MAX) {
            prop_assert!(error.status().is_client_error());
        }
    }

    #[test]
    fn values_survive_the_text(row in proptest::array::uniform4(proptest::num::f32::NORMAL | proptest::num::f32::ZERO)) {
        let call = read(&ordered("FP32", &json!(row).to_string())).expect("numbers");
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&values(&call)), bits(&row));
    }
}
