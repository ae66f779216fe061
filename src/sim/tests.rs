//! The promises, under drawn faults. A failure prints its seed; `run(&Scenario { seed, ..scenario })` replays it.

use super::*;
use crate::config::{Grace, Hedge, Rerun};
use crate::query::{Confidence, Failure, Provenance};

fn count(outcome: &Outcome, provenance: Provenance) -> usize {
    outcome.ended.iter().filter(|ended| matches!(&ended.answer, Ok(p) if p.provenance == provenance)).count()
}

fn failed(outcome: &Outcome, failure: Failure) -> usize {
    outcome.ended.iter().filter(|ended| matches!(&ended.answer, Err(f) if *f == failure)).count()
}

/// Runs the scenario under several seeds and checks what must hold whatever happens.
fn sound(scenario: &Scenario) -> Vec<Outcome> {
    let check = |seed| {
        let outcome = run(&Scenario { seed, ..scenario.clone() });
        let first = outcome.broken.first();
        assert!(first.is_none(), "seed {seed}: {} promises broken, first: {}", outcome.broken.len(), first.unwrap());
        assert_eq!(outcome.stripes_open, 0, "seed {seed}: stripes are left behind");
        assert_eq!(outcome.permits_out, 0, "seed {seed}: permits are left behind");
        outcome
    };
    (scenario.seed..scenario.seed + 5).map(check).collect()
}

/// The pace from so many milliseconds on.
fn course(changes: &[(u64, Pace)]) -> Course {
    let from = |ms: u64| Time::from_nanos(ms * 1_000_000);
    Course { changes: changes.iter().map(|&(ms, pace)| (from(ms), pace)).collect() }
}

#[test]
fn without_faults_answers_are_direct() {
    // At a twentieth of the load that two lanes carry, so that hardly a query waits for longer than its grace.
    for outcome in sound(&Scenario { gap: Duration::from_millis(100), ..Scenario::quiet(1) }) {
        assert!(count(&outcome, Provenance::Direct) >= outcome.ended.len() * 999 / 1000);
        assert_eq!(outcome.ended.iter().filter(|ended| ended.answer.is_err()).count(), 0);
    }
}

#[test]
fn jobs_that_hang_are_answered_by_reconstruction_long_before_they_return() {
    let faults = Faults { stall: 0.01, ..Faults::default() };
    let patient = Policy { health: false, grace: Grace::None, rerun: Rerun::AfterDecode, ..Scenario::quiet(0).policy };
    let rules = Rules { hang: None, ..Scenario::quiet(0).health };
    for outcome in sound(&Scenario { faults, policy: patient, health: rules, ..Scenario::quiet(2) }) {
        assert!(count(&outcome, Provenance::Reconstructed) >= 10);
        assert_eq!(failed(&outcome, Failure::Deadline), 0);
    }
}

#[test]
fn lost_jobs_cost_no_query_while_a_healthy_lane_is_left() {
    let faults = Faults { lost: 0.02, ..Faults::default() };
    for outcome in sound(&Scenario { faults, ..Scenario::quiet(3) }) {
        let answered = outcome.ended.iter().filter(|ended| ended.answer.is_ok()).count();
        // A query that happens to be lost on two lanes looks like its own fault; with 2 % lost jobs that is 1 in 2,500.
        assert!(answered + failed(&outcome, Failure::QueryFault) == outcome.ended.len(), "nothing else may fail");
        assert!(failed(&outcome, Failure::QueryFault) <= 6);
    }
}

#[test]
fn everything_at_once_on_more_lanes_with_two_parities_and_batches() {
    let faults = Faults { slow: 0.02, lost: 0.01, stall: 0.01, ..Faults::default() };
    let roles = [vec![Role::Base; 6], vec![Role::Parity; 3]].concat();
    let scenario = Scenario {
        faults,
        roles,
        code: Some(Spec::of(Kind::Sum, 3, 2)),
        batch_max: 4,
        gap: Duration::from_millis(2),
        poison_every: 97,
        direct_only_every: 7,
        ..Scenario::quiet(4)
    };
    for outcome in sound(&scenario) {
        assert!(count(&outcome, Provenance::Reconstructed) > 0);
        let poisoned = outcome.ended.iter().filter(|ended| ended.poison);
        for ended in poisoned {
            let decoded = matches!(&ended.answer, Ok(p) if p.provenance == Provenance::Reconstructed);
            assert!(decoded || matches!(ended.answer, Err(Failure::QueryFault | Failure::Deadline)), "{ended:?}");
        }
    }
}

