//! Messages as they arrive: cut anywhere, compressed, too many, or of a length that becomes nothing.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use parityd::{clock::Clock, grpc::proto::inference::ModelInferRequest};
use prost::Message;
use tonic::{Code, codec::CompressionEncoding, codegen::tokio_stream};

use crate::{
    MEMORY,
    engine::{ROW, wait_until},
    port::{Port, refused, request},
    raw::Raw,
};

/// A message with its head, as it goes over the wire.
pub(crate) fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag], &u32::try_from(message.len()).expect("it is short").to_be_bytes()[..], message].concat()
}

fn named(id: &str) -> Vec<u8> {
    framed(0, &ModelInferRequest { id: id.into(), ..request(&[ROW]) }.encode_to_vec())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

#[test]
fn a_streams_messages_may_come_a_byte_at_a_time_or_together() {
    let port = Port::open();
    let messages = [named("the-first"), named("the-second"), named("the-third")].concat();
    for bytes in [1, 7, 100, messages.len()] {
        let mut raw = Raw::saying(&port, "ModelStreamInfer", &[]);
        for part in messages.chunks(bytes) {
            raw.data(part);
        }
        for id in ["the-first", "the-second", "the-third"] {
            assert!(raw.is_told(id), "{id} in parts of {bytes}: the stream goes on, and each is answered");
        }
    }
    let mut cut = Raw::saying(&port, "ModelStreamInfer", &[]);
    cut.data(&messages[..messages.len() - 1]);
    cut.end();
    assert!(cut.is_told("the-second") && cut.is_told("broken_body"));
}

/// A client that has given up on many calls has not given up on the others of its connection.
#[test]
fn calls_that_are_cancelled_unread_do_not_end_the_connection() {
    let port = Port::open();
    port.engine.hold();
    let mut raw = Raw::begin(&port);
    raw.data(&named("the-held"));
    raw.end();
    wait_until("admission", || port.engine.held().len() == 1);
    raw.cancelled(200);
    assert!(raw.is_heard(), "the connection lives on");
    assert_eq!(port.engine.held().len(), 1, "nothing else was asked for");
    port.engine.release();
    assert!(raw.is_told("the-held"), "and what was admitted is answered");
}

/// Its client counts from when it calls.
#[test]
fn what_a_message_takes_to_come_is_part_of_its_calls_deadline() {
    let port = Port::open();
    let wait = Duration::from_millis(300);
    for method in ["ModelInfer", "ModelStreamInfer"] {
        let mut raw = Raw::saying(&port, method, &[("grpc-timeout", "1S")]);
        assert!(raw.is_heard());
        Clock::start().pause(wait);
        raw.data(&named("the-late"));
        raw.end();
        assert!(raw.is_told("the-late"));
        let left = port.engine.terms().timeout.expect("the call has one");
        assert!(left + wait <= Duration::from_secs(1), "{method}: {left:?}");
    }
}

#[test]
fn a_streams_messages_may_be_compressed_and_each_by_itself() {
    let port = Port::open();
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let mut client = port.client().send_compressed(encoding).accept_compressed(encoding);
        let asked = (0..5).map(|number: u8| ModelInferRequest { id: number.to_string(), ..request(&[ROW]) });
        let ids = port.runtime.block_on(async {
            let mut replies = client.model_stream_infer(tokio_stream::iter(asked)).await.unwrap().into_inner();
            let mut ids = Vec::new();
            while let Some(reply) = replies.message().await.unwrap() {
                ids.push(reply.infer_response.unwrap().id);
            }
            ids
        });
        assert_eq!(ids, ["0", "1", "2", "3", "4"]);
    }
    let mut raw = Raw::saying(&port, "ModelStreamInfer", &[("grpc-encoding", "gzip")]);
    let unknown = ModelInferRequest { model_name: "nobody".into(), ..request(&[ROW]) }.encode_to_vec();
    raw.data(&[framed(1, &gzip(&unknown)), framed(0, &unknown), framed(1, &gzip(&unknown))].concat());
    wait_until("three answers", || port.refusals("unknown_model") == 3);
}

