//! Programs against an oracle in f64 that knows nothing of layouts, tiles or fusion.

use std::iter::repeat_with;

use candle_core::{Device, Tensor};
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{Program, program};
use crate::model::{Architecture, Bias, Convolution, Layer, Parameters, Plan, Preprocessing, Window};

const PREPROCESSING: Preprocessing = Preprocessing { mean: 0.3, std: 0.5, weight: 1.0 };

fn run(program: &Program, rows: &[f32]) -> Vec<f32> {
    let mut outputs = Vec::new();
    program.run(rows, &mut outputs, &|_| ());
    outputs
}

fn random(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    repeat_with(|| rng.random_range(-1.0..1.0)).take(count).collect()
}

/// Of variances above 0, the rest of either sign.
fn parameters(plan: &Plan, rng: &mut ChaCha8Rng) -> Parameters {
    Parameters::new(plan.parameters().into_iter().map(|(name, shape)| {
        let mut values = random(rng, shape.iter().product());
        if name.ends_with("running_var") {
            for value in &mut values {
                *value = value.abs() + 0.5;
            }
        }
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    }))
}

/// A row of shape `shape`, channels outermost, through `layers`.
fn oracle(layers: &[Layer], parameters: &Parameters, shape: &[usize], row: Vec<f64>) -> (Vec<usize>, Vec<f64>) {
    layers.iter().fold((shape.to_vec(), row), |(shape, row), layer| one(layer, parameters, &shape, row))
}

fn numbers(parameters: &Parameters, name: &str) -> Option<Vec<f64>> {
    let values = parameters.get(name)?.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    Some(values.into_iter().map(f64::from).collect())
}

/// Visits the positions of a square at (y, x) that lie in the picture: (place under the square, place in the plane).
fn under(
    window: Window,
    dilation: usize,
    (height, width): (usize, usize),
    (y, x): (usize, usize),
) -> Vec<(usize, usize)> {
    let all = (0..window.kernel).flat_map(|dy| (0..window.kernel).map(move |dx| (dy, dx)));
    let place = |(dy, dx): (usize, usize)| {
        let line = (y * window.stride + dy * dilation).checked_sub(window.padding).filter(|&line| line < height)?;
        let column =
            (x * window.stride + dx * dilation).checked_sub(window.padding).filter(|&column| column < width)?;
        Some((dy * window.kernel + dx, line * width + column))
    };
    all.filter_map(place).collect()
}

