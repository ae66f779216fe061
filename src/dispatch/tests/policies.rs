//! Policies, step by step: what runs twice, when, and on which lanes.

use super::{pool::Pool, *};
use crate::{
    code::{Berrut, SlotSet},
    config::{Hedge, ParityWhen},
    health::{
        State,
        device::{Sign, Told},
    },
    stripe::{Joined, Member, Stripes},
};

fn pooled(kind: PolicyKind) -> Policy {
    Policy::usual(kind, Placement::Pooled)
}

#[test]
fn a_job_whose_report_is_late_is_run_again_before_it_would_be_over() {
    let mut pool = Pool::new(3, pooled(PolicyKind::Hedged));
    let (query, _pending) = pool.hand.submit(1.0, Accepts::Any);
    assert!(pool.hand.pull(LaneId(0)).is_some());
    pool.hand.tick_after(3);
    assert!(pool.hand.pull(LaneId(1)).is_none(), "the first report is due after 1.25 ms, and may be 2 ms late");
    pool.hand.tick_after(1);
    assert!(pool.hand.pull(LaneId(1)).is_some(), "now it is late");
    pool.hand.tick_after(10);
    pool.done(LaneId(1), 10);
    assert_eq!((provenance(&query), pool.ran(JobKind::Hedge)), (Some(Provenance::Direct), 1));
    assert_eq!(pool.state(LaneId(0)), State::Healthy, "a stalled job is no proof of a slow lane");
}

#[test]
fn by_time_alone_a_job_is_late_when_it_should_be_over() {
    let mut pool = Pool::new(2, Policy { hedge: Hedge::Time, ..pooled(PolicyKind::Hedged) });
    let (_query, _pending) = pool.hand.submit(1.0, Accepts::Any);
    assert!(pool.hand.pull(LaneId(0)).is_some());
    pool.hand.tick_after(11);
    assert!(pool.hand.pull(LaneId(1)).is_none());
    pool.hand.tick_after(2);
    assert!(pool.hand.pull(LaneId(1)).is_some(), "1.2 times 10 ms are over");
}

#[test]
fn nobody_hedges_when_all_are_late_at_once() {
    let mut pool = Pool::new(6, pooled(PolicyKind::Hedged));
    let queries: Vec<_> = (0..4).map(|_| pool.hand.submit(1.0, Accepts::Any)).collect();
    for lane in 0..4 {
        assert!(pool.hand.pull(LaneId(lane)).is_some());
    }
    pool.hand.tick_after(10);
    assert!(pool.hand.pull(LaneId(4)).is_none(), "four of four are late: slow is normal");
    drop(queries);
}

#[test]
fn a_late_member_is_decoded_at_once_and_its_copy_is_never_started() {
    let mut pool = Pool::new(4, pooled(PolicyKind::Coded));
    let queries = [pool.hand.submit(1.0, Accepts::Any), pool.hand.submit(2.0, Accepts::Any)];
    for lane in 0..2 {
        assert!(pool.hand.pull(LaneId(lane)).is_some());
    }
    assert!(matches!(pool.hand.pull(LaneId(2)), Some(Work::Batch(Batch::Parity(_)))), "on a lane that would be idle");
    pool.done(LaneId(0), 1);
    pool.done(LaneId(2), 1);
    assert_eq!(provenance(&queries[1].0), None);
    pool.hand.tick_after(4);
    assert_eq!(provenance(&queries[1].0), Some(Provenance::Reconstructed), "long before its grace is over");
    assert!(pool.hand.pull(LaneId(3)).is_none(), "its hedge has become needless");
}

#[test]
fn redundancy_leaves_the_reserve_idle_and_data_takes_it() {
    let mut pool = Pool::new(3, Policy { reserve: 1, hedge: Hedge::None, ..pooled(PolicyKind::IdleCopy) });
    let first = pool.hand.submit(1.0, Accepts::Any);
    assert!(pool.hand.pull(LaneId(0)).is_some());
    assert!(pool.hand.pull(LaneId(1)).is_some(), "a copy, since lane 2 stays idle");
    let second = pool.hand.submit(2.0, Accepts::Any);
    assert!(pool.hand.pull(LaneId(2)).is_some(), "data takes the reserve");
    pool.hand.tick_after(10);
    pool.done(LaneId(0), 10);
    assert!(pool.hand.pull(LaneId(0)).is_none(), "no copy of the second: no lane would be left");
    assert_eq!(pool.ran(JobKind::IdleCopy), 0);
    pool.done(LaneId(1), 10);
    assert_eq!(pool.ran(JobKind::IdleCopy), 1);
    drop((first, second));
}

