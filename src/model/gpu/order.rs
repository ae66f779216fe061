//! In which layout a network is faster on this GPU: found by running it in both.
//!
//! Tensor cores read pictures channels last. cuDNN reorders what lies otherwise, twice for each convolution; but its engines for single numbers, and for few channels, may be faster on
//! pictures that lie channels first, and how fast an engine is on a card is in no document. So both are timed where the lane opens, with the fewest and the most rows that a batch has: a
//! start takes that much longer. What a program keeps is one of the two; on the same card it may be the other one the next time if they take the same time, and outputs then differ by roundings.
//!
//! The other layout is a bonus, never needed: where it is refused, finds no memory, or gives other outputs, the network stays as it is.

use std::fmt;

use candle_core::{Device, Error, Result, Tensor};
use cudarc::driver::sys::CUevent_flags;

use super::{
    alone,
    bound::{Bound, Gpu, Made},
};
use crate::model::lowered::Lowered;

/// Turns of both, the fastest of which counts: other lanes may have the GPU busy.
const TURNS: usize = 5;

/// Times of the other layout, as a share of those of the first, from which on a change is worth it.
const WORTH: f32 = 0.95;

/// How far outputs of both may be apart, of the largest: roundings of bfloat16 in a deep network are some percent.
const APART: f32 = 0.1;

/// Makes `bound` the faster of itself and `other`, which is the same network in the other layout, for batches of these sizes. Fails when the device does.
pub(super) fn settle(gpu: &Gpu, bound: &mut Bound, other: Lowered, sizes: [usize; 2]) -> Result<()> {
    // Nobody captures or opens in between, who would have to wait for more than a turn otherwise.
    let _alone = alone(gpu.stream.context().ordinal());
    let mut last = match Bound::new(other, gpu) {
        Ok(last) => last,
        Err(error) => return unless_the_device_fails(gpu, &error),
    };
    match compared(gpu, [bound, &mut last], sizes) {
        Ok(true) => *bound = last,
        Ok(false) => {}
        Err(error) => return unless_the_device_fails(gpu, &error),
    }
    Ok(())
}

/// What fails for another reason, such as want of memory, costs the other layout, and nothing else.
fn unless_the_device_fails(gpu: &Gpu, error: &dyn fmt::Display) -> Result<()> {
    gpu.stream.synchronize().map_err(Error::wrap)?;
    tracing::info!(%error, "cuDNN has nothing for this network's other layout");
    Ok(())
}

/// Whether the second is worth it.
fn compared(gpu: &Gpu, mut both: [&mut Bound; 2], sizes: [usize; 2]) -> Made<bool> {
    // The most rows first, which take the most memory; where fewer take more, what pointed to the old is made again.
    for _ in 0..2 {
        for size in [sizes[1], sizes[0]] {
            for bound in &mut both {
                if !bound.made(gpu, size)? {
                    return Ok(false);
                }
            }
        }
    }
    let [first, last] = both;
    let mut ratio = 1.0;
    for size in sizes {
        let values = first.lowered.slots[0].min(last.lowered.slots[0]);
        let rows = rows(gpu, values * size)?;
        let (here, there) = (outputs(gpu, first, &rows, size)?, outputs(gpu, last, &rows, size)?);
        if here.iter().any(|value| !value.is_finite()) {
            // These rows are too much for its precision, and say nothing.
            return Ok(false);
        }
        if !agree(&here, &there) {
            tracing::warn!(rows = size, "cuDNN gives other outputs channels last: this network stays channels first");
            return Ok(false);
        }
        let mut best = [f32::INFINITY; 2];
        for _ in 0..TURNS {
            for (bound, best) in [&*first, &*last].into_iter().zip(&mut best) {
                *best = best.min(milliseconds(gpu, bound, size)?);
            }
        }
        tracing::debug!(rows = size, first_ms = best[0], last_ms = best[1], "both layouts are timed");
        ratio *= best[1] / best[0];
    }
    Ok(ratio.sqrt() < WORTH)
}

/// So many values that look like pictures, of the program's kind.
fn rows(gpu: &Gpu, count: usize) -> Result<Tensor> {
    let values: Vec<_> = (0..count).map(|index| (index * 7919 % 997) as f32 / 332.0 - 1.0).collect();
    Tensor::from_vec(values, count, &Device::Cuda(gpu.device.clone()))?.to_dtype(gpu.values.dtype())
}

/// What so many rows give.
fn outputs(gpu: &Gpu, bound: &Bound, rows: &Tensor, size: usize) -> Made<Vec<f32>> {
    bound.load(gpu, rows)?;
    run(gpu, bound, size)?;
    let mut outputs = Vec::new();
    bound.read(gpu, size, &mut outputs)?;
    Ok(outputs)
}

/// How long the GPU takes for so many rows, whatever they are now.
fn milliseconds(gpu: &Gpu, bound: &Bound, size: usize) -> Made<f32> {
    let mark = || gpu.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
    let begun = mark()?;
    run(gpu, bound, size)?;
    let over = mark()?;
    over.synchronize()?;
    Ok(begun.elapsed_ms(&over)?)
}

fn run(gpu: &Gpu, bound: &Bound, size: usize) -> Result<()> {
    let calls = bound.calls(size).expect("both are ready for this size");
    calls.parts.iter().try_for_each(|part| calls.launch(gpu, part))
}

/// Whether these are the same but for roundings. What is no number agrees with nothing.
fn agree(here: &[f32], there: &[f32]) -> bool {
    let most = here.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    here.iter().zip(there).all(|(here, there)| (here - there).abs() <= APART * most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_agree_but_for_roundings() {
        let here = [10.0, -2.0, 0.1];
        assert!(agree(&here, &[10.5, -1.5, 0.5]));
        assert!(!agree(&here, &[10.5, -3.5, 0.1]), "another value");
        assert!(!agree(&here, &[10.0, f32::NAN, 0.1]), "no number");
    }
}
