//! Any bytes to the port: heads, routes, bodies that are cut off or go on.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parityd_fuzz::request(input));
