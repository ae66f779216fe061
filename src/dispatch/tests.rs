//! Single rules of the core, step by step. What holds over long runs is in `sim`.

mod backup;
mod doubt;
mod gate;
mod mates;
mod orphan;
mod policies;
mod pool;
mod stuck;

use super::*;
use crate::{
    clock::Time,
    code::{Sum, Temperature},
    config::{Grace, Hedge, Policy, PolicyKind, Rerun},
    health::Rules,
    job::{Batch, Completion, Loss, Work},
    query::{Accepts, DeviceId, Failure, FaultDomain, Provenance, Query, Row},
    reply::{Pending, Requests},
};

const BASE: [LaneId; 2] = [LaneId(0), LaneId(1)];
const PARITY: LaneId = LaneId(2);
const DEADLINE: Duration = Duration::from_secs(2);

/// A core with two base lanes and a parity lane, and a hand that moves it.
struct Hand {
    core: Dispatch,
    requests: Requests,
    metrics: Arc<Metrics>,
    now: Time,
    effects: Vec<Effect>,
    /// What queries ask for.
    least: Confidence,
}

impl Hand {
    fn new(rerun: Rerun) -> Self {
        Hand::with_code(rerun, 2, 1)
    }

    fn with_code(rerun: Rerun, k: usize, r: usize) -> Self {
        Hand::with(rerun, k, r, None)
    }

    fn with(rerun: Rerun, k: usize, r: usize, calibration: Option<Calibration>) -> Self {
        Hand::of(Hand::settings(rerun, k, r, calibration))
    }

    fn settings(rerun: Rerun, k: usize, r: usize, calibration: Option<Calibration>) -> Settings {
        let lane = |role, domain| LaneSettings::alone(role, domain);
        Settings {
            lanes: vec![lane(Role::Base, 0), lane(Role::Base, 1), lane(Role::Parity, 2)],
            batch_max: r,
            queue_max: 8,
            code: Some(Arc::new(Sum::with_defaults(k, r).unwrap())),
            calibration,
            stripe_fill: Duration::from_millis(20),
            policy: Policy {
                hedge: Hedge::None,
                grace: Grace::Fixed(Duration::from_millis(15)),
                rerun,
                ..Policy::usual(PolicyKind::Coded, Placement::Dedicated)
            },
            health: Rules { canary_every: None, ..Rules::default() },
        }
    }

    fn of(settings: Settings) -> Self {
        let lanes = settings.lanes.len();
        let metrics = Arc::new(Metrics::new("m", lanes));
        let core = Dispatch::new(settings, Arc::clone(&metrics));
        let mut effects = Vec::new();
        for lane in (0..lanes).map(lane_id) {
            core.ready(lane, Duration::from_millis(10), &mut effects);
        }
        let (requests, least) = (Requests::new(8), Confidence::NONE);
        Hand { core, requests, metrics, now: Time::ZERO, effects: Vec::new(), least }
    }

    fn submit(&mut self, value: f32, accepts: Accepts) -> (Shared<Admitted>, Pending) {
        self.submit_within(value, accepts, true)
    }

    fn submit_within(&mut self, value: f32, accepts: Accepts, in_range: bool) -> (Shared<Admitted>, Pending) {
        let deadline = self.now + DEADLINE;
        let (row, min_confidence) = (Row::whole(vec![value]), self.least);
        let query = Query { row, admitted: self.now, deadline, accepts, min_confidence, in_range };
        let (mut entering, pending) = self.requests.admit([query]).expect("a place is free");
        let admitted = entering.next().unwrap();
        self.core.submit([admitted.clone()], &mut self.effects);
        (admitted, pending)
    }

    fn pull(&mut self, lane: LaneId) -> Option<Work> {
        self.core.pull(lane, self.now, &mut self.effects)
    }

    /// The lane's one job gives `value` (the model is the identity), or is lost.
    fn complete(&mut self, lane: LaneId, outcome: Result<f32, Loss>) {
        match outcome {
            Ok(value) => self.complete_row(lane, &[value]),
            Err(loss) => self.completed(lane, Completion::Lost(loss)),
        }
    }

