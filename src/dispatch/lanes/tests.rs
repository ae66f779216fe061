//! A lane's batch in flight: when it is late, and who finds it so.

use super::*;
use crate::job::Role;

#[test]
fn a_batch_that_was_too_young_to_be_declared_late_is_still_watched() {
    let seat = LaneSeat::new(LaneSettings::alone(Role::Base, 0), 1);
    let occupancy = Occupancy::default();
    let (limit, ms) = (Some(Duration::from_millis(200)), |ms: u64| Time::from_nanos(ms * 1_000_000));
    seat.start(Start::Canary, &occupancy, ms(1));
    assert!(seat.give_up_older(limit, ms(100), |_| ()).is_none(), "the timer took it for an older one");
    assert!(seat.give_up_older(limit, ms(202), |_| ()).is_some(), "now it is late");
    assert!(seat.give_up_older(limit, ms(300), |_| ()).is_none(), "and is declared once");
    assert!(seat.finish().was_given_up, "it was given up");
    seat.start(Start::Canary, &occupancy, ms(400));
    assert!(seat.give_up_older(limit, ms(401), |_| ()).is_none());
    assert!(!seat.finish().was_given_up, "it came back in time");
}

#[test]
fn what_never_ran_on_a_lane_does_not_hang_before_what_did_would() {
    let ms = Duration::from_millis;
    let seat = LaneSeat::new(LaneSettings::alone(Role::Both, 0), 2);
    seat.pace.expect(Pass { model: Model::Base, jobs: 1 }, ms(250));
    seat.parity.store(true, Ordering::Relaxed);
    seat.jobs.store(2, Ordering::Relaxed);
    assert_eq!(seat.hang_limit(ms(200)), ms(2500));
    seat.pace.expect(Pass { model: Model::Parity, jobs: 2 }, ms(100));
    assert_eq!(seat.hang_limit(ms(200)), ms(500), "now it is known");
}

/// Two threads of a lane tell of a batch: one was stopped between its sum and its report.
#[test]
fn a_report_that_was_overtaken_takes_nothing_back() {
    let seat = LaneSeat::new(LaneSettings::alone(Role::Base, 0), 1);
    let (occupancy, ms) = (Occupancy::default(), |ms: u64| Time::from_nanos(ms * 1_000_000));
    seat.start(Start::Canary, &occupancy, ms(1));
    for (parts, at) in [(1, 2), (4, 5), (3, 6)] {
        seat.progress(parts, ms(at));
    }
    assert_eq!(seat.parts(), 4);
    let millis = seat.take_marks().map(|mark| mark.as_millis());
    assert_eq!(millis, [1, 0, 0, 4, 0, 0, 0, 0]);
    seat.finish();
    seat.start(Start::Canary, &occupancy, ms(10));
    assert_eq!(seat.parts(), 0);
}
