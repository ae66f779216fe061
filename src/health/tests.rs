//! The moves of one lane, one rule a test.

use super::*;

const RULES: Rules = Rules {
    hang: Some(Duration::from_millis(200)),
    stragglers: true,
    probe: Duration::from_millis(200),
    canary_first: Duration::from_millis(100),
    canary_max: Duration::from_millis(350),
    fence: Duration::from_secs(1),
    canary_every: None,
};

fn ms(ms: u64) -> Time {
    Time::from_nanos(ms * 1_000_000)
}

fn healthy() -> LaneHealth {
    let mut lane = LaneHealth::starting();
    lane.ready();
    lane
}

#[test]
fn a_batch_that_finds_no_memory_costs_no_lane_and_three_in_a_row_do() {
    let mut lane = healthy();
    let starved = |lane: &mut LaneHealth, at| lane.lost(Loss::Memory, &RULES, ms(at));
    assert!((0..8).all(|_| starved(&mut lane, 0).is_none()), "one batch of eight jobs");
    assert!(starved(&mut lane, 10).is_none());
    assert!(starved(&mut lane, 1_010).is_none(), "the first of others, a second later");
    assert!(starved(&mut lane, 1_020).is_none());
    let fell = starved(&mut lane, 1_030).unwrap();
    assert_eq!((fell.to, fell.reason), (State::Failed { canary_at: ms(1_130) }, Reason::LostJob(Loss::Memory)));
}

#[test]
fn a_lane_that_lost_a_job_comes_back_through_a_canary_and_backs_off_meanwhile() {
    let mut lane = healthy();
    let fell = lane.lost(Loss::NonFinite, &RULES, ms(0)).unwrap();
    assert_eq!((fell.from, fell.to), (State::Healthy, State::Failed { canary_at: ms(100) }));
    assert!(lane.lost(Loss::Panic, &RULES, ms(1)).is_none(), "it is down already");
    assert!(lane.canary_starts(ms(99)).is_none());
    for (at, next) in [(100, 300), (300, 650), (650, 1000)] {
        assert!(lane.canary_starts(ms(at)).is_some());
        lane.canary(Err(Loss::Device), &RULES, ms(at));
        assert_eq!(lane.state(), State::Failed { canary_at: ms(next) }, "doubles, up to the limit");
    }
    assert!(lane.canary_starts(ms(1000)).is_some());
    assert_eq!(lane.canary(Ok(()), &RULES, ms(1001)).unwrap().to, State::Healthy);
    assert_eq!(lane.reason(), "");
    lane.lost(Loss::Panic, &RULES, ms(2000));
    assert_eq!(lane.state(), State::Failed { canary_at: ms(2100) }, "the wait starts small again");
}

#[test]
fn a_hung_lane_is_judged_by_a_canary_as_soon_as_it_returns() {
    let mut lane = healthy();
    let limit = Duration::from_millis(200);
    assert!(lane.in_flight(limit, limit, ms(200)).is_none());
    assert_eq!(lane.in_flight(Duration::from_millis(201), limit, ms(201)).unwrap().to, State::Hung { since: ms(201) });
    assert!(lane.lost(Loss::Panic, &RULES, ms(300)).is_none(), "it stays hung until it returns");
    assert!(lane.returned(&RULES, ms(400)).is_some());
    assert!(lane.canary_due(ms(400)));
    lane.canary_starts(ms(400));
    assert_eq!(lane.canary(Ok(()), &RULES, ms(401)).unwrap().to, State::Straggler { probe_at: ms(601) }, "on trial");
    assert_eq!(lane.untested().unwrap().to, State::Healthy);
}

#[test]
fn a_straggler_is_probed_until_it_is_fast_again_and_can_fall_further() {
    let mut lane = healthy();
    assert!(lane.recovered().is_none(), "there is nothing to recover from");
    assert_eq!(lane.slow(300, ms(10)).unwrap().to, State::Straggler { probe_at: ms(10) });
    assert!(lane.slow(300, ms(20)).is_none(), "it is one already");
    lane.probe_again(ms(210));
    assert!(!lane.probe_due(ms(209)) && lane.probe_due(ms(210)));
    assert_eq!(lane.recovered().unwrap().to, State::Healthy);
    lane.slow(200, ms(500));
    assert_eq!(lane.lost(Loss::Device, &RULES, ms(510)).unwrap().to, State::Failed { canary_at: ms(610) });
    lane.canary_starts(ms(610));
    assert_eq!(lane.canary(Ok(()), &RULES, ms(611)).unwrap().to, State::Straggler { probe_at: ms(811) }, "still slow");
    lane.recovered();
    lane.lost(Loss::Device, &RULES, ms(900));
    lane.canary_starts(ms(1_000));
    assert_eq!(lane.canary(Ok(()), &RULES, ms(1_001)).unwrap().to, State::Healthy, "it was fast since");
}

