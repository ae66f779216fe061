//! The linear oracle: with a linear model that serves as base and as parity model, every reconstruction equals the direct output.

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

/// A fixed linear map from 5 inputs to 3 outputs.
fn linear(row: &[f32]) -> Vec<f32> {
    let weight = |output: usize, input: usize| ((output * 7 + input * 3) % 11) as f32 / 5.0 - 1.0;
    (0..3).map(|output| row.iter().enumerate().map(|(input, value)| value * weight(output, input)).sum()).collect()
}

/// Outputs of all k + r slots of a stripe of `rows`.
fn outputs(code: &Sum, rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let slices: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let mut outputs: Vec<Vec<f32>> = rows.iter().map(|row| linear(row)).collect();
    for parity in 0..code.r() {
        let mut query = vec![f32::NAN; rows[0].len()];
        code.encode(parity, &slices, &mut query);
        outputs.push(linear(&query));
    }
    outputs
}

/// What is decoded from these slots is the direct output, but for so much.
fn check_loss(code: &Sum, outputs: &[Vec<f32>], present: SlotSet, off: f32) {
    let at_hand: Vec<Option<&[f32]>> =
        outputs.iter().enumerate().map(|(slot, output)| present.has(slot).then_some(output.as_slice())).collect();
    let missing = SlotSet::below(code.k()).without(present);
    let expected = if present.count() >= code.k() { missing } else { SlotSet::EMPTY };
    assert_eq!(code.recoverable(present), expected, "any k of n, and nothing outside it: {present:?}");
    for (slot, direct) in outputs.iter().enumerate().take(code.k()) {
        let decoded = code.decode(slot, &at_hand);
        assert_eq!(decoded.is_some(), expected.has(slot), "slot {slot} of {present:?}: {:?}", code.rows());
        for (decoded, direct) in decoded.iter().flatten().zip(direct) {
            assert!((decoded - direct).abs() < off, "slot {slot} of {present:?}: {decoded} is not {direct}");
        }
    }
}

fn check_all_losses(code: &Sum, rows: &[Vec<f32>]) {
    let outputs = outputs(code, rows);
    for present in 0..=SlotSet::below(outputs.len()).bits() {
        check_loss(code, &outputs, SlotSet::from_bits(present), 2e-2);
    }
}

#[test]
fn every_loss_set_of_every_small_code_decodes_to_the_direct_output() {
    for k in 2..=4 {
        for r in 1..=2 {
            let row = |i: usize| (0..5).map(|x| ((i * 5 + x) % 9) as f32 / 4.0 - 1.0).collect();
            let rows: Vec<Vec<f32>> = (0..k).map(row).collect();
            check_all_losses(&Sum::with_defaults(k, r).unwrap(), &rows);
        }
    }
}

proptest! {
    #[test]
    fn random_rows_decode_too(k in 2_usize..6, r in 1_usize..4, seed in proptest::collection::vec(-1.0_f32..1.0, 30)) {
        let rows: Vec<Vec<f32>> = (0..k).map(|i| seed[i * 5..i * 5 + 5].to_vec()).collect();
        check_all_losses(&Sum::with_defaults(k, r).unwrap(), &rows);
    }
}

/// All sets of up to ten slots, some of each larger code.
#[test]
fn whatever_a_default_code_calls_recoverable_it_decodes() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for (k, r) in (2..=15).flat_map(|k| (1..=16 - k).map(move |r| (k, r))) {
        let code = Sum::with_defaults(k, r).unwrap_or_else(|refusal| panic!("k = {k}, r = {r}: {refusal}"));
        assert!(code.noise().unwrap() < 1604.0, "k = {k}, r = {r}");
        let mut row = || (0..5).map(|_| random.random_range(-1.0..1.0)).collect();
        let outputs = outputs(&code, &(0..k).map(|_| row()).collect::<Vec<_>>());
        let all = SlotSet::below(k + r).bits();
        let sets: Vec<u32> =
            if k + r <= 10 { (0..=all).collect() } else { (0..300).map(|_| random.random_range(0..=all)).collect() };
        for present in sets {
            check_loss(&code, &outputs, SlotSet::from_bits(present), 0.1);
        }
    }
}

/// The table of docs/codes.md.
#[test]
fn the_default_rows_make_no_more_noise_than_is_told() {
    for (k, told) in [
        (2, [1.4, 1.4, 2.1, 3.3, 3.0, 6.3]),
        (3, [1.7, 5.1, 4.4, 11.0, 17.0, 23.0]),
        (4, [2.0, 5.1, 6.0, 13.0, 38.0, 79.0]),
        (6, [2.4, 9.1, 23.0, 52.0, 123.0, 379.0]),
        (8, [2.8, 14.0, 60.0, 115.0, 363.0, 1064.0]),
    ] {
        for (r, told) in [1, 2, 3, 4, 6, 8].into_iter().zip(told) {
            let noise = Sum::with_defaults(k, r).unwrap().noise().unwrap();
            assert!((noise / told - 1.0).abs() < 0.05, "k = {k}, r = {r}: {noise} is not {told}");
        }
    }
}

/// With more parity outputs than missing slots, the longer row says less of them, and what is decoded is off by less than with either alone.
#[test]
fn rows_count_for_as_much_as_they_are_short() {
    let code = Sum::new(vec![vec![1.0, 1.0], vec![1.0, -7.0]]).unwrap();
    // Slot 0 is missing. What the parity models are off by is in proportion to their rows.
    let decoded = |of_first: f32, of_second: f32| {
        let (first, second) = ([2.0 + of_first * 2.0_f32.sqrt()], [-6.0 + of_second * 50.0_f32.sqrt()]);
        code.decode(0, &[None, Some(&[1.0]), Some(&first), Some(&second)]).unwrap()[0] - 1.0
    };
    let noise = decoded(0.1, 0.0).hypot(decoded(0.0, 0.1)) / 0.1;
    assert!(noise < 2.0_f32.sqrt() && decoded(0.0, 0.0).abs() < 1e-6, "{noise}");
}

#[test]
fn coefficients_that_lose_a_pattern_are_refused() {
    let equal = vec![vec![1.0, 1.0], vec![2.0, 2.0]];
    let refusal = Sum::new(equal).unwrap_err();
    assert_eq!(refusal, CodeError::Singular { rows: vec![0, 1], slots: vec![0, 1] });
    assert!(matches!(Sum::new(vec![vec![1.0, 0.0]]), Err(CodeError::Singular { .. })));
    let near = Sum::new(vec![vec![1.0, 1.0], vec![1.0, 1.0001]]).unwrap_err();
    assert!(near.to_string().ends_with("makes 19998 times the error of a parity model, more than 2000"), "{near}");
    let hilbert = (0..4_u8).map(|j| (0..4_u8).map(|i| 1.0 / f32::from(1 + i + j)).collect()).collect();
    assert!(matches!(Sum::new(hilbert), Err(CodeError::Noise { .. })));
    assert!(matches!(Sum::new(vec![vec![1.0]]), Err(CodeError::Size { k: 1, r: 1 })));
    assert!(matches!(Sum::new(vec![vec![1.0, f32::NAN]]), Err(CodeError::Shape { .. })));
}
