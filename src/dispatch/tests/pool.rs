//! Lanes that all hold everything, for tests of policies.

use super::*;
use crate::{health::State, job::PARTS};

/// Some lanes that all hold everything, under a policy; jobs take 10 ms, and lanes have learned how they go.
pub(super) struct Pool {
    pub(super) hand: Hand,
}

impl Pool {
    pub(super) fn new(lanes: u16, policy: Policy) -> Self {
        Pool::with_batches(lanes, 1, policy)
    }

    pub(super) fn with_batches(lanes: u16, batch_max: usize, policy: Policy) -> Self {
        Pool::with_code(lanes, batch_max, policy, Arc::new(Sum::with_defaults(2, 1).unwrap()))
    }

    pub(super) fn with_code(lanes: u16, batch_max: usize, policy: Policy, code: Arc<dyn Code>) -> Self {
        Pool::on(&(0..lanes).collect::<Vec<_>>(), batch_max, policy, code)
    }

    /// A lane in each of these fault domains.
    pub(super) fn on(domains: &[u16], batch_max: usize, policy: Policy, code: Arc<dyn Code>) -> Self {
        let coded = policy.kind.is_coded();
        let lane = |(number, &domain): (usize, &u16)| LaneSettings {
            domain: FaultDomain(domain),
            ..LaneSettings::alone(Role::Both, lane_id(number).0)
        };
        let settings = Settings {
            lanes: domains.iter().enumerate().map(lane).collect(),
            batch_max,
            queue_max: 8,
            code: coded.then_some(code),
            calibration: None,
            stripe_fill: Duration::from_millis(20),
            policy,
            health: Rules { canary_every: None, ..Rules::default() },
        };
        let mut pool = Pool { hand: Hand::of(settings) };
        for lane in (0..domains.len()).map(lane_id) {
            pool.learn(lane);
        }
        pool
    }

    /// A query on this lane that goes as usual.
    pub(super) fn learn(&mut self, lane: LaneId) {
        let (_, pending) = self.hand.submit(0.0, Accepts::Any);
        assert!(self.hand.pull(lane).is_some());
        for part in 1..=PARTS {
            self.hand.now = self.hand.now + Duration::from_micros(1250);
            self.hand.core.progress(lane, part, self.hand.now);
        }
        self.done(lane, 10);
        drop(pending);
    }

    pub(super) fn done(&mut self, lane: LaneId, ms: u64) {
        self.all_done(lane, 1, ms);
    }

    pub(super) fn all_done(&mut self, lane: LaneId, jobs: usize, ms: u64) {
        let mut completions = vec![Completion::Output(vec![0.0].into()); jobs];
        let completed = completed(lane, &mut completions, ms);
        self.hand.core.complete(completed, self.hand.now, &mut self.hand.effects);
    }

    pub(super) fn state(&self, lane: LaneId) -> State {
        self.hand.core.seat(lane).health().state()
    }

    /// Jobs of this kind that have come back.
    pub(super) fn ran(&self, kind: JobKind) -> u64 {
        self.hand.core.jobs[JobKind::ALL.iter().position(|each| *each == kind).unwrap()].get()
    }
}
