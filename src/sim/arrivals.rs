//! When queries arrive: a Poisson process from a seed of its own.
//!
//! Nothing else draws from that seed, so two policies, or a simulated and a real run, meet the same queries at the same moments.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::clock::Time;

/// Moments of arrival, the first at the origin; without end.
#[derive(Debug)]
pub struct Arrivals {
    rng: ChaCha8Rng,
    gap: Duration,
    next: Time,
}

impl Arrivals {
    /// Those of a seed, with this mean gap between two (exponential).
    pub fn new(seed: u64, gap: Duration) -> Self {
        Arrivals { rng: ChaCha8Rng::seed_from_u64(seed ^ 0x0a22_17a1), gap, next: Time::ZERO }
    }
}

impl Iterator for Arrivals {
    type Item = Time;

    fn next(&mut self) -> Option<Time> {
        let now = self.next;
        self.next = now + self.gap.mul_f64(-f64::ln(1.0 - self.rng.random_range(0.0..1.0)));
        Some(now)
    }
}
