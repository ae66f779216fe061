//! Triton's extensions: classification, configuration, statistics, the repository's index, parameters; and what is not served.

use std::time::Duration;

use crate::port::{Port, ROW, post, request, rows, tensor};
use parityd::admission::Refusal;
use serde_json::{Value, json};

/// A body whose one output has these parameters.
fn wanting(rows: &[[f32; 4]], parameters: &Value) -> String {
    let mut body = tensor(&json!(rows));
    body["outputs"] = json!([{"name": "logits", "parameters": parameters}]);
    body.to_string()
}

#[test]
fn classes_are_told_with_their_labels() {
    let port = Port::open();
    // A row's values are its sum, and its sum times the largest FP32.
    let two = [[0.25, 0.0, 0.0, 0.0], [0.0, -0.5, 0.0, 0.0]];
    let one = port.infer(&wanting(&two, &json!({"classification": 1}))).json();
    let output = json!({
        "name": "logits", "datatype": "BYTES", "shape": [2, 1], "data": ["8.5070587e37:1:dog", "-0.5:0:cat"],
    });
    assert_eq!(one["outputs"][0], output);
    let all = port.infer(&wanting(&two, &json!({"classification": 50}))).json();
    assert_eq!(all["outputs"][0]["shape"], json!([2, 2]), "no more than there are");
    assert_eq!(all["outputs"][0]["data"].as_array().unwrap().len(), 4);
    let none = port.infer(&wanting(&two, &json!({"classification": 0}))).json();
    assert_eq!(none["outputs"][0]["datatype"], "FP32", "0 is Triton's word for no classification");
    for wrong in [json!(-1), json!("2"), json!(1.5)] {
        let reply = port.infer(&wanting(&two, &json!({"classification": wrong})));
        reply.refused(400, "bad_field");
        assert!(reply.json()["error"].as_str().unwrap().starts_with("outputs[0].parameters.classification"));
    }
}

#[test]
fn classes_are_bytes_with_their_lengths_before_them() {
    let port = Port::with(|site| site.signature.labels.clear());
    let body = wanting(&[[0.0, -0.5, 0.0, 0.0]], &json!({"classification": 1, "binary_data": true}));
    let reply = port.infer(&body);
    let (told, data) = reply.split();
    assert_eq!(told["outputs"][0]["parameters"]["binary_data_size"], 10);
    assert_eq!((&told["outputs"][0]["datatype"], data), (&json!("BYTES"), &b"\x06\0\0\0-0.5:0"[..]));
}

#[test]
fn the_configuration_is_what_clients_read_of_it() {
    let port = Port::open();
    let config = port.get("/v2/models/adder/config").json();
    assert_eq!(config, port.get("/v2/models/adder/versions/1/config").json());
    assert_eq!((&config["name"], &config["max_batch_size"]), (&json!("adder"), &json!(64)));
    assert_eq!(config["model_transaction_policy"], json!({"decoupled": false}));
    let input = &config["input"][0];
    assert_eq!(
        (&input["name"], &input["data_type"], &input["dims"]),
        (&json!("input"), &json!("TYPE_FP32"), &json!([1, 2, 2]))
    );
    assert_eq!(config["output"][0]["dims"], json!([2]));
    for absent in ["sequence_batching", "ensemble_scheduling", "response_cache"] {
        assert!(config.get(absent).is_none(), "{absent} would change what clients send");
    }
    port.get("/v2/models/other/config").refused(404, "unknown_model");
    port.get("/v2/models/adder/versions/2/config").refused(404, "unknown_version");
}

#[test]
fn statistics_count_requests_and_rows() {
    let port = Port::open();
    let stats = || port.get("/v2/models/adder/stats").json()["model_stats"][0].clone();
    let before = stats();
    assert_eq!((&before["inference_count"], &before["last_inference"]), (&json!(0), &json!(0)));
    assert_eq!(before["inference_stats"]["success"], json!({"count": 0, "ns": 0}));
    assert_eq!(port.infer(&rows(&[ROW, ROW, ROW])).status, 200);
    assert_eq!(port.infer(&rows(&[ROW])).status, 200);
    assert_eq!(port.infer(&rows(&[[-1.0, 0.0, 0.0, 0.0]])).status, 504);
    assert_eq!(port.infer("{}").status, 400);
    let after = stats();
    assert_eq!(
        (&after["name"], &after["version"], &after["inference_count"]),
        (&json!("adder"), &json!("1"), &json!(4))
    );
    assert!(after["last_inference"].as_u64().unwrap() > 1_600_000_000_000);
    let spent = &after["inference_stats"];
    assert_eq!((&spent["success"]["count"], &spent["fail"]["count"]), (&json!(2), &json!(1)), "a 400 reached no model");
    let ns = |part: &str| spent[part]["ns"].as_u64().unwrap();
    let parts = ns("queue") + ns("compute_input") + ns("compute_infer") + ns("compute_output");
    assert_eq!(ns("success"), parts);
    assert!(ns("compute_input") > 0 && ns("compute_output") > 0);
    told_under_tritons_names(&port, ns("success") / 1000);
    for path in ["/v2/models/stats", "/v2/models/adder/versions/1/stats"] {
        assert_eq!(port.get(path).json()["model_stats"][0], after, "{path}");
    }
    port.get("/v2/models/other/stats").refused(404, "unknown_model");
}

