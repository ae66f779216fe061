//! What a request may say: routes, verbs, bodies, sizes, and what comes back.

use std::sync::atomic::Ordering;

use parityd::admission::Refusal;
use serde_json::{Value, json};

use crate::port::{INFER, Port, QUEUE_MAX, ROW, WORKERS, request, rows, tensor, wait_until};

#[test]
fn metadata_and_health_are_told() {
    let port = Port::open();
    let server = port.get("/v2").json();
    assert_eq!(server["name"], "parityd");
    let extensions = json!(["classification", "model_configuration", "binary_tensor_data", "statistics"]);
    assert_eq!(server["extensions"], extensions, "nothing is advertised that is not served whole");
    assert_eq!(port.get("/v2/health/live").json(), json!({"live": true}));
    assert_eq!(port.get("/v2/health/ready").json(), json!({"ready": true}));
    let model = json!({
        "name": "adder", "versions": ["1"], "platform": "test",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 2, 2]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 2]}],
    });
    for path in ["/v2/models/adder", "/v2/models/adder/versions/1", "/v2/models/%61dder?x=/y"] {
        assert_eq!(port.get(path).json(), model, "{path}");
    }
    for path in ["/v2/models/adder/ready", "/v2/models/adder/versions/1/ready"] {
        assert_eq!(port.get(path).json(), json!({"name": "adder", "ready": true}), "{path}");
    }
}

#[test]
fn readiness_is_the_engines_and_liveness_is_not() {
    let port = Port::open();
    *port.engine.refusal.lock().unwrap() = Some(Refusal::NotReady);
    for path in ["/v2/health/ready", "/v2/models/adder/ready"] {
        let reply = port.get(path);
        reply.refused(503, "not_ready");
        assert_eq!(reply.json()["ready"], false);
    }
    assert_eq!(port.get("/v2/health/live").status, 200);
    assert!(port.get("/metrics").body.contains("reason=\"not_ready\"} 0"), "a probe is no failed query");
}

/// A thread that carries sockets answers nobody else while it parses.
#[test]
fn a_long_body_is_parsed_on_a_thread_that_carries_no_sockets() {
    // A port that takes so long a body.
    let port = Port::with(|site| site.limits.queue_max = 1 << 16);
    let started = || port.threads.load(Ordering::SeqCst);
    wait_until("all workers", || started() == WORKERS);
    assert_eq!(port.infer(&rows(&[ROW])).status, 200);
    assert_eq!(started(), WORKERS, "a short one is not worth the way");
    let long = |body: &str| format!("{body}{}", " ".repeat(300 << 10));
    assert_eq!(port.infer(&long(&rows(&[ROW]))).json()["outputs"][0]["data"][0], 7.5);
    assert_eq!(started(), WORKERS + 1);
    port.infer(&long("{")).refused(400, "bad_json");
    port.engine.refuse(Refusal::Full);
    port.infer(&long(&rows(&[ROW]))).refused(429, "full");
}

#[test]
fn rows_come_back_in_order_with_their_provenance() {
    let port = Port::open();
    let reply = port.infer(&rows(&[ROW, [1.0, 0.0, 0.0, 0.0], [0.0; 4]]));
    assert_eq!(reply.status, 200, "{reply:?}");
    let body = reply.json();
    assert_eq!(body["model_name"], "adder");
    assert_eq!(body["model_version"], "1");
    assert_eq!(body["parameters"]["provenance"], "direct,reconstructed,direct");
    assert!(body.get("id").is_none());
    let output = &body["outputs"][0];
    assert_eq!(
        (&output["name"], &output["datatype"], &output["shape"]),
        (&json!("logits"), &json!("FP32"), &json!([3, 2]))
    );
    // The first row's second value overflows: JSON has no word for infinity.
    assert_eq!(output["data"].as_array().unwrap().len(), 6);
    assert_eq!((&output["data"][0], &output["data"][1], &output["data"][2]), (&json!(7.5), &Value::Null, &json!(1.0)));
    assert_eq!(output["data"][4], 0.0);
}

