//! Tensors against the programs of the CPU, which `cpu::learn` holds against candle's graph and against differences.

use std::iter::repeat_with;

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::Learner;
use crate::model::{
    Architecture, Bias, Convolution, Layer, Parameters, Plan, Preprocessing, Width, Window, test_device,
};

const PREPROCESSING: Preprocessing = Preprocessing { mean: 0.25, std: 0.5, weight: 2.0 };

fn random(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    repeat_with(|| rng.random_range(-1.0..1.0)).take(count).collect()
}

/// Variables of either sign in host memory, variances excepted; those that `is_constant` names do not learn.
fn variables(plan: &Plan, rng: &mut ChaCha8Rng, is_constant: fn(&str) -> bool) -> Vec<(String, Tensor)> {
    let draw = |(name, shape): (String, Vec<usize>)| {
        let mut values = random(rng, shape.iter().product());
        if name.ends_with("running_var") {
            values = values.into_iter().map(|value| value.abs() + 0.5).collect();
        }
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let variable = |tensor: &Tensor| Var::from_tensor(tensor).unwrap().as_tensor().clone();
        let tensor = if is_constant(&name) { tensor } else { variable(&tensor) };
        (name, tensor)
    };
    plan.parameters().into_iter().map(draw).collect()
}

/// The same where tests run tensors, and there what learns is a variable of its own.
fn placed(variables: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    let place = |(name, tensor): &(String, Tensor)| {
        let there = tensor.detach().to_device(&test_device()).unwrap();
        let learns = tensor.is_variable();
        (name.clone(), if learns { Var::from_tensor(&there).unwrap().as_tensor().clone() } else { there })
    };
    variables.iter().map(place).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-4 * scale, "{what}: {found} is not {expected} of {scale}");
    }
}

/// Outputs, what batch norms saw, and all gradients of Σ outputs * weights.
fn passed(learner: &Learner, rows: &[f32], weights: &[f32]) -> (Vec<f32>, Vec<super::Seen>, GradStore) {
    let pass = learner.forward(rows).unwrap();
    let weights = Tensor::from_slice(weights, pass.outputs().shape(), pass.outputs().device()).unwrap();
    let mut gradients = (pass.outputs() * weights).unwrap().sum_all().unwrap().backward().unwrap();
    pass.backward(&mut gradients).unwrap();
    (values(pass.outputs()), pass.seen().unwrap(), gradients)
}

/// Tensors give what programs give, for `rows` rows.
#[track_caller]
fn assert_alike(plan: &Plan, rows: usize, is_constant: fn(&str) -> bool) {
    let mut rng = ChaCha8Rng::seed_from_u64(rows as u64);
    let variables = variables(plan, &mut rng, is_constant);
    let placed = placed(&variables);
    let parameters = |variables: &[(String, Tensor)]| Parameters::new(variables.iter().cloned());
    let weights = random(&mut rng, rows * plan.outputs());
    let rows = random(&mut rng, rows * plan.input().iter().product::<usize>());
    let program = Learner::new(plan, PREPROCESSING, &parameters(&variables)).unwrap();
    let tensors = Learner::of_tensors(plan, PREPROCESSING, &parameters(&placed), &test_device()).unwrap();
    let (expected, found) = (passed(&program, &rows, &weights), passed(&tensors, &rows, &weights));
    assert_close(&found.0, &expected.0, "outputs");
    assert_eq!(found.1.len(), expected.1.len());
    for (found, expected) in found.1.iter().zip(&expected.1) {
        assert_eq!(found.name, expected.name);
        assert_close(&found.mean, &expected.mean, &found.name);
        assert_close(&found.variance, &expected.variance, &found.name);
    }
    for ((name, variable), (_, there)) in variables.iter().zip(&placed) {
        let (found, expected) = (found.2.get(there), expected.2.get(variable));
        assert_eq!(found.is_some(), expected.is_some(), "{name}");
        if let Some((found, expected)) = found.zip(expected) {
            assert_eq!(found.shape(), variable.shape(), "{name}");
            assert!(!found.track_op(), "{name}: its gradient remembers how it was made");
            assert_close(&values(found), &values(expected), name);
        }
    }
}

fn nothing(_: &str) -> bool {
    false
}

/// Layers behind one whose bias tells of every value that they read.
fn before(shape: [usize; 3], layers: impl IntoIterator<Item = Layer>) -> Plan {
    let all = [Layer::dense("first", 3, shape.iter().product(), Bias::With), Layer::Unflatten(shape.to_vec())];
    Plan::new(&[3], all.into_iter().chain(layers).collect()).expect("the layers fit")
}

fn convolution(name: &'static str, (channels, filters): (usize, usize), window: Window, dilation: usize) -> Layer {
    Layer::Convolution(Convolution { name: name.into(), channels, filters, window, dilation, bias: Bias::With })
}

#[test]
fn convolutions_learn_alike() {
    for (channels, filters, height, width, kernel, stride, padding, dilation) in [
        (3, 4, 9, 7, 5, 1, 2, 1),
        (2, 3, 6, 8, 5, 1, 0, 1),
        (5, 33, 3, 3, 1, 1, 0, 1),
        (2, 3, 9, 8, 3, 1, 2, 2),
        (1, 2, 6, 5, 3, 1, 8, 8),
        (3, 8, 13, 11, 7, 2, 3, 1),
        // Sides that leave something over at the stride, and not the same.
        (16, 12, 8, 9, 3, 2, 1, 1),
        (6, 8, 7, 8, 1, 2, 0, 1),
        (4, 5, 9, 8, 3, 3, 0, 1),
        (2, 3, 10, 9, 2, 4, 0, 1),
        (2, 2, 7, 9, 3, 2, 1, 3),
        // Positions that see nothing but padding.
        (2, 3, 4, 5, 1, 1, 2, 1),
        (2, 3, 5, 5, 3, 2, 4, 1),
    ] {
        let window = Window { kernel, stride, padding };
        let layers = [convolution("a", (channels, filters), window, dilation), Layer::Relu, Layer::Flatten];
        assert_alike(&before([channels, height, width], layers), 2, nothing);
    }
}

