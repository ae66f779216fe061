//! Pace: what a lane's batches are expected to take, and whether it is slower than its peers.
//!
//! *Intuition.* A lane is compared with itself first: the time of a batch over the time that this lane usually takes for a batch of that
//! model and size is its *ratio*. A slower card has a ratio of 1 like any other. Ratios are then compared between lanes: a lane is slow if
//! its ratio is, and those of the others are not. When all slow down together (heat, a neighbour on the host) nobody is slow.
//!
//! *Formulas.* With E the expected time, s the sample and m the median of the other lanes' latest ratios, a sample is slow if
//! s > 1.3 · m · E and s exceeds m · E by more than four mean deviations and by half a millisecond. A lane becomes a straggler by two slow samples in a
//! row (by one while its device's driver says why), and healthy again by two in a row that are below 1.25 · m · E or exceed m · E by no more than such an
//! accident. One slow sample proves nothing of the lane: jobs stall one by one, too. E is smoothed as TCP smooths its round trip (weight 1/16, RFC 6298
//! has 1/8; 1/4 below 0.75 E, which shows that too much was expected); samples count for at most 1.3 E, so that a stalled job does not teach a lane to
//! expect stalls, while a change of all lanes is learned in a few dozen jobs; its mean deviation is learned from samples below that alone. A straggler
//! learns nothing: it would become its own excuse.
//!
//! *In-job progress.* While a batch runs it reports each [`PARTS`]th of its work. When each part is usually over is learned as a share of the
//! batch's time. A job is late as soon as a report is later than that by more than the largest of 0.1 E, four mean deviations and 2 ms. The idea is
//! that of the accrual detectors (Hayashibara et al., SRDS 2004): be told often, and suspect early.
//!
//! *Rejected.* Windows with a median over 20 samples: a lane whose median is 1.5 has two slow samples in a row long before. A global
//! expected time: heterogeneous cards would be stragglers for ever. Percentiles of past times (p95 hedging, Dean & Barroso 2013): in a bad
//! hour they learn to expect the bad.
//!
//! All of it is atomics that the lane's own thread writes and the timer reads, so the path of a query takes no lock.

use std::{
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use crate::{clock::nanos, job::PARTS};

/// A sample beyond this ratio (over that of the others) is slow; samples teach at most this.
const SLOW: f64 = 1.3;
/// A sample below this ratio speaks for a straggler.
const FAST: f64 = 1.25;
/// A sample below this ratio shows that too much was expected.
const EASY: f64 = 0.75;
/// So many mean deviations are no accident.
const DEVIATIONS: f64 = 4.0;
/// What a scheduler may add to any sample; two jobs of a tenth of a millisecond in a row that met a busy neighbour are no slow lane.
const SLOW_MIN: Duration = Duration::from_micros(500);
/// A report may be later than usual by this share of the batch's time.
const LATE: f64 = 0.1;
/// … and by two ticks of the timer, which is what it takes to see a report.
const LATE_MIN: Duration = Duration::from_millis(2);
/// Weight of a sample is one over this.
const MEMORY: f64 = 16.0;
/// Samples in a row that change a lane's standing.
const IN_A_ROW: u8 = 2;

/// Which of a lane's models a batch runs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// The base model.
    Base,
    /// A parity model; all are taken to be alike.
    Parity,
}

/// What a batch is: so many jobs (at least one) at once on a model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pass {
    /// The model.
    pub model: Model,
    /// The jobs.
    pub jobs: usize,
}

/// What two samples in a row say of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing new.
    Unchanged,
    /// It is slow: its ratio in percent.
    Slow(u32),
    /// It is as fast as expected.
    Fast,
}

/// The pace of one lane.
#[derive(Debug)]
pub struct Pace {
    /// Expected nanoseconds by model and number of jobs (from 1); 0 = unknown.
    expected: [Box<[AtomicU64]>; 2],
    /// Mean deviation of ratios, an `f64`.
    deviation: AtomicU64,
    /// The latest ratio, an `f32`.
    ratio: AtomicU32,
    /// Samples in a row that were slow, and that were fast.
    slow: AtomicU8,
    fast: AtomicU8,
    /// Whether one slow sample is enough: something else speaks against the lane, too.
    suspected: AtomicBool,
    /// When each part of a batch is usually over, as a share of its time: `f32`s; 0 = unknown.
    profile: [AtomicU32; PARTS],
}

