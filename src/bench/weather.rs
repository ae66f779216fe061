//! What befalls the lanes: the scenarios A to J, each drawn from a seed.
//!
//! They are those of the papers and of public reports: other tenants that slow pairs of machines down (ParM's background shuffles), devices
//! that hang, stalls of single jobs, everything slow at once, devices that fail and return. A course is drawn for every lane before the run, so
//! that every policy meets the same weather under the same seed.

use std::{fmt, time::Duration};

use rand::{RngExt, seq::SliceRandom};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Serialize, Serializer};

use crate::{
    clock::Time,
    sim::{Course, Faults, Pace},
};

/// Lognormal deviation of service times where nothing is wrong.
const JITTER: f64 = 0.03;

/// One scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Weather {
    /// Four pairs of lanes 1.5 to 3 times slower for 1 to 3 s, always four pairs.
    A,
    /// One pair 4 to 10 times slower for 1 to 3 s, always one pair.
    B,
    /// One pair 1.5 to 3 times slower, and a random lane hangs for 5 s every 20 s.
    C,
    /// Nothing.
    D,
    /// One job in a hundred stalls for four times its time.
    E,
    /// One job in forty does.
    F,
    /// All lanes are three times slower for 2 s every 10 s.
    G,
    /// A parity lane fails (the last lane, whatever it holds) half-way through the run, and does not come back.
    H,
    /// Two lanes stand still for a second every 3 s, at once.
    I,
    /// A lane crashes every 20 s and returns after 5 s.
    J,
    /// So many pairs of lanes 1.5 to 3 times slower for 1 to 3 s, always so many: the imbalance of ParM's experiments.
    Pairs(u8),
    /// Two lanes share their device with another tenant: 14 jobs a second each, which double the time of what runs meanwhile.
    Tenants,
}

impl Weather {
    /// All of them.
    pub(super) const ALL: [Weather; 10] = [
        Weather::A,
        Weather::B,
        Weather::C,
        Weather::D,
        Weather::E,
        Weather::F,
        Weather::G,
        Weather::H,
        Weather::I,
        Weather::J,
    ];