#[test]
fn a_lane_is_not_blamed_for_a_query_that_two_lanes_lost() {
    let mut lane = healthy();
    lane.lost(Loss::Panic, &RULES, ms(0));
    assert!(lane.excuse(ms(5)).is_some());
    assert!(lane.canary_due(ms(5)));
    assert!(healthy().excuse(ms(5)).is_none(), "there is nothing to excuse");
}

/// The end of one reason says nothing of the other.
#[test]
fn a_fence_lasts_until_the_last_reason_for_it_is_over() {
    let mut lane = healthy();
    lane.fence(Sign::Recovery(1), true, &RULES, ms(0));
    lane.fence(Sign::RowFailed, true, &RULES, ms(10));
    lane.release(&RULES, ms(20));
    assert!(!lane.canary_due(ms(1_000_000)));
    lane.release(&RULES, ms(1_000_000));
    assert!(lane.canary_due(ms(1_010_000)));
}

#[test]
fn a_fenced_lane_waits_until_its_device_is_well_and_then_for_five_canaries() {
    let mut lane = healthy();
    assert_eq!(lane.fence(Sign::Lost, true, &RULES, ms(0)).unwrap().to.as_str(), "fenced");
    assert!(lane.fence(Sign::Xid(79), false, &RULES, ms(5)).is_none(), "it is fenced already");
    assert!(!lane.canary_due(ms(1_000_000)), "as long as the device is lost");
    lane.release(&RULES, ms(2_000));
    assert!(!lane.canary_due(ms(2_999)) && lane.canary_due(ms(3_000)), "a wait from then on");
    for passed in 1..=5 {
        let at = ms(3_000 + 100 * passed);
        assert!(lane.canary_starts(at).is_some(), "canary {passed}");
        let moved = lane.canary(Ok(()), &RULES, at).unwrap();
        assert_eq!(moved.to.as_str(), if passed < 5 { "fenced" } else { "straggler" }, "canary {passed}");
    }
    assert_eq!(lane.recovered().unwrap().to, State::Healthy);
    lane.fence(Sign::Xid(79), false, &RULES, ms(10_000));
    assert!(!lane.canary_due(ms(11_999)) && lane.canary_due(ms(12_000)), "twice the wait the second time");
    assert!(lane.canary_starts(ms(12_000)).is_some());
    assert_eq!(lane.canary(Err(Loss::Device), &RULES, ms(12_001)).unwrap().to.as_str(), "fenced", "not healed");
    assert!(!lane.canary_due(ms(14_000)) && lane.canary_due(ms(15_001)));
}

#[test]
fn a_canary_that_was_running_when_the_lane_was_fenced_changes_nothing() {
    let mut lane = healthy();
    lane.lost(Loss::Panic, &RULES, ms(0));
    assert!(lane.canary_starts(ms(100)).is_some());
    lane.fence(Sign::Xid(48), false, &RULES, ms(101));
    assert!(lane.canary(Ok(()), &RULES, ms(102)).is_none());
    assert_eq!(lane.state().as_str(), "fenced");
}

#[test]
fn another_sign_between_its_canaries_begins_a_fence_anew() {
    let mut lane = healthy();
    lane.fence(Sign::Xid(79), false, &RULES, ms(0));
    for at in [1_000, 1_100] {
        assert!(lane.canary_starts(ms(at)).is_some());
        lane.canary(Ok(()), &RULES, ms(at));
    }
    assert!(lane.fence(Sign::Xid(48), false, &RULES, ms(1_150)).is_none(), "it is fenced still");
    assert!(!lane.canary_due(ms(2_149)) && lane.canary_due(ms(2_150)), "it waits anew");
    for passed in 1..=5 {
        assert!(lane.canary_starts(ms(3_000 + 200 * passed)).is_some());
        let moved = lane.canary(Ok(()), &RULES, ms(3_000 + 200 * passed)).unwrap();
        assert_eq!(moved.to.is_usable(), passed == 5, "five again");
    }
}

