//! What becomes of a reconstruction of too little confidence, and what is learned from it all the same.
//!
//! Outputs have two values here. The decoded one is parity minus member: [0, 9] is all but certain, [0.2, 0] little better than a guess.

use super::*;
use crate::health::drift::Standing;

const MEMBER: [f32; 2] = [5.0, 0.0];
const SURE: [f32; 2] = [5.0, 9.0];
const UNSURE: [f32; 2] = [5.2, 0.0];

/// A calibrated core whose queries ask for a confidence of 0.9, with both members of a stripe and its parity job in flight.
fn stripe(rerun: Rerun) -> (Hand, [(Shared<Admitted>, Pending); 2]) {
    let calibration = Calibration { temperature: Temperature::UNIT, agreement: 0.9, rows: 5_000 };
    let mut hand = Hand::with(rerun, 2, 1, Some(calibration));
    hand.least = Confidence::new(0.9).unwrap();
    let queries = hand.full_stripe(Accepts::Any);
    assert!(matches!(hand.pull(PARITY), Some(Work::Batch(Batch::Parity(_)))));
    (hand, queries)
}

#[test]
fn what_is_sure_enough_is_served_with_its_confidence() {
    let (mut hand, queries) = stripe(Rerun::AtOnce);
    hand.complete_row(BASE[0], &MEMBER);
    hand.complete_row(PARITY, &SURE);
    hand.tick_after(15);
    let Some(Ok(prediction)) = queries[1].0.answered() else { unreachable!("it is decoded") };
    assert_eq!(prediction.provenance, Provenance::Reconstructed);
    assert!(prediction.confidence.unwrap().get() > 0.99);
    assert_eq!(hand.metrics.gated.get(), 0);
}

#[test]
fn what_is_not_waits_for_its_direct_answer() {
    let (mut hand, queries) = stripe(Rerun::AfterDecode);
    hand.complete_row(BASE[0], &MEMBER);
    hand.complete_row(PARITY, &UNSURE);
    hand.tick_after(15);
    assert_eq!((provenance(&queries[1].0), hand.metrics.gated.get()), (None, 1));
    hand.tick_after(100);
    assert!(hand.pull(BASE[0]).is_none(), "its lane still works on it: nothing is run again");
    assert_eq!(hand.metrics.gated.get(), 1, "it is held back once");
    hand.complete_row(BASE[1], &[0.0, 1.0]);
    let Some(Ok(prediction)) = queries[1].0.answered() else { unreachable!("it is direct") };
    assert_eq!((prediction.provenance, prediction.confidence), (Provenance::Direct, None));
}

#[test]
fn held_back_and_erased_it_is_run_again_at_once() {
    let (mut hand, queries) = stripe(Rerun::AfterDecode);
    hand.complete_row(BASE[0], &MEMBER);
    hand.complete(BASE[1], Err(Loss::Device));
    assert!(hand.pull(BASE[0]).is_none(), "the decode may still bring it back");
    hand.complete_row(PARITY, &UNSURE);
    assert_eq!(hand.metrics.gated.get(), 1);
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(Batch::Base(_)))), "the decode is no hope any more");
    hand.complete_row(BASE[0], &[0.0, 1.0]);
    assert_eq!(provenance(&queries[1].0), Some(Provenance::Direct));
}

/// Finite outputs, a stripe without calibration or with one.
#[test]
fn what_overflows_is_held_back_like_what_is_unsure() {
    for calibrated in [false, true] {
        let (mut hand, queries) = stripe(Rerun::AfterDecode);
        if !calibrated {
            hand.core.settings.calibration = None;
        }
        hand.complete_row(BASE[0], &[f32::MAX, 0.0]);
        hand.complete(BASE[1], Err(Loss::Device));
        hand.complete_row(PARITY, &[f32::MIN, 0.0]);
        assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(Batch::Base(_)))), "the decode is no hope any more");
        hand.complete_row(BASE[0], &[0.0, 1.0]);
        assert_eq!((provenance(&queries[1].0), hand.metrics.gated.get()), (Some(Provenance::Direct), 0));
    }
}

