//! How late the client of real lanes was, beside what it measured: figures that are mostly its own are marked, and void where even the median is.
//!
//! The rule of `bench http`, whose jobs may be as short: emulated lanes, whose jobs are as long as this machine needs, are held to a share of a job.

use serde::{Deserialize, Serialize};

use crate::bench::{
    cell::{Cell, at},
    report::{LATENESS_P99_MAX_MS, LATENESS_SHARE_MAX},
};

/// The client's lateness in all runs of a cell, in milliseconds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Lateness {
    /// The scenario's letter.
    pub scenario: String,
    /// The policy.
    pub policy: String,
    /// Half of all queries left later than this.
    pub p50_ms: f64,
    /// 1 of 100.
    pub p99_ms: f64,
    /// 1 of 1,000.
    pub p999_ms: f64,
}

impl Lateness {
    /// That of a cell, from how late each query of it was sent.
    pub(super) fn new(cell: &Cell, mut late_ms: Vec<f64>) -> Self {
        late_ms.sort_unstable_by(f64::total_cmp);
        Lateness {
            scenario: cell.scenario.clone(),
            policy: cell.policy.clone(),
            p50_ms: at(&late_ms, 0.5),
            p99_ms: at(&late_ms, 0.99),
            p999_ms: at(&late_ms, 0.999),
        }
    }

    /// Whether it is of this cell.
    pub(super) fn is_of(&self, cell: &Cell) -> bool {
        (&self.scenario, &self.policy) == (&cell.scenario, &cell.policy)
    }

    /// Which of p50, p99 and p99.9 owe more than a quarter to it.
    pub(super) fn marks(&self, cell: &Cell) -> [bool; 3] {
        let pairs = [(self.p50_ms, cell.p50), (self.p99_ms, cell.p99), (self.p999_ms, cell.p999)];
        pairs.map(|(late, latency)| late > LATENESS_SHARE_MAX * latency.ms)
    }

    /// Why nothing should be concluded from this cell.
    pub(super) fn void_reason(&self, cell: &Cell) -> Option<String> {
        let Lateness { scenario, policy, p50_ms, p99_ms, .. } = self;
        let what = if *p99_ms > LATENESS_P99_MAX_MS {
            format!("one query in a hundred was sent {p99_ms:.2} ms late or later, more than {LATENESS_P99_MAX_MS} ms")
        } else if self.marks(cell)[0] {
            format!(
                "half of the queries were sent {p50_ms:.3} ms late or later, more than a quarter of the median latency of {} ms",
                cell.p50.ms
            )
        } else {
            return None;
        };
        Some(format!("{scenario}, {policy}: {what}; give the client a core of its own, or ask for less --load"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::{
        cell::{Latency, Place},
        weather::Weather,
    };

    #[test]
    fn a_client_that_is_most_of_a_figure_marks_it_and_voids_the_median() {
        let place = Place { weather: Weather::D, k: None, load: 0.3, policy: "none" };
        let latency = |ms| Latency { time: Duration::from_millis(ms), decoded: false, answered: true, right: None };
        let cell = Cell::new(&place, &[vec![latency(4); 1000]], 1000.0);
        let of = |late: &[(usize, f64)]| {
            let late = late.iter().flat_map(|&(count, ms)| vec![ms; count]).collect();
            let lateness = Lateness::new(&cell, late);
            assert!(lateness.is_of(&cell));
            (lateness.marks(&cell), lateness.void_reason(&cell))
        };
        assert_eq!(of(&[(1000, 0.9)]), ([false; 3], None));
        assert_eq!(of(&[(980, 0.1), (20, 1.1)]), ([false, true, true], None));
        let (marks, void) = of(&[(1000, 1.1)]);
        assert!(
            marks[0]
                && void.is_some_and(|reason| reason.starts_with("D, none: half of the queries were sent 1.100 ms"))
        );
        assert!(of(&[(980, 0.1), (20, 5.1)]).1.is_some_and(|reason| reason.contains("one query in a hundred")));
    }
}
