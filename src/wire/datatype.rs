//! The protocol's datatypes, and how a value of each becomes the FP32 that models take.
//!
//! Conversion never changes an integer: one that FP32 cannot hold exactly is refused, because whoever sends integers means just these.
//! FP64 is rounded to the nearest, as decimal text is, unless it overflows. Values that are not finite pass, and their rows run unprotected
//! like all that lie outside the model's range.

use std::sync::Arc;

use half::{bf16, f16};

/// What a tensor's values are. BYTES is missing: no model takes text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
}

/// A value as JSON has it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Number {
    Bool(bool),
    Integer(i128),
    Real(f64),
}

/// Why a value does not become FP32.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("is {0:e}, too large for FP32")]
    TooLarge(f64),
    #[error("is {0}, which FP32, the model's type, does not hold exactly")]
    Inexact(i128),
    #[error("is {0}, outside {word}", word = .1.as_str())]
    Outside(i128, Datatype),
    #[error("is {0:e}, and {word} takes integers, without point or exponent", word = .1.as_str())]
    Fraction(f64, Datatype),
    #[error("is {0}, and {word} takes numbers", word = .1.as_str())]
    Truth(bool, Datatype),
    #[error("is {0}, and BOOL takes true and false; 1 and 0 as binary data")]
    NoTruth(f64),
    #[error("is JSON; {word} must be binary data", word = .0.as_str())]
    BinaryOnly(Datatype),
}

impl Datatype {
    /// All of them, in the order of the protocol.
    pub(crate) const ALL: [Datatype; 13] = [
        Datatype::Bool,
        Datatype::Uint8,
        Datatype::Uint16,
        Datatype::Uint32,
        Datatype::Uint64,
        Datatype::Int8,
        Datatype::Int16,
        Datatype::Int32,
        Datatype::Int64,
        Datatype::Fp16,
        Datatype::Bf16,
        Datatype::Fp32,
        Datatype::Fp64,
    ];

    /// The datatype of that name.
    pub(crate) fn named(word: &str) -> Option<Self> {
        Datatype::ALL.into_iter().find(|datatype| datatype.as_str() == word)
    }