impl Pace {
    /// Nothing is known yet of batches of up to `batch_max` jobs.
    pub fn new(batch_max: usize) -> Self {
        let unknown = || (0..batch_max).map(|_| AtomicU64::new(0)).collect();
        Pace {
            expected: [unknown(), unknown()],
            deviation: AtomicU64::new(0.0_f64.to_bits()),
            ratio: AtomicU32::new(1.0_f32.to_bits()),
            slow: AtomicU8::new(0),
            fast: AtomicU8::new(0),
            suspected: AtomicBool::new(false),
            profile: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// From now on one slow sample is enough, or two are needed again.
    pub fn suspect(&self, suspected: bool) {
        self.suspected.store(suspected, Ordering::Relaxed);
    }

    fn cell(&self, pass: Pass) -> &AtomicU64 {
        let sizes = &self.expected[pass.model as usize];
        &sizes[pass.jobs.clamp(1, sizes.len()) - 1]
    }

    /// What one batch is told to take before any has run.
    pub fn expect(&self, pass: Pass, time: Duration) {
        self.cell(pass).store(nanos(time), Ordering::Relaxed);
    }

    /// What a batch is expected to take; from the nearest smaller size, as if each job took its share, where there was none of
    /// that size yet.
    pub fn expected(&self, pass: Pass) -> Option<Duration> {
        let sizes = &self.expected[pass.model as usize];
        let jobs = pass.jobs.clamp(1, sizes.len());
        let known = |size: usize| match sizes[size - 1].load(Ordering::Relaxed) {
            0 => None,
            nanos => Some((size, nanos)),
        };
        let (size, nanos) = (1..=jobs).rev().find_map(known).or_else(|| (jobs..=sizes.len()).find_map(known))?;
        let scaled = if size < jobs { nanos.saturating_mul(jobs as u64) / size as u64 } else { nanos };
        Some(Duration::from_nanos(scaled))
    }

    /// The latest ratio of a sample to what was expected.
    pub fn ratio(&self) -> f64 {
        f64::from(f32::from_bits(self.ratio.load(Ordering::Relaxed)))
    }

    /// Whether the latest sample was fast, as far as one sample can tell.
    pub fn is_fast(&self, others: f64) -> bool {
        self.ratio() < FAST * others
    }

    fn deviation(&self) -> f64 {
        f64::from_bits(self.deviation.load(Ordering::Relaxed))
    }

    /// Whether a batch that took `service` was as fast as expected, whatever the others do.
    pub fn is_usual(&self, pass: Pass, service: Duration) -> bool {
        self.expected(pass).is_none_or(|expected| service < expected.mul_f64(FAST))
    }

    /// A batch took `service`; `others` is the median of the other lanes' latest ratios, at least 1 (and 1 will do for a batch that
    /// [`Pace::is_usual`]). `learns` is false for a straggler.
    pub fn served(&self, pass: Pass, service: Duration, others: f64, learns: bool) -> Verdict {
        let Some(expected) = self.expected(pass) else {
            self.expect(pass, service);
            return Verdict::Unchanged;
        };
        let ratio = service.as_secs_f64() / expected.as_secs_f64().max(1e-9);
        self.ratio.store(bits(ratio), Ordering::Relaxed);
        let verdict = self.judge(ratio, service, expected.mul_f64(others));
        if learns {
            self.learn(self.cell(pass), expected, ratio);
        }
        verdict
    }

    fn judge(&self, ratio: f64, service: Duration, usual: Duration) -> Verdict {
        let excess = service.saturating_sub(usual);
        let accident = usual.mul_f64(DEVIATIONS * self.deviation()).max(SLOW_MIN);
        let is_slow = service > usual.mul_f64(SLOW) && excess > accident;
        let is_fast = !is_slow && (service < usual.mul_f64(FAST) || excess <= accident);
        let (slow, fast) = (count(&self.slow, is_slow), count(&self.fast, is_fast));
        let enough = if self.suspected.load(Ordering::Relaxed) { 1 } else { IN_A_ROW };
        if slow >= enough {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a ratio is positive, and a cast saturates"
            )]
            return Verdict::Slow((ratio * 100.0) as u32);
        }
        if fast >= IN_A_ROW { Verdict::Fast } else { Verdict::Unchanged }
    }

