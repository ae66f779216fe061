//! The linear oracle: with a linear model that serves as base and as parity model, every reconstruction equals the direct output.

use proptest::prelude::*;

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

fn check_all_losses(code: &Sum, rows: &[Vec<f32>]) {
    let outputs = outputs(code, rows);
    let slots = code.k() + code.r();
    for present in 0..=SlotSet::below(slots).bits() {
        let present = SlotSet::from_bits(present);
        let at_hand: Vec<Option<&[f32]>> =
            (0..slots).map(|slot| present.has(slot).then_some(outputs[slot].as_slice())).collect();
        let missing = SlotSet::below(code.k()).without(present);
        let expected = if present.count() >= code.k() { missing } else { SlotSet::EMPTY };
        assert_eq!(code.recoverable(present), expected, "any k of n, and nothing outside it: {present:?}");
        for (slot, direct) in outputs.iter().enumerate().take(code.k()) {
            let decoded = code.decode(slot, &at_hand);
            assert_eq!(decoded.is_some(), expected.has(slot));
            for (decoded, direct) in decoded.iter().flatten().zip(direct) {
                assert!((decoded - direct).abs() < 2e-2, "slot {slot} of {present:?}: {decoded} is not {direct}");
            }
        }
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

#[test]
fn default_coefficients_are_regular_for_every_size() {
    for k in 2..=8 {
        for r in 1..=3 {
            assert!(Sum::with_defaults(k, r).is_ok(), "k = {k}, r = {r}");
        }
    }
}

#[test]
fn coefficients_that_lose_a_pattern_are_refused() {
    let equal = vec![vec![1.0, 1.0], vec![2.0, 2.0]];
    let refusal = Sum::new(equal).unwrap_err();
    assert_eq!(refusal, CodeError::Singular { rows: vec![0, 1], slots: vec![0, 1] });
    assert!(matches!(Sum::new(vec![vec![1.0, 0.0]]), Err(CodeError::Singular { .. })));
    assert!(matches!(Sum::new(vec![vec![1.0]]), Err(CodeError::Size { k: 1, r: 1 })));
    assert!(matches!(Sum::new(vec![vec![1.0, f32::NAN]]), Err(CodeError::Shape { .. })));
}
