//! Numbers that are read apart from the rest: the same as when serde reads all of it.

use proptest::prelude::*;

use super::{QUEUE_MAX, signature, values};
use crate::{
    http::parse::{Cell, Expected, RefCell, Strings, apart, numbers, whole},
    wire::{Call, ClientError},
};

fn both(body: &str) -> (Option<Call>, Result<Call, ClientError>) {
    let (json, signature) = (body.as_bytes(), signature());
    let expected = Expected {
        signature: &signature,
        queue_max: QUEUE_MAX,
        json_bytes: json.len(),
        numbers: None,
        strings: Strings::Refused,
        tail: &[],
        used: Cell::new(0),
        verdict: RefCell::default(),
    };
    (apart(&expected, json), whole(&expected, json))
}

fn told(call: &Call) -> (Vec<u32>, String) {
    let bits = values(call).into_iter().map(f32::to_bits).collect();
    (bits, format!("{:?} {:?} {:?} {}", call.id, call.terms, call.wanted, call.rows.count()))
}

/// Whether it was read apart; if so, as serde reads it.
#[track_caller]
fn is_apart(body: &str) -> bool {
    let (apart, whole) = both(body);
    let Some(apart) = apart else { return false };
    assert_eq!(told(&apart), told(&whole.expect(body)), "{body}");
    true
}

fn request(datatype: &str, data: &str) -> String {
    format!(
        r#"{{ "id":"[data]","inputs":[{{"name":"input","shape":[1,1,2,2],"datatype":"{datatype}","data" : {data}}}],"outputs":[]}}"#
    )
}

#[test]
fn what_clients_write_is_read_apart() {
    for data in [
        "[0.1,0.25,1.0,-0.5]",
        "[0.1, 0.25,\n1, -0]",
        "[[0.1,0.2],[3,4]]",
        "[ [ [ [ 1, 2 ] , [ 3, 4.5 ] ] ] ]",
        "[[[[1],[2]],[[3],[4]]]]",
        "[0.7163999676704407,1e-05,-2.5E+3,18446744073709551616]",
        "[9007199254740993,-9223372036854775809,0.1234567890123456789,123456789.12345678901]",
        "[0.00000001,0.000000012345678,12345678.87654321,4.9406564584124654e-324]",
        "[[],1,2,3,4]",
    ] {
        assert!(is_apart(&request("FP32", data)) && is_apart(&request("FP64", data)), "{data}");
    }
    assert!(
        is_apart(&request("INT8", "[1,-128,0,127]")) && is_apart(&request("UINT64", "[1,2,3,9223372036854775808]"))
    );
    let first = r#"{"inputs":[{"data":[1,2,3,4],"parameters":{},"name":"input","shape":[1,1,2,2],"datatype":"FP32"}]}"#;
    assert!(is_apart(first));
}

#[test]
fn anything_else_is_for_serde() {
    for (datatype, data) in [
        ("FP32", "[1,2,3]"),
        ("FP32", "[1,2,3,4,5]"),
        ("FP32", "[1,2,3,1e39]"),
        ("FP32", "[1,2,3,1e999]"),
        ("FP32", "[1,2,3,01]"),
        ("FP32", "[1,2,3,1.]"),
        ("FP32", "[1,2,3,.5]"),
        ("FP32", "[1,2,3,-]"),
        ("FP32", "[1,2,3,+1]"),
        ("FP32", "[1,2,3,4,]"),
        ("FP32", "[,1,2,3,4]"),
        ("FP32", "[1,2,3,4"),
        ("FP32", "[1,2,3,4]]"),
        ("FP32", "[[1,2,3,4]"),
        ("FP32", "[[1,2],3,4]]"),
        ("FP32", "[[[[[1,2,3,4]]]]]"),
        ("FP32", "[1 2,3,4]"),
        ("FP32", "[true,1,2,3]"),
        ("FP32", "[\"1\",1,2,3]"),
        ("FP32", "[NaN,1,2,3]"),
        ("FP16", "[1,2,3,4]"),
        ("BOOL", "[1,0,1,0]"),
        ("UINT8", "[1,2,3,256]"),
        ("UINT8", "[1,2,3,-0]"),
        ("INT32", "[1,2,3,4.0]"),
        ("INT32", "[1,2,3,16777217]"),
    ] {
        assert!(!is_apart(&request(datatype, data)), "{datatype} {data}");
    }
}

