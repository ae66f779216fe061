//! A drawn lane: says at once what a batch gives, when each part of it is over, and what goes wrong on the way.
//!
//! A lane's speed over time is its [`Course`]; a job is an amount of work that is done along it, so a job that meets a change of speed, a hang
//! or a crash half-way is slowed from there on, and reports its progress accordingly.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::Faults;
use crate::{
    clock::Time,
    code::Code,
    job::{Batch, Completion, Loss, PARTS},
    query::{Row, Values},
};

/// The first value of a row that no lane survives.
pub(super) const POISON: f32 = -1.0;

/// How fast a lane is for a while.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// So many times slower than usual.
    Slower(f64),
    /// Nothing moves.
    Still,
    /// Every job is lost, and canaries with them.
    Down,
}

/// A lane's pace over time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Course {
    /// From when on it has which pace, in order; before the first it is as usual.
    pub changes: Vec<(Time, Pace)>,
}

impl Course {
    /// The index of the first change after `at`.
    fn next(&self, at: Time) -> usize {
        self.changes.partition_point(|(from, _)| *from <= at)
    }

    /// The pace at this time.
    pub fn pace(&self, at: Time) -> Pace {
        self.next(at).checked_sub(1).map_or(Pace::Slower(1.0), |last| self.changes[last].1)
    }

    /// Whether the lane is slower than usual at this time, or worse.
    pub fn is_other_than_usual(&self, at: Time) -> bool {
        self.pace(at) != Pace::Slower(1.0)
    }

    /// When `work` (its time at the usual pace) that begins at `from` is done; `None` if the lane is down or goes down before.
    pub fn done(&self, from: Time, work: Duration) -> Option<Time> {
        let over = self.over(from, work);
        (self.pace(from) != Pace::Down && self.pace(over) != Pace::Down).then_some(over)
    }

    /// When `work` (its time at the usual pace) that begins at `from` is over.
    fn over(&self, from: Time, work: Duration) -> Time {
        let (mut at, mut left, mut next) = (from, work.as_secs_f64(), self.next(from));
        loop {
            let factor = match next.checked_sub(1).map_or(Pace::Slower(1.0), |last| self.changes[last].1) {
                Pace::Slower(factor) => factor,
                Pace::Still => f64::INFINITY,
                // A crash loses the job then and there.
                Pace::Down => return at,
            };
            let change = self.changes.get(next).map(|(from, _)| *from);
            let room = change.map_or(f64::INFINITY, |change| change.since(at).as_secs_f64());
            if left * factor <= room {
                return at + Duration::from_secs_f64(left * factor);
            }
            let Some(change) = change else { return Time::from_nanos(u64::MAX / 2) };
            left -= room / factor;
            (at, next) = (change, next + 1);
        }
    }
}

/// A batch on a drawn lane.
#[derive(Debug)]
pub(super) struct Run {
    /// The batch.
    pub(super) batch: Batch,
    /// What comes back, one a job.
    pub(super) completions: Vec<Completion>,
    /// When each part of the work is over; the last is when it comes back.
    pub(super) parts: [Time; PARTS],
}

/// What lanes compute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// A linear model, which is its own parity model, so that every reconstruction can be checked.
    Linear,
    /// Always the same: for runs in which time alone matters.
    Null,
}

/// The linear model: what it gives for a sum of rows is the sum of what it gives for the rows.
pub(super) fn linear(row: &[f32]) -> Vec<f32> {
    let weight = |output: usize, input: usize| ((output * 5 + input * 3) % 7) as f32 / 3.0 - 1.0;
    (0..3).map(|output| row.iter().enumerate().map(|(input, value)| value * weight(output, input)).sum()).collect()
}

/// Draws lanes' batches.
#[derive(Debug)]
pub(super) struct Drawn<'a> {
    pub(super) model: Model,
    pub(super) code: Option<&'a dyn Code>,
    pub(super) faults: Faults,
    pub(super) null: Values,
}

/// Random numbers for batches, a stream for each: the nth batch that starts has the same luck under every policy, simulated or real.
#[derive(Clone, Debug)]
pub struct Luck(ChaCha8Rng);

impl Luck {
    /// That of a seed.
    pub fn new(seed: u64) -> Self {
        Luck(ChaCha8Rng::seed_from_u64(seed))
    }

    /// That of the nth batch.
    pub fn of(&self, batch: u64) -> ChaCha8Rng {
        let mut luck = self.0.clone();
        luck.set_stream(batch + 1);
        luck
    }
}