fn one(layer: &Layer, parameters: &Parameters, shape: &[usize], row: Vec<f64>) -> (Vec<usize>, Vec<f64>) {
    let plane = || shape[1] * shape[2];
    let windows = |window: Window, dilation: usize| {
        let sides = (window.along(shape[1], dilation).unwrap(), window.along(shape[2], dilation).unwrap());
        (sides, (0..sides.0).flat_map(move |y| (0..sides.1).map(move |x| (y, x))))
    };
    match layer {
        Layer::Convolution(Convolution { name, channels, filters, window, dilation, .. }) => {
            let weights = numbers(parameters, &format!("{name}.weight")).unwrap();
            let bias = numbers(parameters, &format!("{name}.bias")).unwrap_or_else(|| vec![0.0; *filters]);
            let patch = window.kernel * window.kernel;
            let ((height, width), places) = windows(*window, *dilation);
            let at = |filter: usize, place: (usize, usize)| {
                let of_channel = |channel: usize| -> f64 {
                    let weights = &weights[(filter * channels + channel) * patch..][..patch];
                    let values = &row[channel * plane()..][..plane()];
                    let under = under(*window, *dilation, (shape[1], shape[2]), place);
                    under.into_iter().map(|(weight, value)| weights[weight] * values[value]).sum()
                };
                bias[filter] + (0..*channels).map(of_channel).sum::<f64>()
            };
            let output = (0..*filters).flat_map(|filter| places.clone().map(move |place| (filter, place)));
            (vec![*filters, height, width], output.map(|(filter, place)| at(filter, place)).collect())
        }
        Layer::BatchNorm { name, .. } => {
            let get = |part: &str| numbers(parameters, &format!("{name}.{part}")).unwrap();
            let (weight, bias) = (get("weight"), get("bias"));
            let (mean, variance) = (get("running_mean"), get("running_var"));
            let change = |(place, value): (usize, f64)| {
                let channel = place / plane();
                (value - mean[channel]) / (variance[channel] + 1e-5).sqrt() * weight[channel] + bias[channel]
            };
            (shape.to_vec(), row.into_iter().enumerate().map(change).collect())
        }
        Layer::MaxPool(window) => {
            let ((height, width), places) = windows(*window, 1);
            let largest = |values: &[f64], place| {
                let under = under(*window, 1, (shape[1], shape[2]), place).into_iter();
                under.map(|(_, value)| values[value]).fold(f64::NEG_INFINITY, f64::max)
            };
            let output = row.chunks(plane()).flat_map(|values| places.clone().map(move |place| largest(values, place)));
            (vec![shape[0], height, width], output.collect())
        }
        Layer::AveragePool => {
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
            (vec![shape[0], 1, 1], row.chunks(plane()).map(mean).collect())
        }
        Layer::Relu => (shape.to_vec(), row.into_iter().map(|value| value.max(0.0)).collect()),
        Layer::Flatten => (vec![row.len()], row),
        Layer::Unflatten(shape) => (shape.clone(), row),
        Layer::Dense { name, inputs, outputs, .. } => {
            let weights = numbers(parameters, &format!("{name}.weight")).unwrap();
            let bias = numbers(parameters, &format!("{name}.bias")).unwrap_or_else(|| vec![0.0; *outputs]);
            let sum = |weights: &[f64]| weights.iter().zip(&row).map(|(weight, value)| weight * value).sum::<f64>();
            (vec![*outputs], weights.chunks(*inputs).zip(bias).map(|(weights, bias)| sum(weights) + bias).collect())
        }
        Layer::Residual { body, shortcut } => {
            let (_, short) = oracle(shortcut, parameters, shape, row.clone());
            let (shape, long) = oracle(body, parameters, shape, row);
            (shape, long.into_iter().zip(short).map(|(long, short)| long + short).collect())
        }
    }
}

/// Runs `n` rows through `layers` both ways.
fn assert_right(input: &[usize], layers: Vec<Layer>, n: usize, seed: u64) {
    let plan = Plan::new(input, layers).expect("the layers fit");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let parameters = parameters(&plan, &mut rng);
    let width: usize = input.iter().product();
    let rows = random(&mut rng, n * width);
    let program = program(&plan, PREPROCESSING, &parameters).unwrap();
    let found = run(&program, &rows);
    for (row, found) in rows.chunks(width).zip(found.chunks(plan.outputs())) {
        let read = row.iter().map(|&value| (f64::from(value) - 0.3) / 0.5).collect();
        let (_, expected) = oracle(plan.layers(), &parameters, input, read);
        assert_eq!(found.len(), expected.len());
        let scale = expected.iter().fold(1.0_f64, |most, value| most.max(value.abs()));
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5 * scale, "{found} is not {expected}: {plan:?}");
        }
    }
    // Buffers that were used once hold no less right values, and neighbours change nothing.
    let alone: Vec<f32> = rows.chunks(width).flat_map(|row| run(&program, row)).collect();
    let furthest = alone.iter().zip(&found).map(|(alone, found)| (alone - found).abs()).fold(0.0, f32::max);
    assert!(furthest <= 1e-4 * found.iter().fold(1.0_f32, |most, value| most.max(value.abs())), "{furthest}");
}

fn convolution(name: &'static str, (channels, filters): (usize, usize), window: Window, dilation: usize) -> Layer {
    Layer::Convolution(Convolution { name: name.into(), channels, filters, window, dilation, bias: Bias::With })
}

fn window(kernel: usize, stride: usize, padding: usize) -> Window {
    Window { kernel, stride, padding }
}