    /// The word on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Datatype::Bool => "BOOL",
            Datatype::Uint8 => "UINT8",
            Datatype::Uint16 => "UINT16",
            Datatype::Uint32 => "UINT32",
            Datatype::Uint64 => "UINT64",
            Datatype::Int8 => "INT8",
            Datatype::Int16 => "INT16",
            Datatype::Int32 => "INT32",
            Datatype::Int64 => "INT64",
            Datatype::Fp16 => "FP16",
            Datatype::Bf16 => "BF16",
            Datatype::Fp32 => "FP32",
            Datatype::Fp64 => "FP64",
        }
    }

    /// Bytes of one value as binary data.
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Datatype::Bool | Datatype::Uint8 | Datatype::Int8 => 1,
            Datatype::Uint16 | Datatype::Int16 | Datatype::Fp16 | Datatype::Bf16 => 2,
            Datatype::Uint32 | Datatype::Int32 | Datatype::Fp32 => 4,
            Datatype::Uint64 | Datatype::Int64 | Datatype::Fp64 => 8,
        }
    }

    /// The least and the largest integer; `None` for what is no integer.
    const fn range(self) -> Option<(i128, i128)> {
        Some(match self {
            Datatype::Uint8 => (0, u8::MAX as i128),
            Datatype::Uint16 => (0, u16::MAX as i128),
            Datatype::Uint32 => (0, u32::MAX as i128),
            Datatype::Uint64 => (0, u64::MAX as i128),
            Datatype::Int8 => (i8::MIN as i128, i8::MAX as i128),
            Datatype::Int16 => (i16::MIN as i128, i16::MAX as i128),
            Datatype::Int32 => (i32::MIN as i128, i32::MAX as i128),
            Datatype::Int64 => (i64::MIN as i128, i64::MAX as i128),
            Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => return None,
        })
    }

    /// A value of this type that was written in JSON.
    pub(crate) fn value(self, number: Number) -> Result<f32, Misfit> {
        match (self, number) {
            (Datatype::Fp16 | Datatype::Bf16, _) => Err(Misfit::BinaryOnly(self)),
            (Datatype::Bool, Number::Bool(truth)) => Ok(f32::from(u8::from(truth))),
            (Datatype::Bool, Number::Integer(value)) => Err(Misfit::NoTruth(value as f64)),
            (Datatype::Bool, Number::Real(value)) => Err(Misfit::NoTruth(value)),
            (_, Number::Bool(truth)) => Err(Misfit::Truth(truth, self)),
            (Datatype::Fp32 | Datatype::Fp64, Number::Integer(value)) => Ok(value as f32),
            (Datatype::Fp32 | Datatype::Fp64, Number::Real(value)) => rounded(value),
            (_, Number::Real(value)) => Err(Misfit::Fraction(value, self)),
            (_, Number::Integer(value)) => match self.range() {
                Some((least, most)) if !(least..=most).contains(&value) => Err(Misfit::Outside(value, self)),
                Some(_) | None => exact(value),
            },
        }
    }

    /// All values of a binary tensor, little-endian; or the index of the first that does not fit, and why. Bytes beyond the last whole
    /// value are left out. One pass over the bytes writes the rows' own buffer; where a value may not fit, a pass before it has looked.
    pub(crate) fn values(self, bytes: &[u8]) -> Result<Arc<[f32]>, (usize, Misfit)> {
        match self {
            Datatype::Bool => checked(bytes, |[byte]: [u8; 1]| match byte {
                0 | 1 => Ok(f32::from(byte)),
                _ => Err(Misfit::NoTruth(f64::from(byte))),
            }),
            Datatype::Uint8 => Ok(all(bytes, |value| f32::from(u8::from_le_bytes(value)))),
            Datatype::Uint16 => Ok(all(bytes, |value| f32::from(u16::from_le_bytes(value)))),
            Datatype::Uint32 => checked(bytes, |value| exact(u32::from_le_bytes(value).into())),
            Datatype::Uint64 => checked(bytes, |value| exact(u64::from_le_bytes(value).into())),
            Datatype::Int8 => Ok(all(bytes, |value| f32::from(i8::from_le_bytes(value)))),
            Datatype::Int16 => Ok(all(bytes, |value| f32::from(i16::from_le_bytes(value)))),
            Datatype::Int32 => checked(bytes, |value| exact(i32::from_le_bytes(value).into())),
            Datatype::Int64 => checked(bytes, |value| exact(i64::from_le_bytes(value).into())),
            Datatype::Fp16 => Ok(all(bytes, |value| f16::from_le_bytes(value).to_f32())),
            Datatype::Bf16 => Ok(all(bytes, |value| bf16::from_le_bytes(value).to_f32())),
            Datatype::Fp32 => Ok(all(bytes, f32::from_le_bytes)),
            Datatype::Fp64 => checked(bytes, |value| rounded(f64::from_le_bytes(value))),
        }
    }
}

/// The nearest FP32; infinite only if `value` is.
fn rounded(value: f64) -> Result<f32, Misfit> {
    #[expect(clippy::cast_possible_truncation, reason = "what does not fit is refused below")]
    let narrow = value as f32;
    if narrow.is_infinite() && value.is_finite() { Err(Misfit::TooLarge(value)) } else { Ok(narrow) }
}

fn exact(value: i128) -> Result<f32, Misfit> {
    let narrow = value as f32;
    #[expect(clippy::cast_possible_truncation, reason = "no integer of 64 bits becomes as much as i128 holds")]
    let back = narrow as i128;
    if back == value { Ok(narrow) } else { Err(Misfit::Inexact(value)) }
}

fn all<const N: usize>(bytes: &[u8], narrow: impl Fn([u8; N]) -> f32) -> Arc<[f32]> {
    // The length is known, so that the values are written where they stay.
    bytes.as_chunks().0.iter().map(|&value| narrow(value)).collect()
}

