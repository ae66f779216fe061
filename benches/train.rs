//! What a training step costs: `RAYON_NUM_THREADS=1 cargo bench --bench train`.
//!
//! Forward, loss, backward and Adam on one batch of 64 rows, in the four parts that a run cuts it into, one after the other on one thread; what a
//! run does besides (drawing rows, validation) is not in here. Compared with `PyTorch` in `docs/benchmarks/train-step.md`.

use std::env;

use candle_core::{Device, Tensor, Var};
use divan::{Bencher, counter::ItemsCount};
use parityd::{
    model::{Learner, Parameters, Preprocessing},
    train::Adam,
};

const ROWS: usize = 64;
const PARTS: usize = 4;

fn main() {
    divan::main();
}

#[divan::bench(args = ["mlp", "lenet5", "resnet18-w16", "vgg11-w16"], min_time = 3)]
fn step(bencher: Bencher<'_, '_>, architecture: &str) {
    let plan = architecture.parse().ok().map(|found: parityd::model::Architecture| found.plan(&[1, 28, 28], 10));
    let plan = plan.expect("its name is right").expect("it fits the picture");
    let variable = |(number, (name, shape)): (usize, (String, Vec<usize>))| {
        let count: usize = shape.iter().product();
        let value = |at: usize| ((number * 7919 + at * 104_729) % 2003) as f32 / 20_030.0 - 0.05;
        let values: Vec<f32> = (0..count).map(|at| if shape.len() == 1 { 1.0 } else { value(at) }).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).expect("one value each");
        (name, Var::from_tensor(&tensor).expect("it can learn"))
    };
    let variables: Vec<(String, Var)> = plan.parameters().into_iter().enumerate().map(variable).collect();
    let tensors = variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone()));
    let preprocessing = Preprocessing { mean: 0.286, std: 0.353, weight: 1.0 };
    let learner = Learner::new(&plan, preprocessing, &Parameters::new(tensors)).expect("all parameters are there");
    let mut adam = Adam::new(variables, 1e-5).expect("zeros fit into memory");
    let rows: Vec<f32> = (0..ROWS * 784).map(|at| (at * 7919 % 1009) as f32 / 1009.0).collect();
    let labels: Vec<u32> = (0..10).cycle().take(ROWS / PARTS).collect();
    let labels = Tensor::new(labels, &Device::Cpu).expect("plain numbers");
    let parts: usize = env::var("PARTS").ok().and_then(|parts| parts.parse().ok()).unwrap_or(PARTS);
    let labels = labels.repeat(PARTS / parts).expect("plain numbers");
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        let part = |rows: &[f32]| {
            let pass = learner.forward(rows)?;
            let mut gradients = candle_nn::loss::cross_entropy(pass.outputs(), &labels)?.backward()?;
            pass.backward(&mut gradients)?;
            Ok::<_, candle_core::Error>((gradients, 1.0 / parts as f64))
        };
        let parts: Vec<_> = rows.chunks(rows.len() / parts).map(|rows| part(rows).expect("it runs")).collect();
        adam.step(&parts, 1e-6).expect("each gradient is as long as its parameter");
    });
}
