//! What the core costs a query: `cargo bench`.
//!
//! Not a latency of the daemon; no lane, socket or model is in here. Encoders, decoders and threads are timed by `parityd bench micro`; here
//! allocations are counted, too, once pools are warm; `tests/allocations.rs` holds those of the whole path at none. Compare two commits in one
//! sitting on one machine.

use std::{sync::Arc, time::Duration};

use divan::{Bencher, counter::ItemsCount};
use parityd::{
    clock::Time,
    code::Sum,
    config::{Grace, Placement, Policy, PolicyKind},
    dispatch::{Completed, Dispatch, LaneSettings, Settings},
    health::Rules,
    job::{Batch, Completion, Role, Work},
    metrics::Metrics,
    query::{Accepts, Confidence, LaneId, Query, Row, Values},
    reply::Requests,
};

/// Counts what each benchmark allocates.
#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

/// Runs before it is counted: enough to warm every pool.
const WARM_UP: usize = 10_000;
/// Queries, or stripes, between two ticks.
const PER_TICK: u64 = 100;
const TICK: Duration = Duration::from_millis(1);

fn main() {
    divan::main();
}

fn settings() -> Settings {
    let lane = |role, domain| LaneSettings::alone(role, domain);
    Settings {
        lanes: vec![lane(Role::Base, 0), lane(Role::Base, 1), lane(Role::Parity, 2)],
        batch_max: 1,
        queue_max: 1024,
        code: Some(Arc::new(Sum::with_defaults(2, 1).expect("a small code"))),
        calibration: None,
        stripe_fill: Duration::from_millis(20),
        policy: Policy {
            grace: Grace::Fixed(Duration::from_millis(5)),
            ..Policy::usual(PolicyKind::Coded, Placement::Dedicated)
        },
        health: Rules { canary_every: None, ..Rules::default() },
    }
}

/// What a lane was given; panics if it was nothing.
fn batch(work: Option<Work>) -> Batch {
    let Some(Work::Batch(batch)) = work else { unreachable!("there is work for this lane") };
    batch
}

/// A query that takes any answer.
fn query(row: &Row, admitted: Time, patience: Duration) -> Query {
    let (row, deadline) = (row.clone(), admitted + patience);
    Query { row, admitted, deadline, accepts: Accepts::Any, min_confidence: Confidence::NONE, in_range: true }
}

/// Two queries from admission to their answers, with their stripe; the parity job is not run.
#[divan::bench]
fn a_stripe_of_two_queries(bencher: Bencher<'_, '_>) {
    let dispatch = Dispatch::new(settings(), Arc::new(Metrics::new("bench", 3)));
    let mut effects = Vec::new();
    for lane in 0..3 {
        dispatch.ready(LaneId(lane), Duration::from_millis(1), &mut effects);
    }
    let (row, output, requests) = (Row::whole(vec![0.5; 784]), Values::from(vec![0.5; 10]), Requests::new(1024));
    let (mut now, mut completions) = (Time::ZERO, Vec::new());
    let mut stripe = || {
        now = now + Duration::from_micros(1);
        let query = || query(&row, now, TICK);
        let (queries, pending) = requests.admit([query(), query()]).expect("their places come back each time");
        dispatch.submit(queries, &mut effects);
        let batches = [LaneId(0), LaneId(1)].map(|lane| (lane, batch(dispatch.pull(lane, now, &mut effects))));
        for (lane, batch) in batches {
            completions.push(Completion::Output(Arc::clone(&output)));
            let completed = Completed { lane, batch, completions: &mut completions, service: TICK };
            dispatch.complete(completed, now, &mut effects);
        }
        dispatch.tick(now, &mut effects);
        effects.clear();
        // Nobody needs the parity jobs any more; the parity lane passes them over.
        assert!(dispatch.pull(LaneId(2), now, &mut effects).is_none());
        drop(pending);
    };
    (0..WARM_UP).for_each(|_| stripe());
    bencher.counter(ItemsCount::new(2_usize)).bench_local(stripe);
}

/// Events of the core (submit, pull, complete) on a machine of many lanes: a query at a time, the lanes in turn. Ticks are not in it.
#[divan::bench(args = [16, 256, 1000])]
fn event(bencher: Bencher<'_, '_>, lanes: u16) {
    let lane = |domain| LaneSettings::alone(Role::Base, domain);
    let settings = Settings {
        lanes: (0..lanes).map(lane).collect(),
        code: None,
        policy: Policy::usual(PolicyKind::Hedged, Placement::Dedicated),
        ..settings()
    };
    let dispatch = Dispatch::new(settings, Arc::new(Metrics::new("bench", usize::from(lanes))));
    let mut effects = Vec::new();
    for lane in 0..lanes {
        dispatch.ready(LaneId(lane), Duration::from_millis(1), &mut effects);
    }
    let (row, output, requests) = (Row::whole(vec![0.5; 784]), Values::from(vec![0.5; 10]), Requests::new(1024));
    let (mut count, mut lane, mut completions) = (0, 0, Vec::new());
    let mut three = || {
        count += 1;
        let now = Time::ZERO + Duration::from_micros(10 * count);
        lane = (lane + 1) % lanes;
        let (queries, pending) = requests.admit([query(&row, now, TICK)]).expect("its place comes back each time");
        dispatch.submit(queries, &mut effects);
        let batch = batch(dispatch.pull(LaneId(lane), now, &mut effects));
        completions.push(Completion::Output(Arc::clone(&output)));
        let completed = Completed { lane: LaneId(lane), batch, completions: &mut completions, service: TICK };
        dispatch.complete(completed, now, &mut effects);
        effects.clear();
        if count.is_multiple_of(PER_TICK) {
            dispatch.tick(now, &mut effects);
        }
        drop(pending);
    };
    (0..WARM_UP).for_each(|_| three());
    bencher.counter(ItemsCount::new(3_usize)).bench_local(three);
}

/// One tick with every lane at work.
#[divan::bench(args = [16, 256, 1000])]
fn tick(bencher: Bencher<'_, '_>, lanes: u16) {
    let lane = |domain| LaneSettings::alone(Role::Base, domain);
    let policy = Policy::usual(PolicyKind::Hedged, Placement::Dedicated);
    let settings = Settings { lanes: (0..lanes).map(lane).collect(), code: None, policy, ..settings() };
    let dispatch = Dispatch::new(settings, Arc::new(Metrics::new("bench", usize::from(lanes))));
    let mut effects = Vec::new();
    let (row, requests) = (Row::whole(vec![0.5; 784]), Requests::new(1024));
    let mut pending = Vec::new();
    for lane in (0..lanes).map(LaneId) {
        dispatch.ready(lane, Duration::from_hours(1), &mut effects);
        let query = query(&row, Time::ZERO, Duration::from_hours(10_000));
        let (queries, one) = requests.admit([query]).expect("fewer lanes than places");
        pending.push(one);
        dispatch.submit(queries, &mut effects);
        assert!(dispatch.pull(lane, Time::ZERO, &mut effects).is_some(), "there is a query");
    }
    let mut now = Time::ZERO;
    bencher.bench_local(|| {
        now = now + Duration::from_micros(1);
        dispatch.tick(now, &mut effects);
        effects.clear();
    });
}
