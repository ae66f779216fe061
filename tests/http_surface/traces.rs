//! What names a request, and the document that tells of all: served as they should be.

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

#[test]
fn the_document_is_that_of_this_deployment() {
    let document = Port::open().get("/openapi.json").json();
    assert_eq!(
        (&document["openapi"], &document["info"]["version"]),
        (&"3.1.0".into(), &env!("CARGO_PKG_VERSION").into())
    );
    assert_eq!(document["components"]["parameters"]["Model"]["schema"]["enum"][0], "adder");
    let paths = document["paths"].as_object().expect("paths");
    for path in
        ["/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/classify", "/admin/lanes/{lane}/fault"]
    {
        assert!(paths.contains_key(path), "{path}");
    }
    // Each of them is answered as what it says that it is.
    let port = Port::open();
    for (path, item) in paths {
        let asked = path.replace("{model}", "adder").replace("{version}", "1").replace("{lane}", "0");
        for (verb, operation) in item.as_object().expect("operations").iter().filter(|(verb, _)| *verb != "parameters")
        {
            let reply =
                port.ask(request(&verb.to_uppercase(), &asked, "Content-Type: application/json\r\n", "").as_bytes());
            let status = reply.status.to_string();
            assert!(operation["responses"].get(&status).is_some(), "{verb} {path}: {status}");
            assert_ne!(status, "404", "{verb} {path}");
        }
        let wrong = port.ask(request("DELETE", &asked, "", "").as_bytes());
        wrong.refused(405, "wrong_verb");
    }
    let closed = Port::with(|site| site.lanes = None).get("/openapi.json").json();
    assert!(closed["paths"].as_object().expect("paths").keys().all(|path| !path.starts_with("/admin/")));
}
