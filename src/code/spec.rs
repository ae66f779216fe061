//! Which code: its kind and sizes as an operator writes them, and what of it can be built.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Berrut, Code, Coefficients, Concat, Decoder, Learned, Replica, SLOTS_MAX, SPREAD_MAX, Stacked, Sum, sum::NOISE_MAX,
};

/// A kind of code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `ParM`'s addition encoder and subtraction decoder, with coefficients.
    Sum,
    /// Images made smaller and put side by side in one; subtraction decoder.
    Concat,
    /// Rows stacked as channels; a model with one head a row.
    Mux,
    /// Rows one after the other through a small model of the base.
    Compact,
    /// Encoder and decoder are networks; the encoder stands in front of the base model.
    Learned,
    /// Every lane runs a rational interpolant of the rows on the base model.
    Berrut,
    /// Each row once more, through the base model itself.
    Replica,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 7] =
        [Kind::Sum, Kind::Concat, Kind::Mux, Kind::Compact, Kind::Learned, Kind::Berrut, Kind::Replica];

    /// The word used in configuration, manifests and folder names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Sum => "sum",
            Kind::Concat => "concat",
            Kind::Mux => "mux",
            Kind::Compact => "compact",
            Kind::Learned => "learned",
            Kind::Berrut => "berrut",
            Kind::Replica => "replica",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == word);
        known.ok_or_else(|| format!("no such kind of code; known: {}", Kind::ALL.map(Kind::as_str).join(", ")))
    }
}

/// Why there is no such code.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CodeError {
    /// k, r or their sum is out of range.
    #[error("k = {k} and r = {r}: need k >= 2, r >= 1 and k + r <= {SPREAD_MAX}")]
    Size {
        /// Data slots.
        k: usize,
        /// Parity slots.
        r: usize,
    },
    /// A stripe has no room for that many workers.
    #[error("kind = \"berrut\" with k = {k} and r = {r}: needs 2 k + r <= {SLOTS_MAX}")]
    Workers {
        /// Data slots.
        k: usize,
        /// Workers beyond k.
        r: usize,
    },
    /// The rows are not r rows of k finite numbers.
    #[error("need {r} rows of {k} finite coefficients")]
    Shape {
        /// Data slots.
        k: usize,
        /// Parity slots.
        r: usize,
    },
    /// Some loss pattern could not be decoded.
    #[error("parity rows {rows:?} cannot tell data slots {slots:?} apart: that square of coefficients is singular")]
    Singular {
        /// Parity rows of the singular square.
        rows: Vec<usize>,
        /// Data slots of the singular square.
        slots: Vec<usize>,
    },
    /// Some loss pattern would be decoded to noise.
    #[error(
        "parity rows {rows:?} hardly tell data slots {slots:?} apart: decoding them makes {noise:.0} times the error of a parity model, more than {NOISE_MAX}"
    )]
    Noise {
        /// Parity rows of the square.
        rows: Vec<usize>,
        /// Data slots of the square.
        slots: Vec<usize>,
        /// How many times.
        noise: f64,
    },
    /// The kind has none.
    #[error("kind = \"{0}\" has no coefficients: they are for \"sum\"")]
    NoCoefficients(Kind),
    /// Errors cannot be told from what is right.
    #[error("kind = \"berrut\" with k = {k} and errors = {errors} needs r = {least} or more, not {r}")]
    Errors {
        /// Data slots.
        k: usize,
        /// Workers beyond k.
        r: usize,
        /// Workers that may be wrong.
        errors: usize,
        /// The smallest r.
        least: usize,
    },
    /// The kind finds none.
    #[error("kind = \"{0}\" finds no erroneous workers: errors is for \"berrut\"")]
    NoErrors(Kind),
    /// The matrices of a decoder do not fit one another, or the code.
    #[error("the decoder's matrices do not fit together, or do not turn k + 1 outputs into k")]
    Decoder,
    /// The decoder is part of the weights.
    #[error("kind = \"learned\" needs the decoder that was trained with its encoder")]
    NoDecoder,
    /// One parity output tells of every row.
    #[error("kind = \"{kind}\" has r = 1, not {r}: its one parity output tells of every row")]
    OneParity {
        /// The kind.
        kind: Kind,
        /// What was asked for.
        r: usize,
    },
    /// Every row has its copy.
    #[error("kind = \"replica\" has r = k = {k}, not {r}: every row has its copy")]
    Copies {
        /// Data slots.
        k: usize,
        /// What was asked for.
        r: usize,
    },
    /// Images are halved in one or both directions.
    #[error("kind = \"concat\" has k = 2 or k = 4, not {k}: images are halved in one or both directions")]
    Tiles {
        /// What was asked for.
        k: usize,
    },
    /// Such rows cannot be made smaller.
    #[error("kind = \"concat\" needs rows of [channels, height, width] with even height and width, not {input:?}")]
    NoImage {
        /// Shape of one row.
        input: Vec<usize>,
    },
}