    /// The lane's one job gives this output.
    fn complete_row(&mut self, lane: LaneId, output: &[f32]) {
        self.completed(lane, Completion::Output(output.into()));
    }

    fn completed(&mut self, lane: LaneId, completion: Completion) {
        self.core.complete(completed(lane, &mut vec![completion], 10), self.now, &mut self.effects);
    }

    fn tick_after(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.core.tick(self.now, &mut self.effects);
    }

    /// Two queries in flight on the two base lanes, and their parity job on the parity lane.
    fn full_stripe(&mut self, accepts: Accepts) -> [(Shared<Admitted>, Pending); 2] {
        let queries = [self.submit(3.0, accepts), self.submit(4.0, accepts)];
        for lane in BASE {
            assert!(matches!(self.pull(lane), Some(Work::Batch(Batch::Base(_)))));
        }
        queries
    }
}

/// What a lane says of a batch after so many milliseconds; the batch itself was let go of.
fn completed(lane: LaneId, completions: &mut Vec<Completion>, ms: u64) -> Completed<'_> {
    Completed { lane, batch: Batch::Base(Vec::new()), completions, service: Duration::from_millis(ms) }
}

fn provenance(query: &Admitted) -> Option<Provenance> {
    query.answered().and_then(|answer| answer.as_ref().ok()).map(|prediction| prediction.provenance)
}

#[test]
fn a_late_answer_is_decoded_when_its_grace_is_over_and_compared_when_it_comes() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let queries = hand.full_stripe(Accepts::Any);
    assert!(matches!(hand.pull(PARITY), Some(Work::Batch(Batch::Parity(inputs))) if inputs[0].row == 0));
    hand.tick_after(5);
    hand.complete(BASE[0], Ok(3.0));
    hand.complete(PARITY, Ok(7.5));
    assert_eq!(provenance(&queries[0].0), Some(Provenance::Direct));
    assert_eq!(provenance(&queries[1].0), None, "the direct answer may still come");
    hand.tick_after(10);
    assert_eq!(provenance(&queries[1].0), Some(Provenance::Reconstructed));
    let Some(Ok(prediction)) = queries[1].0.answered() else { unreachable!("just seen") };
    assert_eq!(prediction.values[..], [4.5]);
    hand.complete(BASE[1], Ok(4.0));
    assert!(hand.metrics.text().contains("parityd_agreement_total{agree=\"true\"} 1"));
}

/// Where a policy has no code there is no protection that a query could be without.
#[test]
fn queries_without_a_stripe_are_counted_where_others_have_one() {
    let counted = |mut hand: Hand| {
        let queries = [hand.submit_within(9e9, Accepts::Any, false), hand.submit(4.0, Accepts::Any)];
        for lane in BASE {
            assert!(matches!(hand.pull(lane), Some(Work::Batch(Batch::Base(_)))));
        }
        drop(queries);
        hand.metrics.unprotected.get()
    };
    assert_eq!(counted(Hand::new(Rerun::AtOnce)), 1);
    let mut settings = Hand::settings(Rerun::AtOnce, 2, 1, None);
    (settings.code, settings.policy) = (None, Policy::usual(PolicyKind::None, Placement::Dedicated));
    assert_eq!(counted(Hand::of(settings)), 0);
}

#[test]
fn a_lost_job_is_decoded_at_once_and_its_lane_waits_for_a_canary() {
    let mut hand = Hand::new(Rerun::AfterDecode);
    let queries = hand.full_stripe(Accepts::Any);
    hand.pull(PARITY);
    hand.complete(BASE[0], Ok(3.0));
    hand.complete(BASE[1], Err(Loss::Panic));
    hand.complete(PARITY, Ok(7.0));
    assert_eq!(provenance(&queries[1].0), Some(Provenance::Reconstructed), "no grace for what is known to be lost");
    drop(hand.submit(1.0, Accepts::Any));
    assert!(hand.pull(BASE[1]).is_none(), "it has lost a job");
    hand.tick_after(100);
    assert!(hand.effects.contains(&Effect::Wake(BASE[1])), "the timer wakes it for its canary");
    assert!(matches!(hand.pull(BASE[1]), Some(Work::Canary)));
    hand.core.canary(BASE[1], Ok(()), hand.now, &mut hand.effects);
    assert_eq!(hand.core.describe(BASE[1]).0, "healthy");
}

