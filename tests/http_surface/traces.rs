//! What names a request.

use parityd::admission::Refusal;

use crate::port::{Port, ROW, request, rows};

#[test]
fn every_reply_bears_an_id_the_requests_own_or_a_new_one() {
    let port = Port::open();
    let ask = |headers: &str| port.ask(request("GET", "/v2/health/live", headers, "").as_bytes());
    assert_eq!(ask("X-Request-Id: order-7\r\n").header("x-request-id"), Some("order-7"));
    let (first, second) = (ask(""), ask("x-request-id: two words\r\n"));
    let ids = [&first, &second].map(|reply| reply.header("x-request-id").expect("an id").to_owned());
    assert!(ids.iter().all(|id| id.len() == 16) && ids[0] != ids[1], "{ids:?}");

    // Refused and failed, too.
    let named = |reply: &crate::port::Reply| reply.header("x-request-id").is_some();
    let unknown = port.get("/nothing");
    unknown.refused(404, "unknown_route");
    assert!(named(&unknown) && named(&port.infer("{")) && named(&port.infer(&rows(&[[-1.0, 0.0, 0.0, 0.0]]))));
    port.engine.refuse(Refusal::Full);
    assert!(named(&port.infer(&rows(&[ROW]))));
    let head = port.ask(request("HEAD", "/v2", "x-request-id: h\r\n", "").as_bytes());
    assert_eq!(head.header("x-request-id"), Some("h"));
}
