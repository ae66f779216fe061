//! Errors after which a device is of no use to this process any more.
//!
//! Some errors of CUDA are *sticky*: every later call of this process on that GPU gives the same one, until a new process opens it anew (CUDA driver API, `CUresult`: "leaves the
//! process in an inconsistent state … the process must be terminated and relaunched"). Running out of memory is not among them. They are told by name, which candle and cudarc keep in
//! their text, so that a build without CUDA knows them, too.

/// Names of sticky errors: 214, 702, 709, 710, 714 to 719, 700.
const STICKY: [&str; 11] = [
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
];

/// Whether an error's text tells of a sticky error.
pub(super) fn is_fatal(text: &str) -> bool {
    STICKY.iter().any(|name| text.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sticky_errors_are_known_by_name_and_others_are_not() {
        assert!(is_fatal("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")"));
        assert!(is_fatal("cuda error: DriverError(CUDA_ERROR_LAUNCH_FAILED)"));
        for other in ["DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")", "shape mismatch", ""] {
            assert!(!is_fatal(other), "{other}");
        }
    }
}
