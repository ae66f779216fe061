//! The way of a batch's rows into a net: gathered or encoded row by row into memory that is kept, so that a batch on a CPU allocates nothing.
//!
//! For a CPU that is one list. For a GPU it is two blocks of pinned memory (`gpu`): of a batch that is larger than one of them, a part is copied while
//! the next is written, and the host does not wait for the last copy: the GPU's stream does.

use candle_core::{Error, Result, Tensor};

#[cfg(feature = "cuda")]
use super::gpu::Pinned;
use super::{Device, Net};

/// Memory that the rows of one batch after the other go through, for nets of one device.
#[derive(Debug, Default)]
pub struct Intake {
    rows: Vec<f32>,
    #[cfg(feature = "cuda")]
    pinned: Option<Pinned>,
}

/// The rows of a batch, where [`Net::run_into`] takes them.
#[derive(Debug)]
pub enum Taken<'a> {
    /// One after the other in host memory.
    Host(&'a [f32]),
    /// Copied to the net's device, or about to be: `[n, ..input shape]`; and which of them have NaN in them.
    There(Tensor, Vec<usize>),
}

/// Which of some rows have NaN in them.
pub(super) fn blank(rows: &[f32], width: usize) -> impl Iterator<Item = usize> {
    // All of a row at once: that is a few vectors, and a way out at the first NaN is a branch a value.
    let has_nan = |row: &[f32]| row.iter().fold(false, |any, value| any | value.is_nan());
    rows.chunks_exact(width).enumerate().filter(move |(_, row)| has_nan(row)).map(|(number, _)| number)
}

impl Intake {
    /// Has `fill` write what each of `jobs` has `net` run, once and whole, in order: `width` values, which are one row or several.
    ///
    /// Fails when that is not whole rows, or when the device does.
    pub fn take(
        &mut self,
        net: &Net,
        (jobs, width): (usize, usize),
        mut fill: impl FnMut(usize, &mut [f32]),
    ) -> Result<Taken<'_>> {
        if width == 0 || !width.is_multiple_of(net.width()) {
            return Err(Error::Msg(format!("{width} values are no rows of {}", net.width())));
        }
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = net.device() {
            let pinned = match &mut self.pinned {
                Some(pinned) if pinned.holds(width) => pinned,
                none => none.insert(Pinned::new(device, width)?),
            };
            let mut blanks = Vec::new();
            let rows = pinned.take(device, (jobs, width), &mut |job, into: &mut [f32]| {
                fill(job, into);
                let first = job * width / net.width();
                blanks.extend(blank(into, net.width()).map(|row| first + row));
            })?;
            return Ok(Taken::There(rows.reshape(net.shape(jobs * width / net.width()))?, blanks));
        }
        debug_assert!(!matches!(net.device(), Device::Cuda(_)), "there is none without CUDA");
        if self.rows.len() < jobs * width {
            self.rows.resize(jobs * width, 0.0);
        }
        for (job, into) in self.rows.chunks_exact_mut(width).take(jobs).enumerate() {
            fill(job, into);
        }
        Ok(Taken::Host(&self.rows[..jobs * width]))
    }
}
