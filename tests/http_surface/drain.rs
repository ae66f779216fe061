//! The end of the port: open until what was admitted is answered, and then closed to everyone at once.

use std::{io::ErrorKind, net::TcpStream, time::Duration};

use parityd::{
    admission::Refusal,
    clock::{Clock, Time},
};

use crate::port::{INFER, Port, ROW, request, rows, wait_until};

/// A port with one request that waits for its answer, and that has begun to drain.
fn draining(mut port: Port) -> (Port, crate::port::Client) {
    port.engine.hold();
    let mut busy = port.connect();
    busy.send(request("POST", INFER, "", &rows(&[ROW])).as_bytes());
    wait_until("admission", || port.engine.held().len() == 1);
    port.engine.refuse(Refusal::Draining);
    drop(port.stop.take());
    wait_until("the drain", || port.get("/v2").header("connection") == Some("close"));
    (port, busy)
}

#[test]
fn while_it_drains_the_port_is_open_and_says_that_it_ends() {
    let (mut port, mut busy) = draining(Port::open());
    port.get("/v2/health/ready").refused(503, "draining");
    assert_eq!(port.get("/v2/health/live").status, 200);
    assert_eq!(port.get("/metrics").status, 200);
    let refused = port.infer(&rows(&[ROW]));
    refused.refused(503, "draining");
    assert_eq!(refused.header("connection"), Some("close"), "a client that stays would be cut off");
    port.engine.release();
    assert_eq!(busy.reply(true).status, 200);
    port.shut();
    assert_eq!(TcpStream::connect(port.address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn neither_an_idle_connection_nor_half_a_body_holds_up_the_end() {
    let port = Port::with(|site| site.limits.drain = Duration::from_mins(1));
    let mut idle = port.connect();
    assert_eq!(idle.ask(request("GET", "/v2", "", "").as_bytes()).status, 200);
    let mut silent = port.connect();
    let mut half = port.connect();
    half.send(format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{").as_bytes());
    let clock = Clock::start();
    let (mut port, mut busy) = draining(port);
    half.reply(true).refused(503, "draining");
    port.engine.release();
    assert_eq!(busy.reply(true).status, 200);
    port.shut();
    assert!(clock.now().since(Time::ZERO) < Duration::from_secs(30), "it did not wait for the drain to pass");
    assert!(idle.is_closed() && silent.is_closed() && half.is_closed());
}

#[test]
fn what_is_not_answered_within_the_drain_gets_a_503() {
    let (mut port, mut busy) = draining(Port::with(|site| site.limits.drain = Duration::from_millis(100)));
    busy.reply(true).refused(503, "stopped");
    let held = port.engine.held();
    wait_until("the handler's end", || !held[0].is_open());
    port.shut();
    assert!(busy.is_closed());
}

/// The moment at which the port closes is nobody's reset: a connection that was made before gets its 503.
#[test]
fn a_connection_made_as_the_port_closes_is_answered() {
    for _ in 0..20 {
        let (mut port, mut busy) = draining(Port::open());
        let mut late = port.connect();
        port.engine.release();
        late.ask(request("POST", INFER, "", &rows(&[ROW])).as_bytes()).refused(503, "draining");
        assert_eq!(busy.reply(true).status, 200);
        port.shut();
    }
}
