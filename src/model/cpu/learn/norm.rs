//! Batch norm (Ioffe and Szegedy, ICML 2015) in training: by what the rows of the pass have themselves, and with the gradient of that.
//!
//! As `PyTorch` defines it: the variance that divides is the biased one, the one that goes into the running average the unbiased one. One
//! pass over memory for each sum rather than a dozen tensor operations. A layer whose parameters are constants goes by its running averages,
//! as where it is served.

use candle_core::{Result, Tensor};

use super::{channel_sums, lines, read, step::Back};
use crate::model::{
    Seen,
    cpu::{Aligned, Picture},
    step::EPSILON,
};

/// Batch norm with its parameters.
#[derive(Debug)]
pub(super) struct BatchNorm {
    pub(super) name: String,
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    /// The running averages.
    pub(super) mean: Tensor,
    pub(super) variance: Tensor,
    pub(super) from: Picture,
    pub(super) to: Picture,
}

/// Means and biased variances of each channel, over `count` values each.
#[derive(Debug)]
pub(super) struct Moments {
    mean: Vec<f64>,
    variance: Vec<f64>,
    count: usize,
}

#[expect(clippy::cast_possible_truncation, reason = "f32 is the values' precision")]
impl Moments {
    pub(super) fn seen(&self, name: &str) -> Seen {
        let unbiased = self.count as f64 / self.count.saturating_sub(1).max(1) as f64;
        Seen {
            name: name.to_owned(),
            mean: self.mean.iter().map(|&mean| mean as f32).collect(),
            variance: self.variance.iter().map(|&variance| (variance * unbiased) as f32).collect(),
        }
    }

    fn spreads(&self) -> impl Iterator<Item = f64> {
        self.variance.iter().map(|variance| 1.0 / (variance + EPSILON).sqrt())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "f32 is the values' precision")]
impl BatchNorm {
    fn learns(&self) -> bool {
        self.weight.is_variable()
    }

    /// `input` normed, and what was seen of it if it learns.
    pub(super) fn forward(&self, input: &Aligned, rows: usize) -> Result<(Aligned, Option<Moments>)> {
        let moments = self.learns().then(|| self.moments(input.values(), rows));
        let (scale, mean) = self.scale(moments.as_ref())?;
        let bias = read(&self.bias, <[f32]>::to_vec)?;
        // As `(x - mean) * scale + bias`, which loses less than with the mean in the bias.
        let changes: Vec<_> = mean.into_iter().zip(scale).zip(bias).collect();
        let wide = |part: fn(&((f32, f32), f32)) -> f32| self.wide(changes.iter().map(part));
        let (mean, scale, bias) = (wide(|c| c.0.0), wide(|c| c.0.1), wide(|c| c.1));
        let mut output = Aligned::zeros(rows * self.to.len());
        let (read, written) = (input.values(), output.values_mut());
        in_vectors(|| {
            for (from, to) in lines(self.from, rows).zip(lines(self.to, rows)) {
                let values = read[from].iter().zip(&mean).zip(scale.iter().zip(&bias));
                let places = written[to].iter_mut();
                places.zip(values).for_each(|(place, ((value, mean), (scale, bias)))| {
                    *place = (value - mean) * scale + bias;
                });
            }
        });
        Ok((output, moments))
    }

    /// The gradient of what it read.
    pub(super) fn backward(
        &self,
        input: &Aligned,
        moments: Option<&Moments>,
        gradient: &Aligned,
        back: &mut Back<'_>,
    ) -> Result<Aligned> {
        let rows = back.rows;
        let (scale, mean) = self.scale(moments)?;
        let mut output = Aligned::zeros(rows * self.from.len());
        let (input, gradient, written) = (input.values(), gradient.values(), output.values_mut());
        let Some(moments) = moments else {
            let scale = self.wide(scale.iter().copied());
            for (from, to) in lines(self.to, rows).zip(lines(self.from, rows)) {
                let values = gradient[from].iter().zip(&scale);
                written[to].iter_mut().zip(values).for_each(|(place, (value, scale))| *place = value * scale);
            }
            return Ok(output);
        };
        let wide_mean = self.wide(mean.iter().copied());
        let (sums, products) = self.gradient_sums(input, gradient, &wide_mean, rows);
        let spreads: Vec<f64> = moments.spreads().collect();
        let of_weight = products.iter().zip(&spreads).map(|(product, spread)| (product * spread) as f32).collect();
        back.learned(&self.weight, of_weight)?;
        back.learned(&self.bias, sums.iter().map(|&sum| sum as f32).collect())?;
        // scale * (gradient - mean of gradients - (x - mean) * spread² * mean of products)
        let count = moments.count as f64;
        let wide_scale = self.wide(scale.into_iter());
        let shift = self.wide(sums.iter().map(|sum| (sum / count) as f32));
        let slopes = products.iter().zip(&spreads).map(|(product, spread)| (product / count * spread * spread) as f32);
        let slope = self.wide(slopes);
        in_vectors(|| {
            for (from, to) in lines(self.to, rows).zip(lines(self.from, rows)) {
                let changes = wide_scale.iter().zip(&shift).zip(wide_mean.iter().zip(&slope));
                let values = gradient[from].iter().zip(&input[to.clone()]).zip(changes);
                let places = written[to].iter_mut();
                places.zip(values).for_each(|(place, ((gradient, value), ((scale, shift), (mean, slope))))| {
                    *place = scale * (gradient - shift - (value - mean) * slope);
                });
            }
        });
        Ok(output)
    }

