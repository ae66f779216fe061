//! The load: how many requests, when, and with which rows. All of it is drawn before the first request leaves.
//!
//! Times and rows come from the seed alone, in two streams of one generator, so that two runs of one load send the same rows at the same
//! moments whatever the server does. Nothing here waits for a reply: a closed loop would send less just when the server is slow.

use std::{fmt, str::FromStr, time::Duration};

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, Exp};

/// Share of the time that a bursty load spends in bursts.
const BURST_SHARE: f64 = 0.2;

/// Rate within a burst, in mean rates. What is left for the quiet time is a quarter of the mean rate: 0.2 * 4 + 0.8 * 0.25 = 1.
const BURST_FACTOR: f64 = 4.0;

/// Mean length of a burst. With the share above, quiet times last 400 ms on average.
const BURST_SECONDS: f64 = 0.1;

/// Streams of the generator.
const TIMES: u64 = 0;
const ROWS: u64 = 1;

/// How requests arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrivals {
    /// Independent of each other: exponential gaps.
    Poisson,
    /// Poisson whose rate switches between a burst (4 times the mean rate, for 100 ms on average) and quiet (a quarter of it, for 400 ms
    /// on average), both exponentially long. The first state is drawn by its share of the time, so the mean rate is that of `Poisson`.
    Bursty,
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arrivals::Poisson => "poisson",
            Arrivals::Bursty => "bursty",
        })
    }
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "poisson" => Ok(Arrivals::Poisson),
            "bursty" => Ok(Arrivals::Bursty),
            _ => Err(format!("{word:?} is none of poisson, bursty")),
        }
    }
}

/// What is sent, and when.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Load {
    /// Mean requests a second; positive.
    pub rate: f64,
    /// Seconds in which requests are sent; positive.
    pub seconds: f64,
    /// Seed of times and rows.
    pub seed: u64,
    /// How they arrive.
    pub arrivals: Arrivals,
    /// Rows of one request; positive.
    pub rows: u32,
    /// From the intended time; a later reply is a failure.
    pub deadline: Duration,
    /// Whether a reconstruction is an answer.
    pub allow_reconstructed: bool,
}

impl Load {
    /// The intended times from the start, in order.
    pub(super) fn times(&self) -> Vec<Duration> {
        let mut random = self.random(TIMES);
        let mut bursts = match self.arrivals {
            Arrivals::Poisson => None,
            Arrivals::Bursty => Some(Bursts::new(&mut random)),
        };
        let (mut times, mut now) = (Vec::new(), 0.0);
        loop {
            now += match &mut bursts {
                None => exponential(1.0 / self.rate, &mut random),
                Some(bursts) => bursts.gap(self.rate, &mut random),
            };
            if now >= self.seconds {
                return times;
            }
            times.push(Duration::from_secs_f64(now));
        }
    }

    /// For each of `requests`, which of `available` rows it holds; uniform, with repetition.
    pub(super) fn picks(&self, requests: usize, available: u32) -> Vec<u32> {
        let mut random = self.random(ROWS);
        (0..requests * self.rows as usize).map(|_| random.random_range(0..available)).collect()
    }

    fn random(&self, stream: u64) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(stream);
        random
    }
}

/// Which state a bursty load is in.
struct Bursts {
    in_burst: bool,
    /// Seconds that the state still lasts.
    left: f64,
}

impl Bursts {
    fn new(random: &mut ChaCha8Rng) -> Self {
        let in_burst = random.random::<f64>() < BURST_SHARE;
        Bursts { in_burst, left: Bursts::length(in_burst, random) }
    }

    fn length(in_burst: bool, random: &mut ChaCha8Rng) -> f64 {
        let mean = if in_burst { BURST_SECONDS } else { BURST_SECONDS * (1.0 - BURST_SHARE) / BURST_SHARE };
        exponential(mean, random)
    }

    /// Seconds to the next arrival at this mean rate.
    fn gap(&mut self, rate: f64, random: &mut ChaCha8Rng) -> f64 {
        let mut passed = 0.0;
        loop {
            let quiet = (1.0 - BURST_SHARE * BURST_FACTOR) / (1.0 - BURST_SHARE);
            let factor = if self.in_burst { BURST_FACTOR } else { quiet };
            let gap = exponential(1.0 / (rate * factor), random);
            if gap < self.left {
                self.left -= gap;
                return passed + gap;
            }
            // The state ends first. Exponential gaps have no memory, so the next state draws a new one.
            passed += self.left;
            self.in_burst = !self.in_burst;
            self.left = Bursts::length(self.in_burst, random);
        }
    }
}

fn exponential(mean: f64, random: &mut ChaCha8Rng) -> f64 {
    Exp::new(1.0 / mean).expect("means are positive").sample(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(arrivals: Arrivals, seed: u64) -> Load {
        Load {
            rate: 100.0,
            seconds: 400.0,
            seed,
            arrivals,
            rows: 2,
            deadline: Duration::from_secs(2),
            allow_reconstructed: true,
        }
    }

    /// Variance over mean of the counts in windows of 100 ms; 1 for Poisson.
    fn dispersion(load: &Load) -> f64 {
        let mut counts = vec![0.0_f64; 4_000];
        for time in load.times() {
            counts[usize::try_from(time.as_millis() / 100).unwrap()] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / counts.len() as f64 / mean
    }

    #[test]
    fn both_arrivals_keep_the_mean_rate() {
        // Poisson: 40,000 expected, a standard deviation of 200. Bursty counts vary with a dispersion of about 37 over long times: 1,220.
        for (arrivals, slack) in [(Arrivals::Poisson, 1_000.0), (Arrivals::Bursty, 5_000.0)] {
            for seed in 0..4 {
                let sent = load(arrivals, seed).times().len() as f64;
                assert!((sent - 40_000.0).abs() < slack, "{arrivals}, seed {seed}: {sent}");
            }
        }
    }

    #[test]
    fn bursts_are_bursty_and_poisson_is_not() {
        let (poisson, bursty) = (dispersion(&load(Arrivals::Poisson, 1)), dispersion(&load(Arrivals::Bursty, 1)));
        assert!((0.9..1.1).contains(&poisson), "{poisson}");
        assert!(bursty > 8.0, "{bursty}");
    }

    #[test]
    fn the_seed_decides_times_and_rows() {
        for arrivals in [Arrivals::Poisson, Arrivals::Bursty] {
            assert_eq!(load(arrivals, 7).times(), load(arrivals, 7).times());
            assert_ne!(load(arrivals, 7).times(), load(arrivals, 8).times());
        }
        let (poisson, bursty) = (load(Arrivals::Poisson, 7), load(Arrivals::Bursty, 7));
        assert_eq!(poisson.picks(50, 1_000), bursty.picks(50, 1_000), "rows do not depend on the times");
        assert_eq!(poisson.picks(50, 1_000).len(), 100);
        assert_ne!(poisson.picks(50, 1_000), load(Arrivals::Poisson, 8).picks(50, 1_000));
    }

    #[test]
    fn times_rise_and_end_before_the_end() {
        for arrivals in [Arrivals::Poisson, Arrivals::Bursty] {
            let times = load(arrivals, 3).times();
            assert!(times.is_sorted() && *times.last().unwrap() < Duration::from_secs(400));
        }
    }
}
