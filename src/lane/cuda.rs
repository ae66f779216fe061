//! What only a build with CUDA does: opening GPUs, knowing them by UUID, and saying in words of ours what CUDA says in names.
//!
//! Each function is there without CUDA, too, and then refuses. Errors are told by the names that cudarc keeps in their text, so that what is
//! made of them is tested without a GPU.

use candle_core::Device;

use super::OpenError;
use crate::{config, model::TensorError};

/// Names in errors, and what they mean to whoever must act.
const CAUSES: [(&str, &str); 7] = [
    ("CUDA_ERROR_STUB_LIBRARY", "NVIDIA's driver is not installed here (there is no libcuda.so.1)"),
    ("CUDA_ERROR_NO_DEVICE", "CUDA finds no GPU, or CUDA_VISIBLE_DEVICES hides all"),
    ("CUDA_ERROR_SYSTEM_NOT_READY", "the GPUs are not ready yet: does nvidia-fabricmanager run?"),
    ("CUDA_ERROR_INVALID_DEVICE", "CUDA shows this process fewer GPUs (see CUDA_VISIBLE_DEVICES)"),
    ("CUDA_ERROR_OUT_OF_MEMORY", "the GPU has too little memory left"),
    ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the driver is older than the CUDA that this was built with"),
    ("CUBLAS_STATUS_NOT_INITIALIZED", "cuBLAS did not start: is libcublas.so.13 on LD_LIBRARY_PATH, and memory left?"),
];

/// What CUDA says where there is nothing to list: no driver, and no GPU.
#[cfg(any(feature = "cuda", test))]
const NOTHING_TO_LIST: [&str; 2] = ["CUDA_ERROR_STUB_LIBRARY", "CUDA_ERROR_NO_DEVICE"];

/// Why CUDA lists no GPUs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{cause}")]
pub struct Unlisted {
    cause: String,
    may_pass: bool,
}

impl Unlisted {
    #[cfg(any(feature = "cuda", test))]
    fn of(error: &TensorError) -> Self {
        let text = error.to_string();
        let may_pass = !NOTHING_TO_LIST.iter().any(|name| text.contains(name));
        Unlisted { cause: cause(error), may_pass }
    }

    /// Whether a later process may find them listed; not where there is no driver, or it knows no GPU.
    pub const fn may_pass(&self) -> bool {
        self.may_pass
    }
}

/// The UUIDs that GPUs tell, asked one after the other; the last refusal if none tells its own.
#[cfg(any(feature = "cuda", test))]
fn uuids_of(answers: impl Iterator<Item = Result<String, TensorError>>) -> Result<Vec<String>, TensorError> {
    let (mut uuids, mut refusal) = (Vec::new(), None);
    for (index, answer) in answers.enumerate() {
        match answer {
            Ok(uuid) => uuids.push(uuid),
            // It must not hide the others.
            Err(error) => {
                tracing::warn!(index, error = cause(&error), "a GPU that does not answer is left out");
                refusal = Some(error);
            }
        }
    }
    match refusal {
        Some(error) if uuids.is_empty() => Err(error),
        Some(_) | None => Ok(uuids),
    }
}

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

/// The UUIDs of the GPUs that CUDA shows this process, in its order: `CUDA_VISIBLE_DEVICES` may hide some, and order them. One that does not tell its own is left
/// out. None in a build without CUDA, which opens no GPU.
///
/// # Errors
/// CUDA's own, in words if it is a known one.
#[cfg(feature = "cuda")]
pub fn visible_gpus() -> Option<Result<Vec<String>, Unlisted>> {
    use cudarc::driver::result;
    let uuid = |ordinal| result::device::get(ordinal).and_then(result::device::get_uuid).map(written);
    let count = result::init().and_then(|()| result::device::get_count());
    let listed = count
        .map_err(TensorError::wrap)
        .and_then(|count| uuids_of((0..count).map(|ordinal| uuid(ordinal).map_err(TensorError::wrap))));
    Some(listed.map_err(|error| Unlisted::of(&error)))
}

/// The same.
#[cfg(not(feature = "cuda"))]
pub fn visible_gpus() -> Option<Result<Vec<String>, Unlisted>> {
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
    let sought = uuid.trim_start_matches("GPU-").replace('-', "");
    let mut refusal = None;
    for ordinal in 0..result::device::get_count().map_err(cuda)? {
        match result::device::get(ordinal).and_then(result::device::get_uuid).map(digits_of) {
            Ok(found) if found.eq_ignore_ascii_case(&sought) => return Ok(usize::try_from(ordinal).unwrap_or(0)),
            Ok(_) => {}
            // It may be this one, or another that must not hide it.
            Err(error) => refusal = Some(error),
        }
    }
    let unknown = || failed(TensorError::msg("no GPU that CUDA shows this process has this UUID"));
    Err(refusal.map_or_else(unknown, cuda))
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

    #[test]
    fn a_driver_that_is_not_ready_is_waited_for_and_one_that_is_absent_is_not() {
        let of = |name: &str| Unlisted::of(&TensorError::msg(format!("DriverError({name}, \"…\")")));
        for (name, may_pass) in [
            ("CUDA_ERROR_STUB_LIBRARY", false),
            ("CUDA_ERROR_NO_DEVICE", false),
            ("CUDA_ERROR_SYSTEM_NOT_READY", true),
            ("CUDA_ERROR_UNKNOWN", true),
        ] {
            assert_eq!(of(name).may_pass(), may_pass, "{name}");
        }
        assert!(of("CUDA_ERROR_SYSTEM_NOT_READY").to_string().starts_with("the GPUs are not ready yet"));
    }

    #[test]
    fn a_gpu_that_does_not_answer_hides_no_other() {
        let refusal = || Err(TensorError::msg("DriverError(CUDA_ERROR_UNKNOWN)"));
        let uuid = |uuid: &str| Ok(uuid.to_owned());
        let listed = uuids_of([uuid("GPU-a"), refusal(), uuid("GPU-c")].into_iter());
        assert_eq!(listed.expect("two answer"), ["GPU-a", "GPU-c"]);
        assert_eq!(uuids_of(std::iter::empty()).expect("nobody refused"), [""; 0]);
        let error = uuids_of([refusal(), refusal()].into_iter()).expect_err("none answers");
        assert!(Unlisted::of(&error).may_pass(), "they are there");
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