#[test]
fn what_the_stripe_cannot_decode_is_run_again() {
    let mut hand = Hand::new(Rerun::AfterDecode);
    let queries = hand.full_stripe(Accepts::Any);
    hand.pull(PARITY);
    hand.complete(BASE[1], Err(Loss::NonFinite));
    hand.complete(PARITY, Err(Loss::Device));
    hand.complete(BASE[0], Ok(3.0));
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(Batch::Base(_)))), "both lost: rescue");
    hand.complete(BASE[0], Ok(4.0));
    assert_eq!(provenance(&queries[1].0), Some(Provenance::Direct));
}

#[test]
fn a_query_that_two_lanes_lose_is_at_fault_and_neither_lane_is_blamed() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let (query, _pending) = hand.submit(9.0, Accepts::Any);
    hand.pull(BASE[0]);
    hand.complete(BASE[0], Err(Loss::Panic));
    assert!(matches!(hand.pull(BASE[1]), Some(Work::Batch(_))), "run again on the other lane");
    hand.complete(BASE[1], Err(Loss::Panic));
    assert!(matches!(query.answered(), Some(Err(Failure::QueryFault))));
    for lane in BASE {
        assert!(matches!(hand.pull(lane), Some(Work::Canary)), "a canary decides at once");
    }
}

#[test]
fn a_hung_lanes_query_is_run_elsewhere_and_its_own_answer_is_late() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let (query, _pending) = hand.submit(9.0, Accepts::DirectOnly);
    hand.pull(BASE[0]);
    hand.tick_after(201);
    assert_eq!(hand.core.describe(BASE[0]).0, "hung");
    assert!(matches!(hand.pull(BASE[1]), Some(Work::Batch(_))));
    hand.complete(BASE[1], Ok(9.0));
    assert_eq!(provenance(&query), Some(Provenance::Direct));
    hand.complete(BASE[0], Ok(9.0));
    assert_eq!(hand.metrics.late.get(), 1);
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Canary)), "back, but on probation");
}

#[test]
fn a_parity_lane_that_never_pulls_does_not_keep_the_permits() {
    let mut hand = Hand::new(Rerun::AtOnce);
    for _ in 0..100 {
        let queries = hand.full_stripe(Accepts::Any);
        hand.complete(BASE[0], Ok(3.0));
        hand.complete(BASE[1], Ok(4.0));
        hand.tick_after(1);
        drop(queries);
    }
    assert_eq!(hand.requests.admitted(), 0);
}

#[test]
fn a_known_partner_fills_a_stripe_that_stays_short() {
    let mut hand = Hand::new(Rerun::AfterDecode);
    let first = hand.submit(3.0, Accepts::Any);
    hand.pull(BASE[0]);
    hand.complete(BASE[0], Ok(3.0));
    hand.tick_after(30);
    let (second, _pending) = hand.submit(5.0, Accepts::Any);
    hand.pull(BASE[1]);
    hand.tick_after(21);
    assert!(matches!(hand.pull(PARITY), Some(Work::Batch(Batch::Parity(_)))), "3 + 5 is encoded");
    hand.complete(PARITY, Ok(8.0));
    assert_eq!(provenance(&second), Some(Provenance::Reconstructed));
    drop(first);
}

#[test]
fn deadlines_do_not_wait_for_lanes() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let (query, _pending) = hand.submit(1.0, Accepts::Any);
    hand.tick_after(1_999);
    assert!(query.answered().is_none());
    hand.tick_after(1);
    assert!(matches!(query.answered(), Some(Err(Failure::Deadline))));
    assert!(hand.pull(BASE[0]).is_none(), "nobody runs it any more");
}

