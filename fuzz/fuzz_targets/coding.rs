//! Compressed bodies: gzip, or deflate if the first byte is odd.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parityd_fuzz::{LONG, ask, post};

fuzz_target!(|data: &[u8]| {
    let Some((deflate, body)) = data.split_first() else { return };
    let coding = if deflate % 2 == 1 { "deflate" } else { "gzip" };
    let header = format!("Content-Encoding: {coding}\r\nAccept-Encoding: {coding}\r\n");
    let reply = ask(&post("/v2/models/m/infer", &header, body), LONG).expect("the request is whole");
    assert!([200, 400, 413].contains(&reply.status), "{}", reply.head);
});
