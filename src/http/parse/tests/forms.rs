//! Binary tensors, datatypes, parameters and requested outputs.

use std::{num::NonZeroUsize, time::Duration};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{QUEUE_MAX, ordered, read, refused, signature, tensor, values, with};
use crate::{
    http::{parse::parse, status::Status},
    wire::{Call, ClientError, Form, Wanted},
};

/// A body of JSON and `tail`, and the length of the JSON.
fn split(tensor: &Value, tail: &[u8]) -> (Vec<u8>, usize) {
    let json = json!({ "inputs": [tensor] }).to_string().into_bytes();
    let length = json.len();
    ([json, tail.to_vec()].concat(), length)
}

fn binary(datatype: &str, bytes: usize) -> Value {
    json!({"name": "input", "shape": [1, 1, 2, 2], "datatype": datatype, "parameters": {"binary_data_size": bytes}})
}

fn read_split(tensor: &Value, tail: &[u8]) -> Result<Call, ClientError> {
    let (body, json_bytes) = split(tensor, tail);
    parse(&body, Some(json_bytes), &signature(), QUEUE_MAX)
}

#[test]
fn binary_tensors_follow_the_json() {
    let four: Vec<u8> = [1.0, 2.5, -3.0, 4.0_f32].into_iter().flat_map(f32::to_le_bytes).collect();
    let call = read_split(&binary("FP32", 16), &four).expect("four values");
    assert_eq!(values(&call), [1.0, 2.5, -3.0, 4.0]);
    assert_eq!(call.wanted, Wanted { form: Form::Typed, classes: None });
    let call = read_split(&binary("INT8", 4), &[1, 2, 0xfd, 4]).expect("four values");
    assert_eq!(values(&call), [1.0, 2.0, -3.0, 4.0]);
    let raw = parse(&four, Some(0), &signature(), QUEUE_MAX).expect("a raw row");
    assert_eq!((values(&raw), raw.wanted.form), (values(&read(&with("id", json!(0))).expect("JSON")), Form::Binary));
    let (body, json_bytes) = split(&tensor(), b"");
    parse(&body, Some(json_bytes), &signature(), QUEUE_MAX).expect("a header that covers JSON alone");
}

#[test]
fn wrong_sizes_of_binary_data_are_named() {
    let size = "inputs[0].parameters.binary_data_size";
    let header = "Inference-Header-Content-Length";
    for (tensor, tail, field, word) in [
        (binary("FP32", 12), 16, size, "holds 16 bytes of FP32"),
        (binary("FP32", 16), 15, size, "15 bytes follow"),
        (binary("FP32", 16), 0, size, "0 bytes follow"),
        (binary("FP32", 16), 17, header, "1 bytes follow that belong to no tensor"),
        (binary("FP64", 16), 16, size, "holds 32 bytes of FP64"),
        (tensor(), 3, header, "3 bytes follow that belong to no tensor"),
    ] {
        let error = read_split(&tensor, &vec![0; tail]).expect_err("a wrong size");
        assert!(error.to_string().starts_with(field) && error.to_string().contains(word), "{error}");
    }
    for wrong in [json!(-1), json!("16"), json!(1.5), json!(true)] {
        let mut tensor = binary("FP32", 16);
        tensor["parameters"]["binary_data_size"] = wrong;
        assert!(read_split(&tensor, &[0; 16]).expect_err("no size").to_string().starts_with(size));
    }
    let mut both = tensor();
    both["parameters"] = json!({"binary_data_size": 16});
    assert!(read_split(&both, &[0; 16]).expect_err("both").to_string().contains("beside binary_data_size"));
    refused(&with("parameters", json!({"binary_data_size": 16})), 400, "inputs[0].data");
    for (body, json_bytes) in [(15, 0), (17, 0), (0, 0), (4, 5)] {
        let error = parse(&vec![0; body], Some(json_bytes), &signature(), QUEUE_MAX).expect_err("a wrong length");
        assert!(error.to_string().starts_with(header), "{error}");
    }
    let error = read_split(&binary("BOOL", 4), &[0, 1, 2, 1]).expect_err("no truth");
    assert_eq!(
        error.to_string(),
        "inputs[0].data: value 2 is 2, and BOOL takes true and false; 1 and 0 as binary data"
    );
}