fn told_under_tritons_names(port: &Port, micros: u64) {
    let metrics = port.get("/metrics").body;
    for line in [
        "nv_inference_request_success{model=\"adder\",version=\"1\"} 2".to_owned(),
        "nv_inference_request_failure{model=\"adder\",reason=\"REJECTED\",version=\"1\"} 1".to_owned(),
        "nv_inference_count{model=\"adder\",version=\"1\"} 4".to_owned(),
        format!("nv_inference_request_duration_us{{model=\"adder\",version=\"1\"}} {micros}"),
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line} in\n{metrics}");
    }
}

#[test]
fn the_index_tells_of_the_one_model() {
    let port = Port::open();
    let path = "/v2/repository/index";
    let ask = |body: &str| port.ask(request("POST", path, "", body).as_bytes());
    let ready = json!([{"name": "adder", "version": "1", "state": "READY"}]);
    for body in ["", "{}", r#"{"ready":true}"#, r#"{"ready":false}"#, r#"{"ready":null,"x":1}"#] {
        assert_eq!(ask(body).json(), ready, "{body}");
    }
    let no_body = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(port.ask(no_body.as_bytes()).json(), ready, "curl -X POST sends no length");
    ask("[]").refused(400, "bad_json");
    ask(r#"{"ready":1}"#).refused(400, "bad_field");
    ask(&" ".repeat(5000)).refused(413, "body_too_long");
    port.get(path).refused(405, "wrong_verb");
    port.engine.refuse(Refusal::NotReady);
    let reason = Refusal::NotReady.to_string();
    let unavailable = json!([{"name": "adder", "version": "1", "state": "UNAVAILABLE", "reason": reason}]);
    assert_eq!(ask("").json(), unavailable);
    assert_eq!(ask(r#"{"ready":true}"#).json(), json!([]));
}

#[test]
fn what_is_not_served_says_so() {
    let port = Port::open();
    for (verb, path) in [
        ("POST", "/v2/repository/models/adder/load"),
        ("POST", "/v2/repository/models/adder/unload"),
        ("GET", "/v2/trace/setting"),
        ("POST", "/v2/models/adder/trace/setting"),
        ("GET", "/v2/logging"),
        ("POST", "/v2/logging"),
        ("GET", "/v2/systemsharedmemory/status"),
        ("POST", "/v2/cudasharedmemory/region/r/register"),
        ("POST", "/v2/models/adder/generate"),
        ("POST", "/v2/models/adder/versions/1/generate_stream"),
    ] {
        let reply = port.ask(request(verb, path, "", "{}").as_bytes());
        reply.refused(404, "not_served");
        assert!(reply.json()["error"].as_str().unwrap().contains("docs/compat.md"), "{reply:?}");
    }
    let mut body = tensor(&json!([ROW]));
    body["inputs"][0].as_object_mut().unwrap().remove("data");
    body["inputs"][0]["parameters"] = json!({"shared_memory_region": "r", "shared_memory_byte_size": 16});
    let reply = port.infer(&body.to_string());
    reply.refused(400, "bad_field");
    assert!(reply.json()["error"].as_str().unwrap().contains("shared memory is not served"), "{reply:?}");
}

#[test]
fn a_timeout_is_handed_on_and_other_parameters_are_checked() {
    let port = Port::open();
    let ask = |parameters: Value| {
        let mut body = tensor(&json!([ROW]));
        body["parameters"] = parameters;
        port.infer(&body.to_string())
    };
    for (timeout, handed_on) in [(json!(1500), Some(1500)), (json!(0), None), (Value::Null, None)] {
        assert_eq!(ask(json!({"timeout": timeout, "priority": 1, "mine": "x"})).status, 200);
        assert_eq!(port.engine.terms().timeout, handed_on.map(Duration::from_micros));
    }
    for parameters in [json!({"timeout": -1}), json!({"priority": "high"}), json!({"mine": []}), json!({"triton_x": 1})]
    {
        let reply = ask(parameters);
        reply.refused(400, "bad_field");
        assert!(reply.json()["error"].as_str().unwrap().starts_with("parameters"), "{reply:?}");
    }
}

#[test]
fn perf_analyzers_requests_are_understood() {
    // Its binary form: an empty id, other field order, a content type; its JSON form tells the length of all of it.
    let port = Port::open();
    let json = br#"{"id":"","inputs":[{"name":"input","datatype":"FP32","shape":[1,1,2,2],"parameters":{"binary_data_size":16}}],"outputs":[{"name":"logits","parameters":{"binary_data":true}}]}"#;
    let values: Vec<u8> = [1.85e31, -3.0e-30, 0.0, 1.0_f32].iter().flat_map(|value| value.to_le_bytes()).collect();
    let whole = [&json[..], &values].concat();
    let reply = port.ask(&post("Content-Type: application/octet-stream\r\n", Some(json.len()), &whole));
    assert_eq!((reply.split().0["id"].as_str(), reply.split().1.len()), (Some(""), 8));
    let text = br#"{"id":"0","inputs":[{"name":"input","datatype":"FP32","shape":[1,1,2,2],"data":[1.85e31,-3e-30,0,1]}],"outputs":[{"name":"logits","parameters":{"binary_data":false}}]}"#;
    let reply = port.ask(&post("Content-Type: application/json\r\n", Some(text.len()), text));
    assert_eq!((reply.status, &reply.json()["id"]), (200, &json!("0")));
    assert_eq!(reply.json()["outputs"][0]["data"][1], Value::Null, "it overflows");
}
