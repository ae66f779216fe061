//! What holds for every kind, with models that make no error: a decoded output is the direct one, and nothing is decoded outside what
//! the code calls recoverable.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

/// Shape of the rows.
const INPUT: [usize; 3] = [1, 2, 4];
const WIDTH: usize = 8;
const OUTPUTS: usize = 3;

/// A fixed linear base model.
fn linear(row: &[f32]) -> Vec<f32> {
    let weight = |output: usize, input: usize| ((output * 7 + input * 3) % 11) as f32 / 5.0 - 1.0;
    (0..OUTPUTS)
        .map(|output| row.iter().enumerate().map(|(input, value)| value * weight(output, input)).sum())
        .collect()
}

/// The output of a model without error for a parity query: the linear base model is one itself wherever the query holds whole rows.
fn parity_output(code: &dyn Code, parity: usize, rows: &[&[f32]], direct: &[&[f32]]) -> Vec<f32> {
    let mut target = vec![f32::NAN; code.output_width(OUTPUTS)];
    if !code.target(parity, direct, &mut target) {
        // What `subtraction` is the decoder of.
        target.fill(0.0);
        for (sum, value) in direct.iter().flat_map(|output| output.iter().enumerate()) {
            target[sum] += value;
        }
    }
    let mut query = vec![f32::NAN; code.query_width(WIDTH)];
    code.encode(parity, rows, &mut query);
    assert!(query.iter().all(|value| value.is_finite()), "every value of a parity query is written");
    if !matches!(code.kind(), Kind::Concat | Kind::Learned) {
        let output: Vec<f32> = query.chunks_exact(WIDTH).flat_map(linear).collect();
        for (output, target) in output.iter().zip(&target) {
            assert!((output - target).abs() < 1e-3, "{code:?}: the target is what the oracle gives");
        }
    }
    target
}

fn check_all_losses(code: &dyn Code, rows: &[Vec<f32>]) {
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let direct: Vec<Vec<f32>> = rows.iter().map(|row| linear(row)).collect();
    let direct: Vec<&[f32]> = direct.iter().map(Vec::as_slice).collect();
    let parities: Vec<Vec<f32>> = (0..code.r()).map(|parity| parity_output(code, parity, &rows, &direct)).collect();
    let outputs: Vec<&[f32]> = direct.iter().copied().chain(parities.iter().map(Vec::as_slice)).collect();
    for bits in 0..=SlotSet::below(outputs.len()).bits() {
        let present = SlotSet::from_bits(bits);
        let at_hand: Vec<Option<&[f32]>> =
            outputs.iter().enumerate().map(|(slot, output)| present.has(slot).then_some(*output)).collect();
        let recoverable = code.recoverable(present);
        assert!(recoverable.and(present).is_empty() && recoverable.without(SlotSet::below(code.k())).is_empty());
        for (slot, direct) in direct.iter().enumerate() {
            let decoded = code.decode(slot, &at_hand);
            assert_eq!(decoded.is_some(), recoverable.has(slot), "{code:?}, slot {slot} of {present:?}");
            for (decoded, direct) in decoded.iter().flatten().zip(*direct) {
                assert!(
                    (decoded - direct).abs() < 2e-2,
                    "{code:?}, slot {slot} of {present:?}: {decoded} is not {direct}"
                );
            }
        }
    }
    let all = SlotSet::below(outputs.len());
    for lost in (0..=all.bits()).map(SlotSet::from_bits).filter(|lost| lost.count() <= code.losses_max()) {
        let had = code.recoverable(all.without(lost)).with(all.without(lost));
        assert!(SlotSet::below(code.k()).without(had).is_empty(), "{code:?} survives the loss of {lost:?}");
    }
    for slot in 0..code.k() {
        assert!(
            code.recoverable(all.without(SlotSet::only(slot))).has(slot),
            "{code:?} survives the loss of slot {slot}"
        );
    }
}

