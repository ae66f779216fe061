//! Networks as plain data: which layers in which order, what parameters they have and what they cost.
//!
//! A [`Plan`] is the one description that the network, its initial weights, the check of a weight file and the count of multiply-adds
//! all come from, so they cannot disagree. A closed enum rather than a graph format: the daemon runs what it was tested with.
//! [`super::Architecture`] makes the plans that there are.

use std::borrow::Cow;

/// Prefix of a layer's parameters' names.
pub(crate) type Name = Cow<'static, str>;

/// One step of a forward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A convolution with square filters.
    Convolution(Convolution),
    /// Each channel shifted and scaled: by its own mean and variance in a batch of training, by their running averages otherwise.
    BatchNorm {
        /// Prefix of its parameters' names.
        name: Name,
        /// Channels.
        channels: usize,
    },
    /// The largest of each square.
    MaxPool(Window),
    /// The mean of each channel, as a picture of one position.
    AveragePool,
    /// max(x, 0).
    Relu,
    /// To one dimension a row.
    Flatten,
    /// From one dimension a row to this shape.
    Unflatten(Vec<usize>),
    /// A full matrix.
    Dense {
        /// Prefix of its parameters' names.
        name: Name,
        /// Values it reads.
        inputs: usize,
        /// Values it writes.
        outputs: usize,
        /// Whether it adds a bias.
        bias: Bias,
    },
    /// The sum of two ways (He et al., CVPR 2016).
    Residual {
        /// The long way; ends with a convolution or its batch norm.
        body: Vec<Layer>,
        /// The short way; none for the input as it is.
        shortcut: Vec<Layer>,
    },
}

/// A convolution with square filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Convolution {
    /// Prefix of its parameters' names.
    pub name: Name,
    /// Channels it reads.
    pub channels: usize,
    /// Channels it writes.
    pub filters: usize,
    /// Where its filters read.
    pub window: Window,
    /// Distance between neighbouring values of a filter; 1 for a usual one.
    pub dilation: usize,
    /// Whether it adds a bias a filter.
    pub bias: Bias,
}

/// Squares of a picture, from left to right and from top to bottom; what does not fill a whole square at the end is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Side of a square.
    pub kernel: usize,
    /// From one square to the next.
    pub stride: usize,
    /// Values added on each side: zeros for a convolution, nothing for a maximum.
    pub padding: usize,
}

impl Window {
    /// Squares side by side.
    pub(super) const fn tiles(side: usize) -> Self {
        Window { kernel: side, stride: side, padding: 0 }
    }

    /// Squares along a side of `side` values, if there is one.
    pub(super) fn along(&self, side: usize, dilation: usize) -> Option<usize> {
        let reach = (self.kernel.checked_sub(1)?) * dilation + 1;
        Some((side + 2 * self.padding).checked_sub(reach)? / self.stride + 1)
    }
}

/// Whether a layer adds a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// It does.
    With,
    /// It does not.
    Without,
}

/// How a parameter comes to its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By gradient steps.
    Learned,
    /// By averages of what passed through in training.
    Counted,
}

impl Layer {
    pub(super) fn dense(name: impl Into<Name>, inputs: usize, outputs: usize, bias: Bias) -> Self {
        Layer::Dense { name: name.into(), inputs, outputs, bias }
    }

    /// Names and shapes of its parameters.
    fn parameters(&self) -> Vec<(String, Vec<usize>, Origin)> {
        let learned = |name: &Name, part: &str, shape: Vec<usize>| (format!("{name}.{part}"), shape, Origin::Learned);
        match self {
            Layer::Convolution(Convolution {
                name, channels, filters, window: Window { kernel, .. }, bias, ..
            }) => {
                let weight = learned(name, "weight", vec![*filters, *channels, *kernel, *kernel]);
                let bias = (*bias == Bias::With).then(|| learned(name, "bias", vec![*filters]));
                [weight].into_iter().chain(bias).collect()
            }
            Layer::BatchNorm { name, channels } => {
                let counted = |part: &str| (format!("{name}.{part}"), vec![*channels], Origin::Counted);
                let learned = |part: &str| learned(name, part, vec![*channels]);
                vec![learned("weight"), learned("bias"), counted("running_mean"), counted("running_var")]
            }
            Layer::Dense { name, inputs, outputs, bias } => {
                let weight = learned(name, "weight", vec![*outputs, *inputs]);
                let bias = (*bias == Bias::With).then(|| learned(name, "bias", vec![*outputs]));
                [weight].into_iter().chain(bias).collect()
            }
            Layer::Residual { body, shortcut } => body.iter().chain(shortcut).flat_map(Layer::parameters).collect(),
            Layer::MaxPool(_) | Layer::AveragePool | Layer::Relu | Layer::Flatten | Layer::Unflatten(_) => Vec::new(),
        }
    }