#[test]
fn datatypes_bound_what_json_may_say() {
    let typed = |datatype: &str, data: Value| ordered(datatype, &data.to_string());
    for (datatype, data) in [
        ("INT8", json!([-128, 0, 1, 127])),
        ("UINT64", json!([0, 1, 2, 1_u64 << 63])),
        ("BOOL", json!([true, false, true, true])),
        ("FP64", json!([0.5, 1, 2, 1e38])),
    ] {
        assert_eq!(read(&typed(datatype, data)).expect(datatype).rows.count(), 1);
    }
    for (datatype, data, problem) in [
        ("INT8", json!([0, 1, 128, 2]), "value 2 is 128, outside INT8"),
        ("UINT8", json!([0, -1, 128, 2]), "value 1 is -1, outside UINT8"),
        (
            "INT64",
            json!([16_777_217, 0, 0, 0]),
            "value 0 is 16777217, which FP32, the model's type, does not hold exactly",
        ),
        ("INT32", json!([0, 0, 0, 1.5]), "value 3 is 1.5e0, and INT32 takes integers"),
        ("UINT16", json!([true, 0, 0, 0]), "value 0 is true, and UINT16 takes numbers"),
        ("FP32", json!([0, false, 0, 0]), "value 1 is false, and FP32 takes numbers"),
        ("BOOL", json!([true, 1, true, true]), "value 1 is 1, and BOOL takes true"),
        ("FP64", json!([0, 0, 1e39, 0]), "value 2 is 1e39, too large for FP32"),
    ] {
        refused(&typed(datatype, data), 400, &format!("inputs[0].data: {problem}"));
    }
    // In this order, the values are known before the type that they are held to.
    refused(r#"{"inputs":[{"name":"input","data":[0,0,300,0],"shape":[1,1,2,2],"datatype":"INT8"}]}"#, 400, "value 2");
}

#[test]
fn values_that_are_not_finite_are_taken_as_tritons_clients_write_them() {
    let call = read(&ordered("FP32", "[NaN, -Infinity,[Infinity],1]")).expect("not JSON, and understood");
    let found = values(&call);
    assert!(found[0].is_nan());
    assert_eq!(found[1..], [f32::NEG_INFINITY, f32::INFINITY, 1.0]);
    let first = r#"{"inputs":[{"data":[0,0,0,NaN],"name":"input","shape":[1,1,2,2],"datatype":"FP64"}]}"#;
    assert!(values(&read(first).expect("data first"))[3].is_nan());
    let (body, json_bytes) = (ordered("FP32", "[NaN,0,0,0]").into_bytes(), ordered("FP32", "[NaN,0,0,0]").len());
    parse(&body, Some(json_bytes), &signature(), QUEUE_MAX).expect("perf_analyzer tells the length of all of it");
    refused(&ordered("INT8", "[0,NaN,0,0]"), 400, "inputs[0].data: value 1 is NaN, and INT8 takes integers");
    refused(&ordered("BOOL", "[NaN,true,true,true]"), 400, "inputs[0].data: value 0 is NaN");
    refused(&ordered("FP32", r#"["NaN",0,0,0]"#), 400, "inputs[0].data: invalid type: string");
    refused(&ordered("FP32", "[nan,0,0,0]"), 400, "inputs[0].data");
    refused(&ordered("FP32", "[NaN,0,0]"), 400, "3 values");
    refused(r#"{"id":NaN,"inputs":[]}"#, 400, "id");
}

#[test]
fn parameters_are_typed_and_unknown_ones_are_skipped() {
    let asked = |parameters: Value| json!({"parameters": parameters, "inputs": [tensor()]}).to_string();
    let timeout = |value: Value| read(&asked(json!({"timeout": value}))).expect("micros").terms.timeout;
    assert_eq!(timeout(json!(1500)), Some(Duration::from_micros(1500)));
    assert_eq!((timeout(json!(0)), timeout(Value::Null)), (None, None), "0 is Triton's word for none");
    for parameters in [
        json!({"sequence_id": "a", "sequence_start": true, "sequence_end": false, "priority": 7}),
        json!({"mine": 1.5, "yours": null, "theirs": ""}),
    ] {
        read(&asked(parameters)).expect("parameters of others");
    }
    for (parameters, field) in [
        (json!({"timeout": -1}), "parameters.timeout: a whole number"),
        (json!({"timeout": "5"}), "parameters.timeout: a whole number"),
        (json!({"priority": 0.5}), "parameters.priority"),
        (json!({"binary_data_output": 1}), "parameters.binary_data_output: true or false"),
        (json!({"allow_reconstructed": "no"}), "parameters.allow_reconstructed: true or false"),
        (json!({"mine": [1]}), "parameters.mine: a string, a number or a boolean"),
        (json!({"mine": {}}), "parameters.mine"),
        (json!({"triton_x": 1}), "parameters: \"triton_x\""),
    ] {
        refused(&asked(parameters), 400, field);
    }
}

#[test]
fn outputs_are_json_unless_binary_is_asked_for() {
    let wanted = |outputs: Value, all: Value| {
        let body = json!({"outputs": outputs, "parameters": {"binary_data_output": all}, "inputs": [tensor()]});
        read(&body.to_string()).expect("outputs").wanted
    };
    let output = |parameters: Value| json!([{"name": "logits", "parameters": parameters}]);
    assert_eq!(wanted(Value::Null, Value::Null).form, Form::Typed);
    assert_eq!(wanted(Value::Null, json!(true)).form, Form::Binary);
    assert_eq!(wanted(output(json!({"binary_data": true})), json!(false)).form, Form::Binary);
    assert_eq!(wanted(output(json!({"binary_data": false})), json!(true)).form, Form::Typed, "an output's own word");
    assert_eq!(wanted(output(json!({})), json!(true)).form, Form::Binary);
    let classes = |count: Value| wanted(output(json!({"classification": count})), Value::Null).classes;
    assert_eq!(classes(json!(2)).map(NonZeroUsize::get), Some(2));
    assert_eq!((classes(json!(0)), classes(Value::Null)), (None, None));
    for (parameters, field) in [
        (json!({"binary_data": "yes"}), "outputs[0].parameters.binary_data"),
        (json!({"classification": -1}), "outputs[0].parameters.classification"),
        (json!({"shared_memory_region": "r"}), "shared_memory_region"),
        (json!({"mine": []}), "outputs[0].parameters.mine"),
        (json!([]), "outputs"),
    ] {
        refused(&json!({"outputs": output(parameters), "inputs": [tensor()]}).to_string(), 400, field);
    }
    refused(&json!({"outputs": [{}], "inputs": [tensor()]}).to_string(), 400, "outputs[].name: missing");
}

proptest! {
    #[test]
    fn random_bytes_with_any_header_are_a_4xx_or_a_request(
        body in proptest::collection::vec(any::<u8>(), 0..40),
        json_bytes in 0_usize..50,
    ) {
        let read = parse(&body, Some(json_bytes), &signature(), QUEUE_MAX);
        prop_assert_eq!(read.is_ok(), (body.len(), json_bytes) == (16, 0), "a raw row, and no other");
        prop_assert!(read.err().is_none_or(|error| error.status().is_client_error()));
    }

    #[test]
    fn binary_values_keep_their_bits(row in proptest::array::uniform4(any::<u32>())) {
        let bytes: Vec<u8> = row.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let call = read_split(&binary("FP32", 16), &bytes).expect("any bits are a value");
        let bits: Vec<u32> = values(&call).iter().map(|value| value.to_bits()).collect();
        prop_assert_eq!(&bits[..], &row[..]);
    }
}
