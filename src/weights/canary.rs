//! The canary: one fixed input whose right outputs are in the manifest.
//!
//! A lane proves with it that device, weights and arithmetic are the ones that were trained. It is a pattern, not a picture, so it
//! needs no data; every value is in 0..1, and neighbours differ, so a shifted or torn copy shows. It is defined here and nowhere else:
//! the trainer writes the outputs that this input gave.

use crate::{code::Code, model::Precision, query::Row};

/// How far the patterns of neighbouring slots are shifted.
const SLOT_SHIFT: usize = 17;

/// What a right output may differ by, relative to its largest value: other summation orders differ by far less, garbage by far more.
pub const TOLERANCE: f32 = 1e-3;

/// The same against outputs that were computed in single precision: half precision has eleven bits, as what `TensorFloat` multiplies, and bfloat16 eight; some are lost on
/// their way through the layers. Shipped networks in half precision are off by less than 1e-3, and in bfloat16 by 1.3e-2 where candle's kernels run on emulated GPUs (a test holds them to these tolerances).
pub const fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::Single => TOLERANCE,
        Precision::TensorFloat | Precision::Half => 1e-2,
        Precision::Bfloat => 5e-2,
    }
}

/// The canary of data slot `slot`, `width` values: value i is ((i + 17 slot) * 31 mod 256) / 255. The base model's is that of slot 0.
pub fn row(width: usize, slot: usize) -> Row {
    let value = |i: usize| u8::try_from((i + SLOT_SHIFT * slot) * 31 % 256).expect("a remainder of 256 is a byte");
    Row::whole((0..width).map(|i| f32::from(value(i)) / 255.0).collect::<Vec<f32>>())
}

/// The canary of a stripe: one row a data slot, which the code encodes into the parity model's input.
pub fn stripe(width: usize, k: usize) -> Vec<Row> {
    (0..k).map(|slot| row(width, slot)).collect()
}

/// The parity query of the canary stripe.
pub fn parity_query(code: &dyn Code, parity: usize, width: usize) -> Vec<f32> {
    let stripe = stripe(width, code.k());
    let rows: Vec<&[f32]> = stripe.iter().map(|row| &**row).collect();
    let mut query = vec![0.0; code.query_width(width)];
    code.encode(parity, &rows, &mut query);
    query
}

/// Whether `found` is the expected output but for `tolerance`. Values that are not finite never are.
pub fn agrees(expected: &[f32], found: &[f32], tolerance: f32) -> bool {
    let scale = expected.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    let close = |(expected, found): (&f32, &f32)| (expected - found).abs() <= tolerance * scale;
    expected.len() == found.len() && expected.iter().zip(found).all(close)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::Sum;

    #[test]
    fn the_pattern_is_fixed() {
        let row = row(784, 0);
        for (value, byte) in row.iter().zip([0, 31, 62, 93, 124, 155, 186, 217, 248, 23_u8]) {
            assert_eq!(value.to_bits(), (f32::from(byte) / 255.0).to_bits());
        }
        assert!(row.iter().all(|value| (0.0..=1.0).contains(value)));
    }

    #[test]
    fn the_parity_query_is_the_encoded_stripe() {
        let code = Sum::with_defaults(2, 1).unwrap();
        let query = parity_query(&code, 0, 16);
        let stripe = stripe(16, 2);
        for ((query, first), second) in query.iter().zip(stripe[0].iter()).zip(stripe[1].iter()) {
            assert!((query - first - second).abs() < 1e-6);
        }
    }

    #[test]
    fn rounding_agrees_and_garbage_does_not() {
        let expected = [10.0, -3.0, 0.5];
        let agrees = |expected: &[f32], found: &[f32]| agrees(expected, found, TOLERANCE);
        assert!(agrees(&expected, &[10.001, -3.001, 0.499]));
        assert!(!agrees(&expected, &[10.1, -3.0, 0.5]));
        assert!(!agrees(&expected, &[f32::NAN, -3.0, 0.5]));
        assert!(!agrees(&expected, &[10.0, -3.0]));
    }
}
