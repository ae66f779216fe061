//! The forward pass on CPU lanes: a plan and its parameters made into few steps over buffers that are kept.
//!
//! Owns the layout (channels innermost, zeros around each picture as wide as the next convolution reads), the fusion (batch norm is part
//! of the weights, bias, sum and `ReLU` part of the product that they follow) and the buffers. A program never changes, and what it gives for
//! a row does not depend on which rows it is batched with; on how many, and on how many threads, in the last bits alone. It uses the threads of the rayon pool that it is called in, and of no other: rows are shared out
//! among them, and of a single row the lines of its pictures.
//!
//! The obvious other way is candle's: a tensor for each intermediate value and a kernel for each layer. It costs an allocation and a pass over
//! memory for each, and its convolution unfolds its input; what runs on a GPU goes that way (`super::step`). What learns has passes of its own over
//! the same pictures (`learn`).

mod compile;
mod kernel;
pub(super) mod learn;
mod packed;
mod picture;
mod pooled;
mod shared;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(super) use compile::program;
use parking_lot::Mutex;
use rayon::prelude::*;

use self::{
    kernel::{Added, Product, Walk},
    packed::{Aligned, Packed},
    picture::Picture,
    pooled::PooledFilters,
};
use super::Window;

/// Values of all buffers at most that rows share at a time, unless one row needs more. What a core's own cache holds would be less, but then
/// the weights of a large network are read anew for each row: 32 rows of ResNet-18 took 1.2 times as long with a sixteenth of it.
const BUFFERED: usize = 1 << 22;

/// Multiply-adds of a step from which on a single row is worth several threads, which costs some microseconds.
const SHARED_WORK: usize = 1 << 20;

/// A forward pass, ready to run. Copies share the weights and no lock: each lane has one, so that lanes never wait for each other.
#[derive(Debug)]
pub(super) struct Program {
    /// Values of a row that comes in.
    width: usize,
    outputs: usize,
    steps: Arc<Vec<Step>>,
    /// What each step is of the work of a row, about.
    shares: Arc<[f32]>,
    /// The pictures that the buffers hold.
    buffers: Vec<Picture>,
    /// Of threads that are not running.
    scratch: Mutex<Vec<Scratch>>,
}

/// The buffers of one thread, each for some rows.
#[derive(Debug, Default)]
struct Scratch {
    buffers: Vec<Aligned>,
    /// What a step needs besides: a line of a picture.
    line: Vec<f32>,
    rows: usize,
}

/// Hears of the shares of the work that are over.
pub(super) type Told<'t> = dyn Fn(f32) + Sync + 't;

/// Number of a buffer.
type Buffer = usize;

/// One pass over memory. Buffers that a step reads and writes are never the same.
#[derive(Debug)]
enum Step {
    /// A row as it came, channels outermost, to a picture: each value times `scale` plus `shift`. With several `planes`, channels stay
    /// outermost.
    Read { scale: f32, shift: f32, planes: usize, to: Buffer },
    /// Convolution or full matrix.
    Product(Box<ProductStep>),
    /// Convolution and pooling in one.
    Pooled { filters: PooledFilters, relu: bool, from: Buffer, to: Buffer },
    /// The largest of each square.
    MaxPool { window: Window, relu: bool, from: Buffer, to: Buffer },
    /// The mean of each channel.
    AveragePool { from: Buffer, to: Buffer },
    /// The same values in another shape.
    Unflatten { from: Buffer, to: Buffer },
    /// max(x, 0), where it could not become part of the step before it.
    Relu { from: Buffer, to: Buffer },
}

#[derive(Debug)]
struct ProductStep {
    weights: Packed,
    runs: Vec<usize>,
    from: Buffer,
    start: Walk,
    /// Whether a position is a row, as in a full matrix, or a place in a picture.
    of_rows: bool,
    added: Option<(Buffer, Walk)>,
    relu: bool,
    to: Buffer,
    end: Walk,
    /// Lines of positions in a row, and positions in a line.
    lines: usize,
    across: usize,
}

impl Clone for Program {
    fn clone(&self) -> Self {
        let (steps, shares) = (Arc::clone(&self.steps), Arc::clone(&self.shares));
        Program { steps, shares, buffers: self.buffers.clone(), scratch: Mutex::default(), ..*self }
    }
}

impl Program {
    /// Whether both hold the same memory.
    #[cfg(test)]
    pub(super) fn shares_weights(&self, other: &Program) -> bool {
        Arc::ptr_eq(&self.steps, &other.steps)
    }