#[test]
fn replicated_queries_run_on_two_lanes_and_the_copy_of_an_answered_one_on_none() {
    let mut pool = Pool::new(2, Policy { hedge: Hedge::None, ..pooled(PolicyKind::Replicated) });
    // Learning has left copies of answered queries behind.
    assert!(pool.hand.pull(LaneId(0)).is_none());
    let query = pool.hand.submit(1.0, Accepts::Any);
    assert!(pool.hand.pull(LaneId(0)).is_some() && pool.hand.pull(LaneId(1)).is_some());
    pool.done(LaneId(1), 10);
    assert_eq!((provenance(&query.0), pool.ran(JobKind::Replica)), (Some(Provenance::Direct), 1));
}

/// A copy whose first run is in the same batch goes to the end of the queue, and may outlive its query's permit there.
#[test]
fn copies_of_answered_queries_take_no_place_from_new_ones() {
    let policy = Policy { hedge: Hedge::None, ..pooled(PolicyKind::Replicated) };
    let mut pool = Pool::with_batches(1, 4, policy);
    let mut pending: Vec<_> = (0..8).map(|_| pool.hand.submit(1.0, Accepts::Any)).collect();
    for _ in 0..20 {
        let Some(Work::Batch(batch)) = pool.hand.pull(LaneId(0)) else { panic!("queries wait") };
        pool.all_done(LaneId(0), batch.jobs(), 10);
        pending.retain(|(query, _)| query.is_open());
        while pending.len() < 8 {
            pending.push(pool.hand.submit(1.0, Accepts::Any));
        }
    }
}

#[test]
fn parity_can_wait_for_a_late_member() {
    let mut pool =
        Pool::new(4, Policy { parity: ParityWhen::Late, hedge: Hedge::Progress, ..pooled(PolicyKind::Coded) });
    let queries = [pool.hand.submit(1.0, Accepts::Any), pool.hand.submit(2.0, Accepts::Any)];
    for lane in 0..2 {
        assert!(pool.hand.pull(LaneId(lane)).is_some());
    }
    assert!(pool.hand.pull(LaneId(2)).is_none(), "nobody is late");
    pool.done(LaneId(0), 1);
    pool.hand.tick_after(4);
    assert!(matches!(pool.hand.pull(LaneId(2)), Some(Work::Batch(Batch::Base(_)))), "the hedge is first");
    assert!(matches!(pool.hand.pull(LaneId(3)), Some(Work::Batch(Batch::Parity(_)))));
    drop(queries);
}

/// Three lanes, of which the first has been slow twice.
fn with_a_straggler() -> Pool {
    let mut pool = Pool::new(3, pooled(PolicyKind::Hedged));
    for _ in 0..2 {
        let (_query, _pending) = pool.hand.submit(1.0, Accepts::Any);
        assert!(pool.hand.pull(LaneId(0)).is_some());
        pool.done(LaneId(0), 30);
    }
    assert!(matches!(pool.state(LaneId(0)), State::Straggler { .. }));
    pool
}

#[test]
fn a_straggler_gets_probes_and_data_only_when_waiting_would_take_longer() {
    let mut pool = with_a_straggler();
    assert!(pool.hand.pull(LaneId(0)).is_some(), "a probe, at once");
    pool.done(LaneId(0), 30);
    let queries: Vec<_> = (0..3).map(|_| pool.hand.submit(1.0, Accepts::Any)).collect();
    assert!(pool.hand.pull(LaneId(0)).is_none(), "others are idle");
    assert!(pool.hand.pull(LaneId(1)).is_some() && pool.hand.pull(LaneId(2)).is_some());
    assert!(pool.hand.pull(LaneId(0)).is_none(), "one that waits is served sooner by the others");
    let more: Vec<_> = (0..5).map(|_| pool.hand.submit(1.0, Accepts::Any)).collect();
    assert!(pool.hand.pull(LaneId(0)).is_some(), "six would wait for longer than three service times");
    pool.done(LaneId(0), 10);
    pool.hand.tick_after(0);
    assert!(pool.hand.pull(LaneId(0)).is_some());
    pool.done(LaneId(0), 10);
    assert_eq!(pool.state(LaneId(0)), State::Healthy, "two in a row were fast");
    assert_eq!(pool.ran(JobKind::Probe), 1);
    drop((queries, more));
}

