//! A drawn lane: computes the linear model at once, and says when it would have been done and what went wrong.

use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::Faults;
use crate::{
    code::Code,
    job::{Batch, Completion, Loss},
};

/// The first value of a row that no lane survives.
pub(super) const POISON: f32 = -1.0;

/// The linear model: what it gives for a sum of rows is the sum of what it gives for the rows.
pub(super) fn linear(row: &[f32]) -> Vec<f32> {
    let weight = |output: usize, input: usize| ((output * 5 + input * 3) % 7) as f32 / 3.0 - 1.0;
    (0..3).map(|output| row.iter().enumerate().map(|(input, value)| value * weight(output, input)).sum()).collect()
}

/// Runs a batch: one completion a job, and how long it takes.
pub(super) fn attempt(
    batch: &Batch,
    code: Option<&dyn Code>,
    service: Duration,
    faults: Faults,
    rng: &mut ChaCha8Rng,
) -> (Vec<Completion>, Duration) {
    let mut time = service.mul_f64(rng.random_range(0.97..1.03));
    if rng.random_bool(faults.slow) {
        time *= 10;
    }
    if rng.random_bool(faults.hang) {
        time += Duration::from_millis(500);
    }
    let poisoned = matches!(batch, Batch::Base(inputs) if inputs.iter().any(|input| input.row[0] == POISON));
    if poisoned || rng.random_bool(faults.lost) {
        let loss = [Loss::Panic, Loss::Device, Loss::NonFinite][rng.random_range(0..3)];
        return (vec![Completion::Lost(loss); batch.jobs()], time);
    }
    let outputs: Vec<Vec<f32>> = match batch {
        Batch::Base(inputs) => inputs.iter().map(|input| linear(&input.row)).collect(),
        Batch::Parity(inputs) => inputs.iter().map(|input| parity(code, input.row, &input.rows)).collect(),
    };
    (outputs.into_iter().map(|output| Completion::Output(output.into())).collect(), time)
}

fn parity(code: Option<&dyn Code>, row: usize, stripe: &[crate::query::Row]) -> Vec<f32> {
    let rows: Vec<&[f32]> = stripe.iter().map(|row| &**row).collect();
    let mut query = vec![0.0; rows[0].len()];
    code.expect("there are no stripes without a code").encode(row, &rows, &mut query);
    linear(&query)
}