#[test]
fn what_a_client_sends_beside_its_rows_is_honoured_or_skipped() {
    let port = Port::open();
    let mut body = tensor(&json!([ROW, ROW]));
    for id in ["", "seven"] {
        body["id"] = json!(id);
        assert_eq!(port.infer(&body.to_string()).json()["id"], id, "even an empty id is echoed");
    }
    body["parameters"] = json!({"allow_reconstructed": false, "priority": 3, "timeout": 5000});
    body["outputs"] = json!([{"name": "logits", "parameters": {"binary_data": false}}]);
    assert_eq!(port.infer(&body.to_string()).json()["parameters"]["provenance"], "direct,direct");
    body["parameters"] = Value::Null;
    assert_eq!(port.infer(&body.to_string()).json()["parameters"]["provenance"], "direct,reconstructed");
    for shape in [json!([1, 1, 2, 2]), json!([[[[1, 1], [2, 2]]]])] {
        let mut body = tensor(&json!([[1, 1, 2, 2]]));
        body["inputs"][0]["data"] = shape;
        assert_eq!(port.infer(&body.to_string()).json()["outputs"][0]["data"][0], 6.0);
    }
    let versioned = request("POST", "/v2/models/adder/versions/1/infer", "", &rows(&[ROW]));
    assert_eq!(port.ask(versioned.as_bytes()).status, 200, "no content type is fine");
}

#[test]
fn confidence_is_asked_for_and_told() {
    let port = Port::open();
    let mut body = tensor(&json!([ROW, ROW]));
    assert_eq!(port.infer(&body.to_string()).json()["parameters"]["confidence"], "1,0.75");
    body["parameters"] = json!({"min_confidence": 0.75});
    assert_eq!(port.infer(&body.to_string()).json()["parameters"]["provenance"], "direct,reconstructed");
    body["parameters"] = json!({"min_confidence": 0.76});
    let sure = port.infer(&body.to_string()).json();
    assert_eq!(sure["parameters"], json!({"provenance": "direct,direct"}), "nothing was judged");
    body["parameters"] = json!({"min_confidence": 1.5});
    port.infer(&body.to_string()).refused(400, "bad_field");
    port.engine.refuse(Refusal::NotCalibrated);
    body["parameters"] = json!({"min_confidence": 0.5});
    let reply = port.infer(&body.to_string());
    reply.refused(400, "bad_field");
    assert!(reply.json()["error"].as_str().unwrap().starts_with("parameters.min_confidence: "), "{reply:?}");
}

#[test]
fn verbs_and_paths_that_are_not_served_are_told_apart() {
    let port = Port::open();
    for (verb, path, allow) in [
        ("POST", "/v2", "GET, HEAD"),
        ("DELETE", "/v2/health/live", "GET, HEAD"),
        ("POST", "/v2/health/ready", "GET, HEAD"),
        ("PUT", "/v2/models/adder", "GET, HEAD"),
        ("POST", "/v2/models/adder/ready", "GET, HEAD"),
        ("GET", INFER, "POST"),
        ("OPTIONS", INFER, "POST"),
        ("POST", "/metrics", "GET, HEAD"),
        ("POST", "/admin/lanes", "GET, HEAD"),
        ("GET", "/admin/lanes/0/fault", "POST"),
    ] {
        let reply = port.ask(request(verb, path, "", "").as_bytes());
        reply.refused(405, "wrong_verb");
        assert_eq!(reply.header("allow"), Some(allow), "{verb} {path}");
    }
    for (path, reason) in [
        ("//", "unknown_route"),
        ("/v1/models/adder", "unknown_route"),
        ("/v2/", "unknown_route"),
        ("/v2/models/adder/configs", "unknown_route"),
        ("/v2/models/adder/config/", "unknown_route"),
        ("/v2/models/adder/versions/1/stats/1", "unknown_route"),
        ("/v2/models", "unknown_route"),
        ("/v2/models/%zz", "unknown_route"),
        ("/v2/models/%ff", "unknown_route"),
        ("/v2/models/other", "unknown_model"),
        ("/v2/models/other/ready", "unknown_model"),
        ("/v2/models/adder/versions/2", "unknown_version"),
    ] {
        port.get(path).refused(404, reason);
    }
    let told = port.get("/").json();
    let routes = told["routes"].as_array().unwrap();
    assert!(routes.contains(&json!(INFER)), "who opens the port in a browser finds the way: {told}");
    let other = request("POST", "/v2/models/other/infer", "", &rows(&[ROW]));
    port.ask(other.as_bytes()).refused(404, "unknown_model");
}