/// A device that rests between its probes may be slow for that alone.
#[test]
fn a_straggler_is_trusted_again_where_no_query_has_come_for_long() {
    let (mut pool, mut probes) = (with_a_straggler(), 0);
    pool.hand.tick_after(300);
    while probes < 1_000 && pool.hand.pull(LaneId(0)).is_some() {
        pool.done(LaneId(0), 30);
        probes += 1;
        pool.hand.tick_after(300);
    }
    assert!((80..110).contains(&probes), "for half a minute it is probed: {probes} times");
    assert_eq!((pool.state(LaneId(0)), pool.ran(JobKind::Probe)), (State::Healthy, probes));
    let (_query, _pending) = pool.hand.submit(1.0, Accepts::Any);
    assert!(pool.hand.pull(LaneId(0)).is_some(), "the next query shows");
}

#[test]
fn at_most_a_third_of_the_lanes_are_stragglers() {
    let mut pool = Pool::new(3, pooled(PolicyKind::Hedged));
    for lane in [LaneId(0), LaneId(1)] {
        for _ in 0..2 {
            let (_query, _pending) = pool.hand.submit(1.0, Accepts::Any);
            assert!(pool.hand.pull(lane).is_some());
            pool.done(lane, 30);
        }
    }
    let stragglers = (0..3).filter(|&lane| matches!(pool.state(LaneId(lane)), State::Straggler { .. })).count();
    assert_eq!(stragglers, 1);
}

#[test]
fn the_ladder_copies_at_low_load_and_leaves_nothing_behind() {
    let mut pool = Pool::new(6, pooled(PolicyKind::Adaptive));
    pool.hand.tick_after(1);
    let query = pool.hand.submit(1.0, Accepts::Any);
    assert!(pool.hand.pull(LaneId(0)).is_some());
    assert!(matches!(pool.hand.pull(LaneId(1)), Some(Work::Batch(Batch::Base(_)))), "an exact copy on an idle lane");
    pool.hand.tick_after(10);
    pool.done(LaneId(0), 10);
    pool.done(LaneId(1), 10);
    assert_eq!(pool.ran(JobKind::IdleCopy), 1);
    pool.hand.tick_after(1);
    let core = &pool.hand.core;
    assert!(core.hedge.is_empty() && core.idle_copy.is_empty() && core.parity.is_empty() && core.data.is_empty());
    assert_eq!((core.occupancy.free(), core.occupancy.healthy()), (6, 6));
    drop(query);
}

/// A parity lane has no base model to be probed with.
#[test]
fn a_parity_lane_that_hung_comes_back_without_a_trial() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let queries = hand.full_stripe(Accepts::Any);
    assert!(hand.pull(PARITY).is_some());
    hand.tick_after(250);
    assert!(matches!(hand.core.seat(PARITY).health().state(), State::Hung { .. }));
    hand.complete(PARITY, Ok(7.0));
    assert!(matches!(hand.pull(PARITY), Some(Work::Canary)));
    hand.core.canary(PARITY, Ok(()), hand.now, &mut hand.effects);
    assert_eq!(hand.core.seat(PARITY).health().state(), State::Healthy);
    hand.complete(BASE[0], Ok(3.0));
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Canary)));
    hand.core.canary(BASE[0], Ok(()), hand.now, &mut hand.effects);
    assert!(matches!(hand.core.seat(BASE[0]).health().state(), State::Straggler { .. }), "a base lane is on trial");
    drop(queries);
}

/// What it did before it hung does not speak for a lane.
#[test]
fn a_trial_takes_two_fast_jobs_however_fast_the_lane_was_before() {
    let mut pool = Pool::new(3, pooled(PolicyKind::Hedged));
    let lane = LaneId(0);
    for _ in 0..3 {
        let (_query, _pending) = pool.hand.submit(1.0, Accepts::Any);
        assert!(pool.hand.pull(lane).is_some());
        pool.done(lane, 10);
    }
    let (_hangs, _pending) = pool.hand.submit(1.0, Accepts::DirectOnly);
    assert!(pool.hand.pull(lane).is_some());
    pool.hand.tick_after(250);
    assert!(matches!(pool.state(lane), State::Hung { .. }));
    pool.done(lane, 250);
    assert!(matches!(pool.hand.pull(lane), Some(Work::Canary)));
    pool.hand.core.canary(lane, Ok(()), pool.hand.now, &mut pool.hand.effects);
    let _queries: Vec<_> = (0..6).map(|_| pool.hand.submit(1.0, Accepts::Any)).collect();
    assert!(pool.hand.pull(LaneId(1)).is_some() && pool.hand.pull(LaneId(2)).is_some());
    for fast in 0..2 {
        assert!(matches!(pool.state(lane), State::Straggler { .. }), "on trial, after {fast} fast jobs");
        assert!(pool.hand.pull(lane).is_some(), "more waits than the others can do");
        pool.done(lane, 10);
    }
    assert_eq!(pool.state(lane), State::Healthy);
}

