//! Gradients against candle's and against differences.

mod norm;

use std::iter::repeat_with;

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::Learner;
use crate::model::{Architecture, Bias, Convolution, Layer, Net, Parameters, Plan, Preprocessing, Width, Window};

const AS_IT_IS: Preprocessing = Preprocessing { mean: 0.0, std: 1.0, weight: 1.0 };

fn random(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    repeat_with(|| rng.random_range(-1.0..1.0)).take(count).collect()
}

/// Variables of either sign, variances excepted.
fn variables(plan: &Plan, rng: &mut ChaCha8Rng) -> Vec<(String, Var)> {
    let draw = |(name, shape): (String, Vec<usize>)| {
        let mut values = random(rng, shape.iter().product());
        if name.ends_with("running_var") {
            values = values.into_iter().map(|value| value.abs() + 0.5).collect();
        }
        (name, Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap())
    };
    plan.parameters().into_iter().map(draw).collect()
}

fn parameters(variables: &[(String, Var)]) -> Parameters {
    Parameters::new(variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())))
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Gradients of Σ outputs * weights.
fn gradients(outputs: &Tensor, weights: &[f32]) -> GradStore {
    let weights = Tensor::from_slice(weights, outputs.shape(), &Device::Cpu).unwrap();
    (outputs * weights).unwrap().sum_all().unwrap().backward().unwrap()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * scale, "{found} is not {expected} of {scale}");
    }
}

/// What makes a picture whose every value has a gradient of its own: that of a bias.
fn before(shape: [usize; 3], layers: impl IntoIterator<Item = Layer>) -> Plan {
    let all = [Layer::dense("first", 3, shape.iter().product(), Bias::With), Layer::Unflatten(shape.to_vec())];
    Plan::new(&[3], all.into_iter().chain(layers).collect()).expect("the layers fit")
}

/// Outputs and all gradients of `plan` on `n` rows, ours and candle's.
fn assert_as_candle(plan: &Plan, n: usize, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let variables = variables(plan, &mut rng);
    let rows = random(&mut rng, n * plan.input().iter().product::<usize>());
    let weights = random(&mut rng, n * plan.outputs());
    let learner = Learner::new(plan, AS_IT_IS, &parameters(&variables)).unwrap();
    let pass = learner.forward(&rows).unwrap();
    let net = Net::live(plan, AS_IT_IS, &parameters(&variables), &Device::Cpu).unwrap();
    let candles = net.forward(&net.rows(&rows).unwrap()).unwrap();
    assert_close(&values(pass.outputs()), &values(&candles), 1e-5);
    let (mut ours, candles) = (gradients(pass.outputs(), &weights), gradients(&candles, &weights));
    pass.backward(&mut ours).unwrap();
    for (name, variable) in &variables {
        let (ours, candles) = (ours.get(variable), candles.get(variable));
        let both = ours.zip(candles);
        let (ours, candles) = both.unwrap_or_else(|| panic!("{name} has no gradient in {plan:?}"));
        assert_close(&values(ours), &values(candles), 1e-4);
    }
}

fn convolution(name: &'static str, (channels, filters): (usize, usize), window: Window, dilation: usize) -> Layer {
    Layer::Convolution(Convolution { name: name.into(), channels, filters, window, dilation, bias: Bias::With })
}

fn window(kernel: usize, stride: usize, padding: usize) -> Window {
    Window { kernel, stride, padding }
}