    /// What came before counts for no streak any more: the lane is on trial.
    pub fn begin_streaks(&self) {
        self.slow.store(0, Ordering::Relaxed);
        self.fast.store(0, Ordering::Relaxed);
    }

    fn learn(&self, cell: &AtomicU64, expected: Duration, ratio: f64) {
        let clipped = ratio.min(SLOW);
        let weight = if ratio < EASY { 4.0 / MEMORY } else { 1.0 / MEMORY };
        let after = expected.mul_f64(1.0 + (clipped - 1.0) * weight);
        cell.store(nanos(after).max(1), Ordering::Relaxed);
        // A stall is no noise: it would teach to overlook the next one.
        if ratio < SLOW {
            let deviation = self.deviation();
            let after = deviation + ((ratio - 1.0).abs() - deviation) / MEMORY;
            self.deviation.store(after.to_bits(), Ordering::Relaxed);
        }
    }

    /// Learns from a batch when its parts were over (since its start; zero for a part that was not reported), if it took about what it
    /// usually takes: a stalled batch does not show how a batch goes.
    pub fn reported(&self, marks: &[Duration; PARTS], service: Duration) {
        let usual = (EASY..SLOW).contains(&self.ratio());
        if !usual || service.is_zero() || marks.iter().all(Duration::is_zero) {
            return;
        }
        // A part without a report of its own was over when the next one was told.
        let mut next = 1.0;
        for (mark, cell) in marks.iter().zip(&self.profile).rev() {
            if !mark.is_zero() {
                next = (mark.as_secs_f64() / service.as_secs_f64()).min(next);
            }
            let before = f64::from(f32::from_bits(cell.load(Ordering::Relaxed)));
            let after = if before == 0.0 { next } else { before + (next - before) / MEMORY };
            cell.store(bits(after), Ordering::Relaxed);
        }
    }

    /// When the part after the first `parts` is usually over, as a share; `None` if parts were never reported.
    fn share(&self, parts: usize) -> Option<f64> {
        let share = |part: &AtomicU32| f64::from(f32::from_bits(part.load(Ordering::Relaxed)));
        let next = self.profile.get(parts).map_or(1.0, share);
        (next > 0.0).then_some(next)
    }

    /// After how long a batch that has told `parts` parts usually tells the next; all of it where parts are not reported.
    pub fn usual(&self, pass: Pass, parts: usize) -> Option<Duration> {
        Some(self.expected(pass)?.mul_f64(self.share(parts).unwrap_or(1.0)))
    }

    /// After how long a batch that has told `parts` parts is late with the next; `None` where it is not known when they are told.
    pub fn late_by_progress(&self, pass: Pass, parts: usize) -> Option<Duration> {
        let next = self.share(parts)?;
        let expected = self.expected(pass)?;
        let slack = expected.mul_f64(LATE.max(DEVIATIONS * self.deviation())).max(LATE_MIN);
        Some(expected.mul_f64(next) + slack)
    }

    /// After how long a batch is late that tells nothing while it runs: `after` times what is expected.
    pub fn late_by_time(&self, pass: Pass, after: f64) -> Option<Duration> {
        let expected = self.expected(pass)?;
        let slack = expected.mul_f64((after - 1.0).max(DEVIATIONS * self.deviation())).max(LATE_MIN);
        Some(expected + slack)
    }
}