#[test]
fn data_of_something_else_are_left_where_they_are() {
    let tensor = r#"{"name":"input","shape":[1,1,2,2],"datatype":"FP32","data":[1,2,3,4]}"#;
    for (before, after) in [
        (r#""x":[{"data":[5,6,7,8]}],"#, ""),
        (r#""x":"inputs","y":[{"data":[5,6,7,8]}],"#, ""),
        (r#""id":"data","#, ""),
        (r#""x":{"inputs":[{"data":[5]}]},"#, r#","y":[{"data":[5,6,7,8]}]"#),
        ("", r#","parameters":{"a":"data"}"#),
    ] {
        let body = format!("{{{before}\"inputs\":[{tensor}]{after}}}");
        let (apart, whole) = both(&body);
        let whole = whole.expect(&body);
        assert_eq!(values(&whole), [1.0, 2.0, 3.0, 4.0], "{body}");
        assert!(apart.is_some_and(|apart| told(&apart) == told(&whole)), "{body}");
    }
    let escaped = format!(r#"{{"id":"\"inputs\":[{{\"data\":[","inputs":[{tensor}]}}"#);
    assert!(!is_apart(&escaped), "a backslash ends the search");
    let other = r#"{"inputs":[{"name":"input","shape":[1,1,2,2],"datatype":"FP32","parameters":{"data":[5,6,7,8]},"data":[1,2,3,4]}]}"#;
    assert!(!is_apart(other), "parameters hold no lists");
}

#[test]
fn much_around_the_list_is_not_copied() {
    let around = |bytes| format!("{}{}", request("FP32", "[1,2,3,4]"), " ".repeat(bytes));
    assert!(is_apart(&around(100)) && !is_apart(&around(5000)));
    assert_eq!(numbers::find(format!("{}{{\"inputs\":[{{\"data\":[1]", " ".repeat(5000)).as_bytes()), None);
}

/// Texts that look like numbers, and some that look like lists of them.
fn nearly_numbers() -> impl Strategy<Value = String> {
    let digits = || "[0-9]{1,21}";
    let number = prop_oneof![
        4 => "-?[0-9]\\.[0-9]{1,9}",
        2 => any::<f32>().prop_map(|value| value.to_string()),
        2 => any::<f64>().prop_map(|value| format!("{value:?}")),
        1 => any::<i64>().prop_map(|value| value.to_string()),
        1 => (digits(), digits()).prop_map(|(whole, part)| format!("{whole}.{part}")),
        1 => (digits(), -40..40_i32).prop_map(|(whole, power)| format!("{whole}e{power}")),
        1 => "[-+.0-9eE]{1,6}",
    ];
    let separator = prop_oneof![8 => Just(","), 2 => Just(", "), 1 => Just("],["), 1 => Just(" "), 1 => Just("[")];
    (0..3_usize, proptest::collection::vec((number, separator), 4..5), 0..3_usize).prop_map(|(open, pairs, close)| {
        let last = pairs.len() - 1;
        let text = pairs.iter().enumerate().map(|(index, (number, separator))| match index {
            index if index == last => number.clone(),
            _ => format!("{number}{separator}"),
        });
        format!("{}{}{}", "[".repeat(open), text.collect::<String>(), "]".repeat(close))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn whatever_is_read_apart_is_read_as_by_serde(data in nearly_numbers(), int in any::<bool>()) {
        is_apart(&request(if int { "INT32" } else { "FP32" }, &data));
    }
}

proptest! {
    #[test]
    fn numbers_as_they_are_printed_are_read_apart(
        row in proptest::array::uniform4(-1e30..1e30_f64),
        narrow in proptest::array::uniform4(-1.0..1.0_f32),
    ) {
        for body in [request("FP32", &format!("{row:?}")), request("FP32", &format!("{narrow:?}"))] {
            prop_assert!(is_apart(&body));
        }
    }
}
