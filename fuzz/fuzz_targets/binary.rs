//! A body with binary tensors behind its JSON, or without JSON: the first two bytes say how much of the rest is JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parityd_fuzz::binary(input));
