//! What a net of tensors computes in.

use candle_core::DType;

/// A kind of floating-point numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Precision {
    /// 24 bits.
    Single,
    /// Numbers of 24 bits that tensor cores may multiply by their first 11: cuDNN's do, candle's kernels take all of them.
    TensorFloat,
    /// 11 bits, up to 65,504.
    Half,
    /// 8 bits, and the range of `Single`.
    Bfloat,
}

impl Precision {
    /// What tensors hold.
    pub(super) const fn dtype(self) -> DType {
        match self {
            Precision::Single | Precision::TensorFloat => DType::F32,
            Precision::Half => DType::F16,
            Precision::Bfloat => DType::BF16,
        }
    }

    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            Precision::Single | Precision::TensorFloat => 4,
            Precision::Half | Precision::Bfloat => 2,
        }
    }
}
