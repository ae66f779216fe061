//! The architectures that there are, and the plans that they make.
//!
//! Networks with convolutions take pictures of any channels and of any size that leaves something to read. Residual networks and VGG come in
//! any width, because a narrow one is what a `compact` parity model is, and what trains on a few cores. Parameters are called as
//! `torchvision` calls them, so its weights load as they are.

mod deep;

use std::{fmt, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Bias, Convolution, Layer, Plan, Window, plan::Name};
use deep::{RESNET18, RESNET152, resnet, vgg11};

/// A network that the daemon knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Architecture {
    /// One matrix without bias: the exact oracle of the tests, because it is its own parity model.
    Linear,
    /// The papers' `base-mlp`: hidden layers of 200 and 100, `ReLU`.
    Mlp,
    /// Hidden layers of 100 and 60: a row costs half as much as one of [`Architecture::Mlp`].
    MlpHalf,
    /// Hidden layers of 50 and 40: a quarter.
    MlpQuarter,
    /// LeNet-5: 6 and 16 filters of 5 x 5 (the first padded by 2), max-pooling by 2, then 120 and 84, `ReLU`.
    Lenet5,
    /// 4 and 16 filters of 3 x 3 (the first padded by 1), max-pooling by 2, then 64, `ReLU`: a row takes half as long as one of
    /// [`Architecture::Lenet5`], which in so small a network is not half its arithmetic.
    Compact2,
    /// 3 filters with max-pooling, 16 with stride 2 instead, then 48: a quarter of the time.
    Compact4,
    /// VGG-11 with batch norm (Simonyan and Zisserman, ICLR 2015): eight convolutions of 3 x 3 and, for pictures of 224 to 255, three full
    /// matrices as in the paper; for others the mean of each channel and one matrix.
    Vgg11(Width),
    /// ResNet-18 (He et al., CVPR 2016). Pictures of 64 and more begin with 7 x 7 and a pooling, each by 2; smaller ones with 3 x 3.
    Resnet18(Width),
    /// ResNet-152: the same with fifty blocks of three convolutions.
    Resnet152(Width),
}

/// Filters of the first stage; later stages have 2, 4 and 8 times as many. 64 in the papers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Width(NonZeroU16);

impl Width {
    /// As in the papers.
    pub const FULL: Width = Width(NonZeroU16::new(64).expect("64 is not zero"));

    /// Any other, from 1 to 512.
    pub fn new(filters: u16) -> Option<Self> {
        NonZeroU16::new(filters).filter(|filters| filters.get() <= 512).map(Width)
    }

    /// The width at which a network costs about 1/k of what it costs at this one, since costs go with the square.
    fn compact(self, k: usize) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is less than the width")]
        let filters = (f64::from(self.0.get()) / (k as f64).sqrt()) as u16;
        Width::new(filters.max(1)).unwrap_or(self)
    }

    const fn filters(self) -> usize {
        self.0.get() as usize
    }
}

impl Architecture {
    /// All of them, at the papers' widths.
    pub const ALL: [Architecture; 10] = [
        Architecture::Linear,
        Architecture::Mlp,
        Architecture::MlpHalf,
        Architecture::MlpQuarter,
        Architecture::Lenet5,
        Architecture::Compact2,
        Architecture::Compact4,
        Architecture::Vgg11(Width::FULL),
        Architecture::Resnet18(Width::FULL),
        Architecture::Resnet152(Width::FULL),
    ];

    /// Its name and, if it has one, its width.
    const fn parts(self) -> (&'static str, Option<Width>) {
        match self {
            Architecture::Linear => ("linear", None),
            Architecture::Mlp => ("mlp", None),
            Architecture::MlpHalf => ("mlp-half", None),
            Architecture::MlpQuarter => ("mlp-quarter", None),
            Architecture::Lenet5 => ("lenet5", None),
            Architecture::Compact2 => ("compact2", None),
            Architecture::Compact4 => ("compact4", None),
            Architecture::Vgg11(width) => ("vgg11", Some(width)),
            Architecture::Resnet18(width) => ("resnet18", Some(width)),
            Architecture::Resnet152(width) => ("resnet152", Some(width)),
        }
    }