/// A code as it is configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Its kind.
    pub kind: Kind,
    /// Data slots.
    pub k: usize,
    /// Parity slots.
    pub r: usize,
    /// Coefficients other than the defaults (`sum`).
    pub coefficients: Option<Coefficients>,
    /// Workers that may return something wrong and are to be found (`berrut`).
    pub errors: usize,
}

impl Spec {
    /// The code of these sizes with the defaults of its kind.
    pub const fn of(kind: Kind, k: usize, r: usize) -> Self {
        Spec { kind, k, r, coefficients: None, errors: 0 }
    }

    /// Whether it can be built for some shape of rows, given a decoder if its kind has one.
    pub fn check(&self) -> Result<(), CodeError> {
        // The smallest image there is; a kind that needs an image takes this one.
        match self.build(&[1, 2, 2], None) {
            Err(CodeError::NoDecoder) => Ok(()),
            built => built.map(drop),
        }
    }

    /// The code, for rows of shape `input`. `decoder` is for the kind that has learned it, and for no other.
    pub fn build(&self, input: &[usize], decoder: Option<Decoder>) -> Result<Arc<dyn Code>, CodeError> {
        let Spec { kind, k, r, ref coefficients, errors } = *self;
        check_size(k, r)?;
        if kind != Kind::Sum && coefficients.is_some() {
            return Err(CodeError::NoCoefficients(kind));
        }
        if coefficients.as_ref().is_some_and(|rows| rows.len() != r || rows.iter().any(|row| row.len() != k)) {
            return Err(CodeError::Shape { k, r });
        }
        if kind != Kind::Berrut && errors > 0 {
            return Err(CodeError::NoErrors(kind));
        }
        Ok(match (kind, coefficients) {
            (Kind::Sum, Some(rows)) => Arc::new(Sum::new(rows.clone())?),
            (Kind::Sum, None) => Arc::new(Sum::with_defaults(k, r)?),
            (Kind::Berrut, _) => Arc::new(Berrut::new(k, r, errors)?),
            (Kind::Replica, _) if r == k => Arc::new(Replica::new(k)?),
            (Kind::Replica, _) => return Err(CodeError::Copies { k, r }),
            (Kind::Concat | Kind::Mux | Kind::Compact | Kind::Learned, _) if r != 1 => {
                return Err(CodeError::OneParity { kind, r });
            }
            (Kind::Concat, _) => Arc::new(Concat::new(k, input)?),
            (Kind::Mux, _) => Arc::new(Stacked::mux(k)?),
            (Kind::Compact, _) => Arc::new(Stacked::compact(k)?),
            (Kind::Learned, _) => Arc::new(Learned::new(k, decoder.ok_or(CodeError::NoDecoder)?)?),
        })
    }
}

/// What every kind holds to.
pub(super) fn check_size(k: usize, r: usize) -> Result<(), CodeError> {
    if k < 2 || r < 1 || k + r > SPREAD_MAX { Err(CodeError::Size { k, r }) } else { Ok(()) }
}
