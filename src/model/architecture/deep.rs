//! Layers of the deep networks: VGG-11 and the residual family, at any width.

use super::Width;
use crate::model::{Bias, Convolution, Layer, Window};

/// A convolution that keeps the size, or divides it by `stride`, and its batch norm.
fn normed(
    (convolution, norm): (String, String),
    (channels, filters): (usize, usize),
    (kernel, stride): (usize, usize),
    bias: Bias,
) -> [Layer; 2] {
    let window = Window { kernel, stride, padding: kernel / 2 };
    [
        Layer::Convolution(Convolution { name: convolution.into(), channels, filters, window, dilation: 1, bias }),
        Layer::BatchNorm { name: norm.into(), channels: filters },
    ]
}

/// Filters of the convolutions of VGG-11, in units of the width, by stage; a pooling follows each stage.
const VGG11: [&[usize]; 5] = [&[1], &[2], &[4, 4], &[8, 8], &[8, 8]];

pub(super) fn vgg11(input: &[usize], width: Width, outputs: usize) -> Option<Vec<Layer>> {
    let &[mut channels, height, width_of_picture] = input else { return None };
    let mut side = height.min(width_of_picture);
    let (mut layers, mut place) = (Vec::new(), 0);
    for stage in VGG11 {
        for times in stage {
            let filters = times * width.filters();
            let names = (format!("features.{place}"), format!("features.{}", place + 1));
            layers.extend(normed(names, (channels, filters), (3, 1), Bias::With));
            layers.push(Layer::Relu);
            (channels, place) = (filters, place + 3);
        }
        if side >= 2 {
            layers.push(Layer::MaxPool(Window::tiles(2)));
            side /= 2;
        }
        place += 1;
    }
    if height / 32 == 7 && width_of_picture / 32 == 7 {
        let hidden = 64 * width.filters();
        layers.extend([
            Layer::Flatten,
            Layer::dense("classifier.0", channels * 49, hidden, Bias::With),
            Layer::Relu,
            Layer::dense("classifier.3", hidden, hidden, Bias::With),
            Layer::Relu,
            Layer::dense("classifier.6", hidden, outputs, Bias::With),
        ]);
    } else {
        let last = Layer::dense("classifier", channels, outputs, Bias::With);
        layers.extend([Layer::AveragePool, Layer::Flatten, last]);
    }
    Some(layers)
}

/// A residual network: blocks of each stage, and what a block is.
pub(super) struct Resnet {
    blocks: [usize; 4],
    bottleneck: bool,
}

pub(super) const RESNET18: Resnet = Resnet { blocks: [2, 2, 2, 2], bottleneck: false };
pub(super) const RESNET152: Resnet = Resnet { blocks: [3, 8, 36, 3], bottleneck: true };

/// A picture of this side and more is halved twice before the first block.
const LARGE: usize = 64;

pub(super) fn resnet(input: &[usize], network: &Resnet, width: Width, outputs: usize) -> Option<Vec<Layer>> {
    let &[channels, height, width_of_picture] = input else { return None };
    let large = height.min(width_of_picture) >= LARGE;
    let stem = if large { (7, 2) } else { (3, 1) };
    let mut layers =
        Vec::from(normed(("conv1".into(), "bn1".into()), (channels, width.filters()), stem, Bias::Without));
    layers.push(Layer::Relu);
    if large {
        layers.push(Layer::MaxPool(Window { kernel: 3, stride: 2, padding: 1 }));
    }
    let mut channels = width.filters();
    for (stage, blocks) in network.blocks.into_iter().enumerate() {
        for block in 0..blocks {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let name = format!("layer{}.{block}", stage + 1);
            let (block, filters) = residual(&name, network, channels, (width.filters() << stage, stride));
            layers.extend([block, Layer::Relu]);
            channels = filters;
        }
    }
    layers.extend([Layer::AveragePool, Layer::Flatten, Layer::dense("fc", channels, outputs, Bias::With)]);
    Some(layers)
}

/// One block, and the channels that it writes.
fn residual(name: &str, network: &Resnet, channels: usize, (filters, stride): (usize, usize)) -> (Layer, usize) {
    let of = |place: usize| (format!("{name}.conv{place}"), format!("{name}.bn{place}"));
    let written = if network.bottleneck { 4 * filters } else { filters };
    let mut body = Vec::new();
    if network.bottleneck {
        body.extend(normed(of(1), (channels, filters), (1, 1), Bias::Without));
        body.push(Layer::Relu);
        body.extend(normed(of(2), (filters, filters), (3, stride), Bias::Without));
        body.push(Layer::Relu);
        body.extend(normed(of(3), (filters, written), (1, 1), Bias::Without));
    } else {
        body.extend(normed(of(1), (channels, filters), (3, stride), Bias::Without));
        body.push(Layer::Relu);
        body.extend(normed(of(2), (filters, filters), (3, 1), Bias::Without));
    }
    let names = (format!("{name}.downsample.0"), format!("{name}.downsample.1"));
    let changes = stride != 1 || channels != written;
    let shortcut =
        if changes { normed(names, (channels, written), (1, stride), Bias::Without).into() } else { Vec::new() };
    (Layer::Residual { body, shortcut }, written)
}
