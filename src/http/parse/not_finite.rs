//! `NaN` and `Infinity` in a list of numbers: not JSON, but what Triton takes and what its clients write.
//!
//! `perf_analyzer` draws random bits for its values and prints them with `RapidJSON`, and `tritonclient` prints whatever numpy holds. A body that
//! is JSON never comes here: only one that could not be read is looked through, and is read again with these words in quotes. They are
//! quoted as elements of lists alone, so that nowhere else a word becomes a string.

/// `json` with its bare words for values that are not finite in quotes; `None` if it has none.
pub(super) fn quoted(json: &[u8]) -> Option<Vec<u8>> {
    let mut written = Vec::new();
    let (mut copied, mut at) = (0, 0);
    let mut before = b' ';
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => at = end_of_string(json, at),
            b'N' | b'I' | b'-' if matches!(before, b'[' | b',') => match word(&json[at..]) {
                Some((length, value)) if ends_element(&json[at + length..]) => {
                    written.extend_from_slice(&json[copied..at]);
                    written.extend_from_slice(value);
                    at += length;
                    copied = at;
                }
                Some(_) | None => at += 1,
            },
            _ => at += 1,
        }
        if !byte.is_ascii_whitespace() {
            before = byte;
        }
    }
    if copied == 0 {
        return None;
    }
    written.extend_from_slice(&json[copied..]);
    Some(written)
}

/// What a quoted word stands for.
pub(super) fn value(word: &str) -> Option<f64> {
    Some(match word {
        "NaN" => f64::NAN,
        "Infinity" => f64::INFINITY,
        "-Infinity" => f64::NEG_INFINITY,
        _ => return None,
    })
}

/// The length of the word at the start, and how it is quoted.
fn word(json: &[u8]) -> Option<(usize, &'static [u8])> {
    const WORDS: [(&[u8], &[u8]); 6] = [
        (b"NaN", b"\"NaN\""),
        (b"-NaN", b"\"NaN\""),
        (b"Infinity", b"\"Infinity\""),
        (b"-Infinity", b"\"-Infinity\""),
        (b"Inf", b"\"Infinity\""),
        (b"-Inf", b"\"-Infinity\""),
    ];
    WORDS.into_iter().find(|(word, _)| json.starts_with(word)).map(|(word, quoted)| (word.len(), quoted))
}

fn ends_element(json: &[u8]) -> bool {
    json.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| matches!(byte, b',' | b']'))
}

/// The place after the string that opens at `open`.
fn end_of_string(json: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_lists_are_quoted_and_nothing_else() {
        for (json, expected) in [
            ("[NaN]", r#"["NaN"]"#),
            ("[1, -Infinity ,Infinity, -NaN]", r#"[1, "-Infinity" ,"Infinity", "NaN"]"#),
            (r#"{"a":[Inf,"[NaN]",[-Inf]]}"#, r#"{"a":["Infinity","[NaN]",["-Infinity"]]}"#),
            (r#"["\",NaN,",NaN]"#, r#"["\",NaN,","NaN"]"#),
        ] {
            assert_eq!(quoted(json.as_bytes()).as_deref(), Some(expected.as_bytes()), "{json}");
        }
        for json in
            ["", "[1]", r#"["NaN"]"#, r#"{"id":NaN}"#, r#"{"a":1,NaN:2}"#, "[NaNs]", "[1NaN]", "[-1,", "NaN", "[\"\\"]
        {
            assert_eq!(quoted(json.as_bytes()), None, "{json}");
        }
    }
}
