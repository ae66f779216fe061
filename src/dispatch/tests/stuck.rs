//! A lane whose thread never comes back, and another that takes its place.

use super::*;

fn replacements(hand: &mut Hand) -> usize {
    let asked =
        hand.effects.iter().filter(|effect| matches!(effect, Effect::Replace(lane) if *lane == BASE[0])).count();
    hand.effects.clear();
    asked
}

#[test]
fn its_query_is_rescued_its_thread_replaced_once_a_wait_and_the_lane_proves_itself() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let (query, _pending) = hand.submit(3.0, Accepts::DirectOnly);
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(_))));
    hand.tick_after(201);
    assert_eq!(hand.core.describe(BASE[0]).0, "hung");
    assert!(matches!(hand.pull(BASE[1]), Some(Work::Batch(_))), "the rescue");
    hand.complete(BASE[1], Ok(3.0));
    assert_eq!(provenance(&query), Some(Provenance::Direct));
    assert_eq!(replacements(&mut hand), 0, "it may come back");
    // A wait of 30 s from when it was found, and as long again after the first try.
    for (ms, asked) in [(30_000, 0), (1, 1), (29_999, 0), (1, 1)] {
        hand.tick_after(ms);
        assert_eq!(replacements(&mut hand), asked);
    }
    let now = hand.now;
    hand.core.replaced(BASE[0], now, &mut hand.effects);
    assert!(hand.core.seat(BASE[0]).in_flight(now).is_none(), "what was in flight is nobody's any more");
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Canary)), "a canary decides, at once");
    hand.core.canary(BASE[0], Ok(()), now, &mut hand.effects);
    assert_eq!(hand.core.describe(BASE[0]).0, "straggler", "on trial");
    hand.tick_after(1);
    assert_eq!(replacements(&mut hand), 0);
}

/// What is in flight on a lane that is replaced without having been given up is run elsewhere.
#[test]
fn nothing_is_lost_with_the_thread() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let (query, _pending) = hand.submit(3.0, Accepts::DirectOnly);
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(_))));
    let now = hand.now;
    hand.core.replaced(BASE[0], now, &mut hand.effects);
    assert!(matches!(hand.pull(BASE[1]), Some(Work::Batch(_))));
    hand.complete(BASE[1], Ok(3.0));
    assert_eq!(provenance(&query), Some(Provenance::Direct));
}
