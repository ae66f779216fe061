//! Backups of late queries, step by step.

use super::{pool::Pool, *};
use crate::{
    code::Stacked,
    config::{ParityWhen, Placement},
};

/// Lanes under `adaptive` whose queries have a backup each, so few or so busy that the ladder affords none in advance.
fn pool(lanes: u16) -> Pool {
    Pool::with_code(lanes, 1, Policy::usual(PolicyKind::Adaptive, Placement::Pooled), Arc::new(Stacked::backup()))
}

fn is_backup(work: Option<&Work>) -> bool {
    matches!(work, Some(Work::Batch(Batch::Parity(_))))
}

fn is_base(work: Option<&Work>) -> bool {
    matches!(work, Some(Work::Batch(Batch::Base(_))))
}

/// Both lanes run a query; that on lane 0 becomes late, and lane 1 is free again.
fn late(pool: &mut Pool, accepts: Accepts) -> (Shared<Admitted>, Pending) {
    let (first, second) = (pool.hand.submit(1.0, accepts), pool.hand.submit(2.0, Accepts::Any));
    for lane in 0..2 {
        assert!(is_base(pool.hand.pull(LaneId(lane)).as_ref()));
    }
    pool.hand.tick_after(1);
    pool.done(LaneId(1), 10);
    assert!(pool.hand.pull(LaneId(1)).is_none(), "no lane is to spare for a backup in advance");
    pool.hand.tick_after(3);
    drop(second);
    first
}

#[test]
fn a_late_query_is_answered_by_its_backup_at_once_and_not_hedged() {
    let mut pool = pool(2);
    let (query, _pending) = late(&mut pool, Accepts::Any);
    let waits = pool.hand.submit(3.0, Accepts::Any);
    assert!(is_backup(pool.hand.pull(LaneId(1)).as_ref()), "before the query that waits");
    pool.hand.tick_after(3);
    pool.done(LaneId(1), 3);
    assert_eq!(provenance(&query), Some(Provenance::Approximate), "7 ms after it came, and its grace is 15");
    assert!(is_base(pool.hand.pull(LaneId(1)).as_ref()), "the query that waited");
    assert_eq!((pool.ran(JobKind::Hedge), pool.hand.core.hedge.len()), (0, 0));
    drop(waits);
}

#[test]
fn a_late_query_whose_backup_is_lost_is_run_again() {
    let mut pool = pool(2);
    let (query, _pending) = late(&mut pool, Accepts::Any);
    assert!(is_backup(pool.hand.pull(LaneId(1)).as_ref()));
    pool.hand.complete(LaneId(1), Err(Loss::Device));
    assert_eq!((provenance(&query), pool.hand.core.rescue.len()), (None, 1));
}

#[test]
fn a_late_query_that_takes_no_approximate_answer_is_hedged() {
    let mut pool = pool(2);
    let (_query, _pending) = late(&mut pool, Accepts::DirectOnly);
    assert!(is_base(pool.hand.pull(LaneId(1)).as_ref()));
    assert!(pool.hand.core.backup.is_empty());
}

#[test]
fn a_straggler_takes_a_query_that_its_backup_answers() {
    let mut pool = pool(3);
    for _ in 0..2 {
        let (_query, _pending) = pool.hand.submit(1.0, Accepts::Any);
        assert!(pool.hand.pull(LaneId(0)).is_some());
        pool.done(LaneId(0), 40);
    }
    assert!(pool.hand.core.seat(LaneId(0)).is_straggler());
    assert!(pool.hand.pull(LaneId(0)).is_some(), "a probe");
    pool.done(LaneId(0), 40);
    let others = [pool.hand.submit(1.0, Accepts::Any), pool.hand.submit(1.0, Accepts::Any)];
    assert!(pool.hand.pull(LaneId(1)).is_some() && pool.hand.pull(LaneId(2)).is_some());
    let query = pool.hand.submit(2.0, Accepts::Any);
    assert!(is_base(pool.hand.pull(LaneId(0)).as_ref()), "two service times of waiting against four of its own");
    let waits = pool.hand.submit(3.0, Accepts::Any);
    pool.done(LaneId(1), 10);
    assert!(is_backup(pool.hand.pull(LaneId(1)).as_ref()), "before the query that waits");
    pool.done(LaneId(1), 3);
    assert_eq!(provenance(&query.0), Some(Provenance::Approximate));
    drop((others, waits));
}

#[test]
fn where_queries_wait_for_long_a_straggler_runs_them_without_backup() {
    let mut pool = pool(3);
    for _ in 0..2 {
        let (_query, _pending) = pool.hand.submit(1.0, Accepts::Any);
        assert!(pool.hand.pull(LaneId(0)).is_some());
        pool.done(LaneId(0), 40);
    }
    assert!(pool.hand.pull(LaneId(0)).is_some(), "a probe");
    pool.done(LaneId(0), 40);
    let queries: Vec<_> = (0..6).map(|_| pool.hand.submit(1.0, Accepts::Any)).collect();
    assert!(pool.hand.pull(LaneId(1)).is_some() && pool.hand.pull(LaneId(2)).is_some());
    assert!(pool.hand.pull(LaneId(0)).is_some(), "four that wait would be served after five service times");
    assert!(pool.hand.core.backup.is_empty());
    drop(queries);
}

/// It waits for a lane of another domain, and for nothing that this one could do.
#[test]
fn a_lane_rests_that_may_not_run_the_backup_that_waits() {
    for parity in [ParityWhen::Always, ParityWhen::Idle] {
        let policy = Policy { parity, ..Policy::usual(PolicyKind::Adaptive, Placement::Pooled) };
        let mut pool = Pool::on(&[0, 0, 1], 1, policy, Arc::new(Stacked::backup()));
        let running = [1.0, 2.0, 3.0].map(|value| pool.hand.submit(value, Accepts::Any));
        for lane in 0..3 {
            assert!(is_base(pool.hand.pull(LaneId(lane)).as_ref()));
        }
        pool.hand.tick_after(1);
        pool.done(LaneId(1), 10);
        assert!(pool.hand.pull(LaneId(1)).is_none());
        pool.hand.core.progress(LaneId(2), 4, pool.hand.now);
        pool.hand.tick_after(3);
        assert!(pool.hand.pull(LaneId(1)).is_none(), "{parity:?}: its query runs in the same domain");
        assert!(!pool.hand.core.backup.is_empty() && pool.hand.core.rest(LaneId(1)), "{parity:?}");
        drop(running);
    }
}