    /// What it is, in a few words.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Weather::A => "four pairs of lanes 1.5 to 3 times slower for 1 to 3 s, always four pairs",
            Weather::B => "one pair of lanes 4 to 10 times slower for 1 to 3 s, always one pair",
            Weather::C => "one pair of lanes 1.5 to 3 times slower, and a random lane hangs for 5 s every 20 s",
            Weather::D => "no fault",
            Weather::E => "1 % of jobs stall for four service times",
            Weather::F => "2.5 % of jobs stall for four service times",
            Weather::G => "all lanes three times slower at once, for 2 s every 10 s",
            Weather::H => "the last lane (a parity lane where there are some) fails half-way through the run",
            Weather::I => "two random lanes stand still at once, for a second every 3 s",
            Weather::J => "a random lane crashes for 5 s every 20 s and comes back",
            Weather::Pairs(_) => "pairs of lanes 1.5 to 3 times slower for 1 to 3 s, always as many",
            Weather::Tenants => "two lanes share their device with another tenant",
        }
    }

    /// What goes wrong with single jobs, whose usual time is `service`.
    pub(super) fn faults(self, service: Duration) -> Faults {
        let stall = match self {
            Weather::E => 0.01,
            Weather::F => 0.025,
            Weather::A
            | Weather::B
            | Weather::C
            | Weather::D
            | Weather::G
            | Weather::H
            | Weather::I
            | Weather::J
            | Weather::Pairs(_)
            | Weather::Tenants => 0.0,
        };
        Faults { stall, stall_for: 4 * service, jitter: JITTER, ..Faults::default() }
    }

    /// The paces of `lanes` lanes over `span`, which is twice that of a run: queries that are late run beyond it.
    pub(super) fn courses(self, lanes: usize, span: Duration, seed: u64) -> Vec<Course> {
        let rng = ChaCha8Rng::seed_from_u64(seed ^ 0x77ea_74e2);
        let mut sky = Sky { rng, span, courses: vec![Course::default(); lanes] };
        match self {
            Weather::A => sky.many_slow_pairs(4),
            Weather::Pairs(pairs) => sky.many_slow_pairs(usize::from(pairs)),
            Weather::Tenants => (0..2).for_each(|lane| sky.tenant(lane)),
            Weather::B => sky.slow_pairs(0, 1, 4.0..10.0),
            Weather::C => {
                sky.slow_pairs(0, 1, 1.5..3.0);
                sky.every(20.0, 5.0, 1, Pace::Still);
            }
            Weather::D | Weather::E | Weather::F => {}
            Weather::G => sky.every(10.0, 2.0, lanes, Pace::Slower(3.0)),
            Weather::H => {
                let last = sky.courses.last_mut().expect("there is at least one lane");
                last.changes.push((Time::ZERO + span / 4, Pace::Down));
            }
            Weather::I => sky.every(3.0, 1.0, 2, Pace::Still),
            Weather::J => sky.every(20.0, 5.0, 1, Pace::Down),
        }
        sky.courses
    }
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Serialize for Weather {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct Sky {
    rng: ChaCha8Rng,
    span: Duration,
    courses: Vec<Course>,
}

impl Sky {
    /// Makes `lane` go at `pace` from `from` to `to` seconds.
    fn spell(&mut self, lane: usize, pace: Pace, from: f64, to: f64) {
        let at = |seconds: f64| Time::ZERO + Duration::from_secs_f64(seconds);
        let changes = &mut self.courses[lane].changes;
        // What began before and lasts longer goes on afterwards.
        let after = changes.iter().rev().find(|(when, _)| *when <= at(to)).map_or(Pace::Slower(1.0), |(_, pace)| *pace);
        changes.retain(|(when, _)| *when < at(from) || *when > at(to));
        changes.extend([(at(from), pace), (at(to), after)]);
        changes.sort_by_key(|(when, _)| *when);
    }

    /// One pair after the other is slower for 1 to 3 s; the `group`th of `groups` equal parts of the lanes, so that pairs do not meet.
    fn slow_pairs(&mut self, group: usize, groups: usize, factors: std::ops::Range<f64>) {
        let lanes: Vec<usize> = (0..self.courses.len()).filter(|lane| lane % groups == group).collect();
        let mut from = 0.0;
        while from < self.span.as_secs_f64() {
            let to = from + self.rng.random_range(1.0..3.0);
            let mut order = lanes.clone();
            order.shuffle(&mut self.rng);
            for &lane in order.iter().take(2) {
                let factor = self.rng.random_range(factors.clone());
                self.spell(lane, Pace::Slower(factor), from, to);
            }
            from = to;
        }
    }

    /// Always so many pairs.
    fn many_slow_pairs(&mut self, pairs: usize) {
        (0..pairs).for_each(|pair| self.slow_pairs(pair, pairs, 1.5..3.0));
    }

    /// Another tenant's jobs on a lane: 14 a second at random moments (the light load of ParM's experiments on two instances), each of the
    /// length of one of ours, so twice that while both run.
    fn tenant(&mut self, lane: usize) {
        const RATE: f64 = 14.0;
        const LENGTH: f64 = 0.05;
        let mut from = 0.0;
        while from < self.span.as_secs_f64() {
            self.spell(lane, Pace::Slower(2.0), from, from + LENGTH);
            // One at a time: the next comes when this one is over, at the earliest.
            from += LENGTH - f64::ln(1.0 - self.rng.random_range(0.0..1.0)) * (1.0 / RATE - LENGTH);
        }
    }

    /// Every `period` seconds, at a random moment of it, `count` random lanes go at `pace` for `length` seconds.
    fn every(&mut self, period: f64, length: f64, count: usize, pace: Pace) {
        let mut start = 0.0;
        while start < self.span.as_secs_f64() {
            let from = start + self.rng.random_range(0.0..period - length);
            let mut order: Vec<usize> = (0..self.courses.len()).collect();
            order.shuffle(&mut self.rng);
            for &lane in order.iter().take(count) {
                self.spell(lane, pace, from, from + length);
            }
            start += period;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pair_is_always_slow_and_no_more() {
        let courses = Weather::B.courses(18, Duration::from_secs(30), 1);
        let slow = |ms: u64| {
            let at = Time::from_nanos(ms * 1_000_000);
            courses.iter().filter(|course| course.is_other_than_usual(at)).count()
        };
        assert!((0..29_000).step_by(7).all(|ms| slow(ms) == 2));
        assert_eq!(courses, Weather::B.courses(18, Duration::from_secs(30), 1), "the same seed, the same weather");
    }

    #[test]
    fn a_spell_within_another_gives_way_to_it_again() {
        let mut sky =
            Sky { rng: ChaCha8Rng::seed_from_u64(1), span: Duration::from_secs(10), courses: vec![Course::default()] };
        sky.spell(0, Pace::Slower(2.0), 1.0, 9.0);
        sky.spell(0, Pace::Still, 3.0, 4.0);
        let paces: Vec<Pace> = sky.courses[0].changes.iter().map(|(_, pace)| *pace).collect();
        assert_eq!(paces, [Pace::Slower(2.0), Pace::Still, Pace::Slower(2.0), Pace::Slower(1.0)]);
    }
}
