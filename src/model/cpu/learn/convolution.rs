//! A convolution, forward and backward.

use candle_core::{Result, Tensor};

use super::{
    channel_sums,
    kernel::{Outer, Spread},
    lines, read,
    step::{Back, wanted},
};
use crate::model::{
    Window,
    cpu::{Aligned, Packed, Picture, Product, Walk},
};

/// A convolution with its parameters.
#[derive(Debug)]
pub(super) struct Convolution {
    pub(super) weight: Tensor,
    bias: Option<Tensor>,
    kernel: usize,
    from: Picture,
    to: Picture,
    /// Where the runs under a filter begin, counted from the position, and how long each is.
    runs: Vec<usize>,
    run: usize,
    sizes: Sizes,
}

/// Positions as the inner loops go through them.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    read: Walk,
    written: Walk,
    /// Whether each row has one position, so that rows are the positions.
    of_rows: bool,
}

impl Convolution {
    pub(super) fn new(
        (weight, bias): (Tensor, Option<Tensor>),
        window: Window,
        dilation: usize,
        (from, to): (Picture, Picture),
    ) -> Self {
        let (channels, kernel) = (from.channels, window.kernel);
        // Neighbours under a filter are neighbours in memory, unless it is spread.
        let (run, along) = if dilation == 1 { (kernel * channels, 1) } else { (channels, kernel) };
        let begin = |dy: usize| (0..along).map(move |dx| dilation * (dy * from.line() + dx * channels));
        let runs = (0..kernel).flat_map(begin).collect();
        let of_rows = to.height * to.width == 1;
        let turned = |walk: Walk| if of_rows { Walk { x: walk.row, row: 0, ..walk } } else { walk };
        let (read, written) = (turned(from.walk(window.stride, window.padding)), turned(to.walk(1, 0)));
        Convolution { weight, bias, kernel, from, to, runs, run, sizes: Sizes { read, written, of_rows } }
    }

    /// Rows, positions and positions of a line.
    const fn counts(&self, rows: usize) -> (usize, usize, usize) {
        if self.sizes.of_rows { (1, rows, rows) } else { (rows, self.to.height * self.to.width, self.to.width) }
    }

    const fn patch(&self) -> usize {
        self.from.channels * self.kernel * self.kernel
    }

    /// What it makes of `input`, and its filters with channels innermost.
    pub(super) fn forward(&self, input: &Aligned, rows: usize) -> Result<(Aligned, Vec<f32>)> {
        let (patch, channels, places) = (self.patch(), self.from.channels, self.kernel * self.kernel);
        let mut filters = vec![0.0; self.to.channels * patch];
        read(&self.weight, |weights| turn(weights, (channels, places), &mut filters))?;
        let bias = self.bias.as_ref().map(|bias| read(bias, <[f32]>::to_vec)).transpose()?;
        let bias_of = |filter: usize| bias.as_ref().map_or(0.0, |bias| bias[filter]);
        let sizes = (self.to.channels, patch, self.run);
        let weights = Packed::new(sizes, bias_of, |filter, place| filters[filter * patch + place]);
        let (of, positions, across) = self.counts(rows);
        let mut output = Aligned::zeros(rows * self.to.len());
        Product {
            weights: &weights,
            panels: 0..weights.panels(),
            input: input.values(),
            from: self.sizes.read,
            runs: &self.runs,
            rows: of,
            positions,
            across,
            added: None,
            relu: false,
            output: output.values_mut(),
            to: self.sizes.written,
        }
        .run();
        Ok((output, filters))
    }

    pub(super) fn backward(
        &self,
        (input, filters): (&Aligned, &[f32]),
        gradient: &Aligned,
        input_wanted: bool,
        back: &mut Back<'_>,
    ) -> Result<Option<Aligned>> {
        let rows = back.rows;
        if let Some(bias) = wanted(self.bias.as_ref()) {
            back.learned(bias, self.bias_gradient(gradient, rows))?;
        }
        if let Some(weight) = wanted(Some(&self.weight)) {
            back.learned(weight, self.filter_gradient(input, gradient, rows))?;
        }
        Ok(input_wanted.then(|| self.input_gradient(filters, gradient, rows)))
    }

    #[expect(clippy::cast_possible_truncation, reason = "f32 is the gradients' precision")]
    fn bias_gradient(&self, gradient: &Aligned, rows: usize) -> Vec<f32> {
        let values = gradient.values();
        let sums = channel_sums(rows, self.to, |row, sums| {
            for line in lines(self.to, 1) {
                let values = &values[row * self.to.len()..][line];
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        });
        sums.into_iter().map(|sum| sum as f32).collect()
    }

    fn filter_gradient(&self, input: &Aligned, gradient: &Aligned, rows: usize) -> Vec<f32> {
        let (of, positions, across) = self.counts(rows);
        let mut sums = vec![0.0; self.to.channels * self.patch()];
        Outer {
            gradient: gradient.values(),
            from: self.sizes.written,
            filters: self.to.channels,
            input: input.values(),
            under: self.sizes.read,
            runs: &self.runs,
            run: self.run,
            rows: of,
            positions,
            across,
            output: &mut sums,
        }
        .run();
        let mut turned = vec![0.0; sums.len()];
        turn(&sums, (self.kernel * self.kernel, self.from.channels), &mut turned);
        turned
    }

    fn input_gradient(&self, filters: &[f32], gradient: &Aligned, rows: usize) -> Aligned {
        let (of, positions, across) = self.counts(rows);
        let mut spread = Aligned::zeros(rows * self.from.len());
        Spread {
            gradient: gradient.values(),
            from: self.sizes.written,
            filters: self.to.channels,
            weights: filters,
            runs: &self.runs,
            run: self.run,
            rows: of,
            positions,
            across,
            output: spread.values_mut(),
            to: self.sizes.read,
        }
        .run();
        spread
    }
}

/// Matrices `[lines, columns]`, one after the other, each to `[columns, lines]`.
fn turn(values: &[f32], (lines, columns): (usize, usize), turned: &mut [f32]) {
    let size = lines * columns;
    for (values, turned) in values.chunks_exact(size).zip(turned.chunks_exact_mut(size)) {
        for (column, turned) in turned.chunks_exact_mut(lines).enumerate() {
            let values = values[column..].iter().step_by(columns);
            turned.iter_mut().zip(values).for_each(|(turned, value)| *turned = *value);
        }
    }
}
