//! What only a build with CUDA does: opening GPUs, knowing them by UUID, and saying in words of ours what CUDA says in names.
//!
//! Each function is there without CUDA, too, and then refuses. Errors are told by the names that cudarc keeps in their text, so that what is
//! made of them is tested without a GPU.

use candle_core::Device;

use super::OpenError;
use crate::{config, model::TensorError};

/// Names in errors, and what they mean to whoever must act.
const CAUSES: [(&str, &str); 6] = [
    ("CUDA_ERROR_STUB_LIBRARY", "NVIDIA's driver is not installed here (there is no libcuda.so.1)"),
    ("CUDA_ERROR_NO_DEVICE", "CUDA finds no GPU, or CUDA_VISIBLE_DEVICES hides all"),
    ("CUDA_ERROR_INVALID_DEVICE", "CUDA shows this process fewer GPUs (see CUDA_VISIBLE_DEVICES)"),
    ("CUDA_ERROR_OUT_OF_MEMORY", "the GPU has too little memory left"),
    ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the driver is older than the CUDA that this was built with"),
    ("CUBLAS_STATUS_NOT_INITIALIZED", "cuBLAS did not start: is libcublas.so.13 on LD_LIBRARY_PATH, and memory left?"),
];

/// Why a device refused: in words if the error is a known one, with its first line (candle appends a backtrace).
pub(super) fn cause(error: &TensorError) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    match CAUSES.iter().find(|(name, _)| text.contains(name)) {
        Some((name, words)) => format!("{words} ({name})"),
        None => line.to_owned(),
    }
}

/// Opens the GPU that CUDA counts as `ordinal`.
#[cfg(feature = "cuda")]
pub(super) fn open_cuda(device: &config::Device, ordinal: usize) -> Result<Device, OpenError> {
    crate::model::open_gpu(ordinal).map_err(|source| OpenError::Device { device: device.to_string(), source })
}

#[cfg(not(feature = "cuda"))]
pub(super) fn open_cuda(device: &config::Device, _ordinal: usize) -> Result<Device, OpenError> {
    Err(OpenError::NoCuda { device: device.to_string() })
}

/// The UUID of a lane's GPU, or of the one that it stands for; `None` for other lanes, and for a GPU that is named by an index which CUDA does not know.
pub fn gpu_uuid(lane: &config::Lane) -> Option<String> {
    match lane.device {
        config::Device::Cuda(ordinal) => uuid_of(ordinal),
        config::Device::Cpu | config::Device::CudaUuid(_) => lane.gpu().map(str::to_owned),
    }
}

#[cfg(feature = "cuda")]
fn uuid_of(ordinal: usize) -> Option<String> {
    use cudarc::driver::result;
    result::init().ok()?;
    let device = result::device::get(i32::try_from(ordinal).ok()?).ok()?;
    Some(written(result::device::get_uuid(device).ok()?))
}

/// The UUIDs of the GPUs that CUDA shows this process, in its order: `CUDA_VISIBLE_DEVICES` may hide some, and order them. None in a build without CUDA, which
/// opens no GPU.
///
/// # Errors
/// CUDA's own, in words if it is a known one: no driver, or no GPU.
#[cfg(feature = "cuda")]
pub fn visible_gpus() -> Option<Result<Vec<String>, String>> {
    use cudarc::driver::result;
    let listed = || {
        result::init()?;
        let uuid = |ordinal| result::device::get(ordinal).and_then(result::device::get_uuid).map(written);
        (0..result::device::get_count()?).map(uuid).collect::<Result<Vec<_>, result::DriverError>>()
    };
    Some(listed().map_err(|error| cause(&TensorError::wrap(error))))
}

/// The same.
#[cfg(not(feature = "cuda"))]
pub fn visible_gpus() -> Option<Result<Vec<String>, String>> {
    None
}

/// A UUID as NVML writes it.
#[cfg(feature = "cuda")]
fn written(uuid: cudarc::driver::sys::CUuuid) -> String {
    let digits = digits_of(uuid);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
    format!("GPU-{}", parts.join("-"))
}

/// All of a UUID, without what is put between for readers.
#[cfg(feature = "cuda")]
fn digits_of(uuid: cudarc::driver::sys::CUuuid) -> String {
    // The bytes are C's, which have a sign on some machines.
    let number = uuid.bytes.map(|byte| u8::from_ne_bytes(byte.to_ne_bytes()));
    format!("{:032x}", u128::from_be_bytes(number))
}

#[cfg(not(feature = "cuda"))]
fn uuid_of(_ordinal: usize) -> Option<String> {
    None
}

/// CUDA's ordinal of the GPU with this UUID. NVML's index is no substitute: the two may count in different orders.
#[cfg(feature = "cuda")]
pub(super) fn ordinal_of(device: &config::Device, uuid: &str) -> Result<usize, OpenError> {
    use cudarc::driver::result;
    let failed = |source: TensorError| OpenError::Device { device: device.to_string(), source };
    let cuda = |error: result::DriverError| failed(TensorError::wrap(error));
    result::init().map_err(cuda)?;
    for ordinal in 0..result::device::get_count().map_err(cuda)? {
        let found = result::device::get(ordinal).and_then(result::device::get_uuid).map_err(cuda)?;
        if uuid.trim_start_matches("GPU-").replace('-', "").eq_ignore_ascii_case(&digits_of(found)) {
            return Ok(usize::try_from(ordinal).unwrap_or(0));
        }
    }
    Err(failed(TensorError::msg("no GPU that CUDA shows this process has this UUID")))
}

#[cfg(not(feature = "cuda"))]
pub(super) fn ordinal_of(device: &config::Device, _uuid: &str) -> Result<usize, OpenError> {
    Err(OpenError::NoCuda { device: device.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_errors_are_told_in_words_and_others_by_their_first_line() {
        let told = |text: &str| cause(&TensorError::msg(text));
        let stub =
            told("DriverError(CUDA_ERROR_STUB_LIBRARY, \"<Failure when calling cuGetErrorString()>\")\n   0: frames");
        assert_eq!(stub, "NVIDIA's driver is not installed here (there is no libcuda.so.1) (CUDA_ERROR_STUB_LIBRARY)");
        assert_eq!(told("shape mismatch\n   0: frames"), "shape mismatch");
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn uuids_are_told_in_hexadecimal_whatever_their_sign() {
        let mut uuid = cudarc::driver::sys::CUuuid { bytes: [0; 16] };
        uuid.bytes[0] = 1;
        uuid.bytes[15] = !0;
        assert_eq!(digits_of(uuid), "010000000000000000000000000000ff");
        assert_eq!(written(uuid), "GPU-01000000-0000-0000-0000-0000000000ff");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_cuda_opens_no_gpu() {
        for device in [config::Device::Cuda(0), config::Device::CudaUuid("GPU-0123".to_owned())] {
            let error = crate::lane::open_device(&device).expect_err("it cannot");
            assert!(matches!(error, OpenError::NoCuda { .. }), "{error}");
        }
        assert_eq!(uuid_of(0), None);
        assert_eq!(visible_gpus(), None, "NVML lists them");
    }
}
