//! How much of anything a client may take, and how clients may behave: large, slow, silent, many, or gone.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use bytes::Bytes;
use parityd::{
    admission::Refusal,
    clock::{Clock, Time},
    grpc::proto::{
        health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
        inference::{ModelInferRequest, ServerLiveRequest, model_infer_request::InferInputTensor},
    },
};
use prost::Message;
use tonic::{Code, Status, client::Grpc, codec::CompressionEncoding, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;

use crate::{
    MEMORY,
    engine::{ROW, wait_until},
    port::{Port, refused, request},
    raw::Raw,
};

/// The longest message of the ports that have no memory for another.
const MESSAGE_MAX: usize = 72_000;

/// A request with so many bytes that belong to nothing.
fn padded(bytes: usize) -> ModelInferRequest {
    ModelInferRequest { raw_input_contents: vec![Bytes::from(vec![0; bytes])], ..request(&[ROW]) }
}

#[test]
fn a_message_over_the_limit_is_refused_and_the_connection_lives_on() {
    let port = Port::open();
    let mut client = port.client();
    let error = port.runtime.block_on(client.model_infer(padded(1 << 20))).unwrap_err();
    refused(&error, Code::InvalidArgument, "body_too_long");
    assert_eq!(port.refusals("body_too_long"), 1);
    port.runtime.block_on(client.model_infer(request(&[ROW]))).expect("it is another call");
}

#[test]
fn a_compressed_message_is_bounded_by_what_it_becomes() {
    let port = Port::open();
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Deflate] {
        let mut client = port.client().send_compressed(encoding).accept_compressed(encoding);
        let reply = port.runtime.block_on(client.model_infer(request(&[ROW]))).expect("it fits");
        let told = reply.metadata().get("grpc-encoding").and_then(|value| value.to_str().ok());
        let word = if encoding == CompressionEncoding::Gzip { "gzip" } else { "deflate" };
        assert_eq!(told, Some(word), "a reply is compressed as its request is");
        let _memory = MEMORY.lock();
        let bomb = port.runtime.block_on(client.model_infer(padded(50 << 20))).unwrap_err();
        refused(&bomb, Code::InvalidArgument, "body_too_long");
    }
    assert_eq!(port.refusals("body_too_long"), 2);
    let mut plain = port.client().accept_compressed(CompressionEncoding::Gzip);
    let reply = port.runtime.block_on(plain.model_infer(request(&[ROW]))).expect("it fits");
    assert_eq!(reply.metadata().get("grpc-encoding"), None, "though every client says that it could");
}

/// A call with so much of its body that a message of 60,000 bytes finds no room; and once it is there.
fn hoard(port: &Port, body: &[u8]) -> Raw {
    let begin = || {
        let mut raw = Raw::begin(port);
        raw.data(body);
        raw
    };
    let (mut hoarder, mut client) = (begin(), port.client());
    wait_until("the hoard", || {
        // The first to ask may have been the other.
        if hoarder.has_been_told("full") {
            hoarder = begin();
        }
        let error = port.runtime.block_on(client.model_infer(padded(60_000))).expect_err("it is padded");
        error.code() == Code::ResourceExhausted
    });
    hoarder
}

#[test]
fn messages_share_a_bounded_memory() {
    let port = Port::with(|limits| limits.bodies_bytes_max = MESSAGE_MAX);
    // The largest message always fits, but not beside another.
    let whole = u32::try_from(MESSAGE_MAX).unwrap();
    let hoarder = hoard(&port, &[&[0], &u32::to_be_bytes(whole)[..], &vec![0; 40_000]].concat());
    let mut client = port.client();
    let error = port.runtime.block_on(client.model_infer(padded(60_000))).unwrap_err();
    refused(&error, Code::ResourceExhausted, "full");
    port.runtime.block_on(client.model_infer(request(&[ROW]))).expect("a small one still fits");
    drop(hoarder);
    wait_until("the memory", || {
        port.runtime.block_on(client.model_infer(padded(60_000))).unwrap_err().code() == Code::InvalidArgument
    });
}

