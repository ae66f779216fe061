//! Queries whose base lanes are all out of work, step by step.

use super::*;
use crate::code::Stacked;

/// Two base lanes and one that holds the small model alone.
fn hand(policy: Policy) -> Hand {
    let code: Arc<dyn Code> = Arc::new(Stacked::backup());
    Hand::of(Settings { code: Some(code), policy, queue_max: 64, ..Hand::settings(Rerun::AtOnce, 2, 1, None) })
}

fn approximate() -> Policy {
    Policy { hedge: Hedge::None, ..Policy::usual(PolicyKind::Approximate, Placement::Dedicated) }
}

/// Both base lanes lose a job, and are out of work for it.
fn lose_base_lanes(hand: &mut Hand) {
    for lane in BASE {
        let lost = hand.submit(1.0, Accepts::Any);
        assert!(matches!(hand.pull(lane), Some(Work::Batch(Batch::Base(_)))));
        hand.complete(lane, Err(Loss::Device));
        assert!(matches!(hand.pull(PARITY), Some(Work::Batch(Batch::Parity(_)))));
        hand.complete(PARITY, Ok(1.0));
        assert_eq!(provenance(&lost.0), Some(Provenance::Approximate), "it has had its backup in time");
    }
}

#[test]
fn a_query_that_no_base_lane_is_left_for_is_answered_by_its_backup_at_once() {
    let mut hand = hand(approximate());
    lose_base_lanes(&mut hand);
    let (query, _pending) = hand.submit(2.0, Accepts::Any);
    let (exact, _waiting) = hand.submit(3.0, Accepts::DirectOnly);
    assert!(matches!(hand.pull(PARITY), Some(Work::Batch(Batch::Parity(inputs))) if inputs.len() == 1));
    hand.complete(PARITY, Ok(2.0));
    assert_eq!(provenance(&query), Some(Provenance::Approximate), "without a tick: nothing is waited for");
    hand.tick_after(1);
    assert!(hand.pull(PARITY).is_none() && exact.is_open(), "it takes no such answer");
    hand.tick_after(100);
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Canary)));
    hand.core.canary(BASE[0], Ok(()), hand.now, &mut hand.effects);
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(Batch::Base(_)))));
    hand.complete(BASE[0], Ok(3.0));
    assert_eq!(provenance(&exact), Some(Provenance::Direct));
}

/// So nobody starts the daemon anew for want of an answer, unless that lane is stuck, too.
#[test]
fn who_answers_alone_can_answer() {
    const PATIENCE: Duration = Duration::from_millis(40);
    let mut hand = hand(approximate());
    let can_answer =
        |hand: &Hand| (hand.core.moving_lanes(hand.now, PATIENCE), hand.core.can_answer(hand.now, PATIENCE));
    assert_eq!(can_answer(&hand), (2, true));
    lose_base_lanes(&mut hand);
    assert_eq!(can_answer(&hand), (0, true));
    let _waits = hand.submit(2.0, Accepts::Any);
    assert!(hand.pull(PARITY).is_some());
    hand.now = hand.now + PATIENCE;
    assert_eq!(can_answer(&hand), (0, true));
    hand.now = hand.now + PATIENCE;
    assert_eq!(can_answer(&hand), (0, false));
    // Where its output is worth nothing alone, a lane of parity models answers nobody.
    let mut hand = Hand::new(Rerun::AtOnce);
    let _queries = hand.full_stripe(Accepts::Any);
    for lane in BASE {
        hand.complete(lane, Err(Loss::Device));
    }
    assert_eq!(can_answer(&hand), (0, false));
}

#[test]
fn what_waited_when_the_last_base_lane_left_goes_to_its_backup() {
    let mut hand = hand(approximate());
    let running = [hand.submit(1.0, Accepts::Any), hand.submit(1.0, Accepts::Any)];
    for lane in BASE {
        assert!(hand.pull(lane).is_some());
    }
    let waits = hand.submit(2.0, Accepts::Any);
    let gone = hand.submit(2.0, Accepts::Any);
    drop(gone);
    for lane in BASE {
        hand.complete(lane, Err(Loss::Device));
    }
    hand.effects.clear();
    hand.tick_after(1);
    while matches!(hand.pull(PARITY), Some(Work::Batch(Batch::Parity(_)))) {
        hand.complete(PARITY, Ok(2.0));
    }
    for (query, _) in running.iter().chain([&waits]) {
        assert_eq!(provenance(query), Some(Provenance::Approximate));
    }
    assert_eq!(hand.core.data.len(), 0, "what nobody waits for is passed over");
}

/// The lane of the small model may hang in its next job, or have too many before it.
#[test]
fn who_waits_for_a_backup_for_too_long_is_run_by_a_base_lane_that_is_back() {
    for (waited, state) in [(100, "healthy"), (201, "hung")] {
        let mut hand = hand(approximate());
        lose_base_lanes(&mut hand);
        let queries = [2.0; 3].map(|value| hand.submit(value, Accepts::Any));
        assert!(matches!(hand.pull(PARITY), Some(Work::Batch(Batch::Parity(inputs))) if inputs.len() == 1));
        hand.tick_after(waited);
        assert_eq!(hand.core.describe(PARITY).0, state);
        assert!(matches!(hand.pull(BASE[0]), Some(Work::Canary)));
        hand.core.canary(BASE[0], Ok(()), hand.now, &mut hand.effects);
        for _ in &queries {
            assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(Batch::Base(_)))), "{state}");
            hand.complete(BASE[0], Ok(2.0));
        }
        assert!(queries.iter().all(|(query, _)| provenance(query) == Some(Provenance::Direct)), "{state}");
        assert!(hand.pull(BASE[0]).is_none(), "{state}: each once");
    }
}

/// The queue of parity jobs holds fewer than admission lets in.
#[test]
fn as_many_are_answered_as_admission_lets_in() {
    let mut hand = hand(approximate());
    hand.requests = Requests::new(64);
    lose_base_lanes(&mut hand);
    let queries: Vec<_> = (0..64).map(|_| hand.submit(2.0, Accepts::Any)).collect();
    assert!(hand.core.parity.is_full() && !hand.core.data.is_empty());
    for _ in 0..64 {
        assert!(matches!(hand.pull(PARITY), Some(Work::Batch(Batch::Parity(_)))));
        hand.complete(PARITY, Ok(2.0));
        hand.tick_after(0);
    }
    assert!(queries.iter().all(|(query, _)| provenance(query) == Some(Provenance::Approximate)));
}

/// One output of the parity lane is worth nothing there without those of base lanes.
#[test]
fn under_a_code_that_needs_its_base_lanes_queries_wait_for_them() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let queries = hand.full_stripe(Accepts::Any);
    for lane in BASE {
        hand.complete(lane, Err(Loss::Device));
    }
    let (query, _pending) = hand.submit(2.0, Accepts::Any);
    hand.tick_after(1);
    assert!(query.is_open() && hand.core.data.len() == 1);
    drop(queries);
}
