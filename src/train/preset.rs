//! Named settings: what a run does besides its data, so that a manifest can say it in one word.

use std::{f64::consts::PI, fmt, str::FromStr};

/// Adam's rate in the papers, and the base of every schedule here.
const RATE: f64 = 1e-3;

/// L2 regularisation in the gradient.
pub(super) const WEIGHT_DECAY: f64 = 1e-5;

/// Settings of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The papers': Adam, rate 0.001 throughout, weight decay 1e-5, no augmentation.
    Parm,
    /// The same, but the rate rises to 0.003 in the first quarter of the steps and falls to 0 along a cosine in the rest.
    OneCycle,
    /// Ours: that schedule, and the average of the weights over the last thousand steps. Models whose output is a prediction a row learn half
    /// from the labels, half from the base model's softened probabilities; convolutional ones of them from varied pictures.
    Best,
}

impl Preset {
    /// All of them.
    pub const ALL: [Preset; 3] = [Preset::Parm, Preset::OneCycle, Preset::Best];

    /// The name on the command line and in manifests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Preset::Parm => "parm",
            Preset::OneCycle => "one_cycle",
            Preset::Best => "best",
        }
    }

    /// The rate of a step, given the share (0..1) of all steps that are done.
    pub(super) fn rate(self, done: f64) -> f64 {
        match self {
            Preset::Parm => RATE,
            Preset::OneCycle | Preset::Best => {
                const RISE: f64 = 0.25;
                const PEAK: f64 = 3.0 * RATE;
                if done < RISE {
                    PEAK * (0.04 + 0.96 * done / RISE)
                } else {
                    PEAK * 0.5 * (1.0 + (PI * (done - RISE) / (1.0 - RISE)).cos())
                }
            }
        }
    }

    /// Whether the rate depends on how long the run is; such a run cannot be prolonged.
    pub(super) const fn has_schedule(self) -> bool {
        match self {
            Preset::Parm => false,
            Preset::OneCycle | Preset::Best => true,
        }
    }

    /// Whether pictures are varied.
    pub(super) const fn augments(self) -> bool {
        matches!(self, Preset::Best)
    }

    /// Whether the average of the weights is what is kept.
    pub(super) const fn averages(self) -> bool {
        matches!(self, Preset::Best)
    }

    /// Whether models whose output is a prediction a row are distilled.
    pub(super) const fn distils(self) -> bool {
        matches!(self, Preset::Best)
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Preset::ALL.into_iter().find(|preset| preset.as_str() == name);
        known.ok_or_else(|| format!("no such preset; known: {}", Preset::ALL.map(Preset::as_str).join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_rises_then_falls_to_nothing() {
        let rate = |done| Preset::OneCycle.rate(done);
        assert!(rate(0.0) < rate(0.1) && rate(0.1) < rate(0.25) && rate(0.25) > rate(0.6) && rate(1.0) < 1e-9);
        assert!((rate(0.25) - 3e-3).abs() < 1e-9);
        assert!((Preset::Parm.rate(0.9) - 1e-3).abs() < 1e-12);
    }
}