#[test]
fn a_poisonous_query_harms_nobody_else() {
    let poisoned = Scenario { poison_every: 20, batch_max: 8, gap: Duration::from_millis(4), ..Scenario::quiet(5) };
    let outcomes = sound(&poisoned);
    for outcome in &outcomes {
        let harmed = outcome.ended.iter().filter(|ended| !ended.poison && ended.answer.is_err()).count();
        assert_eq!(harmed, 0);
    }
    // Most are decoded before they are lost a second time; in all runs together some are not.
    assert!(outcomes.iter().map(|outcome| failed(outcome, Failure::QueryFault)).sum::<usize>() > 0);
}

#[test]
fn direct_only_queries_wait_for_the_direct_answer() {
    let faults = Faults { stall: 0.02, ..Faults::default() };
    for outcome in sound(&Scenario { faults, direct_only_every: 2, ..Scenario::quiet(6) }) {
        let indirect = |ended: &&Ended| matches!(&ended.answer, Ok(p) if p.provenance != Provenance::Direct);
        assert_eq!(outcome.ended.iter().filter(|ended| ended.direct_only).filter(indirect).count(), 0);
    }
}

/// What is held back is answered like a query that takes direct answers only: by its own lane, or by a rescue.
#[test]
fn a_gate_costs_reconstructions_and_no_query() {
    let faults = Faults { slow: 0.02, lost: 0.005, stall: 0.01, ..Faults::default() };
    for rerun in [Rerun::AtOnce, Rerun::AfterDecode] {
        let open = Policy { rerun, ..Scenario::quiet(0).policy };
        let gated = Policy { min_confidence: Confidence::new(0.6).unwrap(), ..open.clone() };
        let scenario = |policy| Scenario { faults, policy, ..Scenario::quiet(11) };
        for (open, gated) in sound(&scenario(open)).iter().zip(sound(&scenario(gated))) {
            let (all, served) = (count(open, Provenance::Reconstructed), count(&gated, Provenance::Reconstructed));
            assert!(served > 0 && 10 * served < 9 * all, "{served} of about {all} are served");
            assert_eq!(failed(&gated, Failure::Deadline), 0);
        }
    }
}

#[test]
fn pooled_lanes_run_both_models_and_never_two_mates_in_one_domain() {
    let faults = Faults { stall: 0.01, lost: 0.01, ..Faults::default() };
    let policy = Policy { placement: Placement::Pooled, ..Scenario::quiet(0).policy };
    let scenario = Scenario { faults, policy, roles: vec![Role::Both; 4], ..Scenario::quiet(7) };
    for outcome in sound(&scenario) {
        assert_eq!(failed(&outcome, Failure::Deadline), 0);
    }
}

/// Two rows on three workers: a linear model comes back exactly, so every answer can be held to the direct one.
#[test]
fn interpolated_queries_are_answered_without_a_run_of_their_own() {
    let policy = Policy { placement: Placement::Pooled, ..Scenario::quiet(0).policy };
    let calm = Scenario {
        policy,
        roles: vec![Role::Both; 4],
        code: Some(Spec::of(Kind::Berrut, 2, 1)),
        gap: Duration::from_millis(5),
        ..Scenario::quiet(11)
    };
    for outcome in sound(&calm) {
        assert!(count(&outcome, Provenance::Reconstructed) > outcome.ended.len() * 8 / 10);
        assert_eq!(
            count(&outcome, Provenance::Reconstructed) + count(&outcome, Provenance::Direct),
            outcome.ended.len()
        );
    }
    let faults = Faults { slow: 0.02, stall: 0.01, lost: 0.01, ..Faults::default() };
    let rough = Scenario { faults, batch_max: 4, direct_only_every: 7, ..calm };
    for outcome in sound(&rough) {
        assert_eq!(failed(&outcome, Failure::Deadline), 0);
        let indirect = |ended: &&Ended| matches!(&ended.answer, Ok(p) if p.provenance != Provenance::Direct);
        assert_eq!(outcome.ended.iter().filter(|ended| ended.direct_only).filter(indirect).count(), 0);
    }
}

