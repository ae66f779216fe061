//! Compressed requests and replies.

use std::io::{Read, Write};

use flate2::{
    Compression,
    read::{GzDecoder, ZlibDecoder},
    write::{GzEncoder, ZlibEncoder},
};
use serde_json::{Value, json};

use crate::port::{Port, ROW, Reply, post, rows};

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

/// The reply's body as it was before it was compressed.
fn inflated(reply: &Reply) -> Vec<u8> {
    let mut body = Vec::new();
    let read = match reply.header("content-encoding") {
        Some("gzip") => GzDecoder::new(&reply.bytes[..]).read_to_end(&mut body),
        Some("deflate") => ZlibDecoder::new(&reply.bytes[..]).read_to_end(&mut body),
        Some(_) | None => Ok(0),
    };
    assert!(read.is_ok_and(|read| read > 0), "{:?}", reply.head);
    body
}

#[test]
fn requests_may_be_compressed_and_tell_the_length_of_what_they_were() {
    let port = Port::open();
    let text = rows(&[ROW, ROW]);
    let plain = port.infer(&text).json();
    for (coding, body) in
        [("gzip", gzip(text.as_bytes())), ("deflate", deflate(text.as_bytes())), ("X-GZIP", gzip(text.as_bytes()))]
    {
        let reply = port.ask(&post(&format!("Content-Encoding: {coding}\r\n"), None, &body));
        assert_eq!(reply.json(), plain, "{coding}");
    }
    let json =
        br#"{"inputs":[{"name":"input","shape":[1,1,2,2],"datatype":"UINT8","parameters":{"binary_data_size":4}}]}"#;
    let whole = [&json[..], &[1, 2, 3, 4]].concat();
    let reply = port.ask(&post("Content-Encoding: gzip\r\n", Some(json.len()), &gzip(&whole)));
    assert_eq!(reply.json()["outputs"][0]["data"][0], 10.0);
    let raw: Vec<u8> = ROW.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(port.ask(&post("Content-Encoding: deflate\r\n", Some(0), &deflate(&raw))).split().1.len(), 8);
    // Two members in a row are one body.
    let (first, rest) = text.as_bytes().split_at(10);
    let reply = port.ask(&post("Content-Encoding: gzip\r\n", None, &[gzip(first), gzip(rest)].concat()));
    assert_eq!(reply.status, 200);
}

#[test]
fn a_bomb_is_a_413_and_takes_no_memory() {
    // The longest body of this port has some hundred kilobytes.
    let port = Port::open();
    let zeros = vec![b' '; 64 << 20];
    for (coding, body) in [("gzip", gzip(&zeros)), ("deflate", deflate(&zeros))] {
        assert!(body.len() < 70_000);
        let request = post(&format!("Content-Encoding: {coding}\r\n"), None, &body);
        port.ask(&request).refused(413, "body_too_long");
    }
    // Members that hold nothing: it is not only what they become that counts.
    let nothing = gzip(b"").repeat(20_000);
    port.ask(&post("Content-Encoding: gzip\r\n", None, &nothing)).refused(413, "body_too_long");
    assert_eq!(port.infer(&rows(&[ROW])).status, 200);
}

#[test]
fn broken_and_unknown_codings_are_named() {
    let port = Port::open();
    let text = rows(&[ROW]);
    let whole = gzip(text.as_bytes());
    for (coding, body) in [
        ("gzip", text.as_bytes()),
        ("gzip", &whole[..whole.len() - 3]),
        ("gzip", &[]),
        ("deflate", text.as_bytes()),
        ("deflate", &whole),
        ("deflate", &deflate(text.as_bytes())[..20]),
    ] {
        let reply = port.ask(&post(&format!("Content-Encoding: {coding}\r\n"), None, body));
        reply.refused(400, "bad_field");
        assert!(reply.json()["error"].as_str().unwrap().starts_with("Content-Encoding: "), "{reply:?}");
    }
    for coding in ["br", "zstd", "gzip, gzip", "\u{e9}"] {
        let reply = port.ask(&post(&format!("Content-Encoding: {coding}\r\n"), None, text.as_bytes()));
        reply.refused(415, "wrong_content_encoding");
        assert_eq!(reply.header("accept-encoding"), Some("gzip, deflate"));
    }
    assert_eq!(port.ask(&post("Content-Encoding: identity\r\n", None, text.as_bytes())).status, 200);
}

#[test]
fn replies_are_compressed_if_they_are_long_and_the_client_asks() {
    let port = Port::open();
    let mut body = serde_json::from_str::<Value>(&rows(&[ROW, ROW])).unwrap();
    body["id"] = json!("long ".repeat(200));
    let text = body.to_string();
    let plain = port.infer(&text);
    assert_eq!(plain.header("content-encoding"), None);
    for coding in ["gzip", "deflate"] {
        let asks = format!("Accept-Encoding: {coding}\r\n");
        let reply = port.ask(&post(&asks, None, text.as_bytes()));
        assert_eq!((reply.status, reply.header("content-encoding")), (200, Some(coding)));
        assert_eq!(reply.header("content-type"), Some("application/json"));
        assert!(reply.bytes.len() < plain.bytes.len());
        assert_eq!(serde_json::from_slice::<Value>(&inflated(&reply)).unwrap(), plain.json());
        assert_eq!(
            port.ask(&post(&asks, None, rows(&[ROW]).as_bytes())).header("content-encoding"),
            None,
            "a short one"
        );
        assert_eq!(port.ask(&post(&asks, None, b"{")).header("content-encoding"), None, "an error");
    }
    body["parameters"] = json!({"binary_data_output": true});
    let reply = port.ask(&post("Accept-Encoding: gzip, deflate\r\n", None, body.to_string().as_bytes()));
    let length: usize = reply.header("inference-header-content-length").unwrap().parse().unwrap();
    let inflated = inflated(&reply);
    let told: Value = serde_json::from_slice(&inflated[..length]).expect("the length counts what it was");
    assert_eq!(told["outputs"][0]["parameters"]["binary_data_size"], inflated.len() - length);
}