    /// The same at another width; none if it has none.
    pub(super) const fn with_width(self, width: Width) -> Option<Self> {
        match self {
            Architecture::Vgg11(_) => Some(Architecture::Vgg11(width)),
            Architecture::Resnet18(_) => Some(Architecture::Resnet18(width)),
            Architecture::Resnet152(_) => Some(Architecture::Resnet152(width)),
            Architecture::Linear
            | Architecture::Mlp
            | Architecture::MlpHalf
            | Architecture::MlpQuarter
            | Architecture::Lenet5
            | Architecture::Compact2
            | Architecture::Compact4 => None,
        }
    }

    /// Whether it looks at places by convolution, so that what it learned of one holds for others.
    pub const fn is_convolutional(self) -> bool {
        !matches!(self, Architecture::Linear | Architecture::Mlp | Architecture::MlpHalf | Architecture::MlpQuarter)
    }

    /// The network that runs k rows at about the cost of one row of this one, or less; the smallest there is for k > 4.
    #[must_use]
    pub fn compact(self, k: usize) -> Self {
        match self {
            Architecture::Linear => Architecture::Linear,
            Architecture::Mlp if k <= 2 => Architecture::MlpHalf,
            Architecture::Mlp | Architecture::MlpHalf | Architecture::MlpQuarter => Architecture::MlpQuarter,
            Architecture::Lenet5 if k <= 2 => Architecture::Compact2,
            Architecture::Lenet5 | Architecture::Compact2 | Architecture::Compact4 => Architecture::Compact4,
            Architecture::Vgg11(width) => Architecture::Vgg11(width.compact(k)),
            Architecture::Resnet18(width) => Architecture::Resnet18(width.compact(k)),
            Architecture::Resnet152(width) => Architecture::Resnet152(width.compact(k)),
        }
    }

    /// The layers for rows of shape `input` (without the leading row dimension) and `outputs` values a row.
    pub fn plan(self, input: &[usize], outputs: usize) -> Result<Plan, NoFit> {
        let no_fit = |rule| NoFit::new(self, input, outputs, rule);
        let width: usize = input.iter().product();
        if width == 0 || outputs == 0 {
            return Err(no_fit("every dimension must be at least 1"));
        }
        let layers = match self {
            Architecture::Linear => vec![Layer::Flatten, Layer::dense("fc1", width, outputs, Bias::Without)],
            Architecture::Mlp => dense_stack(width, &[200, 100], outputs),
            Architecture::MlpHalf => dense_stack(width, &[100, 60], outputs),
            Architecture::MlpQuarter => dense_stack(width, &[50, 40], outputs),
            Architecture::Lenet5 => lenet(input, &LENET5, outputs).ok_or_else(|| no_fit(RULE))?,
            Architecture::Compact2 => lenet(input, &COMPACT2, outputs).ok_or_else(|| no_fit(RULE))?,
            Architecture::Compact4 => lenet(input, &COMPACT4, outputs).ok_or_else(|| no_fit(RULE))?,
            Architecture::Vgg11(width) => vgg11(input, width, outputs).ok_or_else(|| no_fit(PICTURE))?,
            Architecture::Resnet18(width) => resnet(input, &RESNET18, width, outputs).ok_or_else(|| no_fit(PICTURE))?,
            Architecture::Resnet152(width) => {
                resnet(input, &RESNET152, width, outputs).ok_or_else(|| no_fit(PICTURE))?
            }
        };
        Plan::new(input, layers).ok_or_else(|| no_fit("the picture is too small"))
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts() {
            (name, None | Some(Width::FULL)) => f.write_str(name),
            (name, Some(width)) => write!(f, "{name}-w{}", width.0),
        }
    }
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |name: &str| Architecture::ALL.into_iter().find(|architecture| architecture.parts().0 == name);
        let narrow = || {
            let (name, width) = text.rsplit_once("-w")?;
            named(name)?.with_width(Width::new(width.parse().ok()?)?)
        };
        named(text).or_else(narrow).ok_or_else(|| {
            let known = Architecture::ALL.map(|architecture| match architecture.parts() {
                (name, None) => name.to_owned(),
                (name, Some(_)) => format!("{name}[-w1..512]"),
            });
            format!("no such architecture; known: {}", known.join(", "))
        })
    }
}

impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Architecture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An architecture cannot take that input or give that output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{architecture} does not fit rows of {input:?} and {outputs} outputs: {rule}")]
pub struct NoFit {
    architecture: Architecture,
    input: Vec<usize>,
    outputs: usize,
    rule: &'static str,
}

impl NoFit {
    /// Says which rule `architecture` breaks on rows of shape `input`.
    pub(crate) fn new(architecture: Architecture, input: &[usize], outputs: usize, rule: &'static str) -> Self {
        NoFit { architecture, input: input.to_vec(), outputs, rule }
    }
}

/// Full matrices with `ReLU` between them.
fn dense_stack(width: usize, hidden: &[usize], outputs: usize) -> Vec<Layer> {
    const NAMES: [&str; 3] = ["fc1", "fc2", "fc3"];
    let mut layers = vec![Layer::Flatten];
    let mut inputs = width;
    for (name, &units) in NAMES.into_iter().zip(hidden.iter().chain(std::iter::once(&outputs))) {
        if layers.len() > 1 {
            layers.push(Layer::Relu);
        }
        layers.push(Layer::dense(name, inputs, units, Bias::With));
        inputs = units;
    }
    layers
}

/// Two convolutions with pooling, then full matrices.
struct Lenet {
    kernel: usize,
    filters: [usize; 2],
    /// What halves the second picture.
    second: Halving,
    hidden: &'static [usize],
}

/// How a convolution's picture is halved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Halving {
    Pooling,
    Stride,
}

const LENET5: Lenet = Lenet { kernel: 5, filters: [6, 16], second: Halving::Pooling, hidden: &[120, 84] };
const COMPACT2: Lenet = Lenet { kernel: 3, filters: [4, 16], second: Halving::Pooling, hidden: &[64] };
const COMPACT4: Lenet = Lenet { kernel: 3, filters: [3, 16], second: Halving::Stride, hidden: &[48] };

const RULE: &str = "it needs [channels, height, width] with height and width multiples of 4 and at least 12";
const PICTURE: &str = "it needs [channels, height, width]";