#[test]
fn without_a_code_lost_jobs_are_run_again() {
    let faults = Faults { lost: 0.02, stall: 0.01, ..Faults::default() };
    let roles = vec![Role::Base; 3];
    for outcome in sound(&Scenario { faults, roles, code: None, ..Scenario::quiet(8) }) {
        assert_eq!(count(&outcome, Provenance::Reconstructed), 0);
        assert_eq!(failed(&outcome, Failure::Deadline), 0);
    }
}

#[test]
fn overload_is_answered_by_the_deadline_and_redundancy_vanishes() {
    let overload =
        Scenario { gap: Duration::from_millis(2), deadline: Duration::from_millis(200), ..Scenario::quiet(9) };
    for outcome in sound(&overload) {
        assert!(failed(&outcome, Failure::Deadline) > 0, "twice the capacity cannot all be answered");
        assert!(outcome.ended.iter().all(|ended| ended.latency <= Duration::from_millis(201)));
    }
}

#[test]
fn the_default_prediction_is_the_last_resort() {
    let policy = Policy { default_prediction: Some(vec![0.0; 3]), kind: PolicyKind::None, ..Scenario::quiet(0).policy };
    let deadline = Duration::from_millis(30);
    let scenario =
        Scenario { policy, deadline, code: None, roles: vec![Role::Base], direct_only_every: 5, ..Scenario::quiet(10) };
    let outcome = run(&scenario);
    assert!(count(&outcome, Provenance::Default) > 0);
    for ended in &outcome.ended {
        assert!(!ended.direct_only || !matches!(&ended.answer, Ok(p) if p.provenance == Provenance::Default));
    }
}

/// Every policy that needs no more than lanes and a code, in weather of all kinds at once; with a drain at the end.
#[test]
fn every_policy_keeps_the_promises_in_bad_weather() {
    let faults = Faults { slow: 0.01, lost: 0.005, stall: 0.005, ..Faults::default() };
    let courses = vec![
        course(&[(500, Pace::Slower(4.0)), (1500, Pace::Slower(1.0))]),
        course(&[(1000, Pace::Still), (1800, Pace::Slower(1.0))]),
        course(&[(2000, Pace::Down), (3000, Pace::Slower(1.0))]),
    ];
    for (_, kind) in PolicyKind::WORDS {
        for hedge in [Hedge::None, Hedge::Time, Hedge::Progress] {
            let policy = Policy { hedge, ..Policy::usual(kind, Placement::Pooled) };
            let code = kind.is_coded().then(|| Spec::of(Kind::Sum, 2, 1));
            let calm = Scenario { policy, code, roles: vec![Role::Both; 6], ..Scenario::quiet(21) };
            let bad =
                Scenario { faults, courses: courses.clone(), gap: Duration::from_millis(4), batch_max: 2, ..calm };
            for outcome in sound(&bad) {
                assert_eq!(failed(&outcome, Failure::Deadline), 0, "{kind:?} {hedge:?}");
            }
            // With a backup for each query; in stripes, the linear model is no small model of its own.
            if !matches!(kind, PolicyKind::Approximate | PolicyKind::Adaptive) {
                continue;
            }
            let backed_up = Scenario { code: Some(Spec::of(Kind::Compact, 2, 1)), ..bad };
            for outcome in sound(&backed_up) {
                assert_eq!(failed(&outcome, Failure::Deadline), 0, "{kind:?} {hedge:?}, backed up");
            }
        }
    }
}