/// Counts a sample in a row that `holds`, or starts anew; gives the length of the row.
fn count(row: &AtomicU8, holds: bool) -> u8 {
    let length = if holds { row.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
    row.store(length, Ordering::Relaxed);
    length
}

#[expect(clippy::cast_possible_truncation, reason = "ratios and shares need no more digits")]
fn bits(value: f64) -> u32 {
    (value as f32).to_bits()
}

/// The median of ratios; 1 if there are none. Reorders them.
pub fn median(ratios: &mut [f64]) -> f64 {
    if ratios.is_empty() {
        return 1.0;
    }
    let middle = ratios.len() / 2;
    *ratios.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(jobs: usize) -> Pass {
        Pass { model: Model::Base, jobs }
    }

    fn parity(jobs: usize) -> Pass {
        Pass { model: Model::Parity, jobs }
    }

    fn ms(ms: f64) -> Duration {
        Duration::from_secs_f64(ms / 1e3)
    }

    fn steady() -> Pace {
        let pace = Pace::new(4);
        pace.expect(base(1), ms(25.0));
        pace
    }

    fn served(pace: &Pace, service: f64) -> Verdict {
        pace.served(base(1), ms(service), 1.0, true)
    }

    #[test]
    fn two_slow_jobs_in_a_row_make_a_straggler_and_one_does_not() {
        let pace = steady();
        assert_eq!(served(&pace, 75.0), Verdict::Unchanged, "a stalled job is no slow lane");
        assert_ne!(served(&pace, 25.0), Verdict::Slow(100));
        served(&pace, 75.0);
        assert!(matches!(served(&pace, 75.0), Verdict::Slow(280..=300)));
        served(&pace, 25.0);
        assert_eq!(served(&pace, 25.0), Verdict::Fast);
    }

    #[test]
    fn one_slow_job_is_enough_where_the_driver_says_why() {
        let pace = steady();
        pace.suspect(true);
        assert_eq!((served(&pace, 25.0), served(&pace, 25.0)), (Verdict::Unchanged, Verdict::Fast));
        assert!(matches!(served(&pace, 75.0), Verdict::Slow(_)));
        assert_eq!(
            (served(&pace, 25.0), served(&pace, 25.0)),
            (Verdict::Unchanged, Verdict::Fast),
            "two in a row again"
        );
        assert!(matches!(served(&pace, 75.0), Verdict::Slow(_)));
        pace.suspect(false);
        served(&pace, 25.0);
        assert_eq!(served(&pace, 75.0), Verdict::Unchanged);
    }

    #[test]
    fn when_all_are_slow_nobody_is() {
        let pace = steady();
        for _ in 0..5 {
            assert!(!matches!(pace.served(base(1), ms(75.0), 3.0, true), Verdict::Slow(_)));
        }
    }

    #[test]
    fn a_lane_learns_its_own_time_in_dozens_of_jobs_and_never_from_one() {
        let pace = steady();
        served(&pace, 2500.0);
        assert!(pace.expected(base(1)).unwrap() < ms(25.6));
        for _ in 0..60 {
            pace.served(base(1), ms(50.0), 2.0, true);
        }
        let expected = pace.expected(base(1)).unwrap();
        assert!(expected > ms(48.0) && expected < ms(51.0), "{expected:?}");
    }

    #[test]
    fn unknown_sizes_are_expected_to_take_their_share() {
        let pace = steady();
        assert_eq!(pace.expected(base(4)), Some(ms(100.0)));
        assert_eq!(pace.expected(parity(1)), None);
        pace.served(base(4), ms(40.0), 1.0, true);
        assert!(pace.expected(base(4)).unwrap() < ms(90.0));
        pace.expect(parity(2), ms(8.0));
        assert_eq!(pace.expected(parity(1)), Some(ms(8.0)), "fewer jobs take no longer");
    }

    #[test]
    fn a_report_that_is_late_tells_before_the_job_is() {
        let pace = steady();
        assert_eq!(pace.late_by_progress(base(1), 0), None, "nothing was ever reported");
        let marks = std::array::from_fn(|part| ms(25.0 * (part + 1) as f64 / 8.0));
        served(&pace, 25.0);
        pace.reported(&marks, ms(25.0));
        let late = |parts| pace.late_by_progress(base(1), parts).unwrap().as_secs_f64() * 1e3;
        assert!((late(0) - (25.0 / 8.0 + 2.5)).abs() < 0.01, "{}", late(0));
        assert!((late(7) - 27.5).abs() < 0.01);
        assert!((late(8) - 27.5).abs() < 0.01, "the copy to the host may stall, too");
        served(&pace, 100.0);
        pace.reported(&[ms(100.0); PARTS], ms(100.0));
        assert!((late(0) - (25.0 / 8.0 + 2.5)).abs() < 0.5, "a stalled batch does not show how a batch goes");
    }

    #[test]
    fn noise_widens_what_is_no_accident() {
        let pace = steady();
        for job in 0..200 {
            served(&pace, if job % 2 == 0 { 20.0 } else { 30.0 });
        }
        let late = pace.late_by_time(base(1), 1.2).unwrap();
        assert!(late > ms(40.0), "a lane whose times vary by a fifth is given more time: {late:?}");
    }

    #[test]
    fn medians() {
        assert!((median(&mut []) - 1.0).abs() < 1e-9);
        assert!((median(&mut [3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
    }
}