#[test]
fn convolutions_of_every_kind_are_right() {
    for (seed, (channels, filters, height, width, kernel, stride, padding, dilation)) in [
        (1, 6, 28, 28, 5, 1, 2, 1),
        (3, 17, 9, 7, 5, 1, 2, 1),
        (2, 3, 6, 8, 5, 1, 0, 1),
        (1, 2, 4, 4, 3, 1, 1, 1),
        (5, 33, 3, 3, 1, 1, 0, 1),
        (2, 3, 9, 8, 3, 1, 2, 2),
        (1, 2, 6, 5, 3, 1, 8, 8),
        (3, 8, 23, 21, 7, 2, 3, 1),
        (16, 32, 7, 9, 3, 2, 1, 1),
        (16, 20, 7, 8, 1, 2, 0, 1),
        (40, 16, 1, 1, 3, 1, 1, 1),
        (4, 5, 8, 8, 3, 3, 2, 2),
    ]
    .into_iter()
    .enumerate()
    {
        let layer = convolution("a", (channels, filters), window(kernel, stride, padding), dilation);
        for n in [1, 3] {
            assert_right(&[channels, height, width], vec![layer.clone()], n, seed as u64);
            assert_right(&[channels, height, width], vec![layer.clone(), Layer::Relu], n, seed as u64);
        }
    }
}

#[test]
fn matrices_are_right_for_every_number_of_rows() {
    for n in 1..=13 {
        let dense = |bias| Layer::dense("a", 37, 21, bias);
        assert_right(&[37], vec![dense(Bias::With), Layer::Relu], n, 1);
        assert_right(&[37], vec![dense(Bias::Without)], n, 2);
        // Values come channel by channel, whatever the layout inside.
        assert_right(&[3, 2, 4], vec![Layer::Flatten, Layer::dense("a", 24, 5, Bias::With)], n, 3);
    }
}

#[test]
fn poolings_are_right() {
    for (place, pool) in [window(2, 2, 0), window(3, 2, 1), window(3, 1, 1), window(2, 1, 0)].into_iter().enumerate() {
        for layers in [vec![Layer::MaxPool(pool)], vec![Layer::MaxPool(pool), Layer::Relu]] {
            assert_right(&[3, 7, 10], layers, 2, place as u64);
        }
    }
    assert_right(&[5, 3, 4], vec![Layer::AveragePool], 2, 9);
    assert_right(&[5, 3, 4], vec![Layer::Relu, Layer::AveragePool, Layer::Relu], 2, 9);
}

