//! Compressed bodies: gzip, or deflate if the first byte is odd.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parityd_fuzz::coding(input));