#[test]
fn a_message_is_claimed_until_its_call_is_whole() {
    let port = Port::with(|limits| limits.bodies_bytes_max = MESSAGE_MAX);
    // Whole, and of nothing but unknown fields; but the call goes on.
    let message = [&[0xfa, 0x7f, 0xbd, 0xb8, 0x02][..], &vec![0; 39_997]].concat();
    let mut hoarder = hoard(&port, &[&[0], &u32::to_be_bytes(40_002)[..], &message].concat());
    let mut client = port.client();
    hoarder.end();
    assert!(hoarder.is_told("unknown_model"));
    let error = port.runtime.block_on(client.model_infer(padded(60_000))).unwrap_err();
    refused(&error, Code::InvalidArgument, "bad_field");
}

#[test]
fn slow_and_silent_clients_are_not_waited_for() {
    let port = Port::with(|limits| {
        limits.body_timeout = Duration::from_millis(200);
        limits.header_timeout = Duration::from_millis(300);
    });
    let mut silent = TcpStream::connect(port.address).unwrap();
    let mut half = TcpStream::connect(port.address).unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    let mut slow = Raw::begin(&port);
    slow.data(&[0, 0, 0, 0, 100, 1, 2, 3]);
    let mut wordless = Raw::begin(&port);
    // Its message is whole, and the call is not.
    let mut endless = Raw::begin(&port);
    endless.data(&[0, 0, 0, 0, 0]);
    wait_until("all time-outs", || port.refusals("body_timeout") == 3);
    for stream in [&mut silent, &mut half] {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // What the server says first may come; then it closes.
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock));
    }
    for raw in [&mut slow, &mut wordless, &mut endless] {
        assert!(raw.is_told("body_timeout"));
    }
}

/// A port for so many connections, which keep their places for `kept`.
fn full_at(connections_max: usize, kept: Duration) -> Port {
    Port::with(|limits| (limits.connections_max, limits.place_kept) = (connections_max, kept))
}

#[test]
fn on_a_full_port_whoever_rests_gives_way_and_comes_back() {
    let port = full_at(1, Duration::from_millis(50));
    let mut clients = [port.client(), port.client()];
    for _ in 0..3 {
        for client in &mut clients {
            // The first call may be sent before the client hears that its connection has been closed.
            wait_until("an answer", || port.runtime.block_on(client.server_live(ServerLiveRequest {})).is_ok());
        }
    }
}

#[test]
fn whoever_only_watches_the_health_gives_way() {
    let port = full_at(1, Duration::from_millis(50));
    let mut watching = HealthClient::new(port.channel());
    let mut told = port.runtime.block_on(watching.watch(HealthCheckRequest::default())).unwrap().into_inner();
    let first = port.runtime.block_on(told.message()).unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let mut second = port.client();
    port.runtime.block_on(second.server_live(ServerLiveRequest {})).expect("the other's place");
    let end = port.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), told.message()).await });
    let end = end.expect("the stream ends");
    assert!(!matches!(end, Ok(Some(_))), "its client asks again: {end:?}");
}

#[test]
fn half_a_message_keeps_no_place() {
    let port = full_at(1, Duration::from_millis(50));
    let mut half = Raw::begin(&port);
    half.data(&[0, 0, 0, 0, 100, 1, 2, 3]);
    let mut second = port.client();
    let call = second.server_live(ServerLiveRequest {});
    let answered = port.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), call).await });
    answered.expect("long before the message would have to be whole").expect("the other's place");
    assert!(half.is_told("full"), "it is told why");
    assert!(half.is_closed());
    assert_eq!(port.refusals("full"), 1, "and counted");
}

#[test]
fn a_call_that_is_not_answered_keeps_its_place() {
    let port = full_at(1, Duration::from_millis(50));
    port.engine.hold();
    let first = port.client();
    let mut calling = first.clone();
    let call = port.runtime.spawn(async move { calling.model_infer(request(&[ROW])).await });
    wait_until("admission", || port.engine.held().len() == 1);
    let mut second = port.client();
    let waiting = port.runtime.spawn(async move { second.server_live(ServerLiveRequest {}).await });
    std::thread::park_timeout(Duration::from_millis(300));
    assert!(!waiting.is_finished(), "it has no place yet");
    port.engine.release();
    port.runtime.block_on(call).unwrap().expect("it is answered");
    port.runtime.block_on(waiting).unwrap().expect("and then it gives way");
    drop(first);
}

