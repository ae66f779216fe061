//! The learned encoders and their decoder, as plans (Kosaian, Rashmi, Venkataraman: Learning-Based Coded Computation, JSAIT 2020,
//! section IV).
//!
//! An encoder makes one row of the base model's shape out of k; the frozen base model runs it, so encoder and base model together are
//! one network, and a parity job is one forward pass. The decoder is small and belongs to the code. Parameter names are prefixed, so that
//! one file holds both, and neither can be mistaken for the base model's.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Bias, Convolution, Layer, Plan, Window, plan::Name};

/// What makes one row out of k.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoder {
    /// Two full matrices over all k rows at once: k d to k d to d values.
    Mlp,
    /// Seven convolutions over the k rows as channels: 20 k filters of 3 x 3 with dilations 1, 1, 2, 4, 8, 1, then 1 x 1. The spread
    /// filters see the whole picture without ever making it smaller.
    Conv,
}

/// Distances between neighbouring values of the filters, layer by layer.
const DILATIONS: [usize; 6] = [1, 1, 2, 4, 8, 1];

/// Filters of each such layer, times k.
const FILTERS: usize = 20;

const CONVOLUTIONS: [&str; 6] =
    ["encoder.conv1", "encoder.conv2", "encoder.conv3", "encoder.conv4", "encoder.conv5", "encoder.conv6"];

impl Encoder {
    /// All of them.
    pub const ALL: [Encoder; 2] = [Encoder::Mlp, Encoder::Conv];

    /// The name used in manifests and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Encoder::Mlp => "mlp",
            Encoder::Conv => "conv",
        }
    }

    /// The layers that make one row of shape `input` out of k, which stand one after the other; `None` if rows are no pictures
    /// `[channels, height, width]` and it needs some.
    pub fn plan(self, k: usize, input: &[usize]) -> Option<Plan> {
        let width: usize = input.iter().product();
        let stacked: Vec<usize> = std::iter::once(k * input.first()?).chain(input.iter().copied().skip(1)).collect();
        let layers = match self {
            Encoder::Mlp => vec![
                Layer::Flatten,
                Layer::dense("encoder.fc1", k * width, k * width, Bias::With),
                Layer::Relu,
                Layer::dense("encoder.fc2", k * width, width, Bias::With),
            ],
            Encoder::Conv => dilated(k, input)?,
        };
        Plan::new(&stacked, layers)
    }
}

/// The convolutional encoder; none for rows that are no pictures.
fn dilated(k: usize, input: &[usize]) -> Option<Vec<Layer>> {
    let &[channels, _, _] = input else { return None };
    let convolution = |name, channels, filters, kernel: usize, dilation| {
        let window = Window { kernel, stride: 1, padding: kernel / 2 * dilation };
        let name = Name::Borrowed(name);
        Layer::Convolution(Convolution { name, channels, filters, window, dilation, bias: Bias::With })
    };
    let mut layers = Vec::new();
    let mut read = k * channels;
    for (name, dilation) in CONVOLUTIONS.into_iter().zip(DILATIONS) {
        layers.extend([convolution(name, read, FILTERS * k, 3, dilation), Layer::Relu]);
        read = FILTERS * k;
    }
    layers.push(convolution("encoder.conv7", read, channels, 1, 1));
    Some(layers)
}

/// The decoder's layers: from the outputs of all k + r slots (`outputs` values each, zeros where there is none) to those of the k data
/// slots. Three full matrices.
pub fn decoder_plan(k: usize, r: usize, outputs: usize) -> Plan {
    let (read, written) = ((k + r) * outputs, k * outputs);
    let layers = vec![
        Layer::dense("decoder.fc1", read, read, Bias::With),
        Layer::Relu,
        Layer::dense("decoder.fc2", read, written, Bias::With),
        Layer::Relu,
        Layer::dense("decoder.fc3", written, written, Bias::With),
    ];
    Plan::new(&[read], layers).expect("each layer reads what the one before it writes")
}

impl fmt::Display for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Encoder {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Encoder::ALL.into_iter().find(|encoder| encoder.as_str() == name);
        known.ok_or_else(|| format!("no such encoder; known: {}", Encoder::ALL.map(Encoder::as_str).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FASHION: [usize; 3] = [1, 28, 28];

    #[test]
    fn encoders_have_the_papers_sizes() {
        let mlp = Encoder::Mlp.plan(2, &FASHION).unwrap();
        assert_eq!((mlp.multiply_adds(), mlp.outputs()), (1568 * 1568 + 1568 * 784, 784));
        let conv = Encoder::Conv.plan(2, &FASHION).unwrap();
        let filters = 40;
        let per_place = 2 * filters * 9 + 5 * filters * filters * 9 + filters;
        assert_eq!((conv.multiply_adds(), conv.outputs()), (784 * per_place, 784));
        assert_eq!(conv.input(), [2, 28, 28]);
        assert!(Encoder::Conv.plan(2, &[784]).is_none() && Encoder::Mlp.plan(2, &[784]).is_some());
        assert_eq!(decoder_plan(2, 1, 10).multiply_adds(), 30 * 30 + 30 * 20 + 20 * 20);
    }

    #[test]
    fn names_round_trip() {
        for encoder in Encoder::ALL {
            assert_eq!(encoder.as_str().parse(), Ok(encoder));
        }
        assert!("cnn".parse::<Encoder>().unwrap_err().contains("conv"));
    }
}
