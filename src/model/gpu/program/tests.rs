//! Programs on whatever calls itself a GPU with cuDNN here: `scripts/check-cuda` runs them, on an emulated one.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::*;
use crate::model::{
    Architecture, Net, Parameters, Plan, Preprocessing, Taken,
    gpu::{alone, bound::GRAPH_WORK, open},
    test_device,
    tests::{random, random_parameters},
};

const PREPROCESSING: Preprocessing = Preprocessing { mean: 0.286, std: 0.353, weight: 1.0 };

fn network(name: &str, side: usize) -> (Plan, Parameters) {
    let plan = name.parse::<Architecture>().unwrap().plan(&[3, side, side], 10).unwrap();
    let parameters = random_parameters(&plan, &mut ChaCha8Rng::seed_from_u64(1));
    (plan, parameters)
}

fn rows(net: &Net, count: usize) -> Vec<f32> {
    random(&mut ChaCha8Rng::seed_from_u64(count as u64), count * net.width())
}

fn on_gpu((plan, parameters): &(Plan, Parameters), precision: Precision) -> Net {
    Net::settled(plan, PREPROCESSING, parameters, &test_device(), precision).unwrap()
}

#[track_caller]
fn assert_right(net: &Net, cpu: &Net, count: usize, tolerance: f32) {
    let rows = rows(net, count);
    let (found, expected) = (net.run(&rows).unwrap(), cpu.run(&rows).unwrap());
    let scale = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= tolerance * scale, "{count} rows: {found} is not {expected}");
    }
}

/// It is asked for, and nobody gets it otherwise.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn tensor_floats_multiply_less_than_they_hold() {
    let network = network("lenet5", 32);
    let outputs = |precision| {
        let net = on_gpu(&network, precision);
        net.run(&rows(&net, 2)).unwrap()
    };
    let cpu = Net::new(&network.0, PREPROCESSING, &network.1, &Device::Cpu).unwrap();
    let right = cpu.run(&rows(&cpu, 2)).unwrap();
    let off =
        |found: Vec<f32>| found.iter().zip(&right).map(|(found, right)| (found - right).abs()).fold(0.0, f32::max);
    let (single, tensor_float) = (off(outputs(Precision::Single)), off(outputs(Precision::TensorFloat)));
    assert!(tensor_float > 10.0 * single, "off by {single} and by {tensor_float}");
}

/// Places of memory, and with them graphs, change when more rows come than there was room for; what was made for fewer is made again.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn batches_of_any_size_come_in_any_order() {
    for name in ["resnet18-w4", "lenet5"] {
        let network = network(name, 32);
        let cpu = Net::new(&network.0, PREPROCESSING, &network.1, &Device::Cpu).unwrap();
        let precisions = [
            (Precision::Single, 1e-5),
            (Precision::TensorFloat, 1e-2),
            (Precision::Half, 1e-2),
            (Precision::Bfloat, 5e-2),
        ];
        for (precision, tolerance) in precisions {
            let net = on_gpu(&network, precision);
            for count in [2, 1, 5, 2, 1, 7, 3, 7, 1, 33, 35] {
                assert_right(&net, &cpu, count, tolerance);
            }
            net.prepare([1, 2, 3, 5, 7]).unwrap();
            assert!([1, 2, 3, 5, 7].iter().all(|&rows| net.kernels(rows).starts_with("cudnn graphs")), "{name}");
        }
    }
}

/// Whichever of the two a lane finds faster.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn both_layouts_give_the_same() {
    const AS_IT_IS: Preprocessing = Preprocessing { mean: 0.0, std: 1.0, weight: 1.0 };
    let device = test_device();
    for name in ["resnet18-w4", "lenet5"] {
        let (plan, parameters) = network(name, 32);
        let cpu = Net::new(&plan, AS_IT_IS, &parameters, &Device::Cpu).unwrap();
        let precisions = [(Precision::TensorFloat, 1e-2), (Precision::Half, 1e-2), (Precision::Bfloat, 5e-2)];
        for (precision, tolerance) in precisions {
            let steps = Step::all(plan.layers(), &parameters.builder(&device)).unwrap();
            let steps = Step::settled(steps, precision.dtype()).unwrap();
            let program = Program::new(plan.input(), &steps, precision, &device).unwrap().unwrap();
            let run = |count| {
                let (rows, mut outputs) = (rows(&cpu, count), Vec::new());
                let there = Tensor::from_slice(&rows, (count, cpu.width()), &device).unwrap();
                let there = there.to_dtype(precision.dtype()).unwrap();
                assert!(program.run(&there, &mut outputs, &mut Marks::new(&device, &|_| ())).unwrap());
                let expected = cpu.run(&rows).unwrap();
                let scale = expected.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                for (found, expected) in outputs.iter().zip(&expected) {
                    assert!(
                        (found - expected).abs() <= tolerance * scale,
                        "{name}, {precision:?}: {found} is not {expected}"
                    );
                }
                program.kernels(count)
            };
            assert_eq!([2, 1, 33].map(run), ["cudnn graphs"; 3]);
            {
                let State { bound, untried, gpu } = &mut *program.state.lock();
                *bound = Bound::new(untried.take().unwrap(), gpu).unwrap();
            }
            assert_eq!([2, 1, 5, 33, 2].map(run), ["cudnn graphs, channels last"; 5]);
        }
    }
}

