//! Who stands in a stripe with whom, step by step.

use super::*;

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
