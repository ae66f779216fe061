//! An infer request's body in JSON, as `parse` reads it.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parityd_fuzz::json(input));