#[test]
fn maxima_learn_alike() {
    for (kernel, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 1, 0), (2, 3, 0)] {
        let pool = Layer::MaxPool(Window { kernel, stride, padding });
        assert_alike(&before([3, 7, 8], [Layer::Relu, pool, Layer::Flatten]), 2, nothing);
    }
}

/// Of equal values the first gets the gradient, and no other.
#[test]
fn equal_values_share_no_gradient() {
    let plan = before([1, 4, 4], [Layer::MaxPool(Window { kernel: 3, stride: 1, padding: 1 }), Layer::Flatten]);
    let ones = |(name, shape): (String, Vec<usize>)| {
        (name, Var::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap().as_tensor().clone())
    };
    let variables: Vec<_> = plan.parameters().into_iter().map(ones).collect();
    let (parameters, placed) = (Parameters::new(variables.iter().cloned()), placed(&variables));
    let there = Parameters::new(placed.iter().cloned());
    let learner = Learner::of_tensors(&plan, PREPROCESSING, &there, &test_device()).unwrap();
    let (_, _, gradients) = passed(&learner, &[1.0, 1.0, 1.0], &[1.0; 16]);
    // A square begins one line above and one column before its place; of what lies in the picture, the first.
    let expected = [4.0, 2.0, 2.0, 0.0, 2.0, 1.0, 1.0, 0.0, 2.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    assert_close(&values(gradients.get(&placed[1].1).unwrap()), &expected, "bias");
    let program = Learner::new(&plan, PREPROCESSING, &parameters).unwrap();
    let (_, _, gradients) = passed(&program, &[1.0, 1.0, 1.0], &[1.0; 16]);
    assert_close(&values(gradients.get(&variables[1].1).unwrap()), &expected, "bias of the program");
}

#[test]
fn what_is_no_number_comes_through() {
    let plan = "lenet5".parse::<Architecture>().unwrap().plan(&[1, 28, 28], 10).unwrap();
    let variables = variables(&plan, &mut ChaCha8Rng::seed_from_u64(2), nothing);
    let mut row = vec![0.5; 784];
    row[400] = f32::NAN;
    for learner in [
        Learner::new(&plan, PREPROCESSING, &Parameters::new(variables.clone())).unwrap(),
        Learner::of_tensors(&plan, PREPROCESSING, &Parameters::new(placed(&variables)), &test_device()).unwrap(),
    ] {
        assert!(values(learner.forward(&row).unwrap().outputs()).iter().all(|value| value.is_nan()), "{learner:?}");
    }
}

#[test]
fn batch_norms_learn_alike_and_constant_ones_go_by_their_averages() {
    let norm = |name: &'static str| Layer::BatchNorm { name: name.into(), channels: 3 };
    let layers = [norm("a"), Layer::Relu, norm("b"), Layer::AveragePool, Layer::Flatten];
    let plan = before([3, 4, 5], layers);
    for is_constant in [nothing, |name: &str| name.starts_with('b'), |name: &str| name.starts_with('a')] {
        assert_alike(&plan, 3, is_constant);
    }
}

#[test]
fn networks_of_the_papers_learn_alike() {
    let width = Width::new(4).unwrap();
    let architectures = ["linear", "mlp", "lenet5", "compact2"].map(|name| name.parse::<Architecture>().unwrap());
    for architecture in architectures.into_iter().chain([Architecture::Vgg11(width), Architecture::Resnet18(width)]) {
        let side = if matches!(architecture, Architecture::Vgg11(_)) { 32 } else { 28 };
        let channels = if architecture.to_string() == "compact2" { 2 } else { 1 };
        assert_alike(&architecture.plan(&[channels, side, side], 10).unwrap(), 3, nothing);
    }
}

/// Constants behind what learns, as behind an encoder, and in front of it.
#[test]
fn gradients_pass_through_constants_alike() {
    let plan = Architecture::Resnet18(Width::new(3).unwrap()).plan(&[1, 9, 9], 4).unwrap();
    let plan = before([1, 9, 9], plan.layers().iter().cloned());
    assert_alike(&plan, 2, |name| !name.starts_with("first") && !name.starts_with("layer2.0.conv1"));
    assert_alike(&plan, 2, |name| !name.starts_with("layer4.1"));
}

#[test]
fn broken_rows_are_refused() {
    let plan = "linear".parse::<Architecture>().unwrap().plan(&[1, 4, 4], 2).unwrap();
    let parameters = Parameters::new(placed(&variables(&plan, &mut ChaCha8Rng::seed_from_u64(1), nothing)));
    let learner = Learner::of_tensors(&plan, PREPROCESSING, &parameters, &test_device()).unwrap();
    assert!(learner.forward(&[0.0; 17]).is_err() && learner.forward(&[]).is_err());
    let pass = learner.forward(&[0.0; 16]).unwrap();
    let other = Var::zeros(1, candle_core::DType::F32, &test_device()).unwrap();
    assert!(pass.backward(&mut other.sum_all().unwrap().backward().unwrap()).is_err(), "a loss of something else");
}