/// Of pictures whose two sides leave the same over at the stride: candle's gradient fails for others.
#[test]
fn convolutions_and_their_gradients_are_candles() {
    for (seed, (channels, filters, height, width, kernel, stride, padding, dilation)) in [
        (3, 4, 9, 7, 5, 1, 2, 1),
        (2, 3, 6, 8, 5, 1, 0, 1),
        (1, 6, 14, 14, 5, 1, 2, 1),
        (6, 16, 10, 10, 5, 1, 0, 1),
        (5, 33, 3, 3, 1, 1, 0, 1),
        (2, 3, 9, 8, 3, 1, 2, 2),
        (1, 2, 6, 5, 3, 1, 8, 8),
        (2, 2, 7, 9, 3, 1, 0, 3),
        (3, 8, 13, 11, 7, 2, 3, 1),
        (16, 32, 7, 9, 3, 2, 1, 1),
        (16, 20, 7, 9, 1, 2, 0, 1),
        (16, 20, 8, 8, 1, 2, 0, 1),
        (5, 6, 8, 8, 3, 2, 1, 1),
        (24, 16, 5, 5, 3, 1, 1, 1),
        (17, 19, 1, 1, 3, 1, 1, 1),
        (4, 5, 8, 8, 3, 3, 2, 1),
        (8, 7, 2, 2, 2, 2, 0, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let layer = convolution("a", (channels, filters), window(kernel, stride, padding), dilation);
        for n in [1, 3] {
            assert_as_candle(&before([channels, height, width], [layer.clone()]), n, seed as u64);
        }
    }
}

/// More positions than are summed up in one go, and more rows.
#[test]
fn gradients_of_filters_go_on_from_block_to_block() {
    let layers = vec![convolution("a", (2, 5), window(3, 1, 1), 1), Layer::Relu];
    assert_as_candle(&Plan::new(&[2, 12, 13], layers).unwrap(), 9, 1);
}

#[test]
fn matrices_and_their_gradients_are_candles() {
    for (n, inputs, outputs) in [(1, 37, 21), (2, 3, 1), (5, 16, 10), (7, 65, 48), (16, 100, 7)] {
        let layers =
            vec![Layer::dense("a", inputs, 19, Bias::With), Layer::Relu, Layer::dense("b", 19, outputs, Bias::Without)];
        assert_as_candle(&Plan::new(&[inputs], layers).unwrap(), n, n as u64);
    }
}

#[test]
fn two_ways_and_their_gradients_are_candles() {
    let body =
        vec![convolution("b", (6, 6), window(5, 1, 2), 1), Layer::Relu, convolution("c", (6, 6), window(3, 1, 1), 1)];
    let halving = Layer::Residual {
        body: vec![Layer::Relu, convolution("d", (6, 18), window(3, 2, 1), 1)],
        shortcut: vec![convolution("e", (6, 18), window(1, 2, 0), 1)],
    };
    let layers = vec![
        convolution("a", (2, 6), window(3, 1, 1), 1),
        Layer::Residual { body, shortcut: Vec::new() },
        halving,
        Layer::Relu,
        Layer::AveragePool,
        Layer::Flatten,
        Layer::dense("f", 18, 7, Bias::With),
    ];
    for n in [1, 2] {
        assert_as_candle(&before([2, 10, 12], layers.clone()), n, n as u64);
    }
}

/// Constants in front, between and behind; batch norm goes by its running averages.
#[test]
fn gradients_pass_through_constants() {
    let plan = Architecture::Resnet18(Width::new(3).unwrap()).plan(&[1, 9, 9], 4).unwrap();
    let plan = before([1, 9, 9], plan.layers().iter().cloned());
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let variables = variables(&plan, &mut rng);
    let constants = |(name, variable): &(String, Var)| {
        let learns = name.starts_with("first") || name.starts_with("layer2.0.conv1");
        (name.clone(), if learns { variable.as_tensor().clone() } else { variable.as_detached_tensor() })
    };
    let parameters = Parameters::new(variables.iter().map(constants));
    let (rows, weights) = (random(&mut rng, 6), random(&mut rng, 8));
    let learner = Learner::new(&plan, AS_IT_IS, &parameters).unwrap();
    let pass = learner.forward(&rows).unwrap();
    assert!(pass.seen().is_empty());
    let net = Net::live(&plan, AS_IT_IS, &parameters, &Device::Cpu).unwrap();
    let candles = net.forward(&net.rows(&rows).unwrap()).unwrap();
    let (mut ours, candles) = (gradients(pass.outputs(), &weights), gradients(&candles, &weights));
    pass.backward(&mut ours).unwrap();
    for (name, variable) in &variables {
        let learns = name.starts_with("first") || name.starts_with("layer2.0.conv1");
        assert_eq!(ours.get(variable).is_some(), learns, "{name}");
        if learns {
            assert_close(&values(ours.get(variable).unwrap()), &values(candles.get(variable).unwrap()), 1e-4);
        }
    }
}

/// Against differences: what is the largest stays the largest for so small steps.
#[test]
fn the_gradient_of_a_maximum_goes_to_the_largest() {
    const STEP: f32 = 1.0 / 2048.0;
    for (place, pool) in [window(2, 2, 0), window(3, 2, 1), window(3, 1, 1), window(2, 1, 0)].into_iter().enumerate() {
        let plan = before([3, 5, 6], [Layer::MaxPool(pool), Layer::Flatten]);
        let mut rng = ChaCha8Rng::seed_from_u64(place as u64);
        let variables = variables(&plan, &mut rng);
        let learner = Learner::new(&plan, AS_IT_IS, &parameters(&variables)).unwrap();
        let rows = [0.3, -0.1, 0.2, 0.1, 0.9, -0.5];
        let weights = random(&mut rng, 2 * plan.outputs());
        let pass = learner.forward(&rows).unwrap();
        let mut found = gradients(pass.outputs(), &weights);
        pass.backward(&mut found).unwrap();
        let bias = &variables.iter().find(|(name, _)| name == "first.bias").unwrap().1;
        let found = values(found.get(bias).unwrap());
        let at = values(bias);
        let loss = |number: usize, step: f32| {
            let mut moved = at.clone();
            moved[number] += step;
            bias.set(&Tensor::from_vec(moved, bias.shape(), &Device::Cpu).unwrap()).unwrap();
            let outputs = values(learner.forward(&rows).unwrap().outputs());
            outputs.iter().zip(&weights).map(|(output, weight)| f64::from(output * weight)).sum::<f64>()
        };
        let slopes = (0..at.len()).map(|number| (loss(number, STEP) - loss(number, -STEP)) / (2.0 * f64::from(STEP)));
        let off = slopes.zip(&found).filter(|(slope, found)| (slope - f64::from(**found)).abs() > 2e-2).count();
        // Two values that lie closer to each other than a step are no fault.
        assert!(off <= 3, "{pool:?}: {off} of {}", at.len());
    }
}

/// Of equal values the first gets the gradient.
#[test]
fn equal_values_share_no_gradient() {
    let plan = before([1, 2, 2], [Layer::MaxPool(Window::tiles(2)), Layer::Flatten]);
    let zeros =
        |(name, shape): (String, Vec<usize>)| (name, Var::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap());
    let variables: Vec<_> = plan.parameters().into_iter().map(zeros).collect();
    let learner = Learner::new(&plan, AS_IT_IS, &parameters(&variables)).unwrap();
    let pass = learner.forward(&[1.0, 1.0, 1.0]).unwrap();
    let mut found = gradients(pass.outputs(), &[2.0]);
    pass.backward(&mut found).unwrap();
    assert_close(&values(found.get(&variables[1].1).unwrap()), &[2.0, 0.0, 0.0, 0.0], 0.0);
}

/// Every parameter that is learned has a gradient, and a net without batch norm gives what the packed one gives.
#[test]
fn networks_of_the_papers_learn_with_every_parameter() {
    let width = Width::new(4).unwrap();
    for architecture in [Architecture::Lenet5, Architecture::Vgg11(width), Architecture::Resnet18(width)] {
        let plan = architecture.plan(&[1, 28, 28], 10).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let variables = variables(&plan, &mut rng);
        let learner = Learner::new(&plan, AS_IT_IS, &parameters(&variables)).unwrap();
        let rows = random(&mut rng, 2 * 784);
        let pass = learner.forward(&rows).unwrap();
        let mut found = gradients(pass.outputs(), &random(&mut rng, 20));
        pass.backward(&mut found).unwrap();
        let counted = |name: &str| name.contains("running");
        for (name, variable) in &variables {
            let found = found.get(variable).map(values);
            assert_eq!(found.is_some(), !counted(name), "{architecture}: {name}");
            assert!(found.is_none_or(|found| found.iter().all(|value| value.is_finite())), "{architecture}: {name}");
        }
        assert_eq!(2 * pass.seen().len(), variables.iter().filter(|(name, _)| counted(name)).count());
        if architecture == Architecture::Lenet5 {
            let net = Net::new(&plan, AS_IT_IS, &parameters(&variables), &Device::Cpu).unwrap();
            assert_close(&values(pass.outputs()), &net.predict(&rows).unwrap(), 1e-4);
        }
    }
}
