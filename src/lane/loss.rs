//! What a job is lost to, by what the device said.
//!
//! Some errors of CUDA are *sticky*: every later call of this process on that GPU gives the same one, until a new process opens it anew (CUDA driver API, `CUresult`: "leaves the
//! process in an inconsistent state … the process must be terminated and relaunched"). Running out of memory is not among them. They are told by name, which candle and cudarc keep in
//! their text, so that a build without CUDA knows them, too.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::job::Loss;

/// Names of sticky errors: 214, 220, 226, 700, 702, 709, 710, 714 to 719, 721, 810, 911.
const STICKY: [&str; 16] = [
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
    "CUDA_ERROR_MPS_CLIENT_TERMINATED",
];

/// What CUDA has no name for (999). Once, it may be anything; where a device that this process has used does not open again for it, it is as good as sticky.
const UNKNOWN: &str = "CUDA_ERROR_UNKNOWN";

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

/// Whether errors that CUDA has no name for come again, in one lane. All threads that run it, or try to, share it: what one of them was told counts for the next.
#[derive(Debug, Default)]
pub(super) struct Unknown {
    /// The device was of use to this process: where it never was, another process would hardly fare better.
    was_open: AtomicBool,
    has_come: AtomicBool,
}

impl Unknown {
    /// The device is open: what came before is over.
    pub(super) fn opened(&self) {
        self.was_open.store(true, Ordering::Relaxed);
        self.proven();
    }

    /// A canary has passed: what came before is over.
    pub(super) fn proven(&self) {
        self.has_come.store(false, Ordering::Relaxed);
    }

    /// A job was lost to an error with this text.
    pub(super) fn job(&self, text: &str) {
        self.has_come.fetch_or(text.contains(UNKNOWN), Ordering::Relaxed);
    }

    /// The loss to report where the device does not open: `loss`, or [`Loss::Fatal`] if the error has no name, and has come before, on a device that had been open.
    pub(super) fn not_open(&self, text: &str, loss: Loss) -> Loss {
        let is_unknown = text.contains(UNKNOWN);
        let came = self.has_come.fetch_or(is_unknown, Ordering::Relaxed);
        if is_unknown && came && self.was_open.load(Ordering::Relaxed) { Loss::Fatal } else { loss }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_a_name_is_fatal_where_a_device_that_was_open_does_not_open_again_for_it() {
        let text = "lane 0: device \"cuda:0\" did not open: DriverError(CUDA_ERROR_UNKNOWN, \"unknown error\")";
        let never = Unknown::default();
        assert_eq!([never.not_open(text, Loss::Device), never.not_open(text, Loss::Device)], [Loss::Device; 2]);
        let unknown = Unknown::default();
        unknown.opened();
        assert_eq!(unknown.not_open(text, Loss::Device), Loss::Device, "once");
        assert_eq!(unknown.not_open("DriverError(CUDA_ERROR_OUT_OF_MEMORY)", Loss::Memory), Loss::Memory);
        assert_eq!(unknown.not_open(text, Loss::Device), Loss::Fatal, "again");
        unknown.opened();
        unknown.job("shape mismatch");
        assert_eq!(unknown.not_open(text, Loss::Device), Loss::Device, "it was well meanwhile");
        unknown.opened();
        unknown.job(text);
        assert_eq!(unknown.not_open(text, Loss::Device), Loss::Fatal, "a job, and then the device");
        unknown.opened();
        unknown.job(text);
        unknown.proven();
        assert_eq!(unknown.not_open(text, Loss::Device), Loss::Device, "a job of long ago, and canaries since");
    }

    #[test]
    fn sticky_errors_and_lack_of_memory_are_known_by_name() {
        for (text, loss) in [
            ("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")", Loss::Fatal),
            ("cuda error: DriverError(CUDA_ERROR_LAUNCH_FAILED)", Loss::Fatal),
            ("DriverError(CUDA_ERROR_MPS_CLIENT_TERMINATED)", Loss::Fatal),
            ("DriverError(CUDA_ERROR_UNKNOWN, \"unknown error\")", Loss::Device),
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
