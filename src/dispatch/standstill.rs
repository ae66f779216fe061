//! Standstills: times when nothing of this process ran, and which are no lane's fault.
//!
//! A hypervisor takes the processors away, a signal or a debugger stops the process, a machine is out of memory and swaps. Afterwards every
//! batch that was in flight is older than it should be, whoever ran it. The timer notices: it is due every millisecond, so where it comes much too
//! late, the lanes' threads had no turn either. Without this all lanes would be hung at once, and none left to answer until canaries have passed.
//!
//! *Rejected.* To count the timer's turns instead of time: how long they are apart differs between kernels. To start every batch anew: a timer that
//! is late again and again would never find a lane that hangs. So each turn accounts for some time of its own
//! (that is what the caller leaves out), and only what goes beyond is forgiven.

use std::{collections::VecDeque, time::Duration};

use crate::clock::Time;

/// Standstills that are remembered; a lane that outlasts more of them in one batch is forgiven the latest. Their number bounds what is forgiven.
const KEPT: usize = 32;

/// The standstills of this process, the latest last.
#[derive(Debug, Default)]
pub(super) struct Standstills(VecDeque<Standstill>);

#[derive(Clone, Copy, Debug)]
struct Standstill {
    ended: Time,
    lasted: Duration,
}

impl Standstills {
    /// Nothing ran for so long, until now.
    pub(super) fn add(&mut self, lasted: Duration, now: Time) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(Standstill { ended: now, lasted });
    }

    /// How long this process stood still within the last `age`, as far as it is remembered. A standstill that began earlier and ended within it counts in full.
    pub(super) fn within(&self, age: Duration, now: Time) -> Duration {
        self.0.iter().rev().take_while(|still| now.since(still.ended) < age).map(|still| still.lasted).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn what_ended_before_the_start_is_not_forgiven() {
        let mut past = Standstills::default();
        let now = Time::ZERO + ms(300);
        assert_eq!(past.within(ms(300), now), Duration::ZERO);
        past.add(ms(30), Time::ZERO + ms(100));
        past.add(ms(40), Time::ZERO + ms(200));
        assert_eq!(past.within(ms(290), now), ms(70));
        assert_eq!(past.within(ms(200), now), ms(40));
        assert_eq!(past.within(ms(100), now), Duration::ZERO);
    }

    #[test]
    fn old_ones_are_forgotten() {
        let mut past = Standstills::default();
        for turn in 1..=100 {
            past.add(ms(10), Time::ZERO + ms(100 * turn));
        }
        assert_eq!(past.0.len(), KEPT);
        let now = Time::ZERO + ms(10_000);
        assert_eq!(past.within(ms(10_000), now), ms(320), "or a lane would never hang where they never end");
        assert_eq!(past.within(ms(150), now), ms(20));
    }
}
