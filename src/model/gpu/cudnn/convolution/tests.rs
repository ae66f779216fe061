//! What NVIDIA's cuDNN says of our graphs, for a GPU that it is told of.

use super::*;
use crate::model::Window;

/// What cuDNN wants to know of a GPU: an H200's numbers, of its data sheet and of CUDA's table of compute capabilities (9.0).
const H200: &std::ffi::CStr = {
    let text = concat!(include_str!("../h200.json"), "\0");
    match std::ffi::CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(text) => text,
        Err(_) => unreachable!(),
    }
};

/// Channels and side of what is read, channels of what is written, kernel, stride and padding: LeNet-5's, each kind of ResNet-18's, and full matrices, which are convolutions of one position.
const STAGES: [[usize; 6]; 13] = [
    [1, 28, 6, 5, 1, 2],
    [6, 14, 16, 5, 1, 0],
    [1, 28, 64, 3, 1, 1],
    [3, 224, 64, 7, 2, 3],
    [64, 56, 64, 3, 1, 1],
    [64, 56, 128, 3, 2, 1],
    [64, 56, 128, 1, 2, 0],
    [256, 14, 512, 3, 2, 1],
    [512, 7, 512, 3, 1, 1],
    [400, 1, 120, 1, 1, 0],
    [84, 1, 10, 1, 1, 0],
    [512, 1, 10, 1, 1, 0],
    [784, 1, 200, 1, 1, 0],
];

/// A stage for so many rows, of which nothing but its description is looked at.
fn asked_for(values: Precision, layout: Layout, rows: usize, stage: [usize; 6]) -> Vec<(Ends, Convolving)> {
    let [read, side, written, kernel, stride, padding] = stage;
    let out = (side + 2 * padding - kernel) / stride + 1;
    let (from, to) = ((0x1000, [read, side, side]), (0x2000, [written, out, out]));
    let (ends, window) = (Ends { values, layout, rows, from, to }, Window { kernel, stride, padding });
    let (filters, bias, dilation) = (0x3000, 0x4000, 1);
    [(None, true), (Some(0x5000), true), (None, false)]
        .map(|(added, rectified)| (ends, Convolving { filters, bias, window, dilation, added, rectified }))
        .to_vec()
}

/// cuDNN itself has engines for all that networks ask for, in each precision, order and number of rows, and takes all that they are described by.
#[test]
#[ignore = "scripts/check-cuda runs it, with NVIDIA's cuDNN"]
fn nvidias_library_plans_each_stage_for_an_h200() {
    let gpu = Part::gpu(H200).unwrap();
    let precisions = [Precision::Single, Precision::TensorFloat, Precision::Half, Precision::Bfloat];
    let layouts = [Layout::ChannelsFirst, Layout::ChannelsLast];
    let mut planned = 0;
    for (values, layout) in precisions.into_iter().flat_map(|values| layouts.map(|layout| (values, layout))) {
        let stages = STAGES.into_iter().flat_map(|stage| [1, 32].map(|rows| (rows, stage)));
        for (ends, what) in stages.flat_map(|(rows, stage)| asked_for(values, layout, rows, stage)) {
            let made = Convolution::new(Gpu::Described(&gpu), ends, what).unwrap();
            let plans: Vec<_> = made.plans.iter().map(|plan| (plan.engine, plan.workspace)).collect();
            println!("{ends:?} {what:?}: {plans:?}");
            assert!(plans.len() > 1, "another one, if the first does not run: {ends:?} {what:?}");
            assert!(plans.iter().any(|&(engine, _)| [0, 11].contains(&engine)), "one that runs anywhere: {plans:?}");
            assert!(made.workspace() <= WORKSPACE_MAX, "{ends:?} {what:?}");
            made.packed(Place(0x6000)).unwrap();
            planned += 1;
        }
    }
    println!("{planned} convolutions are planned");
}
