//! The body of a gRPC call: messages, whole and broken.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parityd_fuzz::call(input));