#[test]
fn a_client_that_calls_again_and_again_gives_way_too_and_is_answered() {
    // It never rests for so long.
    let port = full_at(1, Duration::from_millis(300));
    let mut busy = port.client();
    let calls: tokio::task::JoinHandle<Result<u32, Status>> = port.runtime.spawn(async move {
        let (clock, mut calls) = (Clock::start(), 0);
        while clock.now().since(Time::ZERO) < Duration::from_millis(1500) {
            match busy.model_infer(request(&[ROW])).await {
                Ok(_) => calls += 1,
                // This client drops calls that it has not sent when it is told to go, and does not try them again by itself.
                Err(unsent) if unsent.code() == Code::Cancelled => {}
                Err(lost) => return Err(lost),
            }
        }
        Ok(calls)
    });
    let mut second = port.client();
    port.runtime.block_on(second.server_live(ServerLiveRequest {})).expect("a place is free");
    assert!(!calls.is_finished(), "the other has not left");
    drop(second);
    assert!(port.runtime.block_on(calls).unwrap().expect("each call is answered") > 0);
}

#[test]
fn a_daemon_without_room_reads_no_rows() {
    let port = Port::open();
    let mut client = port.client();
    let wrong = || padded(3);
    refused(&port.runtime.block_on(client.model_infer(wrong())).unwrap_err(), Code::InvalidArgument, "bad_field");
    port.engine.refuse(Refusal::Full);
    refused(&port.runtime.block_on(client.model_infer(wrong())).unwrap_err(), Code::ResourceExhausted, "full");
}

#[test]
fn connections_over_the_cap_wait_for_a_place() {
    let port = full_at(1, Duration::from_hours(1));
    let mut first = port.client();
    port.runtime.block_on(first.server_live(ServerLiveRequest {})).unwrap();
    let mut second = port.client();
    let waiting = port.runtime.spawn(async move { second.server_live(ServerLiveRequest {}).await });
    std::thread::park_timeout(Duration::from_millis(200));
    assert!(!waiting.is_finished(), "it has no place yet");
    drop(first);
    port.runtime.block_on(waiting).unwrap().expect("a place is free");
}

#[test]
fn a_client_that_leaves_gives_its_places_back() {
    let port = Port::open();
    port.engine.hold();
    let mut client = port.client();
    let call = port.runtime.spawn(async move { client.model_infer(request(&[ROW, ROW])).await });
    wait_until("admission", || port.engine.held().len() == 2);
    assert!(port.engine.held()[0].is_open());
    call.abort();
    wait_until("the client's leaving", || port.engine.held().iter().all(|admitted| !admitted.is_open()));
}

#[test]
fn a_deadline_that_passes_is_told_and_frees_the_places() {
    let port = Port::open();
    port.engine.hold();
    let mut client = port.client();
    let mut call = tonic::Request::new(request(&[ROW]));
    call.set_timeout(Duration::from_millis(50));
    // The engine of a few lines keeps no deadline: the call's own ends it.
    let error = port.runtime.block_on(client.model_infer(call)).unwrap_err();
    assert!(matches!(error.code(), Code::DeadlineExceeded | Code::Cancelled), "{error:?}");
    wait_until("the client's leaving", || port.engine.held().iter().all(|admitted| !admitted.is_open()));
    // One that waits for a message, too, and is told by somebody else than its own client.
    let mut slow = Raw::within(&port, "50m");
    assert!(slow.is_told("deadline"));
    assert!(port.refusals("deadline") > 0);
}