/// Single precision is not multiplied by tensor cores, and the order of a matrix is one.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn the_other_layout_is_tried_where_it_may_be_faster() {
    let device = test_device();
    let tried = |name: &str, precision: Precision| {
        let (plan, parameters) = network(name, 32);
        let steps = Step::all(plan.layers(), &parameters.builder(&device)).unwrap();
        let steps = Step::settled(steps, precision.dtype()).unwrap();
        let program = Program::new(plan.input(), &steps, precision, &device).unwrap().unwrap();
        let is_tried = program.state.lock().untried.is_some();
        program.prepare([1, 2]).unwrap();
        assert!(program.state.lock().untried.is_none() && program.kernels(2).starts_with("cudnn graphs"));
        is_tried
    };
    assert!(tried("lenet5", Precision::TensorFloat) && tried("lenet5", Precision::Half));
    assert!(!tried("lenet5", Precision::Single) && !tried("mlp", Precision::TensorFloat));
}

/// All sizes are ready at once, and stay so.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn what_is_prepared_is_there() {
    let network = network("resnet18-w4", 32);
    let net = on_gpu(&network, Precision::Single);
    assert_eq!(net.kernels(1), "candle", "nothing is prepared yet");
    net.prepare([1, 4, 2, 3]).unwrap();
    let ready = || (0..9).filter(|&rows| net.kernels(rows) == "cudnn graphs").collect::<Vec<_>>();
    assert_eq!(ready(), [1, 2, 3, 4], "where a smaller one takes more room to work in, the larger ones are made again");
    let cpu = Net::new(&network.0, PREPROCESSING, &network.1, &Device::Cpu).unwrap();
    for count in 1..=4 {
        assert_right(&net, &cpu, count, 1e-5);
    }
    assert_eq!(ready(), [1, 2, 3, 4]);
}

/// Hundreds of numbers of rows are dozens of sizes.
#[test]
fn a_batch_is_run_with_few_rows_too_many() {
    assert!((0..=EXACT).all(|rows| size_of(rows) == rows));
    let sizes: BTreeSet<_> = (1..=1024).map(size_of).collect();
    assert_eq!(sizes.len(), EXACT + 5 * A_DOUBLING);
    assert!(sizes.range(33..129).eq(&[36, 40, 44, 48, 52, 56, 60, 64, 72, 80, 88, 96, 104, 112, 120, 128]));
    assert!((1..=5000).all(|rows| rows <= size_of(rows) && 8 * (size_of(rows) - rows) < rows));
}

/// Copies of a net share its program, and so its places; where it is ready, threads may take turns.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn threads_take_turns() {
    let network = network("lenet5", 32);
    let net = on_gpu(&network, Precision::Single);
    net.prepare([1, 2, 3, 4, 5]).unwrap();
    let cpu = Net::new(&network.0, PREPROCESSING, &network.1, &Device::Cpu).unwrap();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (net, cpu) = (net.clone(), &cpu);
            scope.spawn(move || (0..20).for_each(|turn| assert_right(&net, cpu, 1 + (turn + number) % 5, 1e-5)));
        }
    });
}

/// A graph is captured, and a device opened, while nobody else does either on that GPU.
#[test]
#[ignore = "scripts/check-cuda runs it"]
#[expect(clippy::disallowed_methods, reason = "what does not happen takes time")]
fn captures_are_alone_on_their_gpu() {
    let net = on_gpu(&network("lenet5", 32), Precision::Single);
    let both: [&(dyn Fn() + Sync); 2] = [&|| net.prepare([1]).unwrap(), &|| drop(open(0).unwrap())];
    for waits in both {
        let (alone, is_done) = (alone(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                waits();
                is_done.store(true, Ordering::SeqCst);
            });
            // More than it would take.
            std::thread::sleep(Duration::from_millis(500));
            assert!(!is_done.load(Ordering::SeqCst));
            drop(alone);
        });
        assert!(is_done.load(Ordering::SeqCst));
    }
}

/// A batch of much work is several graphs, and tells of all but the last.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn large_batches_tell_of_their_work_as_they_go() {
    let network = network("vgg11", 32);
    let net = on_gpu(&network, Precision::Single);
    let count = 3 * GRAPH_WORK / network.0.multiply_adds();
    let (told, mut outputs) = (Mutex::new(Vec::new()), Vec::new());
    net.run_into(Taken::Host(&rows(&net, count)), &mut outputs, &|share| told.lock().push(share)).unwrap();
    let told = told.into_inner();
    let least = GRAPH_WORK as f32 / (network.0.multiply_adds() * count) as f32;
    assert!(!told.is_empty() && told.iter().sum::<f32>() < 1.0 && told.iter().all(|share| *share >= least), "{told:?}");
    let cpu = Net::new(&network.0, PREPROCESSING, &network.1, &Device::Cpu).unwrap();
    assert_right(&net, &cpu, count, 1e-5);
}

/// In half precision a value that overflows is in the outputs, whatever comes after it: `ReLU` makes no zeros of NaN.
#[test]
#[ignore = "scripts/check-cuda runs it"]
fn what_overflows_shows() {
    let network = network("resnet18-w4", 32);
    let net = on_gpu(&network, Precision::Half);
    let mut rows = rows(&net, 2);
    let (well, large) = rows.split_at_mut(net.width());
    // Infinite where the first convolution reads them, and no number where it adds them up.
    for value in large {
        *value *= 1e6;
    }
    assert!(net.run(well).unwrap().iter().all(|value| value.is_finite()));
    let outputs = net.run(&rows).unwrap();
    assert!(outputs[..10].iter().all(|value| value.is_finite()), "{outputs:?}");
    assert!(outputs[10..].iter().any(|value| !value.is_finite()), "{outputs:?}");
}
