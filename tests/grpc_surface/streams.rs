//! `ModelStreamInfer` and reflection: calls of many messages.

use parityd::{
    admission::Refusal,
    grpc::proto::inference::{ModelInferRequest, infer_parameter::ParameterChoice},
};
use tokio::sync::mpsc;
use tonic::{
    Code, Request,
    codegen::tokio_stream::{self, wrappers::ReceiverStream},
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::{
    engine::{ROW, wait_until},
    port::{Port, parameter, refused, request},
};

fn numbered(number: usize) -> ModelInferRequest {
    ModelInferRequest { id: number.to_string(), ..request(&[ROW]) }
}

#[test]
fn a_streams_requests_are_answered_in_order_and_one_that_fails_ends_nothing() {
    let port = Port::open();
    let mut client = port.client();
    // No more than the engine takes at once, however late it answers.
    let mut asked: Vec<_> = (0..60).map(numbered).collect();
    asked[3].model_name = "nobody".into();
    asked[5].raw_input_contents.clear();
    asked[7].id = "x".repeat(1025);
    port.runtime.block_on(async {
        let mut replies = client.model_stream_infer(tokio_stream::iter(asked)).await.unwrap().into_inner();
        for number in 0..60 {
            let reply = replies.message().await.unwrap().expect("a reply each");
            let told = reply.infer_response.unwrap();
            assert_eq!(told.id, if number == 7 { String::new() } else { number.to_string() });
            let text = |text: &str| parameter(ParameterChoice::StringParam(text.into()));
            let truth = |truth| parameter(ParameterChoice::BoolParam(truth));
            let failed = match number {
                3 => Some(("unknown_model", "NOT_FOUND")),
                5 | 7 => Some(("bad_field", "INVALID_ARGUMENT")),
                _ => None,
            };
            if let Some((reason, code)) = failed {
                assert!(!reply.error_message.is_empty() && told.outputs.is_empty());
                assert_eq!((&told.parameters["reason"], &told.parameters["code"]), (&text(reason), &text(code)));
                assert_eq!(told.parameters["retryable"], truth(false));
            } else {
                assert_eq!((reply.error_message.as_str(), told.raw_output_contents.len()), ("", 1));
                assert_eq!(told.parameters["provenance"], text("direct"));
                assert_eq!(told.parameters["triton_final_response"], truth(true));
            }
        }
        assert_eq!(replies.message().await.unwrap(), None);
    });
    assert_eq!((port.refusals("unknown_model"), port.refusals("bad_field")), (1, 2));
}

#[test]
fn a_streams_requests_run_side_by_side_up_to_a_limit() {
    let port = Port::open();
    let mut client = port.client();
    port.engine.hold();
    let replies = port.runtime.block_on(client.model_stream_infer(tokio_stream::iter((0..200).map(numbered))));
    let mut replies = replies.unwrap().into_inner();
    // One is being answered, and 64 wait; the engine would take 64 rows.
    wait_until("admission", || port.engine.taken() == 64);
    port.engine.release();
    port.runtime.block_on(async {
        let first = replies.message().await.unwrap().unwrap();
        assert_eq!(first.infer_response.unwrap().id, "0");
    });
    drop(replies);
    wait_until("the permits", || port.engine.taken() == 0);
}

#[test]
fn a_client_that_leaves_its_stream_gives_its_places_back() {
    let port = Port::open();
    let mut client = port.client();
    port.engine.hold();
    let (requests, sent) = mpsc::channel(4);
    let replies = port.runtime.block_on(async {
        let replies = client.model_stream_infer(ReceiverStream::new(sent)).await.unwrap();
        for number in 0..3 {
            requests.send(numbered(number)).await.unwrap();
        }
        replies
    });
    wait_until("admission", || port.engine.held().len() == 3);
    drop((replies, requests));
    wait_until("the client's leaving", || port.engine.held().iter().all(|admitted| !admitted.is_open()));
}

#[test]
fn the_end_of_a_stream_is_told_by_a_status_after_its_answers() {
    let mut port = Port::open();
    let mut client = port.client();
    port.engine.hold();
    let (requests, sent) = mpsc::channel(4);
    let mut replies = port.runtime.block_on(async {
        let replies = client.model_stream_infer(ReceiverStream::new(sent)).await.unwrap();
        requests.send(numbered(7)).await.unwrap();
        replies.into_inner()
    });
    wait_until("admission", || port.engine.held().len() == 1);
    port.engine.refuse(Refusal::Draining);
    drop(port.stop.take());
    wait_until("the port's end", || std::net::TcpStream::connect(port.address).is_err());
    port.engine.release();
    port.runtime.block_on(async {
        let answered = replies.message().await.unwrap().unwrap();
        assert_eq!((answered.error_message.as_str(), answered.infer_response.unwrap().id.as_str()), ("", "7"));
        refused(&replies.message().await.unwrap_err(), Code::Unavailable, "draining");
    });
    assert_eq!(port.shut(), 0);
}

#[test]
fn the_services_describe_themselves() {
    let port = Port::open();
    let mut client = ServerReflectionClient::new(port.channel());
    let mut ask = |request: MessageRequest| {
        let asked = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        port.runtime.block_on(async {
            let calls = client.server_reflection_info(Request::new(tokio_stream::iter([asked]))).await.unwrap();
            calls.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
        })
    };
    let MessageResponse::ListServicesResponse(listed) = ask(MessageRequest::ListServices(String::new())) else {
        panic!("a list was asked for")
    };
    let names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    for name in ["inference.GRPCInferenceService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
        let found = ask(MessageRequest::FileContainingSymbol(name.into()));
        assert!(matches!(found, MessageResponse::FileDescriptorResponse(_)), "{found:?}");
    }
}
