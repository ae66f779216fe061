//! The end of the port: no new calls, answers to the admitted ones, and then closed.

use std::{io::ErrorKind, net::TcpStream, time::Duration};

use parityd::{
    admission::Refusal,
    clock::{Clock, Time},
    grpc::proto::{
        health::{HealthCheckRequest, health_client::HealthClient},
        inference::{ModelInferRequest, ModelInferResponse, ServerLiveRequest},
    },
};
use prost::Message;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use crate::{
    engine::{ROW, wait_until},
    messages::framed,
    port::{Client, Port, refused, request},
    raw::Raw,
};

type Busy = JoinHandle<Result<tonic::Response<ModelInferResponse>, Status>>;

/// A port with one call that waits for its answer, and that has begun to drain.
fn draining(mut port: Port) -> (Port, Client, Busy) {
    port.engine.hold();
    let client = port.client();
    let mut busy = client.clone();
    let busy = port.runtime.spawn(async move { busy.model_infer(request(&[ROW])).await });
    wait_until("admission", || port.engine.held().len() == 1);
    port.engine.refuse(Refusal::Draining);
    drop(port.stop.take());
    wait_until("the port's end", || TcpStream::connect(port.address).is_err());
    (port, client, busy)
}

#[test]
fn what_was_admitted_is_answered_and_nothing_new_is_taken() {
    let (mut port, mut client, busy) = draining(Port::open());
    assert_eq!(TcpStream::connect(port.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // A call that was sent before the word came is answered.
    let mut late = None;
    wait_until("the word to go", || {
        late = port.runtime.block_on(client.server_live(ServerLiveRequest {})).err();
        late.is_some()
    });
    let late = late.unwrap();
    // Which of the two is this client's own affair.
    let elsewhere = matches!(late.code(), Code::Unavailable | Code::Cancelled);
    assert!(elsewhere, "it is told to go elsewhere, where nobody is: {late:?}");
    port.engine.release();
    let answered = port.runtime.block_on(busy).unwrap().expect("an answer");
    assert_eq!(answered.into_inner().outputs[0].shape, [1, 2]);
    assert_eq!(port.shut(), 0);
}

#[test]
fn what_is_not_answered_within_the_drain_is_unavailable() {
    let (mut port, _client, busy) = draining(Port::with(|limits| limits.drain = Duration::from_millis(100)));
    refused(&port.runtime.block_on(busy).unwrap().unwrap_err(), Code::Unavailable, "stopped");
    assert_eq!(port.shut(), 1);
    assert!(!port.engine.held()[0].is_open());
}

#[test]
fn neither_idle_connections_nor_watchers_hold_up_the_end() {
    let mut port = Port::with(|limits| limits.drain = Duration::from_mins(1));
    let _idle = port.client();
    let mut health = HealthClient::new(port.channel());
    let mut watched = port.runtime.block_on(health.watch(HealthCheckRequest::default())).unwrap().into_inner();
    assert_eq!(port.runtime.block_on(watched.message()).unwrap().unwrap().status, 1);
    let clock = Clock::start();
    port.engine.refuse(Refusal::Draining);
    assert_eq!(port.shut(), 0);
    assert!(clock.now().since(Time::ZERO) < Duration::from_secs(10));
    let last = port.runtime.block_on(async {
        let last = watched.message().await.unwrap();
        assert_eq!(watched.message().await.unwrap(), None);
        last
    });
    assert_eq!(last.unwrap().status, 2, "NOT_SERVING is the last word");
}

/// Admission does not refuse then: what is on its way when a client is told to go is answered.
#[test]
fn a_port_that_another_process_has_is_left_without_a_refusal() {
    let mut port = Port::open();
    port.engine.hold();
    let client = port.client();
    let (mut busy, mut idle) = (client, port.client());
    port.runtime.block_on(idle.server_live(ServerLiveRequest {})).unwrap();
    let busy = port.runtime.spawn(async move { busy.model_infer(request(&[ROW])).await });
    wait_until("admission", || port.engine.held().len() == 1);
    drop(port.leave.take());
    wait_until("the port's end", || TcpStream::connect(port.address).is_err());
    port.engine.release();
    port.runtime.block_on(busy).unwrap().expect("an answer");
    let clock = Clock::start();
    assert_eq!(port.end(), 0);
    assert!(clock.now().since(Time::ZERO) < Duration::from_secs(4), "no stop is waited for");
}

/// It was sent before its client was told to go.
#[test]
fn a_call_whose_message_arrives_when_another_process_takes_over_is_answered() {
    let mut port = Port::open();
    let message = framed(0, &ModelInferRequest { id: "the-last".into(), ..request(&[ROW]) }.encode_to_vec());
    let mut raw = Raw::begin(&port);
    raw.data(&message[..7]);
    drop(port.leave.take());
    wait_until("the port's end", || TcpStream::connect(port.address).is_err());
    // Longer than a connection has that rests.
    Clock::start().pause(Duration::from_millis(800));
    raw.data(&message[7..]);
    raw.end();
    assert!(raw.is_told("the-last"));
    assert_eq!(port.end(), 0);
}
