//! What a code costs: parameters, arithmetic, bytes, and time measured on this machine.
//!
//! Counted costs are the same everywhere; measured ones are given as ratios, parity job over base job, taken in turns in one run, because
//! nothing else of them can be carried to another machine.

use std::time::Duration;

use serde::Serialize;

use crate::{
    clock::Clock,
    code::{Code, Kind, Reading},
    model::{Net, TensorError, decoder_plan},
    weights::{Bundle, canary},
};

/// Jobs of a batch at which time is measured.
const BATCHES: [usize; 2] = [1, 8];

/// Turns of each measurement; its result is the median.
const TURNS: usize = 51;

/// Times that the nets are built anew for a measurement: where their weights come to lie in memory moves the ratio of small networks by a tenth.
const BUILDS: usize = 7;

/// Costs of one parity job beside those of one base job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Numbers that the parity model holds.
    pub parity_parameters: usize,
    /// Numbers that the base model holds.
    pub base_parameters: usize,
    /// Bytes of one parity query and its output, which a lane moves to its device and back.
    pub parity_bytes: usize,
    /// Bytes of one input row and its output.
    pub base_bytes: usize,
    /// Time of a parity job (encoder included) over that of a base job, on one CPU lane: one job, and eight, at once; if it was measured.
    pub parity_time: Option<[f64; 2]>,
}

impl Cost {
    /// Counts, and measures if `timed`.
    pub(super) fn of(bundle: &Bundle, code: &dyn Code, timed: bool) -> Result<Self, TensorError> {
        let (width, outputs) = (bundle.signature().input.width(), bundle.base_plan().outputs());
        let bytes = |input: usize, output: usize| size_of::<f32>() * (input + output);
        let both = || Ok([time(bundle, code, BATCHES[0])?, time(bundle, code, BATCHES[1])?]);
        Ok(Cost {
            parity_parameters: bundle.parity_plan(0).parameter_count(),
            base_parameters: bundle.base_plan().parameter_count(),
            parity_bytes: bytes(code.query_width(width), code.output_width(outputs)),
            base_bytes: bytes(width, outputs),
            parity_time: timed.then(|| on_one_thread(both)).transpose()?,
        })
    }
}

/// Runs `work` in a pool of one thread, which is what a CPU lane has.
fn on_one_thread<T: Send>(work: impl FnOnce() -> Result<T, TensorError> + Send) -> Result<T, TensorError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(TensorError::wrap)?;
    pool.install(work)
}

/// Two FLOPs a multiply-add: encoder, parity model and decoder of one parity job.
pub(super) fn parity_flops(bundle: &Bundle, code: &dyn Code) -> u64 {
    flops(arithmetic(bundle, code, bundle.signature().input.width(), bundle.base_plan().outputs()))
}

/// Two FLOPs a multiply-add.
pub(super) const fn flops(multiply_adds: usize) -> u64 {
    2 * multiply_adds as u64
}

/// Multiply-adds of one parity job and one reconstruction. Adding up, and halving images, takes one a value that is read; what only moves
/// values takes none.
fn arithmetic(bundle: &Bundle, code: &dyn Code, width: usize, outputs: usize) -> usize {
    let added = match code.kind() {
        Kind::Sum | Kind::Concat | Kind::Berrut => code.k() * (width + outputs),
        Kind::Mux | Kind::Compact | Kind::Replica => 0,
        Kind::Learned => decoder_plan(code.k(), code.r(), outputs).multiply_adds(),
    };
    let runs = match code.reading() {
        Reading::Rows => code.k(),
        Reading::Row | Reading::Channels | Reading::Encoded => 1,
    };
    added + runs * bundle.parity_plan(0).multiply_adds()
}

/// The median time of a batch of parity jobs over that of as many base jobs, taken in turns; the median of several such ratios, each of nets
/// that were built anew.
fn time(bundle: &Bundle, code: &dyn Code, batch: usize) -> Result<f64, TensorError> {
    let mut ratios = Vec::new();
    for nets in &builds(bundle)? {
        ratios.push(time_once(nets, code, (bundle.signature().input.width(), batch))?);
    }
    ratios.sort_unstable_by(f64::total_cmp);
    Ok(ratios[ratios.len() / 2])
}

/// Base and parity model, several times. All are there at a time: memory that one gave back would be the next one's.
fn builds(bundle: &Bundle) -> Result<Vec<[Net; 2]>, TensorError> {
    (0..BUILDS).map(|_| bundle.anew(0)).collect()
}

fn time_once([base, parity]: &[Net; 2], code: &dyn Code, (width, batch): (usize, usize)) -> Result<f64, TensorError> {
    let stripe = canary::stripe(width, code.k());
    let rows: Vec<&[f32]> = stripe.iter().map(|row| &**row).collect();
    let mut base_rows = vec![0.0; batch * width];
    let mut queries = vec![0.0; batch * code.query_width(width)];
    let clock = Clock::start();
    let (mut of_base, mut of_parity) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let started = clock.now();
        // A lane puts the rows of a batch side by side, too.
        base_rows.chunks_exact_mut(width).for_each(|place| place.copy_from_slice(rows[0]));
        base.run(&base_rows)?;
        let between = clock.now();
        for query in queries.chunks_exact_mut(code.query_width(width)) {
            code.encode(0, &rows, query);
        }
        parity.run(&queries)?;
        of_base.push(between.since(started));
        of_parity.push(clock.now().since(between));
    }
    Ok(median(of_parity).as_secs_f64() / median(of_base).as_secs_f64())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{code::Sum, model::Device, weights::oracle};

    #[test]
    fn every_build_has_memory_of_its_own() {
        let (dir, code) = (tempfile::tempdir().unwrap(), Sum::with_defaults(2, 1).unwrap());
        oracle::write(dir.path(), &[1, 4, 4], 3, &code).unwrap();
        let bundle = Bundle::load(dir.path(), Some(&code)).unwrap();
        let lane = || bundle.base(&Device::Cpu).unwrap();
        assert!(lane().shares_weights(&lane()), "lanes share what they run");
        let nets: Vec<Net> = builds(&bundle).unwrap().into_iter().flatten().collect();
        assert_eq!(nets.len(), 2 * BUILDS);
        for (place, net) in nets.iter().enumerate() {
            assert!(!net.shares_weights(&lane()) && !nets[..place].iter().any(|other| net.shares_weights(other)));
        }
    }
}
