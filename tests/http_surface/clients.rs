//! How clients may behave: slowly, rudely, many at once, or by leaving; and the admin routes.

use std::{io::Write, net::Shutdown, time::Duration};

use crate::port::{Client, INFER, Port, ROW, request, rows, wait_until};
use parityd::{
    admission::Refusal,
    clock::{Clock, Time},
};
use proptest::prelude::*;
use serde_json::json;

#[test]
fn a_refused_body_may_be_sent_to_its_end() {
    let port = Port::open();
    let body = " ".repeat(8 * 1024 * 1024);
    for (path, status, reason) in [(INFER, 413, "body_too_long"), ("/nowhere", 404, "unknown_route")] {
        let mut client = port.connect();
        let sent = client.stream.write_all(request("POST", path, "", &body).as_bytes());
        assert!(sent.is_ok(), "a client that writes before it reads sees a reset instead of the answer: {sent:?}");
        client.reply(true).refused(status, reason);
        assert!(client.is_closed());
    }
}

#[test]
fn a_refused_head_may_be_sent_to_its_end() {
    let port = Port::open();
    let long = format!("GET /v2 HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(8 * 1024 * 1024));
    for (head, status) in [(long, 431), (format!("no http\r\n\r\n{}", " ".repeat(8 * 1024 * 1024)), 400)] {
        let mut client = port.connect();
        let sent = client.stream.write_all(head.as_bytes());
        assert!(sent.is_ok(), "a client that writes before it reads sees a reset instead of the answer: {sent:?}");
        assert_eq!(client.reply(true).status, status);
        assert!(client.is_closed());
    }
}

#[test]
fn connections_are_counted_while_they_are_open() {
    let port = Port::open();
    let count = |open: usize| {
        // And the one that asks.
        let line = format!("parityd_connections{{protocol=\"http\"}} {}", open + 1);
        wait_until("the connections", || port.get("/metrics").body.lines().any(|told| told == line));
    };
    count(0);
    let clients = [port.connect(), port.connect()];
    count(2);
    drop(clients);
    count(0);
}

#[test]
fn chunked_bodies_are_read_and_limited() {
    let port = Port::open();
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut client = port.connect();
    for _ in 0..2 {
        let body = rows(&[ROW]);
        let (first, rest) = body.split_at(20);
        client.send(head.as_bytes());
        for part in [first, rest] {
            client.send(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes());
        }
        assert_eq!(client.ask(b"0\r\n\r\n").status, 200, "and the connection lives on");
    }
    let chunk = format!("{:x}\r\n{}\r\n", 8192, " ".repeat(8192)).repeat(20);
    port.ask(format!("{head}{chunk}").as_bytes()).refused(413, "body_too_long");
    port.ask(format!("{head}zz\r\n").as_bytes()).refused(400, "broken_body");
}

#[test]
fn slow_clients_are_not_waited_for() {
    let port = Port::with(|site| {
        site.limits.body_timeout = Duration::from_millis(200);
        site.limits.header_timeout = Duration::from_millis(300);
    });
    let mut slow = port.connect();
    slow.send(format!("POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{{").as_bytes());
    let reply = slow.reply(true);
    reply.refused(408, "body_timeout");
    assert_eq!(reply.json()["retryable"], true);
    assert!(slow.is_closed());
    let mut silent = port.connect();
    let mut half = port.connect();
    half.send(b"GET /v2 HTTP/1.1\r\nHos");
    assert!(silent.is_closed() && half.is_closed());
}

#[test]
fn bodies_share_a_bounded_memory() {
    let port = Port::with(|site| site.limits.bodies_bytes_max = 70_000);
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n");
    let whole = request("POST", INFER, "", &" ".repeat(60_000));
    // The largest body always fits, but not beside another: whichever comes second is refused, so the hoarder may have to try again.
    let mut hoarder = port.connect();
    let refused = || port.ask(whole.as_bytes()).status == 429;
    let mut hoard = || {
        hoarder = port.connect();
        hoarder.send(format!("{head}{}", " ".repeat(50_000)).as_bytes());
        refused() && refused()
    };
    wait_until("a refusal", &mut hoard);
    port.ask(whole.as_bytes()).refused(429, "full");
    assert_eq!(port.infer(&rows(&[ROW])).status, 200, "a small one still fits");
    drop(hoarder);
    wait_until("the memory", || port.ask(whole.as_bytes()).status == 400);
}

#[test]
fn what_admission_refuses_says_when_to_come_back() {
    let port = Port::open();
    for (refusal, status, reason) in [
        (Refusal::Full, 429, "full"),
        (Refusal::NotReady, 503, "not_ready"),
        (Refusal::Draining, 503, "draining"),
        (Refusal::TooManyRows { queue_max: 1 }, 413, "too_many_rows"),
    ] {
        *port.engine.refusal.lock().unwrap() = Some(refusal);
        let reply = port.infer(&rows(&[ROW]));
        reply.refused(status, reason);
        assert_eq!(reply.json()["retryable"], status != 413);
    }
    *port.engine.refusal.lock().unwrap() = None;
    let text = port.get("/metrics");
    assert!(text.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    for reason in ["full", "not_ready", "draining", "too_many_rows"] {
        assert!(text.body.contains(&format!("parityd_errors_total{{reason=\"{reason}\"}} 1")), "{}", text.body);
    }
}

#[test]
fn a_daemon_without_room_reads_no_rows() {
    let port = Port::open();
    for refusal in [Refusal::Full, Refusal::NotReady] {
        port.engine.refuse(refusal);
        let unreadable = port.infer("[1, 2");
        assert!([429, 503].contains(&unreadable.status), "{unreadable:?}");
        let picture = request("POST", "/v2/models/adder/classify", "Content-Type: image/png\r\n", "no picture");
        assert!([429, 503].contains(&port.ask(picture.as_bytes()).status));
    }
    *port.engine.refusal.lock().unwrap() = None;
    port.infer("[1, 2").refused(400, "bad_json");
    let text = port.get("/metrics").body;
    let rejected = |line: &&str| line.starts_with("nv_inference_request_failure{") && line.contains("REJECTED");
    let rejected = text.lines().find(rejected).expect("it is counted");
    assert!(rejected.ends_with(" 2"), "refusals are in the protocol's statistics: {rejected}");
}

#[test]
fn one_failed_row_fails_its_request_with_its_index() {
    let port = Port::open();
    let failing = |first: f32| port.infer(&rows(&[ROW, [first, 0.0, 0.0, 0.0], [-1.0; 4]]));
    for (first, status, reason) in [(-1.0, 504, "deadline"), (-2.0, 422, "query_fault"), (-3.0, 503, "stopped")] {
        let reply = failing(first);
        reply.refused(status, reason);
        assert!(reply.json()["error"].as_str().unwrap().starts_with("row 1: "), "{reply:?}");
        assert_eq!(reply.json()["retryable"], status != 422);
    }
    let metrics = port.get("/metrics").body;
    let counted = metrics.lines().filter(|line| line.starts_with("parityd_errors_total{") && !line.ends_with(" 0"));
    let counted: Vec<_> = counted.collect();
    assert_eq!(counted, ["parityd_errors_total{reason=\"stopped\"} 1"], "the engine counts what it knows of");
}

#[test]
fn a_client_that_leaves_gives_its_places_back() {
    let port = Port::open();
    port.engine.hold();
    let leave: [fn(&Client); 2] = [
        |client| client.stream.shutdown(Shutdown::Both).unwrap(),
        |client| client.stream.shutdown(Shutdown::Write).unwrap(),
    ];
    for leave in leave {
        port.engine.hold();
        let mut client = port.connect();
        client.send(request("POST", INFER, "", &rows(&[ROW, ROW])).as_bytes());
        wait_until("admission", || port.engine.held().len() == 2);
        assert!(port.engine.held()[0].is_open());
        leave(&client);
        wait_until("the client's leaving", || port.engine.held().iter().all(|admitted| !admitted.is_open()));
    }
    port.engine.release();
    wait_until("the permits", || port.engine.taken() == 0);
}

#[test]
fn requests_on_many_kept_connections_are_answered_apart() {
    let port = Port::open();
    let clients = (0_u8..20).map(|number| {
        let mut client = port.connect();
        std::thread::spawn(move || {
            for turn in 0_u8..25 {
                let value = f32::from(number) * 100.0 + f32::from(turn);
                let reply = client.ask(request("POST", INFER, "", &rows(&[[value, 0.0, 0.0, 0.0]])).as_bytes());
                assert_eq!(reply.json()["outputs"][0]["data"][0], f64::from(value));
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.join().expect("every reply is the client's own");
    }
    wait_until("the permits", || port.engine.taken() == 0);
}

#[test]
fn admin_routes_do_not_exist_unless_they_are_on() {
    let port = Port::with(|site| site.lanes = None);
    port.get("/admin/lanes").refused(404, "unknown_route");
    port.get("/admin/events").refused(404, "unknown_route");
    let json = "Content-Type: application/json\r\n";
    port.ask(request("POST", "/admin/lanes/0/fault", json, "{}").as_bytes()).refused(404, "unknown_route");
    port.ask(request("DELETE", "/admin/lanes", "", "").as_bytes()).refused(404, "unknown_route");
}

#[test]
fn faults_are_set_reported_and_cleared() {
    let port = Port::open();
    let json = "Content-Type: application/json\r\n";
    let fault = |lane: &str, headers: &str, body: &str| {
        port.ask(request("POST", &format!("/admin/lanes/{lane}/fault"), headers, body).as_bytes())
    };
    for body in [json!({"kind": "slow", "factor": 3.0}), json!({"kind": "hang"}), json!({"kind": "garbage"})] {
        let reply = fault("0", json, &body.to_string());
        assert_eq!((reply.status, reply.body.as_str()), (204, ""));
        assert_eq!(port.get("/admin/lanes").json()[0]["fault"], body);
    }
    assert_eq!(fault("0", json, r#"{"kind":"clear"}"#).status, 204);
    let lane = json!({"id": 0, "device": "cpu", "role": "base", "state": "healthy", "reason": "", "fault": null});
    assert_eq!(port.get("/admin/lanes").json(), json!([lane]));
    let moved = json!({"seconds_ago": 1.5, "lane": 0, "from": "healthy", "to": "straggler", "reason": "two jobs"});
    assert_eq!(port.get("/admin/events").json(), json!([moved]));
    let hang = r#"{"kind":"hang"}"#;
    for lane in ["1", "x", "-1", "65536", "00", "+0"] {
        fault(lane, json, hang).refused(404, "unknown_lane");
    }
    for body in [r#"{"kind":"melt"}"#, r#"{"kind":"slow"}"#, r#"{"kind":"slow","factor":0.5}"#] {
        fault("0", json, body).refused(400, "bad_field");
    }
    let stray = fault("0", json, r#"{"kind":"hang","factor":3.0}"#);
    stray.refused(400, "bad_field");
    assert!(stray.body.contains("factor: is for slow"), "{}", stray.body);
    for body in ["hang", r#"["hang"]"#] {
        fault("0", json, body).refused(400, "bad_json");
    }
    fault("0", "", hang).refused(415, "wrong_content_type");
    fault("0", "Content-Type: text/plain\r\n", hang).refused(415, "wrong_content_type");
    fault("0", &format!("{json}Origin: http://example.org\r\n"), hang).refused(403, "foreign_origin");
    assert_eq!(fault("0", &format!("{json}Origin: http://localhost\r\n"), hang).status, 204);
    fault("0", json, &" ".repeat(5000)).refused(413, "body_too_long");
}

#[test]
fn heads_that_are_no_http_are_a_4xx_and_the_port_lives_on() {
    let port = Port::open();
    let long = format!("GET /v2 HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    for (head, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET  /v2 HTTP/1.1\r\n\r\n", 400),
        ("POST /v2/models/adder/infer HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        ("POST /v2/models/adder/infer HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}", 400),
        (long.as_str(), 431),
    ] {
        assert_eq!(port.ask(head.as_bytes()).status, status, "{head}");
    }
    // The limit holds too when the head comes in parts, each below it.
    let mut parts = port.connect();
    parts.send(&long.as_bytes()[..12_000]);
    wait_until("a pause", {
        let clock = Clock::start();
        move || clock.now().since(Time::ZERO) > Duration::from_millis(50)
    });
    assert_eq!(parts.ask(&long.as_bytes()[12_000..]).status, 431);
    assert_eq!(port.get("/v2").status, 200);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bodies_are_a_4xx(body in "[\\[\\]{}:,\"a-z0-9 .\\\\-]{0,120}") {
        // One port for all cases: it must outlive every one of them.
        static PORT: std::sync::OnceLock<Port> = std::sync::OnceLock::new();
        let reply = PORT.get_or_init(Port::open).infer(&body);
        prop_assert!((400..500).contains(&reply.status), "{body}: {reply:?}");
        reply.json();
    }
}