    /// For each channel, Σ gradient and Σ gradient * (x - mean).
    fn gradient_sums(&self, input: &[f32], gradient: &[f32], mean: &[f32], rows: usize) -> (Vec<f64>, Vec<f64>) {
        let sums = channel_sums(rows, self.to, |row, sums| {
            in_vectors(|| {
                for line in lines(self.to, 1) {
                    let values = &gradient[row * self.to.len()..][line];
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
            });
        });
        let products = channel_sums(rows, self.to, |row, sums| {
            in_vectors(|| {
                for (to, from) in lines(self.to, 1).zip(lines(self.from, 1)) {
                    let gradients = &gradient[row * self.to.len()..][to];
                    let values = &input[row * self.from.len()..][from];
                    for (((sum, gradient), value), mean) in sums.iter_mut().zip(gradients).zip(values).zip(mean) {
                        *sum += gradient * (value - mean);
                    }
                }
            });
        });
        (sums, products)
    }

    /// What a channel is multiplied by, and what is taken from it before.
    fn scale(&self, moments: Option<&Moments>) -> Result<(Vec<f32>, Vec<f32>)> {
        let weight = read(&self.weight, <[f32]>::to_vec)?;
        let scaled = |spreads: &mut dyn Iterator<Item = f64>| -> Vec<f32> {
            weight.iter().zip(spreads).map(|(weight, spread)| (f64::from(*weight) * spread) as f32).collect()
        };
        if let Some(moments) = moments {
            let mean = moments.mean.iter().map(|&mean| mean as f32).collect();
            return Ok((scaled(&mut moments.spreads()), mean));
        }
        let variance = read(&self.variance, <[f32]>::to_vec)?;
        let mut spreads = variance.iter().map(|&variance| 1.0 / (f64::from(variance) + EPSILON).sqrt());
        Ok((scaled(&mut spreads), read(&self.mean, <[f32]>::to_vec)?))
    }

    fn moments(&self, values: &[f32], rows: usize) -> Moments {
        let from = self.from;
        let count = rows * from.height * from.width;
        let sums = channel_sums(rows, from, |row, sums| {
            in_vectors(|| {
                for line in lines(from, 1) {
                    let values = &values[row * from.len()..][line];
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
            });
        });
        let mean: Vec<f64> = sums.into_iter().map(|sum| sum / count as f64).collect();
        let wide = self.wide(mean.iter().map(|&mean| mean as f32));
        let squares = channel_sums(rows, from, |row, sums| {
            in_vectors(|| {
                for line in lines(from, 1) {
                    let values = values[row * from.len()..][line].iter().zip(&wide);
                    sums.iter_mut()
                        .zip(values)
                        .for_each(|(sum, (value, mean))| *sum += (value - mean) * (value - mean));
                }
            });
        });
        Moments { mean, variance: squares.into_iter().map(|sum| sum / count as f64).collect(), count }
    }

    /// A value of each channel, as often as a line has positions: what goes along a line as a whole is fast for few channels, too.
    fn wide(&self, of_channels: impl Iterator<Item = f32>) -> Vec<f32> {
        let values: Vec<f32> = of_channels.collect();
        values.repeat(self.from.width)
    }
}

/// Runs a loop over lines compiled for the machine's widest vectors.
fn in_vectors(work: impl FnOnce()) {
    pulp::Arch::new().dispatch(work);
}