/// Three lanes that hold everything, under a code of two rows that runs no query as it is.
fn mixing(stragglers: usize, batch_max: usize) -> (Hand, Arc<Berrut>) {
    let code = Arc::new(Berrut::new(2, stragglers, 0).unwrap());
    let hand = Hand::of(Settings {
        lanes: (0..3).map(|lane| LaneSettings::alone(Role::Both, lane)).collect(),
        batch_max,
        code: Some(code.clone()),
        policy: pooled(PolicyKind::Coded),
        ..Hand::settings(Rerun::AtOnce, 2, 1, None)
    });
    (hand, code)
}

/// Under a code that runs no query as it is, the jobs of its stripe are no redundancy that could wait for lanes that idle.
#[test]
fn mixtures_run_on_the_one_lane_that_is_left() {
    // Each in a batch of its own, however many would fit.
    for batch_max in [1, 4] {
        let (mut hand, code) = mixing(1, batch_max);
        let (lost, _pending) = hand.submit(9.0, Accepts::DirectOnly);
        for lane in [LaneId(0), LaneId(1)] {
            assert!(hand.pull(lane).is_some());
            hand.complete(lane, Err(Loss::Panic));
        }
        assert!(lost.answered().is_some(), "and two lanes are out of work");
        let queries = [hand.submit(3.0, Accepts::Any), hand.submit(4.0, Accepts::Any)];
        for _ in 0..2 {
            let Some(Work::Batch(Batch::Parity(inputs))) = hand.pull(LaneId(2)) else { panic!("there is work") };
            let (rows, mut mixture) = (&inputs[0].rows, [0.0]);
            code.encode(inputs[0].row, &[&rows[0], &rows[1]], &mut mixture);
            hand.complete_row(LaneId(2), &mixture);
        }
        for (query, _) in &queries {
            assert_eq!(provenance(query), Some(Provenance::Reconstructed));
        }
    }
}

/// What a lane has lost keeps it for ever from the other mixtures of the stripe, and fenced lanes may be so for ever.
#[test]
fn queries_whose_mixtures_no_lane_that_is_left_may_run_are_run_as_they_are() {
    for (lost, left) in [(1, 1), (2, 2)] {
        let (mut hand, _) = mixing(lost, 1);
        for fenced in (left..3).map(LaneId) {
            hand.core.told(fenced, Told::Begins(Sign::Lost), hand.now, &mut hand.effects);
        }
        let queries = [hand.submit(3.0, Accepts::Any), hand.submit(4.0, Accepts::Any)];
        for lane in (0..left).map(LaneId) {
            assert!(matches!(hand.pull(lane), Some(Work::Batch(Batch::Parity(_)))));
            hand.complete(lane, Err(Loss::Memory));
        }
        assert!(hand.pull(LaneId(0)).is_none() && !hand.core.rest(LaneId(0)), "it finds the rescues at its next look");
        hand.core.rise(LaneId(0));
        for (query, _) in &queries {
            assert!(matches!(hand.pull(LaneId(0)), Some(Work::Batch(Batch::Base(_)))), "{left} left");
            hand.complete(LaneId(0), Ok(9.0));
            assert_eq!(provenance(query), Some(Provenance::Direct));
        }
    }
}

#[test]
fn a_query_whose_stripe_finds_no_room_to_wait_is_run_as_it_is() {
    let (mut hand, code) = mixing(1, 1);
    let (query, _pending) = hand.submit(3.0, Accepts::Any);
    assert!(hand.pull(LaneId(0)).is_none(), "it waits for another");
    let stripe = Stripes::new(code, Arc::clone(&hand.metrics), 1).open();
    let (place, joined) =
        stripe.join(Member { row: query.query.row.clone(), query: Some(query.clone()), domain: None });
    place.stripe.mark_erased(SlotSet::only(place.slot));
    let Joined::Short(filling) = joined else { unreachable!("one of two") };
    filling.close();
    hand.core.takes_no_more(&place.stripe, &mut hand.effects);
    assert!(matches!(hand.pull(LaneId(0)), Some(Work::Batch(Batch::Base(_)))));
    hand.complete(LaneId(0), Ok(3.0));
    assert_eq!(provenance(&query), Some(Provenance::Direct));
}
