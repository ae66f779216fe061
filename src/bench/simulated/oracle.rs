//! A reference: one run a query, on the lane that will have it done first, known in advance.
//!
//! The oracle knows each lane's course to come, though not which jobs will stall. It takes queries in the order of their arrival and has no
//! redundancy. Where queues are short no policy without redundancy does better; where they are long, the order of arrival and the greed for the first
//! lane cost it something, so it is no bound.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{
    clock::Time,
    sim::{Arrivals, Course, Faults},
};

/// Latencies of `queries` queries, in the order of their arrival, at this mean gap.
pub(super) fn latencies(
    courses: &[Course],
    faults: Faults,
    (queries, gap): (usize, Duration),
    service: Duration,
    seed: u64,
) -> Vec<Duration> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut free = vec![Time::ZERO; courses.len()];
    let mut latencies = Vec::with_capacity(queries);
    for now in Arrivals::new(seed, gap).take(queries) {
        let ends = courses.iter().zip(&free).map(|(course, &free)| course.done(free.max(now), service));
        let first = ends.enumerate().filter_map(|(lane, end)| Some((end?, lane))).min();
        let (end, lane) = first.expect("some lane is always up");
        let stalls = faults.stall > 0.0 && rng.random_bool(faults.stall);
        free[lane] = end + if stalls { faults.stall_for } else { Duration::ZERO };
        latencies.push(free[lane].since(now));
    }
    latencies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Pace;

    #[test]
    fn it_never_starts_what_will_be_slow() {
        let slow = Course { changes: vec![(Time::from_nanos(1), Pace::Slower(10.0))] };
        let service = Duration::from_millis(10);
        let load = (100, Duration::from_millis(100));
        let all = latencies(&[slow, Course::default()], Faults::default(), load, service, 1);
        assert!(all.iter().all(|latency| *latency <= Duration::from_millis(100)));
        assert!(all.iter().filter(|latency| **latency == service).count() > 80);
    }
}
