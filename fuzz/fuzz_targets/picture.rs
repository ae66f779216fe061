//! Files to `classify`: as they are, and in a form if the first byte is odd.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parityd_fuzz::{LONG, ask, post};

fuzz_target!(|data: &[u8]| {
    let Some((form, body)) = data.split_first() else { return };
    let header = if form % 2 == 1 { "Content-Type: multipart/form-data; boundary=b\r\n" } else { "" };
    let reply = ask(&post("/v2/models/m/classify", header, body), LONG).expect("the request is whole");
    assert!([200, 400, 413, 429].contains(&reply.status), "{}", reply.head);
});
