//! Stages, run by candle on the CPU one after the other, give what the layers that they were lowered from give.

use candle_core::{DType, Device};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::*;
use crate::model::{
    Architecture, Bias, Convolution, Encoder, Layer, Plan, Width, decoder_plan,
    step::{self, max_pool},
    tests::{random, random_parameters},
};

const PICTURE: [usize; 3] = [2, 12, 16];

/// The layers of a plan as they are served, and the same lowered.
fn lowered(plan: &Plan, keeps_nan: bool, layout: Layout) -> (Vec<Step>, Option<Lowered>) {
    let parameters = random_parameters(plan, &mut ChaCha8Rng::seed_from_u64(1));
    let steps = Step::all(plan.layers(), &parameters.builder(&Device::Cpu)).unwrap();
    let steps = Step::settled(steps, DType::F32).unwrap();
    let lowered = Lowered::new(plan.input(), &steps, keeps_nan, layout).unwrap();
    (steps, lowered)
}

/// What `gpu` has cuDNN do.
fn run(lowered: &Lowered, rows: &Tensor) -> Tensor {
    let mut slots: Vec<Option<Tensor>> = vec![None; lowered.slots.len()];
    let count = rows.dim(0).unwrap();
    slots[0] = Some(rows.flatten_all().unwrap());
    for Stage { kind, from, to, .. } in &lowered.stages {
        // Slots hold what memory would: values in the order that is said of them.
        let read = |slot: Slot, [c, h, w]: Sides, layout| match (slots[slot].as_ref().unwrap(), layout) {
            (values, Layout::ChannelsFirst) => values.reshape((count, c, h, w)).unwrap(),
            (values, Layout::ChannelsLast) => values.reshape((count, h, w, c)).unwrap().permute((0, 3, 1, 2)).unwrap(),
        };
        let [reads, writes] = match *kind {
            Kind::Reorder(to) => [to.other(), to],
            Kind::Convolution { .. } | Kind::MaxPool(_) | Kind::AveragePool | Kind::Relu => [lowered.layout; 2],
        };
        let x = read(from.0, from.1, reads).contiguous().unwrap();
        let y = match kind {
            Kind::Convolution { filters, bias, window, dilation, added, rectified } => {
                assert!(to.0 != from.0 && *added != Some(to.0), "nothing is written over while it is read");
                let mut y = x.conv2d(filters, window.padding, window.stride, *dilation, 1).unwrap();
                if let Some(bias) = bias {
                    y = y.broadcast_add(&bias.reshape((1, (), 1, 1)).unwrap()).unwrap();
                }
                if let Some(added) = added {
                    y = (y + read(*added, to.1, writes)).unwrap();
                }
                if *rectified { y.relu().unwrap() } else { y }
            }
            Kind::MaxPool(window) => max_pool(&x, *window).unwrap(),
            Kind::AveragePool => x.mean_keepdim((2, 3)).unwrap(),
            Kind::Relu => x.relu().unwrap(),
            Kind::Reorder(_) => x,
        };
        assert_eq!(y.dims()[1..], to.1, "{kind:?}");
        assert!(y.elem_count() <= count * lowered.slots[to.0]);
        let y = if writes == Layout::ChannelsLast { y.permute((0, 2, 3, 1)).unwrap() } else { y };
        slots[to.0] = Some(y.flatten_all().unwrap());
    }
    slots[lowered.outputs().0].take().unwrap().reshape((count, ())).unwrap()
}

fn assert_same(name: &str, plan: &Plan) -> Lowered {
    for layout in [Layout::ChannelsLast, Layout::ChannelsFirst] {
        assert_same_with(name, plan, true, layout);
    }
    assert_same_with(name, plan, false, Layout::ChannelsLast);
    assert_same_with(name, plan, false, Layout::ChannelsFirst)
}

fn assert_same_with(name: &str, plan: &Plan, keeps_nan: bool, layout: Layout) -> Lowered {
    let (steps, lowered) = lowered(plan, keeps_nan, layout);
    let lowered = lowered.unwrap_or_else(|| panic!("{name} is not lowered"));
    assert_eq!(lowered.work, plan.multiply_adds(), "{name}");
    let width = plan.input().iter().product::<usize>();
    let rows =
        Tensor::from_vec(random(&mut ChaCha8Rng::seed_from_u64(2), 3 * width), (3, width), &Device::Cpu).unwrap();
    let shape: Vec<usize> = [3].iter().chain(plan.input()).copied().collect();
    let expected = step::forward(&steps, &rows.reshape(shape).unwrap()).unwrap().flatten_from(1).unwrap();
    let found = run(&lowered, &rows);
    assert_eq!(found.dims(), expected.dims(), "{name}");
    let scale = expected.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    let off = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(off <= 1e-5 * scale, "{name}: off by {off} of {scale}");
    lowered
}