#[test]
fn what_is_said_of_a_message_must_be_true() {
    let port = Port::open();
    let plain = named("any")[5..].to_vec();
    for (encoding, flag, message) in [
        // Compressed, and nobody said how; and in ways that there are not.
        ("identity", 1, gzip(&plain)),
        ("gzip", 2, gzip(&plain)),
        ("gzip", 1, plain.clone()),
        ("gzip", 1, Vec::new()),
        ("deflate", 1, gzip(&plain)),
    ] {
        for method in ["ModelInfer", "ModelStreamInfer"] {
            let mut raw = Raw::saying(&port, method, &[("grpc-encoding", encoding)]);
            raw.data(&framed(flag, &message));
            raw.end();
            assert!(raw.is_told("bad_field"), "{method}: {flag} under {encoding}");
        }
    }
    let mut two = Raw::begin(&port);
    two.data(&named("any").repeat(2));
    assert!(two.is_told("bad_field"), "a call of one message has one");
    assert_eq!(port.refusals("bad_field"), 11, "and counted");
    let mut raw = Raw::saying(&port, "ModelStreamInfer", &[("grpc-encoding", "br")]);
    raw.data(&framed(1, &plain));
    assert!(raw.is_told("gzip"), "those that are known are told");
}

/// It takes long to inflate, and a port whose threads do so answers nobody.
#[test]
fn what_becomes_nothing_is_refused_before_much_of_it_is_read() {
    let port = Port::with(|limits| limits.queue_max = 1 << 20);
    // Four blocks of ten bits: not the last, of fixed codes, and ended at once.
    let blocks = [0x02, 0x08, 0x20, 0x80, 0x00].repeat(100_000);
    let nothing = [&[0x78, 0x01][..], &blocks].concat();
    for (encoding, message) in [("deflate", nothing), ("gzip", gzip(b"").repeat(20_000))] {
        for method in ["ModelInfer", "ModelStreamInfer"] {
            let mut raw = Raw::saying(&port, method, &[("grpc-encoding", encoding)]);
            // The end is never sent: what has come is enough.
            raw.data(&framed(1, &message)[..100_000]);
            assert!(raw.is_told("bad_field"), "{method} {encoding}");
        }
    }
    assert_eq!(port.refusals("bad_field"), 4);
}

#[test]
fn what_is_not_grpc_is_told_so_as_http_does() {
    let port = Port::open();
    for (kind, counted) in [("application/json", 1), ("application/grpc-web", 2), ("", 3)] {
        let mut raw = Raw::of_type(&port, kind);
        raw.data(&named("any"));
        raw.end();
        // The reply's head is one of our own, and short enough not to be coded.
        wait_until("the refusal", || port.refusals("wrong_content_type") == counted);
        assert!(raw.is_told("415"));
        assert!(raw.is_told("x-request-id"));
    }
    let mut raw = Raw::of_type(&port, "application/grpc+proto");
    raw.data(&named("with-its-kind"));
    raw.end();
    assert!(raw.is_told("with-its-kind"));
}

#[test]
fn questions_are_short() {
    let port = Port::open();
    let mut health = parityd::grpc::proto::health::health_client::HealthClient::new(port.channel());
    let service = "x".repeat(70_000);
    let question = parityd::grpc::proto::health::HealthCheckRequest { service };
    let error = port.runtime.block_on(health.check(question)).unwrap_err();
    refused(&error, Code::InvalidArgument, "body_too_long");
}

/// tonic would keep the longest message of each stream for as long as it is open.
#[cfg(target_os = "linux")]
#[test]
fn a_stream_that_rests_holds_nothing() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux tells it");
        line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<u64>().ok()).unwrap() >> 10
    };
    let _memory = MEMORY.lock();
    let port = Port::with(|limits| limits.queue_max = 1 << 20);
    let request = ModelInferRequest {
        model_name: "nobody".into(),
        raw_input_contents: vec![vec![0; 16 << 20].into()],
        ..request(&[ROW])
    };
    let message = framed(1, &gzip(&request.encode_to_vec()));
    drop(request);
    let before = resident();
    let streams: Vec<Raw> = (1..=40)
        .map(|number| {
            let mut raw = Raw::saying(&port, "ModelStreamInfer", &[("grpc-encoding", "gzip")]);
            raw.data(&message);
            wait_until("an answer", || port.refusals("unknown_model") == number);
            raw
        })
        .collect();
    let grown = resident().saturating_sub(before);
    println!("{} streams that rest take {grown} MiB", streams.len());
    assert!(grown < 320, "{grown} MiB, and each has sent 16");
}