/// A decoder that subtracts what is there from the parity output: both signs of each value pass the rectifiers apart.
fn subtraction(k: usize) -> Decoder {
    let (read, written) = ((k + 1) * OUTPUTS, k * OUTPUTS);
    let matrix = |inputs: usize, outputs: usize, value: &dyn Fn(usize, usize) -> f32| Matrix {
        values: (0..outputs).flat_map(|row| (0..inputs).map(move |column| value(row, column))).collect(),
        bias: vec![0.0; outputs],
    };
    let sign = |half: usize| if half == 0 { 1.0 } else { -1.0 };
    let apart = |row: usize, column: usize| if row % read == column { sign(row / read) } else { 0.0 };
    let same = |row: usize, column: usize| f32::from(u8::from(row == column));
    let subtract = |row: usize, column: usize| {
        let (slot, output, half) = (column % read / OUTPUTS, column % OUTPUTS, column / read);
        match (output == row % OUTPUTS, slot == k) {
            (true, true) => sign(half),
            (true, false) => -sign(half),
            (false, _) => 0.0,
        }
    };
    let matrices =
        [matrix(read, 2 * read, &apart), matrix(2 * read, 2 * read, &same), matrix(2 * read, written, &subtract)];
    Decoder::new(matrices).expect("they fit one another")
}

/// Every kind with every size that it has, up to k = 4 (and r = 2 for `sum`).
fn codes() -> Vec<Arc<dyn Code>> {
    let sizes = (2..=4).flat_map(|k| [1, 2, k].map(|r| (k, r)));
    let specs = sizes.flat_map(|(k, r)| Kind::ALL.map(|kind| Spec::of(kind, k, r)));
    let codes = specs.filter_map(|spec| spec.build(&INPUT, Some(subtraction(spec.k))).ok());
    // Interpolation is not exact; its own tests say how far it may be off.
    codes.filter(|code| code.is_systematic()).collect()
}

#[test]
fn every_kind_is_built_and_survives_what_it_promises() {
    let codes = codes();
    for kind in Kind::ALL.into_iter().filter(|&kind| kind != Kind::Berrut) {
        assert!(codes.iter().filter(|code| code.kind() == kind).count() >= 2, "{kind}");
    }
    for code in codes {
        let row = |i: usize| (0..WIDTH).map(|x| ((i * 5 + x) % 9) as f32 / 4.0 - 1.0).collect();
        check_all_losses(&*code, &(0..code.k()).map(row).collect::<Vec<_>>());
    }
}

proptest! {
    #[test]
    fn random_rows_decode_too(values in proptest::collection::vec(-1.0_f32..1.0, 4 * WIDTH)) {
        let rows: Vec<Vec<f32>> = values.chunks(WIDTH).map(<[f32]>::to_vec).collect();
        for code in codes() {
            check_all_losses(&*code, &rows[..code.k()]);
        }
    }
}

#[test]
fn stacked_answers_wait_for_nobody() {
    let code = Stacked::mux(3).unwrap();
    let parity = [1.0, 2.0, 3.0];
    let at_hand = [None, None, None, Some(parity.as_slice())];
    assert_eq!(code.recoverable(SlotSet::only(3)).count(), 3);
    assert_eq!(code.decode(1, &at_hand), Some(vec![2.0]));
}

#[test]
fn what_a_kind_has_not_is_refused_with_the_rule() {
    let refused = |kind, k, r, coefficients: Option<Coefficients>| {
        let spec = Spec { coefficients, ..Spec::of(kind, k, r) };
        spec.check().expect_err("no such code").to_string()
    };
    assert!(refused(Kind::Sum, 1, 1, None).contains("k >= 2"));
    assert!(refused(Kind::Mux, 2, 2, None).contains("r = 1, not 2"));
    assert!(refused(Kind::Concat, 3, 1, None).contains("k = 2 or k = 4"));
    assert!(refused(Kind::Replica, 3, 1, None).contains("r = k = 3"));
    assert!(refused(Kind::Berrut, 8, 5, None).contains("2 k + r <= 20"));
    let errors = |kind, r| Spec { errors: 1, ..Spec::of(kind, 2, r) }.check();
    assert_eq!(errors(Kind::Sum, 1), Err(CodeError::NoErrors(Kind::Sum)));
    assert!(
        errors(Kind::Berrut, 2).unwrap_err().to_string().contains("needs r = 3 or more")
            && errors(Kind::Berrut, 3).is_ok()
    );
    assert!(refused(Kind::Compact, 2, 1, Some(vec![vec![1.0, 1.0]])).contains("no coefficients"));
    assert!(Spec::of(Kind::Concat, 2, 1).build(&[784], None).is_err());
    let learned = Spec::of(Kind::Learned, 2, 1);
    assert!(learned.check().is_ok() && learned.build(&INPUT, None).err() == Some(CodeError::NoDecoder));
    assert_eq!(learned.build(&INPUT, Some(subtraction(3))).err(), Some(CodeError::Decoder));
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
    }
}
