//! Tensors as bytes: both ways, beside JSON, and alone; and values that are no plain numbers.

use crate::port::{Port, QUEUE_MAX, ROW, post, rows};
use serde_json::{Value, json};

fn le(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect()
}

/// The JSON before `bytes` of binary data for `count` rows, with further fields.
fn head(datatype: &str, count: usize, bytes: usize, more: &Value) -> Vec<u8> {
    let parameters = json!({"binary_data_size": bytes});
    let tensor = json!({"name": "input", "shape": [count, 1, 2, 2], "datatype": datatype, "parameters": parameters});
    let mut body = json!({ "inputs": [tensor] });
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body.to_string().into_bytes()
}

/// A request of a binary tensor.
fn binary(datatype: &str, count: usize, data: &[u8], more: &Value) -> Vec<u8> {
    let json = head(datatype, count, data.len(), more);
    post("", Some(json.len()), &[&json[..], data].concat())
}

#[test]
fn a_binary_request_is_the_same_as_its_json() {
    let port = Port::open();
    let two = [ROW, [1.0, 0.0, 0.0, 0.0]];
    let json = port.infer(&rows(&two));
    let reply = port.ask(&binary("FP32", 2, &le(two.as_flattened()), &Value::Null));
    assert_eq!(reply.json(), json.json(), "without a word about outputs, they are JSON");
    assert_eq!(reply.header("inference-header-content-length"), None);
}

#[test]
fn outputs_come_as_they_are_asked_for() {
    let port = Port::open();
    let data = le(&ROW);
    let all = json!({"id": "", "parameters": {"binary_data_output": true}});
    let reply = port.ask(&binary("FP32", 1, &data, &all));
    let (told, data_back) = reply.split();
    let output = json!({"name": "logits", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}});
    assert_eq!((&told["outputs"], &told["id"]), (&json!([output]), &json!("")));
    assert_eq!(told["parameters"]["provenance"], "direct");
    assert_eq!(floats(data_back), [7.5, f32::INFINITY], "what JSON cannot say, bytes can");
    let one = |binary: bool| json!([{"name": "logits", "parameters": {"binary_data": binary}}]);
    let only = json!({"outputs": one(true)});
    assert_eq!(floats(port.ask(&binary("FP32", 1, &data, &only)).split().1), [7.5, f32::INFINITY]);
    let not = json!({"outputs": one(false), "parameters": {"binary_data_output": true}});
    assert_eq!(port.ask(&binary("FP32", 1, &data, &not)).json()["outputs"][0]["data"][0], 7.5);
    // Rows as text, answers as bytes.
    let mut mixed = serde_json::from_str::<Value>(&rows(&[ROW, ROW])).unwrap();
    mixed["outputs"] = one(true);
    let reply = port.ask(&post("Content-Type: application/json\r\n", None, mixed.to_string().as_bytes()));
    assert_eq!(floats(reply.split().1).len(), 4);
}

#[test]
fn a_raw_request_is_one_row_and_gets_bytes() {
    let port = Port::open();
    let reply = port.ask(&post("Content-Type: application/octet-stream\r\n", Some(0), &le(&ROW)));
    let (told, data) = reply.split();
    assert_eq!(told["outputs"][0]["shape"], json!([1, 2]));
    assert_eq!(floats(data), [7.5, f32::INFINITY]);
    for length in [0, 15, 17, 32] {
        let reply = port.ask(&post("", Some(0), &vec![0; length]));
        reply.refused(400, "bad_field");
        assert!(reply.json()["error"].as_str().unwrap().contains("one row of 16 bytes; it has"), "{reply:?}");
    }
}

#[test]
fn every_datatype_becomes_what_the_model_takes() {
    let port = Port::open();
    let more = json!({"parameters": {"binary_data_output": true}});
    for (datatype, data) in [
        ("BOOL", vec![1, 0, 1, 1]),
        ("UINT8", vec![0, 1, 1, 1]),
        ("INT8", vec![1, 1, 2, 0xff]),
        ("UINT16", vec![1, 0, 1, 0, 1, 0, 0, 0]),
        ("INT16", vec![2, 0, 1, 0, 1, 0, 0xff, 0xff]),
        ("UINT32", [1_u32, 1, 1, 0].into_iter().flat_map(u32::to_le_bytes).collect()),
        ("INT32", [1_i32, 1, 2, -1].into_iter().flat_map(i32::to_le_bytes).collect()),
        ("UINT64", [1_u64, 1, 1, 0].into_iter().flat_map(u64::to_le_bytes).collect()),
        ("INT64", [1_i64, 1, 2, -1].into_iter().flat_map(i64::to_le_bytes).collect()),
        ("FP16", vec![0, 0x3c, 0, 0x3c, 0, 0x3c, 0, 0]),
        ("BF16", vec![0x80, 0x3f, 0x80, 0x3f, 0x80, 0x3f, 0, 0]),
        ("FP32", le(&[1.0, 0.5, 0.5, 1.0])),
        ("FP64", [1.0_f64, 0.5, 0.5, 1.0].into_iter().flat_map(f64::to_le_bytes).collect()),
    ] {
        let reply = port.ask(&binary(datatype, 1, &data, &more));
        assert_eq!(floats(reply.split().1), [3.0, f32::INFINITY], "{datatype}");
    }
}