#[test]
fn what_is_known_and_not_served_says_so() {
    let port = Port::open();
    let call = |path: &'static str| {
        let mut client = Grpc::new(port.channel());
        port.runtime.block_on(async {
            client.ready().await.unwrap();
            let codec: ProstCodec<ServerLiveRequest, ServerLiveRequest> = ProstCodec::default();
            let path = PathAndQuery::from_static(path);
            client.unary(tonic::Request::new(ServerLiveRequest {}), path, codec).await.unwrap_err()
        })
    };
    for method in ["RepositoryModelLoad", "TraceSetting", "CudaSharedMemoryStatus"] {
        let path: &'static str = format!("/inference.GRPCInferenceService/{method}").leak();
        let error = call(path);
        refused(&error, Code::Unimplemented, "not_served");
    }
    refused(&call("/nobody.Service/Method"), Code::Unimplemented, "unknown_route");
    refused(&call("/inference.GRPCInferenceService/Nothing"), Code::Unimplemented, "unknown_route");
    assert_eq!(port.refusals("unknown_route"), 2);
}

#[test]
fn what_is_no_message_is_refused() {
    let port = Port::open();
    let mut raw = Raw::begin(&port);
    raw.data(&[0, 0, 0, 0, 3, 0xff, 0xff, 0xff]);
    raw.end();
    assert!(raw.is_told("bad_field"), "an error of the client's");
    let mut flagged = Raw::begin(&port);
    flagged.data(&[7, 0, 0, 0, 0]);
    flagged.end();
    assert!(flagged.is_told("bad_field"));
    assert_eq!(port.refusals("bad_field"), 2, "and counted");
    let mut cut = Raw::begin(&port);
    cut.data(&[0, 0, 0, 0, 9, 1]);
    cut.end();
    assert!(cut.is_told("broken_body"));
    let mut client = port.client();
    port.runtime.block_on(client.model_infer(request(&[ROW]))).expect("the port lives on");
}

#[test]
fn a_message_of_thousands_of_empty_tensors_is_refused_before_it_is_decoded() {
    let port = Port::open();
    let mut client = port.client();
    let inputs = vec![InferInputTensor::default(); 20_000];
    let many = ModelInferRequest { inputs, ..request(&[ROW]) };
    let error = port.runtime.block_on(client.model_infer(many.clone())).unwrap_err();
    refused(&error, Code::InvalidArgument, "bad_field");
    assert!(error.message().contains("1024 fields"), "{error:?}");
    let stream = tonic::codegen::tokio_stream::iter([many]);
    let error = port.runtime.block_on(async {
        let mut answers = client.model_stream_infer(stream).await?.into_inner();
        answers.message().await.map(drop)
    });
    refused(&error.unwrap_err(), Code::InvalidArgument, "bad_field");
    assert_eq!(port.refusals("bad_field"), 2);
}

#[test]
fn a_message_may_come_a_byte_at_a_time() {
    let port = Port::open();
    let message = request(&[ROW]).encode_to_vec();
    let mut raw = Raw::begin(&port);
    for byte in [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat() {
        raw.data(&[byte]);
    }
    raw.end();
    assert!(raw.is_told("adder"), "it is answered");
}

#[test]
fn replies_that_nobody_takes_end_their_connection() {
    let port = Port::with(|limits| limits.body_timeout = Duration::from_millis(300));
    let message = request(&[ROW]).encode_to_vec();
    let call = [&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat();
    for method in ["ModelInfer", "ModelStreamInfer"] {
        for window in [0, 1] {
            let mut raw = Raw::taking(&port, method, window);
            raw.data(&call);
            raw.end();
            assert!(raw.is_closed(), "{method}, {window}: whoever takes nothing may not stay");
            assert!(!raw.holds("logits"), "{method}, {window}: the reply was never sent");
        }
    }
    let text = || port.metrics.text();
    wait_until("the places", || text().contains("parityd_connections{protocol=\"grpc\"} 0"));
    let mut raw = Raw::taking(&port, "ModelInfer", 65_535);
    raw.data(&call);
    raw.end();
    assert!(raw.is_told("logits"));
    assert!(text().contains("parityd_connections{protocol=\"grpc\"} 1"), "whoever reads may stay");
}
