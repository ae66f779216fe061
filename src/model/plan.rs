//! Architectures as plain data: which layers in which order, what parameters they have and what they cost.
//!
//! A [`Plan`] is the one description that the network, its initial weights, the check of a weight file and the count of multiply-adds
//! all come from, so they cannot disagree. A closed enum rather than a graph format: the daemon runs what it was tested with.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A network that the daemon knows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
    /// 6 and 16 filters of 3 x 3 (the first padded by 1), max-pooling by 2, then 64, `ReLU`: a row costs half as much as one of
    /// [`Architecture::Lenet5`].
    Compact2,
    /// The same with 2 and 8 filters, then 48: a quarter of the time, which for so small a network is not its arithmetic.
    Compact4,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 7] = [
        Architecture::Linear,
        Architecture::Mlp,
        Architecture::MlpHalf,
        Architecture::MlpQuarter,
        Architecture::Lenet5,
        Architecture::Compact2,
        Architecture::Compact4,
    ];

    /// The name used in manifests, on the command line and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Architecture::Linear => "linear",
            Architecture::Mlp => "mlp",
            Architecture::MlpHalf => "mlp-half",
            Architecture::MlpQuarter => "mlp-quarter",
            Architecture::Lenet5 => "lenet5",
            Architecture::Compact2 => "compact2",
            Architecture::Compact4 => "compact4",
        }
    }

    /// Whether it looks at places by convolution, so that what it learned of one holds for others.
    pub const fn is_convolutional(self) -> bool {
        match self {
            Architecture::Linear | Architecture::Mlp | Architecture::MlpHalf | Architecture::MlpQuarter => false,
            Architecture::Lenet5 | Architecture::Compact2 | Architecture::Compact4 => true,
        }
    }

    /// The network that runs k rows at about the cost of one row of this one, or less; the smallest there is for k > 4.
    #[must_use]
    pub const fn compact(self, k: usize) -> Self {
        match self {
            Architecture::Linear => Architecture::Linear,
            Architecture::Mlp if k <= 2 => Architecture::MlpHalf,
            Architecture::Mlp | Architecture::MlpHalf | Architecture::MlpQuarter => Architecture::MlpQuarter,
            Architecture::Lenet5 if k <= 2 => Architecture::Compact2,
            Architecture::Lenet5 | Architecture::Compact2 | Architecture::Compact4 => Architecture::Compact4,
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
            Architecture::Lenet5 => convolutional(input, &LENET5, outputs).ok_or_else(|| no_fit(RULE))?,
            Architecture::Compact2 => convolutional(input, &COMPACT2, outputs).ok_or_else(|| no_fit(RULE))?,
            Architecture::Compact4 => convolutional(input, &COMPACT4, outputs).ok_or_else(|| no_fit(RULE))?,
        };
        Ok(Plan { input: input.to_vec(), outputs, layers })
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Architecture::ALL.into_iter().find(|architecture| architecture.as_str() == name);
        known.ok_or_else(|| {
            format!("no such architecture; known: {}", Architecture::ALL.map(Architecture::as_str).join(", "))
        })
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

/// One step of a forward pass. Sizes are those of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A square convolution with stride 1 and a bias a filter.
    Convolution {
        /// Prefix of its parameters' names.
        name: &'static str,
        /// Channels it reads.
        channels: usize,
        /// Channels it writes.
        filters: usize,
        /// Width and height of a filter.
        kernel: usize,
        /// Zeros added on each side.
        padding: usize,
        /// Distance between neighbouring values of a filter; 1 for a usual one.
        dilation: usize,
        /// Positions of its output (height x width).
        positions: usize,
    },
    /// The largest of each 2 x 2 square.
    MaxPool,
    /// max(x, 0).
    Relu,
    /// To one dimension a row.
    Flatten,
    /// From one dimension a row to this shape.
    Unflatten(Vec<usize>),
    /// A full matrix.
    Dense {
        /// Prefix of its parameters' names.
        name: &'static str,
        /// Values it reads.
        inputs: usize,
        /// Values it writes.
        outputs: usize,
        /// Whether it adds a bias.
        bias: Bias,
    },
}

/// Whether a layer adds a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// It does.
    With,
    /// It does not.
    Without,
}

impl Layer {
    pub(super) const fn dense(name: &'static str, inputs: usize, outputs: usize, bias: Bias) -> Self {
        Layer::Dense { name, inputs, outputs, bias }
    }