#[test]
fn erased_after_it_was_held_back_it_is_run_again_at_once() {
    for hangs in [false, true] {
        let (mut hand, queries) = stripe(Rerun::AfterDecode);
        hand.complete_row(BASE[0], &MEMBER);
        hand.complete_row(PARITY, &UNSURE);
        hand.tick_after(15);
        if hangs {
            hand.tick_after(201);
            assert_eq!(hand.core.describe(BASE[1]).0, "hung");
        } else {
            hand.complete(BASE[1], Err(Loss::Panic));
        }
        assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(Batch::Base(_)))), "without patience");
        assert_eq!(hand.core.rescue.len(), 0, "once");
        hand.complete_row(BASE[0], &[0.0, 1.0]);
        assert_eq!(provenance(&queries[1].0), Some(Provenance::Direct));
    }
}

#[test]
fn held_back_it_meets_its_deadline_like_any_other() {
    let (mut hand, queries) = stripe(Rerun::AtOnce);
    hand.complete_row(BASE[0], &MEMBER);
    hand.complete_row(PARITY, &UNSURE);
    hand.tick_after(2_000);
    assert!(matches!(queries[1].0.answered(), Some(Err(Failure::Deadline))));
    assert_eq!(hand.metrics.gated.get(), 1);
}

#[test]
fn each_query_has_its_own_limit() {
    let (mut hand, _queries) = stripe(Rerun::AtOnce);
    for lane in BASE {
        hand.complete_row(lane, &MEMBER);
    }
    hand.complete_row(PARITY, &UNSURE);
    hand.least = Confidence::NONE;
    let queries = hand.full_stripe(Accepts::Any);
    hand.pull(PARITY);
    hand.complete_row(BASE[0], &MEMBER);
    hand.complete_row(PARITY, &UNSURE);
    hand.tick_after(15);
    assert_eq!(provenance(&queries[1].0), Some(Provenance::Reconstructed), "it asks for nothing");
}

/// One stripe whose second member is decoded as `parity` says and then answers [0, 1].
fn late_member(hand: &mut Hand, parity: [f32; 2]) {
    let queries = hand.full_stripe(Accepts::Any);
    hand.pull(PARITY);
    hand.complete_row(BASE[0], &MEMBER);
    hand.complete_row(PARITY, &parity);
    hand.tick_after(15);
    hand.complete_row(BASE[1], &[0.0, 1.0]);
    drop(queries);
}

/// Whether it was served or held back, what was decoded is compared with the late direct answer.
#[test]
fn disagreement_of_what_is_served_or_held_back_is_told_as_drift_and_its_end() {
    let (mut hand, _queries) = stripe(Rerun::AtOnce);
    for lane in [BASE[0], BASE[1], PARITY] {
        hand.complete_row(lane, &MEMBER);
    }
    let turns = |hand: &mut Hand| -> Vec<Standing> {
        let drifts = |effect: Effect| if let Effect::Drift(turn) = effect { Some(turn.to) } else { None };
        hand.effects.drain(..).filter_map(drifts).collect()
    };
    let drifted = |hand: &Hand, value: u8| hand.metrics.text().contains(&format!("parityd_drift {value}\n"));
    for _ in 0..50 {
        late_member(&mut hand, SURE);
    }
    assert_eq!(turns(&mut hand), []);
    assert!(drifted(&hand, 0) && hand.metrics.text().contains("parityd_agreement_expected 0.9\n"));
    // Held back, and of the other class than the direct answer.
    for _ in 0..50 {
        late_member(&mut hand, UNSURE);
    }
    assert_eq!(hand.metrics.gated.get(), 50);
    assert_eq!(turns(&mut hand), [Standing::Drifted]);
    assert!(drifted(&hand, 1));
    assert!(hand.metrics.text().contains("parityd_agreement_total{agree=\"false\"} 0"), "nobody was served those");
    for _ in 0..200 {
        late_member(&mut hand, SURE);
    }
    assert_eq!(turns(&mut hand), [Standing::Expected]);
    assert!(drifted(&hand, 0) && hand.metrics.text().contains("parityd_agreement_total{agree=\"true\"} 250"));
}
