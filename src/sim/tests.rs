//! The promises, under drawn faults. A failure prints its seed; `run(&Scenario { seed, ..scenario })` replays it.

use super::*;
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

#[test]
fn without_faults_answers_are_direct() {
    // At a tenth of the load that two lanes carry, so that hardly a query waits for longer than its grace.
    for outcome in sound(&Scenario { gap: Duration::from_millis(50), ..Scenario::quiet(1) }) {
        assert!(count(&outcome, Provenance::Direct) >= outcome.ended.len() * 999 / 1000);
        assert_eq!(outcome.ended.iter().filter(|ended| ended.answer.is_err()).count(), 0);
    }
}

#[test]
fn jobs_that_hang_are_answered_by_reconstruction_long_before_they_return() {
    let faults = Faults { hang: 0.01, ..Faults::default() };
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
    let faults = Faults { slow: 0.02, lost: 0.01, hang: 0.01 };
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
    for outcome in
        sound(&Scenario { poison_every: 20, batch_max: 8, gap: Duration::from_millis(4), ..Scenario::quiet(5) })
    {
        let harmed = outcome.ended.iter().filter(|ended| !ended.poison && ended.answer.is_err()).count();
        assert_eq!(harmed, 0);
        assert!(failed(&outcome, Failure::QueryFault) > 0);
    }
}

#[test]
fn direct_only_queries_wait_for_the_direct_answer() {
    let faults = Faults { hang: 0.02, ..Faults::default() };
    for outcome in sound(&Scenario { faults, direct_only_every: 2, ..Scenario::quiet(6) }) {
        let indirect = |ended: &&Ended| matches!(&ended.answer, Ok(p) if p.provenance != Provenance::Direct);
        assert_eq!(outcome.ended.iter().filter(|ended| ended.direct_only).filter(indirect).count(), 0);
    }
}

/// What is held back is answered like a query that takes direct answers only: by its own lane, or by a rescue.
#[test]
fn a_gate_costs_reconstructions_and_no_query() {
    let faults = Faults { slow: 0.02, lost: 0.005, hang: 0.01 };
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
    let faults = Faults { hang: 0.01, lost: 0.01, ..Faults::default() };
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
    let faults = Faults { slow: 0.02, hang: 0.01, lost: 0.01 };
    let rough = Scenario { faults, batch_max: 4, direct_only_every: 7, ..calm };
    for outcome in sound(&rough) {
        assert_eq!(failed(&outcome, Failure::Deadline), 0);
        let indirect = |ended: &&Ended| matches!(&ended.answer, Ok(p) if p.provenance != Provenance::Direct);
        assert_eq!(outcome.ended.iter().filter(|ended| ended.direct_only).filter(indirect).count(), 0);
    }
}

#[test]
fn without_a_code_lost_jobs_are_run_again() {
    let faults = Faults { lost: 0.02, hang: 0.01, ..Faults::default() };
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
