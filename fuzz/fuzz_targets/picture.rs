//! Files to `classify`: as they are, and in a form if the first byte is odd.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parityd_fuzz::picture(input));
