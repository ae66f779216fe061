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

/// Between what is found and what is done about it.
#[test]
fn a_thread_that_has_come_back_is_not_stuck_in_its_next_call() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let _query = hand.submit(3.0, Accepts::DirectOnly);
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(_))));
    hand.tick_after(201);
    hand.tick_after(30_001);
    assert_eq!(replacements(&mut hand), 1);
    assert!(hand.core.is_stuck(BASE[0], hand.now), "although the next try is not due yet");
    hand.complete(BASE[0], Ok(3.0));
    assert!(!hand.core.is_stuck(BASE[0], hand.now));
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Canary)));
    hand.tick_after(30_000);
    assert!(!hand.core.is_stuck(BASE[0], hand.now));
    hand.tick_after(1);
    assert!(hand.core.is_stuck(BASE[0], hand.now), "now this one hangs, too");
}

/// A process that was stopped blames no lane for that; one that hangs all the same is found when it had its whole time.
#[test]
fn a_lane_is_not_hung_because_nothing_ran() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let (_query, _pending) = hand.submit(3.0, Accepts::DirectOnly);
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(_))));
    hand.tick_after(50);
    let lasted = Duration::from_secs(1);
    hand.core.stood_still(lasted, hand.now + lasted);
    hand.tick_after(1000);
    hand.tick_after(150);
    assert_eq!(hand.core.describe(BASE[0]).0, "healthy");
    assert!(hand.core.rescue.is_empty());
    hand.tick_after(1);
    assert_eq!(hand.core.describe(BASE[0]).0, "hung");
    assert!(hand.metrics.text().contains("parityd_standstill_seconds_total 1\n"));
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

/// A batch that was given up may come back and lose the same run once more.
#[test]
fn a_query_waits_for_one_rescue_however_often_its_run_is_given_up() {
    let lanes = (0..3).map(|lane| LaneSettings::alone(Role::Base, lane)).collect();
    let policy = Policy { hedge: Hedge::None, ..Policy::usual(PolicyKind::None, Placement::Dedicated) };
    let settings = Settings { lanes, code: None, policy, ..Hand::settings(Rerun::AtOnce, 2, 1, None) };
    let mut hand = Hand::of(settings);
    let (query, _pending) = hand.submit(1.0, Accepts::Any);
    assert!(hand.pull(LaneId(0)).is_some());
    hand.tick_after(201);
    assert!(hand.pull(LaneId(1)).is_some(), "lane 0 hangs: rescue");
    hand.tick_after(201);
    assert_eq!((hand.core.describe(LaneId(1)).0, hand.core.rescue.len()), ("hung", 1), "so does lane 1");
    hand.complete(LaneId(1), Err(Loss::NonFinite));
    assert_eq!(hand.core.rescue.len(), 1);
    assert!(hand.pull(LaneId(2)).is_some());
    hand.complete(LaneId(2), Ok(1.0));
    assert_eq!(provenance(&query), Some(Provenance::Direct));
}

/// Whatever else fails together with it.
#[test]
fn a_broken_device_takes_the_lanes_on_it_out_of_work_and_no_others() {
    let on = |device, domain| LaneSettings { role: Role::Base, domain: FaultDomain(domain), device: DeviceId(device) };
    // Two devices on one riser, and a lane of the first that is said to fail by itself.
    let lanes = vec![on(0, 0), on(1, 0), on(0, 1)];
    let policy = Policy { hedge: Hedge::None, ..Policy::usual(PolicyKind::None, Placement::Dedicated) };
    let mut hand = Hand::of(Settings { lanes, code: None, policy, ..Hand::settings(Rerun::AtOnce, 2, 1, None) });
    let _query = hand.submit(1.0, Accepts::Any);
    assert!(hand.pull(LaneId(0)).is_some());
    hand.complete(LaneId(0), Err(Loss::Fatal));
    let states = [0, 1, 2].map(|lane| hand.core.describe(LaneId(lane)).0);
    assert_eq!(states, ["fenced", "healthy", "fenced"]);
}

/// Admission would refuse for the sake of rows that nobody waits for.
#[test]
fn rows_that_were_answered_give_their_places_back_while_every_lane_hangs() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let queries: Vec<_> = (0..4_u8).map(|value| hand.submit(f32::from(value), Accepts::DirectOnly)).collect();
    for lane in BASE {
        assert!(matches!(hand.pull(lane), Some(Work::Batch(_))));
    }
    hand.tick_after(201);
    assert!(BASE.iter().all(|&lane| hand.core.describe(lane).0 == "hung"));
    assert!(!hand.core.data.is_empty() && hand.core.data.len() < 4, "less than half of what may be admitted");
    hand.tick_after(2000);
    assert!(queries.iter().all(|(query, _)| query.answered().is_some()), "by their deadline");
    drop(queries);
    hand.tick_after(1);
    assert!(hand.core.data.is_empty(), "though no lane has pulled");
    assert!(hand.metrics.text().contains("parityd_queue_jobs 0\n"));
}