    /// The shape that it makes of a row of shape `input`, and the multiply-adds that this takes; none if it cannot read such a row.
    fn through(&self, input: &[usize]) -> Option<(Vec<usize>, usize)> {
        match (self, input) {
            (Layer::Convolution(convolution), &[channels, height, width]) if channels == convolution.channels => {
                let Convolution { filters, window, dilation, .. } = *convolution;
                let (height, width) = (window.along(height, dilation)?, window.along(width, dilation)?);
                let cost = channels * filters * window.kernel * window.kernel * height * width;
                Some((vec![filters, height, width], cost))
            }
            (Layer::BatchNorm { channels: expected, .. }, &[channels, _, _]) if channels == *expected => {
                Some((input.to_vec(), 0))
            }
            (Layer::MaxPool(window), &[channels, height, width]) => {
                Some((vec![channels, window.along(height, 1)?, window.along(width, 1)?], 0))
            }
            (Layer::AveragePool, &[channels, _, _]) => Some((vec![channels, 1, 1], 0)),
            (Layer::Relu, _) => Some((input.to_vec(), 0)),
            (Layer::Flatten, _) => Some((vec![input.iter().product()], 0)),
            (Layer::Unflatten(shape), &[width]) if width == shape.iter().product::<usize>() => Some((shape.clone(), 0)),
            (Layer::Dense { inputs, outputs, .. }, &[width]) if width == *inputs => {
                Some((vec![*outputs], inputs * outputs))
            }
            (Layer::Residual { body, shortcut }, _) => {
                let ((long, of_long), (short, of_short)) = (through(body, input)?, through(shortcut, input)?);
                (long == short).then_some((long, of_long + of_short))
            }
            (
                Layer::Convolution(_)
                | Layer::BatchNorm { .. }
                | Layer::MaxPool(_)
                | Layer::AveragePool
                | Layer::Unflatten(_)
                | Layer::Dense { .. },
                _,
            ) => None,
        }
    }
}

/// The shape that `layers` make of a row of shape `input`, and their multiply-adds.
pub(super) fn through(layers: &[Layer], input: &[usize]) -> Option<(Vec<usize>, usize)> {
    layers.iter().try_fold((input.to_vec(), 0), |(shape, cost), layer| {
        let (shape, more) = layer.through(&shape)?;
        Some((shape, cost + more))
    })
}

/// An architecture fitted to an input and an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    input: Vec<usize>,
    outputs: usize,
    layers: Vec<Layer>,
    multiply_adds: usize,
}

impl Plan {
    /// `layers` for rows of shape `input`; none if a layer cannot read what comes to it.
    pub(super) fn new(input: &[usize], layers: Vec<Layer>) -> Option<Self> {
        let (shape, multiply_adds) = through(&layers, input)?;
        Some(Plan { input: input.to_vec(), outputs: shape.iter().product(), layers, multiply_adds })
    }

    /// Shape of one row.
    pub fn input(&self) -> &[usize] {
        &self.input
    }

    /// Values in one output row.
    pub const fn outputs(&self) -> usize {
        self.outputs
    }

    /// The layers in order.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Names, shapes and origins of all parameters, in the order of the layers.
    pub fn all_parameters(&self) -> Vec<(String, Vec<usize>, Origin)> {
        self.layers.iter().flat_map(Layer::parameters).collect()
    }

    /// Names and shapes of all parameters, in the order of the layers.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        self.all_parameters().into_iter().map(|(name, shape, _)| (name, shape)).collect()
    }

    /// How many numbers the parameters hold that are learned.
    pub fn parameter_count(&self) -> usize {
        let learned = self.all_parameters().into_iter().filter(|(_, _, origin)| *origin == Origin::Learned);
        learned.map(|(_, shape, _)| shape.iter().product::<usize>()).sum()
    }

    /// Multiply-adds of one row; two FLOPs each. Biases, `ReLU`, batch norm and pooling are not counted, as is usual.
    pub const fn multiply_adds(&self) -> usize {
        self.multiply_adds
    }

    /// The multiply-adds of each layer.
    pub(super) fn work(&self) -> Vec<usize> {
        let mut shape = self.input.clone();
        let through = |layer: &Layer| {
            let (next, work) = layer.through(&shape).expect("a plan's layers read what comes to them");
            shape = next;
            work
        };
        self.layers.iter().map(through).collect()
    }

    /// The layers of `self`, then those of `next`, which reads what `self` writes.
    #[must_use]
    pub fn before(self, next: &Plan) -> Plan {
        let join = [Layer::Flatten, Layer::Unflatten(next.input.clone())];
        let layers = self.layers.into_iter().chain(join).chain(next.layers.iter().cloned()).collect();
        Plan::new(&self.input, layers).expect("the next plan reads as many values as this one writes")
    }
}