#[test]
fn a_lane_that_was_fenced_once_hangs_like_any_other_later() {
    let mut lane = healthy();
    lane.fence(Sign::Xid(79), false, &RULES, ms(0));
    for passed in 0..5 {
        assert!(lane.canary_starts(ms(1_000 + 100 * passed)).is_some());
        lane.canary(Ok(()), &RULES, ms(1_000 + 100 * passed));
    }
    lane.recovered();
    lane.in_flight(Duration::from_secs(1), Duration::from_millis(200), ms(2_900));
    lane.returned(&RULES, ms(3_000));
    assert!(lane.canary_starts(ms(3_000)).is_some());
    assert_eq!(lane.canary(Err(Loss::Device), &RULES, ms(3_001)).unwrap().to.as_str(), "failed");
}

#[test]
fn a_fence_long_after_another_is_the_first_again() {
    let mut lane = healthy();
    lane.fence(Sign::Xid(79), false, &RULES, ms(0));
    for passed in 0..5 {
        assert!(lane.canary_starts(ms(1_000 + 100 * passed)).is_some());
        lane.canary(Ok(()), &RULES, ms(1_000 + 100 * passed));
    }
    lane.fence(Sign::Xid(79), false, &RULES, ms(40_001));
    assert!(lane.canary_due(ms(41_001)), "one wait");
}

#[test]
fn a_canary_that_does_not_come_back_hangs_and_is_not_believed_when_it_does() {
    let mut lane = healthy();
    lane.lost(Loss::Panic, &RULES, ms(0));
    assert!(lane.canary_starts(ms(100)).is_some());
    assert!(lane.canary_in_flight(&RULES, ms(1_100)).is_none(), "opening a device takes its time");
    assert_eq!(lane.canary_in_flight(&RULES, ms(1_101)).unwrap().to, State::Hung { since: ms(100) });
    assert!(lane.replacement_due(None, &RULES, ms(1_101)));
    assert_eq!(lane.canary(Ok(()), &RULES, ms(1_500)).unwrap().to, State::Failed { canary_at: ms(1_500) });
}

#[test]
fn a_thread_that_is_stuck_is_replaced_after_longer_and_longer_waits() {
    let mut lane = healthy();
    lane.in_flight(Duration::from_millis(201), Duration::from_millis(200), ms(0));
    assert!(!lane.replacement_due(None, &RULES, ms(1_000)) && lane.replacement_due(None, &RULES, ms(1_001)));
    lane.replacement_tried(&RULES, ms(1_001));
    assert!(!lane.replacement_due(None, &RULES, ms(2_000)) && lane.replacement_due(None, &RULES, ms(2_001)));
    assert_eq!(lane.replaced(ms(2_100)).unwrap().to, State::Failed { canary_at: ms(2_100) });
    assert!(lane.canary_starts(ms(2_100)).is_some());
    assert_eq!(lane.canary(Ok(()), &RULES, ms(2_101)).unwrap().to.as_str(), "straggler", "on trial");
    // Fenced while its thread is stuck: as soon as canaries may run, and not while the driver calls the device broken.
    lane.fence(Sign::Lost, true, &RULES, ms(3_000));
    let age = Some(Duration::from_secs(100));
    assert!(!lane.replacement_due(age, &RULES, ms(100_000)));
    lane.release(&RULES, ms(100_000));
    assert!(lane.replacement_due(age, &RULES, ms(101_000)) && !lane.replacement_due(None, &RULES, ms(101_000)));
    assert!(lane.replaced(ms(101_001)).is_none(), "five canaries decide");
}

#[test]
fn a_lane_that_is_fenced_while_its_canary_hangs_is_replaced_too_and_not_again_and_again() {
    let mut lane = healthy();
    lane.lost(Loss::Panic, &RULES, ms(0));
    assert!(lane.canary_starts(ms(100)).is_some());
    lane.fence(Sign::Lost, true, &RULES, ms(200));
    lane.release(&RULES, ms(300));
    assert!(!lane.replacement_due(None, &RULES, ms(1_299)) && lane.replacement_due(None, &RULES, ms(1_300)));
    let mut now = 1_300;
    for tries in 1..=20 {
        lane.replacement_tried(&RULES, ms(now));
        let wait = 1_000 * tries.min(10);
        assert!(!lane.replacement_due(None, &RULES, ms(now + wait - 1)), "try {tries}");
        now += wait;
        assert!(lane.replacement_due(None, &RULES, ms(now)), "try {tries}");
    }
    assert!(lane.replaced(ms(now)).is_none());
    assert!(!lane.replacement_due(None, &RULES, ms(now + 100_000)), "the thread is well");
}
