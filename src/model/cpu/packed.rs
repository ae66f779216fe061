//! Weights and buffers as the inner loop reads them.

/// Filters of a panel: one vector of AVX-512, two of AVX2, four of NEON. The same on every machine, so that packing does not depend on it.
pub(super) const PANEL: usize = 16;

/// Bytes of a cache line, in values: a vector that straddles two costs two loads.
const LINE: usize = 16;

/// Values that begin at a cache line.
#[derive(Debug, Default)]
pub(super) struct Aligned {
    values: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let values = vec![0.0_f32; len + LINE];
        // `align_offset` may say that it cannot tell; then values lie as they lie.
        let start = values.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Aligned { values, start, len }
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.values[self.start..self.start + self.len]
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..self.start + self.len]
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }
}

/// Filters in panels of [`PANEL`], padded with zeros; of each panel what all of its filters do with one value lies together.
#[derive(Debug)]
pub(super) struct Packed {
    panels: Aligned,
    bias: Aligned,
    outputs: usize,
    /// Values under a filter.
    patch: usize,
    /// Values of one run.
    run: usize,
}

impl Packed {
    /// Packs `outputs` filters of `patch` values, in runs of `run`; `weight(output, place)` tells each value in the order of memory.
    pub(super) fn new(
        (outputs, patch, run): (usize, usize, usize),
        bias: impl Fn(usize) -> f32,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let padded = outputs.next_multiple_of(PANEL);
        let (mut panels, mut biases) = (Aligned::zeros(padded * patch), Aligned::zeros(padded));
        for (panel, values) in panels.values_mut().chunks_exact_mut(patch * PANEL).enumerate() {
            for (place, values) in values.chunks_exact_mut(PANEL).enumerate() {
                let filters = panel * PANEL..outputs.min((panel + 1) * PANEL);
                values.iter_mut().zip(filters).for_each(|(value, filter)| *value = weight(filter, place));
            }
        }
        biases.values_mut()[..outputs].iter_mut().enumerate().for_each(|(output, value)| *value = bias(output));
        Packed { panels, bias: biases, outputs, patch, run }
    }

    pub(super) const fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) const fn run(&self) -> usize {
        self.run
    }

    pub(super) const fn panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Values of all panels.
    pub(super) const fn len(&self) -> usize {
        self.panels.len()
    }

    pub(super) fn panel(&self, panel: usize) -> &[f32] {
        &self.panels.values()[panel * self.patch * PANEL..][..self.patch * PANEL]
    }

    pub(super) fn bias(&self, panel: usize) -> &[f32] {
        &self.bias.values()[panel * PANEL..][..PANEL]
    }
}
