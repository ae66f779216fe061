//! Who stands in a stripe with whom: partners that are known, and mates in fault domains, step by step.

use super::*;

/// Two base lanes and a parity lane under a code of three rows.
fn of_three(batch_max: usize) -> Hand {
    Hand::of(Settings { batch_max, ..Hand::settings(Rerun::AtOnce, 3, 1, None) })
}

/// What the parity lane encodes next.
fn encoded(hand: &mut Hand) -> Vec<f32> {
    let Some(Work::Batch(Batch::Parity(inputs))) = hand.pull(PARITY) else { return Vec::new() };
    inputs[0].rows.iter().map(|row| row[0]).collect()
}

#[test]
fn a_member_that_was_answered_is_no_partner_of_its_own_stripe() {
    let mut hand = of_three(2);
    // In one batch, so in two stripes.
    let answered = [hand.submit(3.0, Accepts::Any), hand.submit(5.0, Accepts::Any)];
    hand.pull(BASE[0]);
    let mut completions = [3.0, 5.0].map(|value| Completion::Output([value].into())).to_vec();
    hand.core.complete(completed(BASE[0], &mut completions, 10), hand.now, &mut hand.effects);
    let late = hand.submit(7.0, Accepts::Any);
    hand.pull(BASE[1]);
    hand.tick_after(21);
    assert_eq!(encoded(&mut hand), [3.0, 7.0, 5.0], "3 is in it");
    drop((answered, late));
}

#[test]
fn a_row_that_two_lanes_ran_is_one_partner() {
    let mut hand = of_three(1);
    let (twice, _pending) = hand.submit(3.0, Accepts::Any);
    hand.pull(BASE[0]);
    hand.tick_after(201);
    for lane in [BASE[1], BASE[0]] {
        hand.pull(lane);
        hand.complete(lane, Ok(3.0));
    }
    assert!(hand.metrics.late.get() == 1 && provenance(&twice).is_some(), "it was rescued, and came back");
    let (other, _waits) = hand.submit(5.0, Accepts::Any);
    hand.pull(BASE[1]);
    hand.complete(BASE[1], Ok(5.0));
    hand.tick_after(21);
    let (late, _late) = hand.submit(7.0, Accepts::Any);
    hand.pull(BASE[1]);
    hand.tick_after(21);
    assert_eq!(encoded(&mut hand), [7.0, 3.0, 5.0]);
    drop((other, late));
}

/// Where a fault domain has two lanes, a mate may start on the other one while a member is run again.
#[test]
fn what_is_rescued_beside_another_lane_of_its_fault_domain_fills_no_slot() {
    const ELSEWHERE: LaneId = LaneId(2);
    let lane = |role, domain, number| LaneSettings { domain: FaultDomain(domain), ..LaneSettings::alone(role, number) };
    let base = |domain, number| lane(Role::Base, domain, number);
    let lanes = vec![base(0, 0), base(0, 1), base(1, 2), lane(Role::Parity, 2, 3)];
    let mut hand = Hand::of(Settings { lanes, ..Hand::settings(Rerun::AtOnce, 2, 1, None) });
    let (lost, _lost) = hand.submit(3.0, Accepts::Any);
    hand.pull(ELSEWHERE);
    hand.complete(ELSEWHERE, Err(Loss::Device));
    assert!(matches!(hand.pull(BASE[0]), Some(Work::Batch(Batch::Base(_)))), "its rescue");
    let (mate, _mate) = hand.submit(4.0, Accepts::Any);
    assert!(matches!(hand.pull(BASE[1]), Some(Work::Batch(Batch::Base(_)))), "in its stripe");
    hand.complete(BASE[0], Ok(3.0));
    assert_eq!(provenance(&lost), Some(Provenance::Direct));
    assert!(matches!(hand.pull(LaneId(3)), Some(Work::Batch(Batch::Parity(_)))));
    hand.complete(LaneId(3), Ok(7.0));
    hand.tick_after(50);
    assert_eq!(provenance(&mate), None, "what lanes of one domain ran at once decodes nothing");
    hand.complete(BASE[1], Ok(4.0));
    assert_eq!(provenance(&mate), Some(Provenance::Direct));
}