#[test]
fn what_does_not_fit_is_a_400_that_names_field_and_index_and_admits_nothing() {
    let port = Port::open();
    let wide = |value: f64| [1.0, 2.0, value, 3.0].into_iter().flat_map(f64::to_le_bytes).collect::<Vec<_>>();
    let long = |value: i64| [1, value, 2, 3].into_iter().flat_map(i64::to_le_bytes).collect::<Vec<_>>();
    for (request, problem) in [
        (binary("FP64", 1, &wide(1e39), &Value::Null), "inputs[0].data: value 2 is 1e39, too large for FP32"),
        (binary("INT64", 1, &long(16_777_217), &Value::Null), "inputs[0].data: value 1 is 16777217, which FP32"),
        (binary("BOOL", 1, &[1, 0, 0, 9], &Value::Null), "inputs[0].data: value 3 is 9, and BOOL"),
        (binary("BYTES", 1, &[0; 16], &Value::Null), "inputs[0].datatype: \"BYTES\" is none of"),
        (binary("FP32", 1, &[0; 12], &Value::Null), "inputs[0].parameters.binary_data_size: 12"),
        (binary("FP32", 2, &[0; 16], &Value::Null), "inputs[0].parameters.binary_data_size: 16"),
        // The data are right; what comes after them in the JSON is not.
        (binary("FP32", 1, &[0; 16], &json!({"outputs": [{"name": "x"}]})), "outputs[].name"),
        (binary("FP32", 1, &[0; 16], &json!({"parameters": {"timeout": "1"}})), "parameters.timeout"),
    ] {
        let reply = port.ask(&request);
        reply.refused(400, "bad_field");
        assert!(reply.json()["error"].as_str().unwrap().starts_with(problem), "{problem}: {reply:?}");
    }
    let too_many = le(&vec![0.0; (QUEUE_MAX + 1) * 4]);
    port.ask(&binary("FP32", QUEUE_MAX + 1, &too_many, &Value::Null)).refused(413, "too_many_rows");
    assert_eq!(port.engine.taken(), 0, "nothing of it was admitted");
}

#[test]
fn lengths_that_do_not_match_are_a_400_that_names_the_header() {
    let port = Port::open();
    let json = head("FP32", 1, 16, &Value::Null);
    let whole = [&json[..], &le(&ROW)].concat();
    for (told, body) in [
        (Some(999_999), &whole[..]),
        (Some(whole.len()), &whole[..]),
        (Some(json.len() - 1), &whole[..]),
        (Some(json.len()), &whole[..whole.len() - 1]),
        (Some(json.len()), &[&whole[..], b"x"].concat()),
        (None, &whole[..]),
        (None, &json[..]),
    ] {
        let reply = port.ask(&post("", told, body));
        assert_eq!(reply.status, 400, "{told:?} {reply:?}");
    }
    for told in ["many", "-1", "1.5", ""] {
        let headers = format!("Inference-Header-Content-Length: {told}\r\n");
        let reply = port.ask(&post(&headers, None, &whole));
        reply.refused(400, "bad_field");
        assert!(reply.json()["error"].as_str().unwrap().starts_with("Inference-Header-Content-Length"), "{reply:?}");
    }
    let again = format!("Inference-Header-Content-Length: {}\r\n", json.len());
    port.ask(&post(&again, Some(json.len()), &whole)).refused(400, "bad_field");
    let text = rows(&[ROW]);
    assert_eq!(port.ask(&post("", Some(text.len()), text.as_bytes())).status, 200, "all of it is JSON");
    port.ask(&post("", Some(text.len()), format!("{text}xx").as_bytes())).refused(400, "bad_field");
}

#[test]
fn values_that_are_not_finite_come_in_and_go_out_as_null() {
    let port = Port::open();
    let reply =
        port.ask(&binary("FP32", 2, &le(&[f32::NAN, 0.0, 0.0, 0.0, f32::INFINITY, 1.0, 0.0, 0.0]), &Value::Null));
    assert_eq!(reply.json()["outputs"][0]["data"], json!([null, null, null, null]));
    let more = json!({"parameters": {"binary_data_output": true}});
    let reply = port.ask(&binary("FP32", 1, &le(&[f32::NAN, 0.0, 0.0, 0.0]), &more));
    assert!(floats(reply.split().1)[0].is_nan());
    // Not JSON, but what Triton takes and its clients write.
    for word in ["NaN", "Infinity", "-Infinity"] {
        let reply = port.infer(&rows(&[ROW]).replace("0.5", word));
        assert_eq!(reply.json()["outputs"][0]["data"], json!([null, null]), "{word}");
    }
    for word in ["nan", "1e999", "\"NaN\"", "null"] {
        let reply = port.infer(&rows(&[ROW]).replace("0.5", word));
        assert_eq!(reply.status, 400, "{word}");
        reply.json();
    }
}
