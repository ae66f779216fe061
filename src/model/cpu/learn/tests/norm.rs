//! Batch norm in training against its definition, against differences of it, and against tensor operations.

use candle_core::{Device, Tensor};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    AS_IT_IS, Learner, assert_close, before, convolution, gradients, parameters, random, values, variables, window,
};
use crate::model::Layer;

/// Batch norm by its definition, in f64: `x[row][channel][position]`, one weight and bias a channel.
fn normed(x: &[Vec<Vec<f64>>], weight: &[f32], bias: &[f32]) -> Vec<Vec<Vec<f64>>> {
    let mut output = x.to_vec();
    for channel in 0..weight.len() {
        let all: Vec<f64> = x.iter().flat_map(|row| &row[channel]).copied().collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / all.len() as f64;
        for value in output.iter_mut().flat_map(|row| &mut row[channel]) {
            *value = (*value - mean) / (variance + 1e-5).sqrt() * f64::from(weight[channel]) + f64::from(bias[channel]);
        }
    }
    output
}

/// Values, all gradients and what is seen, against the definition and differences of it in f64.
#[test]
#[expect(clippy::cast_possible_truncation, reason = "f32 is the precision of what is compared")]
fn batch_norm_is_that_of_its_definition() {
    let shape = [3, 4, 5];
    let plan = before(shape, [Layer::BatchNorm { name: "norm".into(), channels: 3 }, Layer::Flatten]);
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let variables = variables(&plan, &mut rng);
    let get = |name: &str| &variables.iter().find(|(found, _)| found == name).unwrap().1;
    let (matrix, first) = (values(get("first.weight")), values(get("first.bias")));
    let (weight, bias) = (values(get("norm.weight")), values(get("norm.bias")));
    let rows = random(&mut rng, 6);
    let weights = random(&mut rng, 2 * plan.outputs());
    let learner = Learner::new(&plan, AS_IT_IS, &parameters(&variables)).unwrap();
    let pass = learner.forward(&rows).unwrap();
    let mut found = gradients(pass.outputs(), &weights);
    pass.backward(&mut found).unwrap();

    let read = |first: &[f64]| -> Vec<Vec<Vec<f64>>> {
        let value = |row: &[f32], place: usize| {
            let products = (0..3).map(|i| f64::from(row[i]) * f64::from(matrix[place * 3 + i]));
            products.sum::<f64>() + first[place]
        };
        let channels = |row: &[f32]| (0..3).map(|c| (0..20).map(|p| value(row, c * 20 + p)).collect()).collect();
        rows.chunks(3).map(channels).collect()
    };
    let loss = |x: &[Vec<Vec<f64>>], weight: &[f32], bias: &[f32]| -> f64 {
        let outputs = normed(x, weight, bias).into_iter().flatten().flatten();
        outputs.zip(&weights).map(|(output, weight)| output * f64::from(*weight)).sum()
    };
    let first: Vec<f64> = first.into_iter().map(f64::from).collect();
    let x = read(&first);
    let outputs: Vec<f32> = normed(&x, &weight, &bias).into_iter().flatten().flatten().map(|v| v as f32).collect();
    assert_close(&values(pass.outputs()), &outputs, 1e-5);

    let slope = |change: &dyn Fn(f64) -> f64| ((change(1e-5) - change(-1e-5)) / 2e-5) as f32;
    let of_first = (0..60).map(|place| {
        slope(&|step| {
            let mut first = first.clone();
            first[place] += step;
            loss(&read(&first), &weight, &bias)
        })
    });
    assert_close(&values(found.get(get("first.bias")).unwrap()), &of_first.collect::<Vec<_>>(), 1e-4);
    // The loss is linear in these, so a step of 1 is as good as any.
    let moved = |values: &[f32], place: usize| {
        let mut moved = values.to_vec();
        moved[place] += 1.0;
        moved
    };
    let here = loss(&x, &weight, &bias);
    let of_weight: Vec<f32> = (0..3).map(|c| (loss(&x, &moved(&weight, c), &bias) - here) as f32).collect();
    let of_bias: Vec<f32> = (0..3).map(|c| (loss(&x, &weight, &moved(&bias, c)) - here) as f32).collect();
    assert_close(&values(found.get(get("norm.weight")).unwrap()), &of_weight, 1e-4);
    assert_close(&values(found.get(get("norm.bias")).unwrap()), &of_bias, 1e-4);

    let seen = pass.seen();
    assert_eq!((seen.len(), seen[0].name.as_str()), (1, "norm"));
    for channel in 0..3 {
        let all: Vec<f64> = x.iter().flat_map(|row| &row[channel]).copied().collect();
        let mean = all.iter().sum::<f64>() / 40.0;
        let unbiased = all.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 39.0;
        assert_close(&[seen[0].mean[channel], seen[0].variance[channel]], &[mean as f32, unbiased as f32], 1e-5);
    }
}

/// Between pictures with and without zeros around, against tensor operations.
#[test]
fn batch_norm_goes_on_with_a_convolution() {
    let layers = [
        Layer::BatchNorm { name: "norm".into(), channels: 2 },
        Layer::Relu,
        convolution("conv", (2, 5), window(3, 1, 1), 1),
        Layer::Flatten,
    ];
    let plan = before([2, 4, 6], layers);
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let variables = variables(&plan, &mut rng);
    let get = |name: &str| variables.iter().find(|(found, _)| found == name).unwrap().1.as_tensor();
    let (rows, weights) = (random(&mut rng, 9), random(&mut rng, 3 * plan.outputs()));
    let learner = Learner::new(&plan, AS_IT_IS, &parameters(&variables)).unwrap();
    let pass = learner.forward(&rows).unwrap();

    let x = Tensor::from_slice(&rows, (3, 3), &Device::Cpu).unwrap().matmul(&get("first.weight").t().unwrap()).unwrap();
    let x = x.broadcast_add(get("first.bias")).unwrap().reshape((3, 2, 4, 6)).unwrap();
    let mean = |x: &Tensor| x.mean_keepdim((0, 2, 3)).unwrap();
    let x = x.broadcast_sub(&mean(&x)).unwrap();
    let x = x.broadcast_div(&(mean(&x.sqr().unwrap()) + 1e-5).unwrap().sqrt().unwrap()).unwrap();
    let of_channels = |name: &str| get(name).reshape((1, (), 1, 1)).unwrap();
    let x = x.broadcast_mul(&of_channels("norm.weight")).unwrap().broadcast_add(&of_channels("norm.bias")).unwrap();
    let x = x.relu().unwrap().conv2d(get("conv.weight"), 1, 1, 1, 1).unwrap();
    let x = x.broadcast_add(&of_channels("conv.bias")).unwrap().flatten_from(1).unwrap();

    assert_close(&values(pass.outputs()), &values(&x), 1e-5);
    let (mut ours, candles) = (gradients(pass.outputs(), &weights), gradients(&x, &weights));
    pass.backward(&mut ours).unwrap();
    for (name, variable) in variables.iter().filter(|(name, _)| !name.contains("running")) {
        assert_close(&values(ours.get(variable).unwrap()), &values(candles.get(variable).unwrap()), 1e-4);
        assert!(ours.get(variable).is_some(), "{name}");
    }
}