/// Lanes of their own for parity, under every code whose outputs can be held to the direct ones; some lanes fail together. All base lanes stand still, then, before
/// these are back, those of parity, for longer than a deadline; and once more the other way round.
#[test]
fn lanes_of_either_kind_stand_still_and_no_query_waits_for_them_in_vain() {
    let faults = Faults { slow: 0.01, lost: 0.005, ..Faults::default() };
    let still = |from, to| [(from, Pace::Still), (to, Pace::Slower(1.0))];
    let base = course(&[still(500, 900), still(5000, 5300)].concat());
    let parity = course(&[still(700, 3500), still(4800, 5100)].concat());
    let codes = [
        (Kind::Sum, 2, 1),
        (Kind::Sum, 2, 2),
        (Kind::Sum, 3, 1),
        (Kind::Mux, 2, 1),
        (Kind::Compact, 2, 1),
        (Kind::Replica, 2, 2),
    ];
    let stripes = codes.map(|code| (PolicyKind::Coded, code));
    for (policy, (kind, k, r)) in stripes.into_iter().chain([(PolicyKind::Approximate, (Kind::Compact, 2, 1))]) {
        for hedge in [Hedge::None, Hedge::Progress] {
            let weather = Scenario {
                faults,
                roles: [[Role::Base; 4].as_slice(), &[Role::Parity; 2]].concat(),
                domains: vec![0, 0, 1, 2, 2, 3],
                courses: [vec![base.clone(); 4], vec![parity.clone(); 2]].concat(),
                code: Some(Spec::of(kind, k, r)),
                queries: 1_500,
                gap: Duration::from_millis(5),
                policy: Policy { hedge, ..Policy::usual(policy, Placement::Dedicated) },
                ..Scenario::quiet(41)
            };
            for outcome in sound(&weather) {
                assert_eq!(failed(&outcome, Failure::Deadline), 0, "{policy:?} {kind:?} k = {k} r = {r} {hedge:?}");
            }
        }
    }
}

/// Where lanes have no time for a backup of every query, those of late ones still come in time: jobs that stall at half load leave less than two
/// service times, and hedges more.
#[test]
fn backups_of_late_queries_answer_before_hedges_would() {
    let p999 = |kind: PolicyKind| {
        let scenario = Scenario {
            roles: vec![Role::Both; 18],
            code: kind.is_coded().then(|| Spec::of(Kind::Compact, 2, 1)),
            parity_cost: 0.5,
            model: Model::Null,
            policy: Policy::usual(kind, Placement::Pooled),
            faults: Faults { stall: 0.01, stall_for: Duration::from_millis(100), jitter: 0.03, ..Faults::default() },
            queries: 30_000,
            service: Duration::from_millis(25),
            gap: Duration::from_millis(25).div_f64(0.6 * 18.0),
            ..Scenario::quiet(31)
        };
        let outcome = run(&scenario);
        let mut latencies: Vec<Duration> = outcome.ended.iter().map(|ended| ended.latency).collect();
        latencies.sort_unstable();
        (latencies[latencies.len() * 999 / 1000], outcome.work / scenario.queries as f64)
    };
    let ((adaptive, work), (hedged, _)) = (p999(PolicyKind::Adaptive), p999(PolicyKind::Hedged));
    assert!(adaptive < Duration::from_millis(46) && hedged > Duration::from_millis(50), "{adaptive:?} {hedged:?}");
    assert!(work < 1.2, "{work}");
}

/// The detector's own promises: nothing is suspected in 10^6 jobs that vary by 3 %, and a lane that is 3 times slower is at once.
#[test]
fn a_slow_lane_is_found_and_no_other() {
    let roles = vec![Role::Base; 6];
    let quiet = |seed| Scenario {
        roles: roles.clone(),
        code: None,
        model: Model::Null,
        policy: Policy::usual(PolicyKind::Hedged, Placement::Dedicated),
        faults: Faults { jitter: 0.03, ..Faults::default() },
        gap: Duration::from_millis(3),
        ..Scenario::quiet(seed)
    };
    let calm = run(&Scenario { queries: 1_000_000, ..quiet(1) });
    assert_eq!(calm.stragglers, 0);
    for (factor, jobs) in [(3.0, 2.0), (1.8, 2.0)] {
        let slow = Course { changes: vec![(Time::ZERO, Pace::Slower(factor))] };
        let outcome = run(&Scenario { courses: vec![slow], queries: 200, ..quiet(2) });
        assert_eq!(outcome.stragglers, 1, "{factor}");
        let found = outcome.first_straggler.expect("one was found").since(Time::ZERO);
        // Its share of the arrivals, and the time of its jobs.
        let limit = Duration::from_millis(10).mul_f64(jobs * factor) + Duration::from_millis(120);
        assert!(found < limit, "{factor}: after {found:?}");
    }
}