#[test]
fn networks_give_what_their_layers_give() {
    let narrow = Width::new(3).unwrap();
    for architecture in Architecture::ALL {
        let architecture = architecture.with_width(narrow).unwrap_or(architecture);
        for input in [PICTURE, [1, 64, 72]] {
            assert_same(&architecture.to_string(), &architecture.plan(&input, 5).unwrap());
        }
    }
    for encoder in Encoder::ALL {
        assert_same(
            encoder.as_str(),
            &encoder.plan(2, &PICTURE).unwrap().before(&Architecture::Lenet5.plan(&PICTURE, 5).unwrap()),
        );
    }
    assert_same("decoder", &decoder_plan(2, 1, 10));
    let flat = Encoder::Mlp.plan(2, &[32]).unwrap();
    assert_same("rows that are no pictures", &flat.before(&Architecture::Mlp.plan(&[32], 5).unwrap()));
}

/// A call for each convolution and matrix, and one for each pooling; whatever its depth, a network needs few places.
#[test]
fn deep_networks_take_a_call_a_convolution_and_few_slots() {
    let stages = |name: &str, side| {
        let plan = name.parse::<Architecture>().unwrap().plan(&[3, side, side], 10).unwrap();
        let whole = lowered(&plan, true, Layout::ChannelsFirst).1.unwrap();
        let lowered = lowered(&plan, false, Layout::ChannelsFirst).1.unwrap();
        assert!(lowered.stages.iter().all(|stage| !matches!(stage.kind, Kind::Relu)), "{name}");
        assert!(whole.stages.len() > lowered.stages.len() && whole.slots.len() <= 4, "{name}");
        (lowered.stages.len(), lowered.slots.len())
    };
    assert_eq!(stages("resnet18-w2", 224), (20 + 2 + 1, 3));
    assert_eq!(stages("resnet152-w1", 32), (155 + 1 + 1, 3));
    assert_eq!(stages("vgg11-w2", 224), (8 + 5 + 3, 2));
    assert_eq!(stages("mlp", 8), (3, 2));
}

/// Pictures are put in the other order once, where they come in, and what is read as a list is put back; what has one order stays as it is.
#[test]
fn pictures_are_reordered_where_they_come_in() {
    let reordered = |name: &str, input: &[usize]| {
        let plan = name.parse::<Architecture>().unwrap().plan(input, 10).unwrap();
        let lowered = lowered(&plan, false, Layout::ChannelsLast).1.unwrap();
        let at = |(number, stage): (usize, &Stage)| matches!(stage.kind, Kind::Reorder(_)).then_some(number);
        let at: Vec<_> = lowered.stages.iter().enumerate().filter_map(at).collect();
        (at, lowered.stages.len(), lowered.slots.len(), lowered.has_orders())
    };
    assert_eq!(reordered("resnet18-w2", &[3, 224, 224]), (vec![0], 20 + 2 + 1 + 1, 3, true));
    assert_eq!(reordered("lenet5", &[1, 28, 28]), (vec![4], 2 + 2 + 3 + 1, 2, true));
    assert_eq!(reordered("vgg11-w2", &[3, 32, 32]).0, [0]);
    assert_eq!(reordered("mlp", &[3, 8, 8]), (vec![], 3, 2, false));
}

fn plan(layers: Vec<Layer>) -> Plan {
    Plan::new(&PICTURE, layers).unwrap()
}

fn convolution(name: &'static str) -> Layer {
    let window = Window { kernel: 3, stride: 1, padding: 1 };
    Layer::Convolution(Convolution {
        name: name.into(),
        channels: 2,
        filters: 2,
        window,
        dilation: 1,
        bias: Bias::With,
    })
}

/// `ReLU` goes into what came before only where nobody else reads that, and is a stage otherwise; sums go into convolutions alone.
#[test]
fn what_no_stage_does_is_not_lowered() {
    let same = Window { kernel: 1, stride: 1, padding: 0 };
    let residual = |body, shortcut| vec![convolution("first"), Layer::Residual { body, shortcut }];
    for (name, layers) in [
        ("sum", residual(vec![convolution("long")], vec![])),
        ("deep sum", residual(vec![convolution("long"), Layer::Relu, convolution("end")], vec![convolution("short")])),
        ("rectified way", residual(vec![convolution("long")], vec![convolution("short"), Layer::Relu])),
        ("rectified before it is read twice", residual(vec![Layer::Relu, convolution("long")], vec![])),
        ("the same behind a pooling", residual(vec![Layer::MaxPool(same), Layer::Relu, convolution("long")], vec![])),
        ("means rectified", vec![convolution("first"), Layer::AveragePool, Layer::Relu]),
        ("nothing but rectified", vec![Layer::Relu]),
        ("pooled before it is rectified", vec![convolution("first"), Layer::MaxPool(Window::tiles(2)), Layer::Relu]),
    ] {
        assert_same(name, &plan(layers));
    }
    let refused = [
        ("a pooled end", residual(vec![convolution("long"), Layer::MaxPool(same)], vec![])),
        ("a sum of sums", residual(residual(vec![convolution("long")], vec![]), vec![])),
        ("an empty way", residual(vec![], vec![convolution("short")])),
        ("a norm alone", vec![Layer::BatchNorm { name: "norm".into(), channels: 2 }, convolution("first")]),
        ("nothing at all", vec![Layer::Flatten]),
    ];
    for (name, layers) in refused {
        assert!(lowered(&plan(layers), false, Layout::ChannelsFirst).1.is_none(), "{name}");
    }
}
