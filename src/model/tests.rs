//! Nets by themselves, in batches and over sums of rows.

use std::iter::repeat_with;

use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::*;
use crate::code::{Code, Sum};

const FASHION: [usize; 3] = [1, 28, 28];
const PREPROCESSING: Preprocessing = Preprocessing { mean: 0.286, std: 0.353, weight: 1.0 };

pub(super) fn random(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    repeat_with(|| rng.random_range(-0.5..0.5)).take(count).collect()
}

pub(super) fn random_parameters(plan: &Plan, rng: &mut ChaCha8Rng) -> Parameters {
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

fn random_net(architecture: Architecture, preprocessing: Preprocessing, seed: u64) -> Net {
    let plan = architecture.plan(&FASHION, 10).unwrap();
    let parameters = random_parameters(&plan, &mut ChaCha8Rng::seed_from_u64(seed));
    Net::new(&plan, preprocessing, &parameters, &Device::Cpu).unwrap()
}

fn assert_close(left: &[f32], right: &[f32], tolerance: f32) {
    assert_eq!(left.len(), right.len());
    for (left, right) in left.iter().zip(right) {
        assert!((left - right).abs() <= tolerance * (1.0 + right.abs()), "{left} is not {right}");
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_batch_gives_what_its_rows_give_alone() {
    for architecture in [Architecture::Linear, Architecture::Mlp, Architecture::Lenet5, Architecture::Compact4] {
        let net = random_net(architecture, PREPROCESSING, 2);
        let rows = random(&mut ChaCha8Rng::seed_from_u64(3), 5 * net.width());
        let together = net.predict(&rows).unwrap();
        for (row, output) in rows.chunks(net.width()).zip(together.chunks(10)) {
            assert_close(output, &net.predict(row).unwrap(), 1e-3);
        }
        assert_eq!(together, net.predict(&rows).unwrap(), "running a net does not change it");
    }
}

#[test]
fn a_sum_of_raw_rows_is_read_as_the_sum_of_read_rows() {
    let code = Sum::with_defaults(3, 2).unwrap();
    let rows = random(&mut ChaCha8Rng::seed_from_u64(4), 3 * 784);
    let slices: Vec<&[f32]> = rows.chunks(784).collect();
    for parity in 0..code.r() {
        let coefficients = code.coefficients(parity);
        let mut sum = vec![0.0; 784];
        code.encode(parity, &slices, &mut sum);
        let tensor = |values: &[f32]| Tensor::from_slice(values, 784, &Device::Cpu).unwrap();
        let of_sum = PREPROCESSING.of_sum(coefficients).apply(&tensor(&sum)).unwrap();
        let mut expected = vec![0.0; 784];
        let read: Vec<Vec<f32>> =
            slices.iter().map(|row| values(&PREPROCESSING.apply(&tensor(row)).unwrap())).collect();
        let read: Vec<&[f32]> = read.iter().map(Vec::as_slice).collect();
        code.encode(parity, &read, &mut expected);
        assert_close(&values(&of_sum), &expected, 1e-5);
    }
}

#[test]
fn a_linear_net_is_its_own_parity_model() {
    let code = Sum::with_defaults(2, 1).unwrap();
    let base = random_net(Architecture::Linear, PREPROCESSING, 5);
    let parity = random_net(Architecture::Linear, PREPROCESSING.of_sum(code.coefficients(0)), 5);
    let rows = random(&mut ChaCha8Rng::seed_from_u64(6), 2 * 784);
    let (first, second) = rows.split_at(784);
    let mut sum = vec![0.0; 784];
    code.encode(0, &[first, second], &mut sum);
    let (direct, other, parity) = (base.predict(first), base.predict(second), parity.predict(&sum));
    let decoded = code.decode(0, &[None, Some(&other.unwrap()), Some(&parity.unwrap())]).unwrap();
    assert_close(&decoded, &direct.unwrap(), 1e-4);
}

/// Half precision is a matter of files: what is read is f32 again, rounded once.
#[test]
fn half_precision_files_are_read_as_f32() {
    let net = Architecture::MlpQuarter.plan(&[1, 28, 28], 10).unwrap();
    let random = random_parameters(&net, &mut ChaCha8Rng::seed_from_u64(5));
    let bytes = random.halved().unwrap().to_safetensors().unwrap();
    let read = Parameters::from_safetensors(&bytes).unwrap();
    assert!(read.faults(&net).is_empty());
    assert!(bytes.len() < random.to_safetensors().unwrap().len() * 6 / 10);
    for (name, tensor) in random.iter() {
        let (expected, found) = (values(tensor), values(read.get(name).unwrap()));
        assert_close(&found, &expected, 1e-3);
    }
    assert_eq!(read.halved().unwrap().to_safetensors().unwrap(), bytes);
}

#[test]
fn parameters_round_trip_and_say_what_does_not_fit() {
    let plan = Architecture::Mlp.plan(&FASHION, 10).unwrap();
    let parameters = random_parameters(&plan, &mut ChaCha8Rng::seed_from_u64(7));
    let bytes = parameters.to_safetensors().unwrap();
    let again = Parameters::from_safetensors(&bytes).unwrap();
    assert_eq!(bytes, again.to_safetensors().unwrap());
    assert_eq!(again.faults(&plan), Vec::<String>::new());
    let faults = again.faults(&Architecture::Lenet5.plan(&FASHION, 10).unwrap());
    for fault in ["`conv1.weight` is missing", "`fc1.weight` has shape [200, 784], not [120, 400]"] {
        assert!(faults.iter().any(|found| found.contains(fault)), "{fault} is not in {faults:?}");
    }
}

#[test]
fn copies_of_nets_share_their_weights_and_cross_threads() {
    fn crosses_threads<T: Send + Sync>() {}
    crosses_threads::<Net>();
    let net = random_net(Architecture::Linear, PREPROCESSING, 8);
    assert!(net.shares_weights(&net.clone()));
}

/// What is served is what was trained: packed or as tensors, a net gives the same.
#[test]
fn packed_nets_agree_with_live_ones() {
    let narrow = Width::new(5).unwrap();
    let all = Architecture::ALL.into_iter().filter(|architecture| architecture.with_width(narrow).is_none());
    let narrowed = Architecture::ALL.into_iter().filter_map(|architecture| architecture.with_width(narrow));
    for architecture in all.chain(narrowed) {
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        let plan = architecture.plan(&FASHION, 10).unwrap();
        let parameters = random_parameters(&plan, &mut rng);
        let packed = Net::new(&plan, PREPROCESSING, &parameters, &Device::Cpu).unwrap();
        let live = Net::live(&plan, PREPROCESSING, &parameters, &test_device()).unwrap();
        let settled = |precision| Net::settled(&plan, PREPROCESSING, &parameters, &test_device(), precision).unwrap();
        let rows = random(&mut rng, 3 * 784);
        let live = live.predict(&rows).unwrap();
        let scale = live.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        for (net, tolerance) in [(packed, 1e-4), (settled(Precision::Single), 1e-4), (settled(Precision::Half), 1e-2)] {
            let found = net.predict(&rows).unwrap();
            let furthest = found.iter().zip(&live).map(|(found, live)| (found - live).abs()).fold(0.0, f32::max);
            assert!(furthest <= tolerance * scale, "{architecture}: {furthest} of {scale}");
        }
    }
}

#[test]
fn a_net_of_tensors_tells_of_its_work_as_it_goes() {
    let shapes = [("mlp", FASHION), ("lenet5", FASHION), ("resnet18-w16", FASHION), ("vgg11", [3, 32, 32])];
    for (name, shape) in shapes {
        let plan = name.parse::<Architecture>().unwrap().plan(&shape, 10).unwrap();
        let parameters = random_parameters(&plan, &mut ChaCha8Rng::seed_from_u64(5));
        let nets = [
            Net::live(&plan, PREPROCESSING, &parameters, &test_device()).unwrap(),
            Net::settled(&plan, PREPROCESSING, &parameters, &test_device(), Precision::Single).unwrap(),
        ];
        nets[1].prepare([1]).unwrap();
        let kernels = nets[1].kernels(1);
        let told = nets.map(|net| {
            let Form::Steps(tensors) = &net.form else { panic!("it is made of tensors") };
            assert!((tensors.shares.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{name}: {:?}", tensors.shares);
            let told = std::sync::Mutex::new(Vec::new());
            net.run_into(Taken::Host(&vec![0.5; net.width()]), &mut Vec::new(), &|share| {
                told.lock().unwrap().push(share);
            })
            .unwrap();
            told.into_inner().unwrap()
        });
        let (all, least) = (told[1].iter().sum::<f32>(), told[1].iter().copied().fold(1.0, f32::min));
        // A program of so little work has one graph (`gpu::program`).
        if !kernels.starts_with("cudnn") {
            assert!(all > 0.85 && all < 1.0001 && least >= 0.125, "{name}: {:?}", told[1]);
            assert_eq!(told[0], told[1], "{name}: folding batch norms moves no work");
        }
    }
}

/// Whatever the width, and where an intake has served narrower or wider ones before; on a GPU rows go in blocks, and several times through each.
#[test]
fn rows_arrive_as_they_were_written() {
    let mut intake = Intake::default();
    // Many jobs a block, one, and one that is larger than a block; of one row each, or of two.
    for (side, rows, counts) in [(28, 1, [1, 20, 50]), (100, 1, [1, 5, 40]), (300, 1, [2, 3, 40]), (28, 2, [3, 10, 41])]
    {
        let plan = Architecture::Linear.plan(&[1, side, side], 2).unwrap();
        let parameters = random_parameters(&plan, &mut ChaCha8Rng::seed_from_u64(1));
        let net = Net::settled(&plan, PREPROCESSING, &parameters, &test_device(), Precision::Single).unwrap();
        for count in counts {
            let (value, width) = (|job: usize, at: usize| (job * 7919 + at) as f32, rows * net.width());
            let write = |job: usize, into: &mut [f32]| {
                into.iter_mut().enumerate().for_each(|(at, into)| *into = value(job, at));
            };
            let found = match intake.take(&net, (count, width), write).unwrap() {
                Taken::Host(rows) => rows.to_vec(),
                Taken::There(rows, _) => {
                    assert_eq!(rows.dims()[1..], [1, side, side]);
                    values(&rows)
                }
            };
            let expected = (0..count).flat_map(|job| (0..width).map(move |at| value(job, at)));
            assert!(found.into_iter().eq(expected), "{count} jobs of {rows} x {side} x {side}");
        }
    }
}

/// Rows of one batch answer for themselves; here two of four in two jobs.
#[test]
fn what_is_no_number_comes_out_as_such() {
    let plan = Architecture::Lenet5.plan(&FASHION, 10).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let parameters = random_parameters(&plan, &mut rng);
    let mut rows = random(&mut rng, 4 * 784);
    let expected = Net::new(&plan, PREPROCESSING, &parameters, &Device::Cpu).unwrap().run(&rows).unwrap();
    (rows[784 + 400], rows[3 * 784]) = (f32::NAN, -f32::NAN);
    for precision in [Precision::Single, Precision::Half] {
        let net = Net::settled(&plan, PREPROCESSING, &parameters, &test_device(), precision).unwrap();
        let (mut intake, mut outputs) = (Intake::default(), Vec::new());
        let write = |job: usize, into: &mut [f32]| into.copy_from_slice(&rows[job * 1568..][..1568]);
        let taken = intake.take(&net, (2, 1568), write).unwrap();
        net.run_into(taken, &mut outputs, &|_| ()).unwrap();
        assert_eq!(outputs.len(), 40);
        for row in [1, 3] {
            assert!(outputs[row * 10..][..10].iter().all(|value| value.is_nan()), "{precision:?}, {row}");
        }
        for row in [0, 2] {
            assert_close(&outputs[row * 10..][..10], &expected[row * 10..][..10], 2e-2);
        }
    }
}

#[test]
fn a_net_of_half_precision_rounds_and_overflows() {
    let plan = Architecture::Linear.plan(&FASHION, 10).unwrap();
    let parameters = random_parameters(&plan, &mut ChaCha8Rng::seed_from_u64(3));
    let net = |precision| Net::settled(&plan, PREPROCESSING, &parameters, &test_device(), precision).unwrap();
    let rows = random(&mut ChaCha8Rng::seed_from_u64(4), 784);
    let (whole, half) = (net(Precision::Single).run(&rows).unwrap(), net(Precision::Half).run(&rows).unwrap());
    assert_ne!(whole, half, "it is rounded");
    let large: Vec<f32> = rows.iter().map(|value| value * 1e5).collect();
    assert!(net(Precision::Single).run(&large).unwrap().iter().all(|value| value.is_finite()));
    assert!(net(Precision::Half).run(&large).unwrap().iter().any(|value| !value.is_finite()), "found out by its lane");
}
