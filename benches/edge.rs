//! What reading a request costs: one row of 784 values, as JSON of several makes and as binary data.
//!
//! ```sh
//! cargo bench --bench edge
//! ```

use divan::{Bencher, black_box};
use parityd::{
    http::parse,
    query::{Signature, TensorSpec},
};

const WIDTH: usize = 784;

fn main() {
    divan::main();
}

fn signature() -> Signature {
    Signature {
        name: "mlp".into(),
        version: "1".into(),
        platform: "none".into(),
        input: TensorSpec { name: "INPUT".into(), shape: vec![WIDTH] },
        input_range: (0.0, 1.0),
        output: TensorSpec { name: "OUTPUT".into(), shape: vec![10] },
        labels: vec![],
    }
}

/// Values from 0 to 1 in no order.
fn pixels() -> impl Iterator<Item = f32> {
    (0..WIDTH).map(|index| (index * 7919 % 10_007) as f32 / 10_007.0)
}

fn json(data: &str) -> Vec<u8> {
    let head = r#"{"inputs":[{"name":"INPUT","shape":[1,784],"datatype":"FP32","data":["#;
    format!("{head}{data}]}}]}}").into_bytes()
}

fn by_serde(body: &[u8]) -> Vec<u8> {
    [&br#"{"id":"\\","#[..], &body[1..]].concat()
}

/// The values of a row, each as `write` has it.
fn listed(separator: &str, write: impl Fn(f32) -> String) -> String {
    pixels().map(write).collect::<Vec<_>>().join(separator)
}

fn of_4_digits() -> Vec<u8> {
    json(&listed(",", |pixel| format!("{pixel:.4}")))
}

fn of_python() -> Vec<u8> {
    json(&listed(", ", |pixel| f64::from(pixel).to_string()))
}

fn of_bytes() -> Vec<u8> {
    json(&listed(",", |pixel| format!("{:.0}", pixel * 255.0)))
}

fn read(bencher: Bencher<'_, '_>, body: &[u8], length: Option<usize>) {
    let signature = signature();
    bencher.bench(|| parse(black_box(body), length, &signature, 1024));
}

#[divan::bench]
fn json_of_4_digits(bencher: Bencher<'_, '_>) {
    read(bencher, &of_4_digits(), None);
}

#[divan::bench]
fn json_of_python(bencher: Bencher<'_, '_>) {
    read(bencher, &of_python(), None);
}

#[divan::bench]
fn json_of_bytes(bencher: Bencher<'_, '_>) {
    read(bencher, &of_bytes(), None);
}

/// A backslash before the data: serde reads all of it.
#[divan::bench]
fn json_of_4_digits_by_serde(bencher: Bencher<'_, '_>) {
    read(bencher, &by_serde(&of_4_digits()), None);
}

#[divan::bench]
fn json_of_python_by_serde(bencher: Bencher<'_, '_>) {
    read(bencher, &by_serde(&of_python()), None);
}

#[divan::bench]
fn json_of_bytes_by_serde(bencher: Bencher<'_, '_>) {
    read(bencher, &by_serde(&of_bytes()), None);
}

#[divan::bench]
fn binary(bencher: Bencher<'_, '_>) {
    let head =
        r#"{"inputs":[{"name":"INPUT","shape":[1,784],"datatype":"FP32","parameters":{"binary_data_size":3136}}]}"#;
    let body: Vec<u8> = head.bytes().chain(pixels().flat_map(f32::to_le_bytes)).collect();
    read(bencher, &body, Some(head.len()));
}
