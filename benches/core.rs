//! What the core costs a query: `cargo bench`.
//!
//! Not a latency of the daemon; no lane, socket or model is in here. Encoders, decoders and threads are timed by `parityd bench micro`; here
//! allocations are counted, too. Compare two commits in one sitting on one machine.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use divan::{Bencher, counter::ItemsCount};
use parityd::{
    clock::Time,
    code::Sum,
    config::{Grace, Placement, Policy, PolicyKind},
    dispatch::{Completed, Dispatch, LaneSettings, Settings},
    health::Rules,
    job::{Completion, Role, Work},
    metrics::Metrics,
    query::{Accepts, Confidence, FaultDomain, LaneId, Query, Row, Values},
    reply::{Admitted, Permit},
};

/// Counts what each benchmark allocates.
#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

fn settings() -> Settings {
    let lane = |role, domain| LaneSettings { role, domain: FaultDomain(domain) };
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
    let (row, output, taken) = (Row::whole(vec![0.5; 784]), Values::from(vec![0.5; 10]), Arc::new(AtomicUsize::new(0)));
    let query = |now| query(&row, now, Duration::from_millis(1));
    let mut now = Time::ZERO;
    bencher.counter(ItemsCount::new(2_usize)).bench_local(|| {
        now = now + Duration::from_micros(1);
        let permits = Permit::acquire(&taken, 1024, 2).expect("they come back each time");
        let (admitted, pending) = Admitted::request(vec![query(now), query(now)], permits);
        dispatch.submit(admitted, &mut effects);
        for lane in [LaneId(0), LaneId(1)] {
            let work = dispatch.pull(lane, now, &mut effects);
            assert!(matches!(work, Some(Work::Batch(_))), "there are two queries for two lanes");
        }
        for lane in [LaneId(0), LaneId(1)] {
            let completions = vec![Completion::Output(Arc::clone(&output))];
            dispatch.complete(Completed { lane, completions, service: Duration::from_millis(1) }, now, &mut effects);
        }
        dispatch.tick(now, &mut effects);
        effects.clear();
        // Nobody needs the parity jobs any more; the parity lane passes them over.
        assert!(dispatch.pull(LaneId(2), now, &mut effects).is_none());
        drop(pending);
    });
}

/// Events of the core (submit, pull, complete) on a machine of many lanes: a query at a time, the lanes in turn. Ticks are not in it.
#[divan::bench(args = [16, 256, 1000])]
fn event(bencher: Bencher<'_, '_>, lanes: u16) {
    let lane = |domain| LaneSettings { role: Role::Base, domain: FaultDomain(domain) };
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
    let (row, output, taken) = (Row::whole(vec![0.5; 784]), Values::from(vec![0.5; 10]), Arc::new(AtomicUsize::new(0)));
    let (mut now, mut lane) = (Time::ZERO, 0);
    bencher.counter(ItemsCount::new(3_usize)).bench_local(|| {
        now = now + Duration::from_micros(1);
        lane = (lane + 1) % lanes;
        let query = query(&row, now, Duration::from_millis(1));
        let permits = Permit::acquire(&taken, 1024, 1).expect("it comes back each time");
        let (admitted, pending) = Admitted::request(vec![query], permits);
        dispatch.submit(admitted, &mut effects);
        assert!(dispatch.pull(LaneId(lane), now, &mut effects).is_some(), "there is a query");
        let completions = vec![Completion::Output(Arc::clone(&output))];
        let completed = Completed { lane: LaneId(lane), completions, service: Duration::from_millis(1) };
        dispatch.complete(completed, now, &mut effects);
        effects.clear();
        if now.nanos().is_multiple_of(1_000_000) {
            dispatch.tick(now, &mut effects);
        }
        drop(pending);
    });
}

/// One tick with every lane at work.
#[divan::bench(args = [16, 256, 1000])]
fn tick(bencher: Bencher<'_, '_>, lanes: u16) {
    let lane = |domain| LaneSettings { role: Role::Base, domain: FaultDomain(domain) };
    let policy = Policy::usual(PolicyKind::Hedged, Placement::Dedicated);
    let settings = Settings { lanes: (0..lanes).map(lane).collect(), code: None, policy, ..settings() };
    let dispatch = Dispatch::new(settings, Arc::new(Metrics::new("bench", usize::from(lanes))));
    let mut effects = Vec::new();
    let (row, taken) = (Row::whole(vec![0.5; 784]), Arc::new(AtomicUsize::new(0)));
    let mut pending = Vec::new();
    for lane in (0..lanes).map(LaneId) {
        dispatch.ready(lane, Duration::from_hours(1), &mut effects);
        let query = query(&row, Time::ZERO, Duration::from_hours(10_000));
        let permits = Permit::acquire(&taken, 1024, 1).expect("fewer lanes than places");
        let (admitted, one) = Admitted::request(vec![query], permits);
        pending.push(one);
        dispatch.submit(admitted, &mut effects);
        assert!(dispatch.pull(lane, Time::ZERO, &mut effects).is_some(), "there is a query");
    }
    let mut now = Time::ZERO;
    bencher.bench_local(|| {
        now = now + Duration::from_micros(1);
        dispatch.tick(now, &mut effects);
        effects.clear();
    });
}
