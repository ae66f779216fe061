//! The load-adaptive ladder: which redundancy pays at this load.
//!
//! *Intuition.* Redundancy that has started cannot be taken back, so a lane given to it now is missing for one service time. It is free of
//! charge only if no query will want that lane meanwhile. How many lanes queries will want is a matter of counting: in a system whose
//! arrivals are independent and which seldom queues, the number at work is Poisson-distributed with the mean m that can be observed, so it
//! hardly ever exceeds m + z √m. What is left of the n healthy lanes beyond that is the *budget* of redundancy: n − m − z √m.
//!
//! *Steps.* Exact copies protect every query and cost no accuracy, but as much work as the queries themselves; parity costs 1/k of that. So:
//! copies while the budget holds them all, parity while there is any budget, neither beyond. Hedges, backups of late queries ([`super::backup`]) and
//! rescue stay, since they run only for jobs that are late already; but near saturation, when queries wait for longer than a job takes, they queue behind data instead of before
//! it.
//!
//! *Why not queue delay alone.* It is the outcome that is to be protected; while lanes are idle it is zero, whatever redundancy costs, and by the time it
//! is not the lanes are taken. It decides here where it does tell something: when to stop being urgent. *Rejected*: a fixed number of lanes left
//! idle (right for one load), and hysteresis (the average over [`MEMORY`] does not flutter, and a step too many costs a few jobs).

use std::time::Duration;

use crate::clock::Time;

/// How long the number of lanes at work is averaged.
const MEMORY: Duration = Duration::from_millis(500);
/// Deviations of the number of lanes at work that are kept free of redundancy.
const DEVIATIONS: f64 = 1.5;
/// Copies need so much of a budget for each lane that queries want.
const COPIES: f64 = 1.25;
/// Queries that wait for each healthy lane, beyond which late jobs are no longer urgent.
const URGENT_WAITING: f64 = 1.5;

/// What may run besides data jobs and rescues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Exact copies on idle lanes.
    Copies,
    /// Parity on idle lanes.
    Parity,
    /// Late jobs' second runs alone.
    Hedges,
}

impl Step {
    /// The step with this number; the last one for a number that none has.
    pub(super) const fn from_u8(number: u8) -> Self {
        match number {
            0 => Step::Copies,
            1 => Step::Parity,
            _ => Step::Hedges,
        }
    }
}

/// What is seen of the lanes at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Healthy lanes that run data jobs.
    pub(super) healthy: usize,
    /// Those that run anything but redundancy.
    pub(super) at_work: usize,
    /// Data jobs that wait.
    pub(super) waiting: usize,
}

/// What follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Advice {
    /// The step.
    pub(super) step: Step,
    /// Lanes that may run redundancy at once.
    pub(super) budget: usize,
    /// Whether hedges run before data jobs that wait.
    pub(super) urgent: bool,
}

/// The controller.
#[derive(Debug)]
pub(super) struct Ladder {
    at_work: f64,
    seen_at: Option<Time>,
}

impl Ladder {
    /// Nothing was seen yet.
    pub(super) const fn new() -> Self {
        Ladder { at_work: 0.0, seen_at: None }
    }

    /// It is `now`, and the lanes are as `seen`.
    pub(super) fn advise(&mut self, seen: Seen, now: Time) -> Advice {
        let at_work = seen.at_work as f64;
        let weight = match self.seen_at.replace(now) {
            Some(before) => 1.0 - (-now.since(before).as_secs_f64() / MEMORY.as_secs_f64()).exp(),
            None => 1.0,
        };
        self.at_work += (at_work - self.at_work) * weight;
        let healthy = seen.healthy as f64;
        let wanted = self.at_work + DEVIATIONS * self.at_work.sqrt();
        let budget = (healthy - wanted).floor().max(0.0);
        let step = if budget >= (COPIES * wanted).max(1.0) {
            Step::Copies
        } else if budget >= 1.0 {
            Step::Parity
        } else {
            Step::Hedges
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is a small number that is not negative"
        )]
        Advice { step, budget: budget as usize, urgent: seen.waiting as f64 <= URGENT_WAITING * healthy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advice_at(at_work: usize, waiting: usize) -> Advice {
        let mut ladder = Ladder::new();
        let seen = Seen { healthy: 18, at_work, waiting };
        (0..2000).map(|ms| ladder.advise(seen, Time::from_nanos(ms * 1_000_000))).last().unwrap()
    }

    #[test]
    fn redundancy_steps_back_as_load_rises() {
        assert_eq!(advice_at(3, 0).step, Step::Copies);
        assert_eq!(advice_at(7, 0).step, Step::Parity);
        let advice = advice_at(15, 2);
        assert_eq!((advice.step, advice.budget, advice.urgent), (Step::Hedges, 0, true));
        assert!(!advice_at(18, 30).urgent, "near saturation nothing overtakes");
        let budgets: Vec<usize> = (0..=18).map(|at_work| advice_at(at_work, 0).budget).collect();
        assert!(budgets.is_sorted_by(|a, b| a >= b), "{budgets:?}");
    }

    #[test]
    fn a_burst_is_averaged_and_a_change_is_followed() {
        let mut ladder = Ladder::new();
        let mut at = |ms: u64, at_work| {
            ladder.advise(Seen { healthy: 18, at_work, waiting: 0 }, Time::from_nanos(ms * 1_000_000))
        };
        at(0, 2);
        assert_eq!(at(1, 18).step, Step::Copies, "one look at a burst");
        for ms in 2..2000 {
            at(ms, 16);
        }
        assert_eq!(at(2000, 16).step, Step::Hedges);
    }
}
