//! What a job is lost to, by what the device said.
//!
//! Some errors of CUDA are *sticky*: every later call of this process on that GPU gives the same one, until a new process opens it anew (CUDA driver API, `CUresult`: "leaves the
//! process in an inconsistent state … the process must be terminated and relaunched"). Running out of memory is not among them. They are told by name, which candle and cudarc keep in
//! their text, so that a build without CUDA knows them, too.

use crate::job::Loss;

/// Names of sticky errors: 214, 220, 226, 700, 702, 709, 710, 714 to 719, 721, 911.
const STICKY: [&str; 15] = [
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_CONTAINED",
    "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    "CUDA_ERROR_EXTERNAL_DEVICE",
];

/// Names of a lack of memory, of the driver's and of the libraries'.
const NO_MEMORY: [&str; 3] =
    ["CUDA_ERROR_OUT_OF_MEMORY", "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"];

/// What an error with this text loses.
pub(super) fn loss_of(text: &str) -> Loss {
    if STICKY.iter().any(|name| text.contains(name)) {
        Loss::Fatal
    } else if NO_MEMORY.iter().any(|name| text.contains(name)) {
        Loss::Memory
    } else {
        Loss::Device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sticky_errors_and_lack_of_memory_are_known_by_name() {
        for (text, loss) in [
            ("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")", Loss::Fatal),
            ("cuda error: DriverError(CUDA_ERROR_LAUNCH_FAILED)", Loss::Fatal),
            ("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")", Loss::Memory),
            ("CUBLAS_STATUS_ALLOC_FAILED", Loss::Memory),
            ("CUDNN_STATUS_EXECUTION_FAILED", Loss::Device),
            ("shape mismatch", Loss::Device),
            ("", Loss::Device),
        ] {
            assert_eq!(loss_of(text), loss, "{text}");
        }
    }
}
