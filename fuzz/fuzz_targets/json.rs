//! An infer request's body in JSON, as `parse` reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use parityd::http::parse;
use parityd_fuzz::{QUEUE_MAX, signature};

fuzz_target!(|body: &[u8]| {
    let signature = signature();
    match parse(body, None, &signature, QUEUE_MAX) {
        Ok(call) => {
            assert!((1..=QUEUE_MAX).contains(&call.rows.count()));
            assert!(call.rows.iter().all(|row| row.len() == 12));
            // What was understood is JSON to a reader of another kind, but for the words of Triton's clients.
            let has = |word: &[u8]| body.windows(word.len()).any(|window| window == word);
            if !has(b"NaN") && !has(b"Inf") {
                serde_json::from_slice::<serde_json::Value>(body).expect("JSON");
            }
        }
        Err(error) => assert!(!error.reason().is_empty() && error.to_string().len() < 2_000, "{error}"),
    }
});
