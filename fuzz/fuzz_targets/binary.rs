//! A body with binary tensors behind its JSON, or without JSON: the first two bytes say how much of the rest is JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parityd::http::parse;
use parityd_fuzz::{QUEUE_MAX, signature};

fuzz_target!(|data: &[u8]| {
    let Some((length, body)) = data.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_le_bytes(*length));
    match parse(body, Some(length), &signature(), QUEUE_MAX) {
        Ok(call) => {
            assert!((1..=QUEUE_MAX).contains(&call.rows.count()));
            assert!(call.rows.iter().all(|row| row.len() == 12));
        }
        Err(error) => assert!(!error.reason().is_empty() && error.to_string().len() < 2_000, "{error}"),
    }
});
