//! Pictures in a buffer: channels innermost, zeros around.

#![expect(
    clippy::inline_always,
    reason = "vector instructions exist only inside the function that was chosen for them: what is not inlined has none"
)]

use super::{super::Window, Walk};

/// Shape of a picture and the width of the zeros around it. A row without a shape is a picture of one position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Picture {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) channels: usize,
    /// Zeros on each side, in positions. Nothing ever writes there.
    pub(super) halo: usize,
}

impl Picture {
    /// Values that it takes with its zeros.
    pub(super) const fn len(&self) -> usize {
        (self.height + 2 * self.halo) * self.line()
    }

    /// Values of a line with its zeros.
    pub(super) const fn line(&self) -> usize {
        (self.width + 2 * self.halo) * self.channels
    }

    /// Values without the zeros.
    pub(super) const fn values(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Lines from one of its `planes` to the next, where they lie one below the other.
    pub(super) const fn below(&self, planes: usize) -> usize {
        (self.height + 2 * self.halo) / planes
    }

    /// Its positions, `stride` apart, from `back` positions left of and above the first one.
    pub(super) const fn walk(&self, stride: usize, back: usize) -> Walk {
        let first = self.halo - back;
        Walk {
            start: first * (self.line() + self.channels),
            x: stride * self.channels,
            y: stride * self.line(),
            row: self.len(),
        }
    }

    /// Takes rows that lie channel by channel; with several `planes` its one channel is those, one below the other, zeros between them.
    pub(super) fn read<'a>(
        &self,
        planes: usize,
        rows: impl Iterator<Item = &'a [f32]>,
        written: &mut [f32],
        change: impl Fn(f32) -> f32 + Copy,
    ) {
        let walk = self.walk(1, 0);
        let high = self.below(planes) - 2 * self.halo;
        for (row, written) in rows.zip(written.chunks_exact_mut(self.len())) {
            if self.len() == self.channels {
                written.iter_mut().zip(row).for_each(|(place, &value)| *place = change(value));
                continue;
            }
            for (number, plane) in row.chunks_exact(high * self.width).enumerate() {
                let (channel, first) = if planes == 1 { (number, 0) } else { (0, number * self.below(planes)) };
                for (y, line) in plane.chunks_exact(self.width).enumerate() {
                    let start = &mut written[walk.start + (first + y) * walk.y + channel..];
                    if self.channels == 1 {
                        // A loop over neighbours is one over vectors.
                        start.iter_mut().zip(line).for_each(|(place, &value)| *place = change(value));
                    } else {
                        let every = start.iter_mut().step_by(self.channels);
                        every.zip(line).for_each(|(place, &value)| *place = change(value));
                    }
                }
            }
        }
    }
}

/// The values of `from`, channel by channel, in the shape of `to`.
pub(super) fn reshape((read, from): (&[f32], &Picture), (written, to): (&mut [f32], &Picture)) {
    let place = |picture: &Picture, number: usize| {
        let (channel, position) =
            (number / (picture.height * picture.width), number % (picture.height * picture.width));
        let walk = picture.walk(1, 0);
        walk.start + position / picture.width * walk.y + position % picture.width * walk.x + channel
    };
    for (read, written) in read.chunks_exact(from.len()).zip(written.chunks_exact_mut(to.len())) {
        for number in 0..from.values() {
            written[place(to, number)] = read[place(from, number)];
        }
    }
}

/// The largest of each square, and no less than 0 with `relu`; no number where one of a square is none.
pub(super) fn max_pool(
    (read, from): (&[f32], &Picture),
    window: Window,
    relu: bool,
    (written, to): (&mut [f32], &Picture),
    over_lines: &mut Vec<f32>,
) {
    // The largest of the lines under a line of squares comes first, because it goes along whole lines.
    over_lines.resize(from.width * from.channels, 0.0);
    pulp::Arch::new().dispatch(
        #[inline(always)]
        || max_pool_of((read, from), window, relu, (written, to), over_lines),
    );
}

#[inline(always)]
fn max_pool_of(
    (read, from): (&[f32], &Picture),
    window: Window,
    relu: bool,
    (written, to): (&mut [f32], &Picture),
    over_lines: &mut [f32],
) {
    let Window { kernel, stride, padding } = window;
    let least = if relu { 0.0 } else { f32::NEG_INFINITY };
    let inside = |first: usize, side: usize| first.saturating_sub(padding)..side.min(first + kernel - padding);
    let (source, target, channels) = (from.walk(1, 0), to.walk(1, 0), from.channels);
    for (read, written) in read.chunks_exact(from.len()).zip(written.chunks_exact_mut(to.len())) {
        for y in 0..to.height {
            over_lines.fill(least);
            for line in inside(y * stride, from.height) {
                larger(over_lines, &read[source.start + line * source.y..][..from.width * channels]);
            }
            let places = written[target.start + y * target.y..].chunks_exact_mut(channels);
            for (x, largest) in places.take(to.width).enumerate() {
                let columns = inside(x * stride, from.width);
                let values = &over_lines[columns.start * channels..columns.end * channels];
                let (first, rest) = values.split_at(channels);
                largest.copy_from_slice(first);
                rest.chunks_exact(channels).for_each(|values| larger(largest, values));
            }
        }
    }
}

#[inline(always)]
fn larger(largest: &mut [f32], values: &[f32]) {
    for (largest, &value) in largest.iter_mut().zip(values) {
        *largest = if value > *largest || value.is_nan() { value } else { *largest };
    }
}

/// max(x, 0) of each value.
pub(super) fn rectify((read, from): (&[f32], &Picture), (written, to): (&mut [f32], &Picture)) {
    let (source, target, line) = (from.walk(1, 0), to.walk(1, 0), from.width * from.channels);
    for (read, written) in read.chunks_exact(from.len()).zip(written.chunks_exact_mut(to.len())) {
        for y in 0..from.height {
            let values = &read[source.start + y * source.y..][..line];
            let places = &mut written[target.start + y * target.y..][..line];
            places.iter_mut().zip(values).for_each(|(place, &value)| *place = if value < 0.0 { 0.0 } else { value });
        }
    }
}

/// The mean of each channel.
pub(super) fn average_pool((read, from): (&[f32], &Picture), written: &mut [f32]) {
    let walk = from.walk(1, 0);
    let share = 1.0 / (from.height * from.width) as f32;
    for (read, means) in read.chunks_exact(from.len()).zip(written.chunks_exact_mut(from.channels)) {
        means.fill(0.0);
        for line in 0..from.height {
            let values = &read[walk.start + line * walk.y..][..from.width * from.channels];
            for values in values.chunks_exact(from.channels) {
                means.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
        for sum in means {
            *sum *= share;
        }
    }
}
