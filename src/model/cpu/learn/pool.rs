//! Poolings and changes of shape, forward and backward.
//!
//! Of equal values in a square the first is the largest, and gets all of the gradient, as in `PyTorch`; candle 0.11.1 shares it out
//! and scales it wrongly.

use super::lines;
use crate::model::{
    Window,
    cpu::{Aligned, Picture},
};

/// The largest of each square.
#[derive(Debug)]
pub(super) struct MaxPool {
    pub(super) window: Window,
    pub(super) from: Picture,
    pub(super) to: Picture,
}

impl MaxPool {
    /// The largest values, and where in its picture each lies.
    #[expect(clippy::cast_possible_truncation, reason = "a picture has fewer values than u32 can count")]
    pub(super) fn forward(&self, input: &Aligned, rows: usize) -> (Aligned, Vec<u32>) {
        let Window { kernel, stride, padding } = self.window;
        let inside = |first: usize, side: usize| first.saturating_sub(padding)..side.min(first + kernel - padding);
        let (channels, from, to) = (self.to.channels, self.from.walk(1, 0), self.to.walk(1, 0));
        let mut output = Aligned::zeros(rows * self.to.len());
        let mut places = vec![0_u32; rows * self.to.values()];
        let mut of_positions = places.chunks_exact_mut(channels);
        for row in 0..rows {
            let read = &input.values()[row * from.row..][..from.row];
            for (y, x) in (0..self.to.height).flat_map(|y| (0..self.to.width).map(move |x| (y, x))) {
                let place = row * to.row + to.start + y * to.y + x * to.x;
                let largest = &mut output.values_mut()[place..][..channels];
                let places = of_positions.next().expect("there is one a position");
                largest.fill(f32::NEG_INFINITY);
                for line in inside(y * stride, self.from.height) {
                    for column in inside(x * stride, self.from.width) {
                        let start = from.start + line * from.y + column * from.x;
                        let values = &read[start..][..channels];
                        for (channel, ((largest, place), value)) in
                            largest.iter_mut().zip(places.iter_mut()).zip(values).enumerate()
                        {
                            let larger = *value > *largest || value.is_nan();
                            *largest = if larger { *value } else { *largest };
                            *place = if larger { (start + channel) as u32 } else { *place };
                        }
                    }
                }
            }
        }
        (output, places)
    }

    /// To each largest value its gradient.
    pub(super) fn backward(&self, places: &[u32], gradient: &Aligned, rows: usize) -> Aligned {
        let mut spread = Aligned::zeros(rows * self.from.len());
        let line = self.to.width * self.to.channels;
        for ((number, from), places) in lines(self.to, rows).enumerate().zip(places.chunks_exact(line)) {
            let spread = &mut spread.values_mut()[number / self.to.height * self.from.len()..][..self.from.len()];
            for (place, value) in places.iter().zip(&gradient.values()[from]) {
                spread[*place as usize] += value;
            }
        }
        spread
    }
}

/// The mean of each channel.
pub(super) fn average(from: Picture, input: &Aligned, rows: usize) -> Aligned {
    let mut means = Aligned::zeros(rows * from.channels);
    let share = 1.0 / (from.height * from.width) as f32;
    for (number, line) in lines(from, rows).enumerate() {
        let means = &mut means.values_mut()[number / from.height * from.channels..][..from.channels];
        for values in input.values()[line].chunks_exact(from.channels) {
            means.iter_mut().zip(values).for_each(|(mean, value)| *mean += value * share);
        }
    }
    means
}

/// The gradient of [`average`].
pub(super) fn spread(from: Picture, gradient: &Aligned, rows: usize) -> Aligned {
    let mut spread = Aligned::zeros(rows * from.len());
    let share = 1.0 / (from.height * from.width) as f32;
    for (number, line) in lines(from, rows).enumerate() {
        let gradient = &gradient.values()[number / from.height * from.channels..][..from.channels];
        for places in spread.values_mut()[line].chunks_exact_mut(from.channels) {
            places.iter_mut().zip(gradient).for_each(|(place, value)| *place = value * share);
        }
    }
    spread
}

/// Where, in a row that lies channel by channel, the values of a line begin that a picture has together.
fn starts(picture: Picture, rows: usize) -> impl Iterator<Item = usize> {
    (0..rows).flat_map(move |row| (0..picture.height).map(move |y| row * picture.values() + y * picture.width))
}

/// A picture's values channel by channel.
pub(super) fn flattened(from: Picture, input: &Aligned, rows: usize) -> Aligned {
    let mut flat = Aligned::zeros(rows * from.values());
    for (line, start) in lines(from, rows).zip(starts(from, rows)) {
        let values = &input.values()[line];
        for channel in 0..from.channels {
            let places = &mut flat.values_mut()[start + channel * from.height * from.width..][..from.width];
            let values = values[channel..].iter().step_by(from.channels);
            places.iter_mut().zip(values).for_each(|(place, value)| *place = *value);
        }
    }
    flat
}

/// Values channel by channel as a picture.
pub(super) fn unflattened(to: Picture, input: &Aligned, rows: usize) -> Aligned {
    let mut picture = Aligned::zeros(rows * to.len());
    for (line, start) in lines(to, rows).zip(starts(to, rows)) {
        let places = &mut picture.values_mut()[line];
        for channel in 0..to.channels {
            let values = &input.values()[start + channel * to.height * to.width..][..to.width];
            let places = places[channel..].iter_mut().step_by(to.channels);
            places.zip(values).for_each(|(place, value)| *place = *value);
        }
    }
    picture
}
