//! Any bytes to the port: heads, routes, bodies that are cut off or go on.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    parityd_fuzz::ask(bytes, parityd_fuzz::SHORT);
});