    /// Runs raw rows, one after the other; `outputs` are theirs, one after the other. `told` hears of each step which share of all the work it was,
    /// as soon as it is over; on several threads at once, if there are several.
    pub(super) fn run(&self, rows: &[f32], outputs: &mut Vec<f32>, told: &Told<'_>) {
        let n = rows.len() / self.width;
        assert_eq!(rows.len(), n * self.width, "whole rows");
        let per_row: usize = self.buffers.iter().map(Picture::len).sum();
        let at_once = (BUFFERED / per_row).max(1);
        outputs.clear();
        outputs.resize(n * self.outputs, 0.0);
        let threads = own_threads();
        let chunk = at_once.min(n.div_ceil(threads)).max(1);
        if n > 1 && threads > 1 {
            let pairs = rows.par_chunks(chunk * self.width).zip(outputs.par_chunks_mut(chunk * self.outputs));
            pairs.for_each(|(rows, outputs)| self.some(rows, outputs, n, told));
        } else {
            for (rows, outputs) in rows.chunks(chunk * self.width).zip(outputs.chunks_mut(chunk * self.outputs)) {
                self.some(rows, outputs, n, told);
            }
        }
    }

    /// As many of all rows as share the buffers.
    fn some(&self, rows: &[f32], outputs: &mut [f32], all: usize, told: &Told<'_>) {
        let n = rows.len() / self.width;
        let mut scratch = self.scratch.lock().pop().unwrap_or_default();
        if scratch.rows < n {
            scratch.buffers = self.buffers.iter().map(|picture| Aligned::zeros(n * picture.len())).collect();
            scratch.rows = n;
        }
        let part = n as f32 / all as f32;
        let last = self.steps.iter().zip(&*self.shares).fold(0, |_, (step, share)| {
            let last = self.step(step, rows, n, &mut scratch);
            told(share * part);
            last
        });
        outputs.copy_from_slice(&scratch.buffers[last].values()[..n * self.outputs]);
        self.scratch.lock().push(scratch);
    }

    /// Runs one step; tells the buffer that it wrote.
    fn step(&self, step: &Step, rows: &[f32], n: usize, scratch: &mut Scratch) -> Buffer {
        let Scratch { buffers, line, .. } = scratch;
        let to = step.writes();
        let mut output = std::mem::take(&mut buffers[to]);
        let written = &mut output.values_mut()[..n * self.buffers[to].len()];
        let read =
            |buffer: Buffer| (&buffers[buffer].values()[..n * self.buffers[buffer].len()], &self.buffers[buffer]);
        match *step {
            Step::Read { scale, shift, planes, to } => {
                self.buffers[to].read(planes, rows.chunks_exact(self.width), written, |value| value * scale + shift);
            }
            Step::Product(ref product) => {
                let (input, _) = read(product.from);
                let added = product.added.map(|(buffer, walk)| Added { values: read(buffer).0, walk });
                product.run(input, added, n, written);
            }
            Step::Pooled { ref filters, relu, from, to } => {
                filters.run(read(from), relu, (written, &self.buffers[to]));
            }
            Step::MaxPool { window, relu, from, to } => {
                picture::max_pool(read(from), window, relu, (written, &self.buffers[to]), line);
            }
            Step::AveragePool { from, .. } => picture::average_pool(read(from), written),
            Step::Unflatten { from, to } => picture::reshape(read(from), (written, &self.buffers[to])),
            Step::Relu { from, to } => picture::rectify(read(from), (written, &self.buffers[to])),
        }
        buffers[to] = output;
        to
    }
}

impl Step {
    /// The work of a row, about: multiply-adds, and a few for each value that is only looked at.
    fn work(&self, buffers: &[Picture]) -> f32 {
        const LOOK: usize = 4;
        let work = match self {
            Step::Product(product) => {
                let positions = if product.of_rows { 1 } else { product.lines * product.across };
                product.weights.len() * positions
            }
            Step::Pooled { filters, to, .. } => buffers[*to].len() * filters.work(),
            Step::MaxPool { from, .. } | Step::AveragePool { from, .. } | Step::Unflatten { from, .. } => {
                LOOK * buffers[*from].len()
            }
            Step::Read { to, .. } | Step::Relu { to, .. } => LOOK * buffers[*to].len(),
        };
        work as f32
    }

    const fn writes(&self) -> Buffer {
        match self {
            Step::Product(product) => product.to,
            Step::Read { to, .. }
            | Step::Pooled { to, .. }
            | Step::MaxPool { to, .. }
            | Step::AveragePool { to, .. }
            | Step::Unflatten { to, .. }
            | Step::Relu { to, .. } => *to,
        }
    }
}

impl ProductStep {
    /// Runs it for `n` rows, on all threads of the pool where one row has work for them.
    fn run(&self, input: &[f32], added: Option<Added<'_>>, n: usize, output: &mut [f32]) {
        let (rows, positions, across) =
            if self.of_rows { (1, n, n) } else { (n, self.lines * self.across, self.across) };
        let panels = 0..self.weights.panels();
        let product = Product {
            weights: &self.weights,
            input,
            from: self.start,
            runs: &self.runs,
            rows,
            positions,
            across,
            added,
            relu: self.relu,
            panels,
            output,
            to: self.end,
        };
        let threads = own_threads();
        let enough = n == 1 && self.weights.len() * positions >= SHARED_WORK;
        if threads > 1 && enough { product.shared_out(threads) } else { product.run() }
    }
}

/// Threads of the pool that this thread belongs to; one if it belongs to none.
fn own_threads() -> usize {
    if rayon::current_thread_index().is_some() { rayon::current_num_threads() } else { 1 }
}
