//! What the papers report, to stand beside what is measured here.
//!
//! Numbers with "about" were read off a figure, to half a point. Where the papers have ResNet-18, ours is a quarter as wide (`resnet18-w16`). Networks or data that this repository cannot make freely available are
//! listed with what is missing, so that nobody takes their absence for a result.

/// One published result.
pub(super) struct Published {
    pub(super) data: &'static str,
    pub(super) network: &'static str,
    pub(super) code: &'static str,
    pub(super) k: usize,
    /// In percent, as the paper gives it.
    pub(super) a_a: &'static str,
    /// In percent, as the paper gives it.
    pub(super) a_d: &'static str,
    pub(super) source: &'static str,
    /// Why there is no row of ours for it; `None` if there is one.
    pub(super) missing: Option<&'static str>,
}

const JSAIT: &str = "Kosaian, Rashmi, Venkataraman, JSAIT 2020";
const SOSP: &str = "Kosaian, Rashmi, Venkataraman, SOSP 2019, fig. 6";
const APPROXIFER: &str = "Soleymani et al., AAAI 2022";
const NO_ENCODER: &str = "no encoder was trained for a ResNet-18";
const NO_EIGHT: &str = "no parity model was trained for k = 8";
const NO_DATA: &str = "the data is not freely packaged";
const NO_MNIST: &str = "MNIST is not among the data here";

const fn published(
    (data, network, code, k): (&'static str, &'static str, &'static str, usize),
    (a_a, a_d): (&'static str, &'static str),
    source: &'static str,
    missing: Option<&'static str>,
) -> Published {
    Published { data, network, code, k, a_a, a_d, source, missing }
}

/// Published accuracies of direct and reconstructed answers.
pub(super) const PUBLISHED: [Published; 14] = [
    published(("Fashion-MNIST", "MLP", "learned, MLP encoder", 2), ("89.47", "81.96"), JSAIT, None),
    published(("Fashion-MNIST", "MLP", "learned, conv encoder", 2), ("89.47", "82.53"), JSAIT, None),
    published(("Fashion-MNIST", "MLP, LeNet-5, ResNet-18", "sum", 2), ("", "1.7 to 9.8 points below A_a"), JSAIT, None),
    published(("Fashion-MNIST", "ResNet-18", "sum", 2), ("92.85", "about 91.1"), SOSP, None),
    published(("Fashion-MNIST", "ResNet-18", "learned, conv encoder", 2), ("92.85", "88.92"), JSAIT, Some(NO_ENCODER)),
    published(("Fashion-MNIST", "ResNet-18", "berrut, S = 1", 8), ("about 93", "74"), APPROXIFER, None),
    published(("Fashion-MNIST", "ResNet-18", "sum", 8), ("about 93", "67.1"), APPROXIFER, Some(NO_EIGHT)),
    published(("MNIST", "MLP", "learned, MLP encoder", 2), ("97.93", "97.76"), JSAIT, Some(NO_MNIST)),
    published(("MNIST", "ResNet-18", "sum", 2), ("99.2", "about 99.1"), SOSP, Some(NO_MNIST)),
    published(("CIFAR-10", "ResNet-18", "sum", 2), ("93.47", "about 89"), SOSP, Some(NO_DATA)),
    published(("CIFAR-10", "ResNet-18", "sum", 4), ("93.47", "about 52.5"), JSAIT, Some(NO_DATA)),
    published(("CIFAR-100, top 5", "ResNet-152", "sum", 2), ("about 92.5", "about 86.0"), SOSP, Some(NO_DATA)),
    published(("Cat v. Dog", "ResNet-18", "sum", 2), ("about 97.1", "about 92.7"), SOSP, Some(NO_DATA)),
    published(("Speech commands", "VGG-11", "sum", 2), ("about 94.5", "about 91.4"), SOSP, Some(NO_DATA)),
];