/// Pools before it rectifies: the same values as the other way round at a quarter of the work.
fn lenet(input: &[usize], network: &Lenet, outputs: usize) -> Option<Vec<Layer>> {
    let &[channels, height, width] = input else { return None };
    let fits = |side: usize| side >= 12 && side.is_multiple_of(4);
    if !fits(height) || !fits(width) {
        return None;
    }
    let Lenet { kernel, filters: [first, second], second: halving, hidden } = *network;
    // The first convolution keeps the size, the second takes kernel - 1 off; both pictures are halved.
    let positions = (height / 2 + 1 - kernel) * (width / 2 + 1 - kernel);
    let convolution = |name, (channels, filters), stride, padding| {
        let window = Window { kernel, stride, padding };
        Layer::Convolution(Convolution { name, channels, filters, window, dilation: 1, bias: Bias::With })
    };
    let of_second = |stride| convolution(Name::Borrowed("conv2"), (first, second), stride, 0);
    let mut layers = vec![
        convolution(Name::Borrowed("conv1"), (channels, first), 1, kernel / 2),
        Layer::MaxPool(Window::tiles(2)),
        Layer::Relu,
    ];
    match halving {
        Halving::Pooling => layers.extend([of_second(1), Layer::MaxPool(Window::tiles(2)), Layer::Relu]),
        Halving::Stride => layers.extend([of_second(2), Layer::Relu]),
    }
    layers.extend(dense_stack(second * positions / 4, hidden, outputs));
    Some(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FASHION: [usize; 3] = [1, 28, 28];

    fn cost(architecture: Architecture, input: &[usize], outputs: usize) -> (usize, usize) {
        let plan = architecture.plan(input, outputs).unwrap();
        (plan.multiply_adds(), plan.parameter_count())
    }

    #[test]
    fn costs_are_those_of_the_papers_networks() {
        assert_eq!(cost(Architecture::Lenet5, &FASHION, 10), (416_520, 61_706));
        assert_eq!(cost(Architecture::Mlp, &FASHION, 10), (177_800, 178_110));
        assert_eq!(cost(Architecture::Linear, &FASHION, 10), (7_840, 7_840));
        // As torchvision counts them: 1.81 and 11.51 G multiply-adds, 11.69 M, 60.19 M and (vgg11_bn) 132.87 M parameters.
        let imagenet = [3, 224, 224];
        let (resnet18, resnet152) = (Architecture::Resnet18(Width::FULL), Architecture::Resnet152(Width::FULL));
        assert_eq!(cost(resnet18, &imagenet, 1000), (1_814_073_344, 11_689_512));
        assert_eq!(cost(resnet152, &imagenet, 1000), (11_513_626_624, 60_192_808));
        assert_eq!(cost(Architecture::Vgg11(Width::FULL), &imagenet, 1000), (7_609_090_048, 132_868_840));
        // The small-image forms: 0.56 G, 11.17 M; 0.15 G, 9.23 M.
        assert_eq!(cost(resnet18, &[3, 32, 32], 10), (555_422_720, 11_173_962));
        assert_eq!(cost(Architecture::Vgg11(Width::FULL), &[3, 32, 32], 10), (152_769_536, 9_231_114));
    }

    /// k rows of a compact network are one job, which may cost as much as one job of the base model.
    #[test]
    fn compact_networks_cost_no_more_than_the_base_model() {
        let width = Width::new(32).unwrap();
        for base in [Architecture::Mlp, Architecture::Lenet5, Architecture::Resnet18(width), Architecture::Vgg11(width)]
        {
            for k in [2, 4] {
                let share = (k * cost(base.compact(k), &FASHION, 10).0) as f64 / cost(base, &FASHION, 10).0 as f64;
                assert!((0.4..=1.02).contains(&share), "{base}, k = {k}: {share:.2}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_rule() {
        assert!(Architecture::Lenet5.plan(&[1, 30, 28], 10).unwrap_err().to_string().contains("multiples of 4"));
        assert!(Architecture::Lenet5.plan(&[784], 10).is_err());
        assert!(Architecture::Mlp.plan(&[784], 0).is_err());
        assert!(Architecture::Mlp.plan(&[3, 5, 7], 2).is_ok());
        assert!(Architecture::Resnet18(Width::FULL).plan(&[784], 10).is_err());
        assert!(Architecture::Resnet18(Width::FULL).plan(&[2, 5, 9], 3).is_ok());
    }

    #[test]
    fn names_round_trip() {
        let narrow = [16, 7].map(|width| Architecture::Resnet18(Width::new(width).unwrap()));
        for architecture in Architecture::ALL.into_iter().chain(narrow) {
            assert_eq!(architecture.to_string().parse(), Ok(architecture));
        }
        assert_eq!(narrow[0].to_string(), "resnet18-w16");
        for wrong in ["resnet", "resnet18-w0", "resnet18-w513", "mlp-w8", "resnet18-w"] {
            assert!(wrong.parse::<Architecture>().unwrap_err().contains("resnet18[-w1..512]"), "{wrong}");
        }
    }
}