#[test]
fn a_few_filters_over_few_channels_are_right_with_their_pooling() {
    for (seed, (channels, filters, height, width, kernel, padding)) in [
        (1, 6, 28, 28, 5, 2),
        (1, 1, 8, 16, 3, 1),
        (1, 2, 6, 22, 3, 1),
        (2, 8, 12, 34, 3, 0),
        (1, 11, 20, 20, 1, 0),
        (3, 4, 10, 17, 2, 0),
        (4, 3, 8, 20, 3, 1),
        (5, 3, 8, 20, 3, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let layer = convolution("a", (channels, filters), window(kernel, 1, padding), 1);
        let layers = vec![layer, Layer::MaxPool(Window::tiles(2))];
        let more = [Layer::Relu, convolution("b", (filters, 3), window(3, 1, 1), 1)];
        assert_right(&[channels, height, width], layers.clone(), 2, seed as u64);
        assert_right(&[channels, height, width], layers.into_iter().chain(more).collect(), 3, seed as u64);
    }
}

/// A convolution reads zeros around the pooled picture; a matrix reads round them.
#[test]
fn pictures_with_zeros_around_go_through_everything() {
    let layers = vec![
        convolution("a", (2, 6), window(3, 1, 1), 1),
        Layer::MaxPool(window(2, 2, 0)),
        Layer::Relu,
        convolution("b", (6, 4), window(3, 1, 1), 1),
        Layer::Flatten,
        Layer::Unflatten(vec![6, 5, 4]),
        Layer::Residual {
            body: vec![
                convolution("c", (6, 6), window(5, 1, 2), 1),
                Layer::BatchNorm { name: "d".into(), channels: 6 },
                Layer::Relu,
                convolution("e", (6, 6), window(3, 1, 1), 1),
                Layer::BatchNorm { name: "f".into(), channels: 6 },
            ],
            shortcut: Vec::new(),
        },
        Layer::Relu,
        Layer::Residual {
            body: vec![convolution("g", (6, 18), window(3, 2, 1), 1)],
            shortcut: vec![convolution("h", (6, 18), window(1, 2, 0), 1)],
        },
        Layer::Flatten,
        Layer::dense("i", 18 * 3 * 2, 7, Bias::With),
    ];
    for n in [1, 2, 9] {
        assert_right(&[2, 10, 12], layers.clone(), n, 1);
    }
}

/// A `ReLU` that follows a residual block's input must not reach what the other way reads.
#[test]
fn what_others_read_is_left_alone() {
    let layers = vec![
        convolution("a", (2, 3), window(3, 1, 1), 1),
        Layer::Residual { body: vec![Layer::Relu, convolution("b", (3, 3), window(3, 1, 1), 1)], shortcut: Vec::new() },
    ];
    assert_right(&[2, 5, 6], layers, 2, 4);
}

#[test]
fn threads_share_the_rows() {
    let plan = Plan::new(&[37], vec![Layer::dense("a", 37, 21, Bias::With)]).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let program = program(&plan, PREPROCESSING, &parameters(&plan, &mut rng)).unwrap();
    let rows = random(&mut rng, 50 * 37);
    let alone = run(&program, &rows);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let shared = pool.install(|| run(&program, &rows));
    let furthest = alone.iter().zip(&shared).map(|(alone, shared)| (alone - shared).abs()).fold(0.0, f32::max);
    assert!(furthest < 1e-4, "{furthest}");
}

/// Pictures and matrices so large that a single row is shared out, too.
#[test]
fn threads_share_a_single_row() {
    let body = vec![convolution("b", (33, 33), window(3, 1, 1), 1)];
    let layers = vec![
        convolution("a", (3, 33), window(3, 1, 1), 1),
        Layer::Residual { body, shortcut: Vec::new() },
        Layer::Relu,
        Layer::Flatten,
        Layer::dense("c", 33 * 17 * 15, 150, Bias::With),
    ];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    pool.install(|| assert_right(&[3, 17, 15], layers, 1, 7));
}

/// What pooling leaves of flat pictures, and what sequences are: several positions, and none below another.
#[test]
fn threads_share_a_single_line() {
    let body = vec![convolution("b", (128, 128), window(3, 1, 1), 1)];
    let layers = vec![
        convolution("a", (64, 128), window(3, 1, 1), 1),
        Layer::Residual { body, shortcut: Vec::new() },
        Layer::Relu,
        convolution("c", (128, 128), window(3, 2, 1), 1),
    ];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
    for (height, width) in [(1, 30), (2, 30), (1, 16), (30, 1)] {
        pool.install(|| assert_right(&[64, height, width], layers.clone(), 1, 8));
    }
}

#[test]
fn what_is_no_number_is_told() {
    let plan = Plan::new(&[4], vec![Layer::dense("a", 4, 3, Bias::With), Layer::Relu]).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let program = program(&plan, PREPROCESSING, &parameters(&plan, &mut rng)).unwrap();
    assert!(run(&program, &[0.1, f32::NAN, 0.2, 0.3]).iter().all(|value| value.is_nan()));
}

/// Each place of a picture is under some filter, and each filter's value under every output: a maximum on the way must not lose it.
#[test]
fn what_is_no_number_comes_through_maxima() {
    for (name, shape) in
        [("lenet5", [1, 28, 28]), ("compact2", [2, 28, 28]), ("vgg11-w4", [1, 32, 32]), ("resnet18-w4", [1, 64, 64])]
    {
        let plan = name.parse::<Architecture>().unwrap().plan(&shape, 10).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        let program = program(&plan, PREPROCESSING, &parameters(&plan, &mut rng)).unwrap();
        let row = random(&mut rng, shape.iter().product());
        assert!(run(&program, &row).iter().all(|value| value.is_finite()), "{name}");
        for place in [0, 1, row.len() / 2 + 3, row.len() - 2, row.len() - 1] {
            let mut row = row.clone();
            row[place] = f32::NAN;
            assert!(run(&program, &row).iter().all(|value| value.is_nan()), "{name}: place {place}");
        }
    }
}