/// When a batch's parts are over, and whether it came to nothing.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// When each part of the work is over; the last is when it comes back.
    pub parts: [Time; PARTS],
    /// Whether it is lost.
    pub lost: bool,
}

impl Timing {
    /// Draws that of a batch whose usual time is `work`, from `now` on.
    pub fn draw(faults: Faults, (work, now): (Duration, Time), course: &Course, rng: &mut ChaCha8Rng) -> Self {
        let mut work = work.mul_f64(jitter(faults.jitter, rng));
        if faults.slow > 0.0 && rng.random_bool(faults.slow) {
            work *= 10;
        }
        let mut stall = None;
        if faults.stall > 0.0 && rng.random_bool(faults.stall) {
            stall = Some((rng.random_range(0.0..1.0), faults.stall_for));
        }
        let mut parts = [now; PARTS];
        let mut at = now;
        for (part, over) in parts.iter_mut().enumerate() {
            let share = part as f64 / PARTS as f64;
            if let Some((at_share, pause)) = stall
                && (share..share + 1.0 / PARTS as f64).contains(&at_share)
            {
                at = at + pause;
            }
            at = course.over(at, work.div_f64(PARTS as f64));
            *over = at;
        }
        let lost = course.pace(at) == Pace::Down || faults.lost > 0.0 && rng.random_bool(faults.lost);
        Timing { parts, lost }
    }
}

impl Drawn<'_> {
    /// Runs a batch whose usual time is `work`, from `now` on.
    pub(super) fn run(&self, batch: Batch, from: (Duration, Time), course: &Course, rng: &mut ChaCha8Rng) -> Run {
        let Timing { parts, lost } = Timing::draw(self.faults, from, course, rng);
        let poisoned = matches!(&batch, Batch::Base(inputs) if inputs.iter().any(|input| input.row[0] == POISON));
        if lost || poisoned {
            let loss = [Loss::Panic, Loss::Device, Loss::NonFinite][rng.random_range(0..3)];
            return Run { completions: vec![Completion::Lost(loss); batch.jobs()], batch, parts };
        }
        Run { completions: self.outputs(&batch), batch, parts }
    }

    fn outputs(&self, batch: &Batch) -> Vec<Completion> {
        match (self.model, batch) {
            (Model::Null, _) => vec![Completion::Output(Values::clone(&self.null)); batch.jobs()],
            (Model::Linear, Batch::Base(inputs)) => {
                inputs.iter().map(|input| Completion::Output(linear(&input.row).into())).collect()
            }
            (Model::Linear, Batch::Parity(inputs)) => {
                inputs.iter().map(|input| Completion::Output(self.parity(input.row, &input.rows).into())).collect()
            }
        }
    }

    fn parity(&self, row: usize, stripe: &[Row]) -> Vec<f32> {
        let rows: Vec<&[f32]> = stripe.iter().map(|row| &**row).collect();
        let (code, width) = (self.code.expect("there are no stripes without a code"), rows[0].len());
        let mut query = vec![0.0; code.query_width(width)];
        code.encode(row, &rows, &mut query);
        // Of rows one after the other, outputs one after the other.
        query.chunks_exact(width).flat_map(linear).collect()
    }
}

/// A lognormal factor with the median 1 and this standard deviation of its logarithm.
fn jitter(sigma: f64, rng: &mut ChaCha8Rng) -> f64 {
    // Box and Muller (1958): one normal number from two uniform ones.
    let (radius, angle) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random_range(0.0..std::f64::consts::TAU));
    (sigma * (-2.0 * f64::ln(radius)).sqrt() * angle.cos()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Time {
        Time::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn work_meets_the_changes_of_its_course() {
        let work = Duration::from_millis(20);
        let changes = vec![
            (ms(100), Pace::Slower(2.0)),
            (ms(200), Pace::Still),
            (ms(300), Pace::Slower(1.0)),
            (ms(400), Pace::Down),
        ];
        let course = Course { changes };
        assert_eq!(course.over(ms(0), work), ms(20));
        assert_eq!(course.over(ms(90), work), ms(120), "half of it at half the pace");
        assert_eq!(course.over(ms(190), work), ms(315), "5 of 20 before all stands still");
        assert_eq!(course.over(ms(395), work), ms(400), "lost when the lane goes down");
        assert_eq!((course.pace(ms(250)), course.pace(ms(0))), (Pace::Still, Pace::Slower(1.0)));
    }
}