    /// Names and shapes of its parameters.
    fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            Layer::Convolution { name, channels, filters, kernel, .. } => vec![
                (format!("{name}.weight"), vec![*filters, *channels, *kernel, *kernel]),
                (format!("{name}.bias"), vec![*filters]),
            ],
            Layer::Dense { name, inputs, outputs, bias } => {
                let weight = (format!("{name}.weight"), vec![*outputs, *inputs]);
                let bias = (*bias == Bias::With).then(|| (format!("{name}.bias"), vec![*outputs]));
                [weight].into_iter().chain(bias).collect()
            }
            Layer::MaxPool | Layer::Relu | Layer::Flatten | Layer::Unflatten(_) => Vec::new(),
        }
    }

    /// Multiply-adds of one row.
    fn multiply_adds(&self) -> usize {
        match self {
            Layer::Convolution { channels, filters, kernel, positions, .. } => {
                channels * filters * kernel * kernel * positions
            }
            Layer::Dense { inputs, outputs, .. } => inputs * outputs,
            Layer::MaxPool | Layer::Relu | Layer::Flatten | Layer::Unflatten(_) => 0,
        }
    }
}

/// An architecture fitted to an input and an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Shape of one row.
    pub input: Vec<usize>,
    /// Values in one output row.
    pub outputs: usize,
    /// The layers in order.
    pub layers: Vec<Layer>,
}

impl Plan {
    /// Names and shapes of all parameters, in the order of the layers.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        self.layers.iter().flat_map(Layer::parameters).collect()
    }

    /// How many numbers the parameters hold.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Multiply-adds of one row; two FLOPs each. Biases, `ReLU` and pooling are not counted, as is usual.
    pub fn multiply_adds(&self) -> usize {
        self.layers.iter().map(Layer::multiply_adds).sum()
    }
}

impl Plan {
    /// The layers of `self`, then those of `next`, which reads what `self` writes.
    #[must_use]
    pub fn before(self, next: &Plan) -> Plan {
        assert_eq!(self.outputs, next.input.iter().product::<usize>(), "the next plan reads what this one writes");
        let join = [Layer::Flatten, Layer::Unflatten(next.input.clone())];
        let layers = self.layers.into_iter().chain(join).chain(next.layers.iter().cloned()).collect();
        Plan { input: self.input, outputs: next.outputs, layers }
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
struct Convolutional {
    kernel: usize,
    filters: [usize; 2],
    hidden: &'static [usize],
}

const LENET5: Convolutional = Convolutional { kernel: 5, filters: [6, 16], hidden: &[120, 84] };
const COMPACT2: Convolutional = Convolutional { kernel: 3, filters: [6, 16], hidden: &[64] };
const COMPACT4: Convolutional = Convolutional { kernel: 3, filters: [2, 8], hidden: &[48] };

const RULE: &str = "it needs [channels, height, width] with height and width multiples of 4 and at least 12";

/// Pools before it rectifies: the same values as the other way round at a quarter of the work.
fn convolutional(input: &[usize], network: &Convolutional, outputs: usize) -> Option<Vec<Layer>> {
    let &[channels, height, width] = input else { return None };
    let fits = |side: usize| side >= 12 && side.is_multiple_of(4);
    if !fits(height) || !fits(width) {
        return None;
    }
    let Convolutional { kernel, filters: [first, second], hidden } = *network;
    // The first convolution keeps the size, the second takes kernel - 1 off; each is followed by a halving.
    let positions = (height / 2 + 1 - kernel) * (width / 2 + 1 - kernel);
    let convolution = |name, channels, filters, padding, positions| Layer::Convolution {
        name,
        channels,
        filters,
        kernel,
        padding,
        dilation: 1,
        positions,
    };
    let mut layers = vec![
        convolution("conv1", channels, first, kernel / 2, height * width),
        Layer::MaxPool,
        Layer::Relu,
        convolution("conv2", first, second, 0, positions),
        Layer::MaxPool,
        Layer::Relu,
    ];
    layers.extend(dense_stack(second * positions / 4, hidden, outputs));
    Some(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FASHION: [usize; 3] = [1, 28, 28];

    #[test]
    fn costs_are_those_of_the_papers_networks() {
        let lenet5 = Architecture::Lenet5.plan(&FASHION, 10).unwrap();
        assert_eq!((lenet5.multiply_adds(), lenet5.parameter_count()), (416_520, 61_706));
        let mlp = Architecture::Mlp.plan(&FASHION, 10).unwrap();
        assert_eq!((mlp.multiply_adds(), mlp.parameter_count()), (177_800, 178_110));
        let linear = Architecture::Linear.plan(&FASHION, 10).unwrap();
        assert_eq!((linear.multiply_adds(), linear.parameter_count()), (7_840, 7_840));
    }

    /// k rows of a compact network are one job, which may cost as much as one job of the base model.
    #[test]
    fn compact_networks_cost_no_more_than_the_base_model() {
        for base in [Architecture::Mlp, Architecture::Lenet5] {
            let cost = |architecture: Architecture| architecture.plan(&FASHION, 10).unwrap().multiply_adds();
            for k in [2, 4] {
                let share = (k * cost(base.compact(k))) as f64 / cost(base) as f64;
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
    }

    #[test]
    fn names_round_trip() {
        for architecture in Architecture::ALL {
            assert_eq!(architecture.as_str().parse(), Ok(architecture));
        }
        assert!("resnet".parse::<Architecture>().unwrap_err().contains("lenet5"));
    }
}