#[test]
fn head_is_get_without_the_body() {
    let port = Port::open();
    for path in ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/adder", "/metrics", "/admin/lanes"] {
        let get = port.get(path);
        let mut client = port.connect();
        let head = client.ask(request("HEAD", path, "", "").as_bytes());
        assert_eq!((head.status, head.header("content-type")), (200, get.header("content-type")), "{path}");
        assert_eq!(client.ask(request("GET", "/v2", "", "").as_bytes()).status, 200, "no stray body after {path}");
    }
}

#[test]
fn content_types_are_checked() {
    let port = Port::open();
    let body = rows(&[ROW]);
    let ask = |headers: &str| port.ask(request("POST", INFER, headers, &body).as_bytes());
    for kind in ["application/json", "Application/JSON; charset=utf-8", "application/octet-stream"] {
        assert_eq!(ask(&format!("Content-Type: {kind}\r\n")).status, 200, "{kind}");
    }
    for kind in
        ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "multipart/form-data", "\u{e9}"]
    {
        ask(&format!("Content-Type: {kind}\r\n")).refused(415, "wrong_content_type");
    }
}

#[test]
fn wrong_bodies_are_a_400_that_names_the_field() {
    let port = Port::open();
    for (body, word) in
        [("", "empty"), ("{\"inputs\": \"", "inputs"), ("[]", "object"), ("{}", "inputs"), ("\u{0}\u{1}", "value")]
    {
        let reply = port.infer(body);
        assert_eq!(reply.status, 400, "{body}: {reply:?}");
        assert!(reply.json()["error"].as_str().unwrap().contains(word), "{body}: {reply:?}");
    }
    for (field, value) in [
        ("name", json!("image")),
        ("datatype", json!("BYTES")),
        ("shape", json!([1, 4])),
        ("shape", json!([0, 1, 2, 2])),
        ("data", json!([1, 2, 3])),
        ("data", json!([1, 2, 3, 1e300])),
        ("data", json!("none")),
    ] {
        let mut body = tensor(&json!([ROW]));
        body["inputs"][0][field] = value;
        let reply = port.infer(&body.to_string());
        assert_eq!(reply.status, 400, "{reply:?}");
        assert!(reply.json()["error"].as_str().unwrap().contains(&format!("inputs[0].{field}")), "{reply:?}");
    }
    assert_eq!(port.engine.taken(), 0, "nothing of it was admitted");
}

#[test]
fn sizes_are_refused_before_they_cost_anything() {
    let port = Port::open();
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: localhost\r\n");
    port.ask(format!("{head}\r\n").as_bytes()).refused(411, "no_length");
    // Nothing but the head is sent, so the answer cannot have waited for a body.
    port.ask(format!("{head}Content-Length: 1000000000000\r\n\r\n").as_bytes()).refused(413, "body_too_long");
    let mut client = port.connect();
    let reply = client.ask(format!("{head}Content-Length: 900000\r\nExpect: 100-continue\r\n\r\n").as_bytes());
    reply.refused(413, "body_too_long");
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(client.is_closed());
    let too_many = rows(&vec![ROW; QUEUE_MAX + 1]);
    port.infer(&too_many).refused(413, "too_many_rows");
    assert_eq!(port.infer(&rows(&vec![ROW; QUEUE_MAX])).status, 200);
}

/// hyper takes the last of them for all.
#[test]
fn a_body_comes_in_chunks_and_in_no_other_way() {
    let port = Port::open();
    let body = rows(&[ROW]);
    for (coding, status) in [("chunked", 200), ("Chunked", 200), ("gzip, chunked", 400)] {
        let head = format!("POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: {coding}\r\n\r\n");
        let reply = port.ask(format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes());
        assert_eq!(reply.status, status, "{coding}: {reply:?}");
    }
}

#[test]
fn a_request_names_one_host() {
    let port = Port::open();
    for (version, hosts, status) in [
        ("1.1", "Host: localhost\r\n", 200),
        ("1.1", "", 400),
        ("1.1", "Host: localhost\r\nHost: localhost\r\n", 400),
        ("1.0", "", 200),
        ("1.0", "Host: one\r\nHost: another\r\n", 400),
    ] {
        let reply = port.ask(format!("GET /v2 HTTP/{version}\r\n{hosts}\r\n").as_bytes());
        assert_eq!(reply.status, status, "{version} {hosts}: {reply:?}");
        if status == 400 {
            reply.refused(400, "bad_field");
        }
    }
}