#[test]
fn a_lost_query_waits_for_the_decode_but_not_for_ever() {
    let mut hand = Hand::new(Rerun::AfterDecode);
    let queries = hand.full_stripe(Accepts::Any);
    hand.complete(BASE[0], Ok(3.0));
    hand.complete(BASE[1], Err(Loss::Panic));
    hand.tick_after(39);
    assert!(hand.pull(BASE[0]).is_none(), "the parity lane may still start the parity job");
    hand.tick_after(2);
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(_))), "it does not: run it again");
    hand.complete(BASE[0], Ok(4.0));
    assert_eq!(provenance(&queries[1].0), Some(Provenance::Direct));
}

#[test]
fn a_query_is_rescued_once_at_a_time() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let (query, _pending) = hand.submit(9.0, Accepts::Any);
    hand.pull(BASE[0]);
    hand.tick_after(21);
    hand.complete(BASE[0], Err(Loss::Device));
    assert_eq!(hand.core.rescue.len(), 1, "its stripe has no hope and its job is lost: one rescue");
    hand.pull(BASE[1]);
    hand.tick_after(201);
    assert_eq!(hand.core.describe(BASE[1]).0, "hung");
    assert_eq!(hand.core.rescue.len(), 1, "the rescue hangs: one more");
    assert!(query.is_open());
}

#[test]
fn a_hung_lane_does_not_keep_the_permit_of_an_answered_query() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let (query, _pending) = hand.submit(9.0, Accepts::Any);
    hand.pull(BASE[0]);
    hand.tick_after(201);
    assert_eq!(hand.requests.admitted(), 1);
    hand.pull(BASE[1]);
    hand.complete(BASE[1], Ok(9.0));
    assert!(query.answered().is_some());
    assert_eq!(hand.requests.admitted(), 0);
}

#[test]
fn one_parity_lane_runs_both_rows_of_a_code_with_two() {
    let mut hand = Hand::with_code(Rerun::AtOnce, 2, 2);
    let first = hand.submit(3.0, Accepts::Any);
    hand.pull(BASE[0]);
    let second = hand.submit(4.0, Accepts::Any);
    hand.pull(BASE[1]);
    for row in 0..2 {
        let work = hand.pull(PARITY);
        assert!(matches!(&work, Some(Work::Batch(Batch::Parity(inputs))) if inputs[0].row == row), "{work:?}");
        hand.complete(PARITY, Ok(if row == 0 { 7.0 } else { -1.0 }));
    }
    hand.tick_after(16);
    for (query, _) in [&first, &second] {
        assert_eq!(
            provenance(query),
            Some(Provenance::Reconstructed),
            "both members are late, and two parities decode both"
        );
    }
}

#[test]
fn what_one_fault_domain_loses_twice_does_not_prove_the_query_at_fault() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let (query, _pending) = hand.submit(9.0, Accepts::Any);
    hand.pull(BASE[0]);
    hand.complete(BASE[0], Err(Loss::Device));
    hand.tick_after(100);
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Canary)));
    hand.core.canary(BASE[0], Ok(()), hand.now, &mut hand.effects);
    hand.pull(BASE[0]);
    hand.complete(BASE[0], Err(Loss::Device));
    assert!(query.is_open(), "lane 1 is healthy and has not tried");
    hand.pull(BASE[1]);
    hand.complete(BASE[1], Ok(9.0));
    assert_eq!(provenance(&query), Some(Provenance::Direct));
}

#[test]
fn what_finds_no_memory_is_run_again_and_blames_neither_lane_nor_query() {
    let mut hand = Hand::new(Rerun::AtOnce);
    let (query, _pending) = hand.submit(9.0, Accepts::Any);
    for lane in BASE {
        hand.pull(lane);
        hand.complete(lane, Err(Loss::Memory));
        assert!(query.is_open(), "two lanes have lost it");
    }
    // Without a canary.
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(Batch::Base(_)))));
    hand.complete(BASE[0], Ok(9.0));
    assert_eq!(provenance(&query), Some(Provenance::Direct));
}
