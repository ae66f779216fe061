//! Complete stripes tell of a device that is wrong, which is asked for a canary and keeps working until that has decided.

use super::*;

/// A stripe of two members whose outputs are `first` and (1, 2), and whose parity is right for (3, 1) and (1, 2).
fn stripe(hand: &mut Hand, first: [f32; 2]) {
    let queries = hand.full_stripe(Accepts::Any);
    assert!(matches!(hand.pull(PARITY), Some(Work::Batch(Batch::Parity(_)))));
    hand.complete_row(PARITY, &[4.0, 3.0]);
    hand.complete_row(BASE[0], &first);
    hand.complete_row(BASE[1], &[1.0, 2.0]);
    drop(queries);
    hand.tick_after(1);
}

fn doubted(hand: &Hand) -> Vec<LaneId> {
    let lanes = hand.effects.iter().filter_map(|effect| match effect {
        Effect::Doubted(lane) => Some(*lane),
        Effect::Wake(_) | Effect::Replace(_) | Effect::Moved(..) | Effect::Drift(_) => None,
    });
    lanes.collect()
}

#[test]
fn stripes_that_fit_ask_nobody_and_a_wrong_device_is_asked_within_a_few() {
    let mut hand = Hand::with(Rerun::AtOnce, 2, 1, None);
    for _ in 0..100 {
        stripe(&mut hand, [3.0, 1.0]);
    }
    assert_eq!(doubted(&hand), []);
    hand.effects.clear();
    let stripes = (1..10).find(|_| {
        stripe(&mut hand, [-3.0, 2.0]);
        !doubted(&hand).is_empty()
    });
    assert!(stripes.unwrap() <= 5, "{stripes:?}");
    // One additive parity cannot tell which of the three it is.
    assert_eq!(doubted(&hand), [BASE[0], BASE[1], PARITY]);
    for lane in [BASE[0], BASE[1], PARITY] {
        assert_eq!(hand.core.describe(lane).0, "healthy", "nobody is taken out");
        assert!(matches!(hand.pull(lane), Some(Work::Canary)));
    }
}

/// One that fills two slots of a stripe, one after the other, is one witness against itself: it is asked with the others, not before them.
#[test]
fn a_device_counts_once_a_stripe() {
    let mut hand = Hand::with(Rerun::AtOnce, 2, 1, None);
    let mut stripe = |first: [f32; 2]| {
        let queries = [hand.submit(3.0, Accepts::Any), hand.submit(4.0, Accepts::Any)];
        assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(_))));
        hand.complete_row(BASE[0], &first);
        for lane in [BASE[0], PARITY] {
            assert!(matches!(hand.pull(lane), Some(Work::Batch(_))));
        }
        hand.complete_row(PARITY, &[4.0, 3.0]);
        hand.complete_row(BASE[0], &[1.0, 2.0]);
        drop(queries);
        hand.tick_after(1);
        doubted(&hand)
    };
    for _ in 0..100 {
        assert_eq!(stripe([3.0, 1.0]), []);
    }
    let asked = (1..10).map(|_| stripe([-3.0, 2.0])).find(|asked| !asked.is_empty());
    assert_eq!(asked, Some(vec![BASE[0], PARITY]));
}