fn checked<const N: usize>(
    bytes: &[u8],
    narrow: impl Fn([u8; N]) -> Result<f32, Misfit>,
) -> Result<Arc<[f32]>, (usize, Misfit)> {
    let found = bytes.as_chunks().0.iter().enumerate().find_map(|(index, &value)| Some((index, narrow(value).err()?)));
    match found {
        Some(misfit) => Err(misfit),
        None => Ok(all(bytes, |value| narrow(value).unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn each_type_is_read_little_endian() {
        for (datatype, bytes, values) in [
            (Datatype::Bool, &[0, 1][..], &[0.0, 1.0][..]),
            (Datatype::Uint8, &[0, 255], &[0.0, 255.0]),
            (Datatype::Int8, &[0x80, 0x7f], &[-128.0, 127.0]),
            (Datatype::Uint16, &[1, 2, 255, 255], &[513.0, 65_535.0]),
            (Datatype::Int16, &[0, 0x80], &[-32_768.0]),
            (Datatype::Uint32, &(1_u32 << 31).to_le_bytes(), &[2_147_483_648.0]),
            (Datatype::Int32, &(-16_777_216_i32).to_le_bytes(), &[-16_777_216.0]),
            (Datatype::Uint64, &(1_u64 << 63).to_le_bytes(), &[9_223_372_036_854_775_808.0]),
            (Datatype::Int64, &i64::MIN.to_le_bytes(), &[-9_223_372_036_854_775_808.0]),
            (Datatype::Fp16, &[0x00, 0x3c, 0x00, 0xfc], &[1.0, f32::NEG_INFINITY]),
            (Datatype::Bf16, &[0x80, 0x3f, 0x80, 0xbf], &[1.0, -1.0]),
            (Datatype::Fp32, &0.1_f32.to_le_bytes(), &[0.1]),
            (Datatype::Fp64, &0.1_f64.to_le_bytes(), &[0.1]),
            (Datatype::Fp64, &f64::INFINITY.to_le_bytes(), &[f32::INFINITY]),
        ] {
            assert_eq!(bits(&datatype.values(bytes).expect("they fit")), bits(values), "{datatype:?}");
        }
        assert!(Datatype::Fp32.values(&f32::NAN.to_le_bytes()).expect("any bits")[0].is_nan());
    }

    #[test]
    fn a_binary_value_that_does_not_fit_is_told_by_its_index() {
        let refused = |datatype: Datatype, bytes: &[u8]| datatype.values(bytes).expect_err("it does not fit");
        let two = |a: [u8; 8], b: [u8; 8]| [a, b].concat();
        assert_eq!(refused(Datatype::Bool, &[1, 0, 2]), (2, Misfit::NoTruth(2.0)));
        assert_eq!(refused(Datatype::Uint32, &16_777_217_u32.to_le_bytes()), (0, Misfit::Inexact(16_777_217)));
        let inexact = two(1_i64.to_le_bytes(), (i64::MAX).to_le_bytes());
        assert_eq!(refused(Datatype::Int64, &inexact), (1, Misfit::Inexact(i64::MAX.into())));
        assert_eq!(refused(Datatype::Uint64, &u64::MAX.to_le_bytes()), (0, Misfit::Inexact(u64::MAX.into())));
        let large = two(1_f64.to_le_bytes(), 1e39_f64.to_le_bytes());
        assert_eq!(refused(Datatype::Fp64, &large), (1, Misfit::TooLarge(1e39)));
    }

    #[test]
    fn json_values_keep_to_their_type() {
        for datatype in Datatype::ALL {
            let Some((least, most)) = datatype.range() else { continue };
            for (value, fits) in [(least, true), (least - 1, false), (most + 1, false)] {
                assert_eq!(datatype.value(Number::Integer(value)).is_ok(), fits, "{datatype:?} {value}");
            }
            assert!(datatype.value(Number::Real(1.0)).is_err() && datatype.value(Number::Bool(true)).is_err());
        }
        assert_eq!(Datatype::Fp32.value(Number::Integer(16_777_217)), Ok(16_777_216.0), "rounded, as any decimal is");
        assert_eq!(Datatype::Int32.value(Number::Integer(16_777_217)), Err(Misfit::Inexact(16_777_217)));
        assert_eq!(Datatype::Bool.value(Number::Bool(true)), Ok(1.0));
        assert_eq!(Datatype::Bool.value(Number::Integer(1)), Err(Misfit::NoTruth(1.0)));
        assert_eq!(Datatype::Fp16.value(Number::Real(1.0)), Err(Misfit::BinaryOnly(Datatype::Fp16)));
    }

    #[test]
    fn words_are_the_protocols() {
        for datatype in Datatype::ALL {
            assert_eq!(Datatype::named(datatype.as_str()), Some(datatype));
        }
        assert_eq!((Datatype::named("BYTES"), Datatype::named("fp32")), (None, None));
    }
}
