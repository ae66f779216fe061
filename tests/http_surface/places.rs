//! A full port: who gives up a place, for whom, and who is passed over.

use std::time::Duration;

use crate::port::{Client, INFER, Port, ROW, request, rows, wait_until};
use parityd::clock::Clock;

/// A port for so many connections, which keep their places for `kept`.
fn full_at(connections_max: usize, kept: Duration) -> Port {
    Port::with(|site| (site.limits.connections_max, site.limits.place_kept) = (connections_max, kept))
}

impl Client {
    /// Whether it has no answer for so long.
    fn hears_nothing(&mut self, a_while: Duration) -> bool {
        self.stream.set_read_timeout(Some(a_while)).expect("a socket takes it");
        let heard = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a socket takes it");
        heard.is_err()
    }
}

#[test]
fn on_a_full_port_whoever_has_rested_the_longest_gives_way() {
    let port = full_at(2, Duration::from_millis(50));
    let mut first = port.connect();
    let mut second = port.connect();
    assert_eq!(first.ask(request("GET", "/v2", "", "").as_bytes()).status, 200);
    // A reply may be read before the server counts its connection as one that rests.
    Clock::start().pause(Duration::from_millis(200));
    assert_eq!(second.ask(request("GET", "/v2", "", "").as_bytes()).status, 200);
    let mut third = port.connect();
    assert_eq!(third.ask(request("GET", "/v2", "", "").as_bytes()).status, 200, "it has a place");
    assert!(first.is_closed());
    assert_eq!(second.ask(request("GET", "/v2", "", "").as_bytes()).status, 200, "and this one still");
}

#[test]
fn neither_silence_nor_half_a_head_keeps_a_place() {
    let port = full_at(2, Duration::from_millis(50));
    let mut silent = port.connect();
    let mut half = port.connect();
    half.send(b"GET /v2 HTTP/1.1\r\nHost:");
    let mut clients = [port.connect(), port.connect()];
    for client in &mut clients {
        assert_eq!(client.ask(request("GET", "/v2", "", "").as_bytes()).status, 200);
    }
    assert!(silent.is_closed());
    assert!(half.is_closed());
}

#[test]
fn half_a_body_keeps_no_place_and_is_refused() {
    let port = full_at(2, Duration::from_millis(50));
    let whole = request("POST", INFER, "", &rows(&[ROW]));
    let most = &whole[..whole.len() - 5];
    let mut halves = [port.connect(), port.connect()];
    for half in &mut halves {
        half.send(most.as_bytes());
    }
    let mut clients = [port.connect(), port.connect()];
    for client in &mut clients {
        assert_eq!(client.ask(request("GET", "/v2", "", "").as_bytes()).status, 200, "though nobody was answered");
    }
    for half in &mut halves {
        let refused = half.reply(true);
        refused.refused(429, "full");
        assert_eq!(refused.header("connection"), Some("close"));
    }
}

#[test]
fn what_is_to_be_answered_keeps_its_place_and_is_answered_whole() {
    let port = full_at(1, Duration::from_millis(100));
    port.engine.hold();
    let mut first = port.connect();
    first.send(request("POST", INFER, "", &rows(&[ROW])).as_bytes());
    wait_until("admission", || port.engine.held().len() == 1);
    let mut second = port.connect();
    second.send(request("GET", "/v2", "", "").as_bytes());
    assert!(second.hears_nothing(Duration::from_millis(300)), "it has no place yet");
    port.engine.release();
    let last = first.reply(true);
    assert_eq!((last.status, last.header("connection")), (200, Some("close")), "it is told to go");
    assert!(first.is_closed());
    assert_eq!(second.reply(true).status, 200);
}

#[test]
fn replies_that_wait_to_be_read_keep_their_place() {
    // Between two replies it rests for a moment, and on a busy machine for a longer one.
    let port = full_at(1, Duration::from_millis(300));
    let mut first = port.connect();
    // More than the system keeps for a reader.
    let asked = 1_000;
    first.send(request("GET", "/openapi.json", "", "").repeat(asked).as_bytes());
    first.stream.peek(&mut [0]).unwrap();
    let mut second = port.connect();
    second.send(request("GET", "/v2", "", "").as_bytes());
    assert!(second.hears_nothing(Duration::from_millis(900)), "it has no place yet");
    let mut told_to_go = false;
    for _ in 0..asked {
        let reply = first.reply(true);
        assert_eq!(reply.status, 200, "it is whole");
        told_to_go = reply.header("connection") == Some("close");
        if told_to_go {
            break;
        }
    }
    assert!(told_to_go);
    assert_eq!(second.reply(true).status, 200);
}

#[test]
fn connections_over_the_cap_wait_for_a_place() {
    let port = full_at(2, Duration::from_hours(1));
    let mut first = port.connect();
    let mut second = port.connect();
    for client in [&mut first, &mut second] {
        assert_eq!(client.ask(request("GET", "/v2", "", "").as_bytes()).status, 200);
    }
    let mut third = port.connect();
    third.send(request("GET", "/v2", "", "").as_bytes());
    assert!(third.hears_nothing(Duration::from_millis(200)), "it has no place yet");
    drop(first);
    assert_eq!(third.reply(true).status, 200);
}

#[test]
fn a_place_that_nobody_waits_for_any_more_is_not_given_up() {
    let port = full_at(1, Duration::from_millis(400));
    let mut first = port.connect();
    assert_eq!(first.ask(request("GET", "/v2", "", "").as_bytes()).status, 200);
    let mut second = port.connect();
    second.send(request("GET", "/v2", "", "").as_bytes());
    assert!(second.hears_nothing(Duration::from_millis(100)), "it has no place yet");
    drop(first);
    assert_eq!(second.reply(true).status, 200);
    Clock::start().pause(Duration::from_millis(450));
    assert_eq!(second.ask(request("GET", "/v2", "", "").as_bytes()).header("connection"), None);
}
