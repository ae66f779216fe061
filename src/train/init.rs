//! Initial weights: the papers' distributions, drawn from a seeded generator of our own.
//!
//! Convolutions are Xavier-uniform with `ReLU` gain, full matrices N(0, 0.01) (standard deviation 0.01), biases 0, as the papers' code
//! does. Convolutions without a bias are those of residual networks, and begin as He et al. begin them: normal, with a variance of 2 over the
//! values that one input reaches. Batch norm begins as nothing: scale and variance 1, the rest 0. The same seed gives the same weights on every machine and device, which candle's global generator does not promise.

use candle_core::{Device, Result, Tensor, Var};
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rand_distr::{Distribution, Normal, Uniform};

/// Standard deviation of the entries of a full matrix.
const DENSE_SD: f32 = 0.01;

/// How the entries of a full matrix are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Dense {
    /// As the papers do, whatever its size.
    Fixed,
    /// Xavier-uniform with `ReLU` gain, as convolutions are. The small matrices of a decoder would begin so near zero with the papers' that
    /// nothing comes through three of them.
    BySize,
}

/// Variables for parameters of these names and shapes, in their order.
pub(super) fn variables(
    shapes: &[(String, Vec<usize>)],
    dense: Dense,
    seed: u64,
    device: &Device,
) -> Result<Vec<(String, Var)>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let has_bias = |name: &str| shapes.iter().any(|(other, _)| other.strip_suffix(".bias") == Some(name));
    let draw = |(name, shape): &(String, Vec<usize>)| {
        let values = match (name.rsplit_once('.'), shape.as_slice()) {
            (Some((_, "weight" | "running_var")), [channels]) => vec![1.0; *channels],
            (Some((layer, "weight")), &[filters, _, height, width]) if !has_bias(layer) => {
                he(filters * height * width, shape.iter().product(), &mut rng)
            }
            _ => initial(shape, dense, &mut rng),
        };
        let tensor = Tensor::from_vec(values, shape.as_slice(), device)?;
        Ok((name.clone(), Var::from_tensor(&tensor)?))
    };
    shapes.iter().map(draw).collect()
}

fn initial(shape: &[usize], dense: Dense, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let count = shape.iter().product();
    let xavier = |fans: usize, rng: &mut ChaCha8Rng| {
        let bound = 2.0_f32.sqrt() * (6.0 / fans as f32).sqrt();
        draws(Uniform::new_inclusive(-bound, bound).expect("the bound is finite and positive"), rng, count)
    };
    match *shape {
        [filters, channels, height, width] => xavier((filters + channels) * height * width, rng),
        [outputs, inputs] if dense == Dense::BySize => xavier(outputs + inputs, rng),
        [_, _] => draws(Normal::new(0.0, DENSE_SD).expect("the deviation is finite and positive"), rng, count),
        _ => vec![0.0; count],
    }
}

/// `count` values such that gradients keep their size through `fan` of them and `ReLU`.
fn he(fan: usize, count: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let deviation = (2.0 / fan as f32).sqrt();
    draws(Normal::new(0.0, deviation).expect("the deviation is finite and positive"), rng, count)
}

fn draws(distribution: impl Distribution<f32>, rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| rng.sample(&distribution)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Architecture, Width};

    fn values(seed: u64) -> Vec<(String, Vec<f32>)> {
        let plan = Architecture::Lenet5.plan(&[1, 28, 28], 10).unwrap();
        let variables = variables(&plan.parameters(), Dense::Fixed, seed, &Device::Cpu).unwrap();
        variables.into_iter().map(|(name, var)| (name, var.flatten_all().unwrap().to_vec1().unwrap())).collect()
    }

    #[test]
    fn a_seed_gives_the_same_weights_and_another_seed_others() {
        assert_eq!(values(1), values(1));
        assert_ne!(values(1), values(2));
    }

    #[test]
    fn weights_have_the_papers_spread() {
        let values = values(3);
        let of = |name: &str| &values.iter().find(|(found, _)| found == name).unwrap().1;
        let bound = 2.0_f32.sqrt() * (6.0_f32 / (22.0 * 25.0)).sqrt();
        assert!(of("conv2.weight").iter().all(|value| value.abs() <= bound));
        assert!(of("conv2.bias").iter().all(|value| value.abs() < f32::EPSILON));
        let dense = of("fc1.weight");
        let variance = dense.iter().map(|value| value * value).sum::<f32>() / dense.len() as f32;
        assert!((variance.sqrt() - DENSE_SD).abs() < 5e-4, "standard deviation {}", variance.sqrt());
    }

    #[test]
    fn residual_networks_begin_as_he_begins_them() {
        let plan = Architecture::Resnet18(Width::new(16).unwrap()).plan(&[1, 28, 28], 10).unwrap();
        let variables = variables(&plan.parameters(), Dense::Fixed, 1, &Device::Cpu).unwrap();
        let of = |name: &str| -> Vec<f32> {
            let variable = &variables.iter().find(|(found, _)| found == name).unwrap().1;
            variable.flatten_all().unwrap().to_vec1().unwrap()
        };
        let filters = of("layer4.0.conv1.weight");
        let deviation = (filters.iter().map(|value| value * value).sum::<f32>() / filters.len() as f32).sqrt();
        let expected = (2.0_f32 / (128.0 * 9.0)).sqrt();
        assert!((deviation / expected - 1.0).abs() < 0.02, "standard deviation {deviation}, not {expected}");
        for (part, expected) in [("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)] {
            assert_eq!(of(&format!("layer1.0.bn2.{part}")), [expected; 16], "{part}");
        }
        assert_eq!(of("fc.bias"), [0.0; 10]);
    }
}
