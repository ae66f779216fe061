//! The body of a gRPC call: messages, whole and broken.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let kinds = parityd_fuzz::call(body);
    assert!(kinds.contains(&1) || kinds.contains(&3) || kinds.contains(&7), "an answer, a reset or a farewell: {kinds:?}");
});
