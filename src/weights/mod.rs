//! Weights on disk: a manifest, the base model, the parity models, and the proof that they belong together.
//!
//! A [`Bundle`] exists only if every file that it uses has the hash that the manifest gives, the parity models were trained on outputs
//! of *this* base with *this* code and *this* normalisation, and every tensor fits its architecture. Anything else is refused before a
//! query is served, with all faults at once: a parity model of another base answers plausibly and wrongly, and nothing would notice.
//! The bytes that were hashed are the bytes that are used, and all hashes of a bundle are of one reading of the manifest.

mod calibration;
pub mod canary;
mod check;
mod decoder;
mod manifest;
pub mod oracle;
mod page;
mod whole;

use std::{
    fmt::{self, Write},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::{
    code::{Calibration, Code, Kind},
    model::{Device, Net, Parameters, Plan, Precision, Preprocessing, TensorError},
    query::{Row, Signature, TensorSpec},
    shortage::{is_short, more},
};
pub use calibration::Calibrated;
pub use check::{ParityPlan, encoded_plan, parity_plan};
pub use decoder::{decoder, decoder_of};
pub use manifest::{
    Base, Dataset, Deployment, FORMAT, Input, MANIFEST_FILE, Manifest, Measured, Normalisation, Output, Parity,
    Training, Unchanged,
};
pub use page::{try_page, write_page};
pub use whole::{remove_left_behind, try_write, write_whole};

/// One thing that is wrong with a folder of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub rule: String,
    /// What to do about it.
    pub next: &'static str,
    /// Whether time may mend it: the system had no means to read the file.
    pub may_pass: bool,
}

impl Fault {
    pub(crate) fn new(file: &Path, rule: impl Into<String>, next: &'static str) -> Self {
        Fault { file: file.to_path_buf(), rule: rule.into(), next, may_pass: false }
    }
}

/// A file that cannot be read; `next` is what to do if it is not there.
fn unread(file: &Path, error: &io::Error, next: &'static str) -> Fault {
    let may_pass = is_short(error);
    let next = if may_pass {
        more(error)
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "make it readable for the user that parityd runs as"
    } else {
        next
    };
    Fault { may_pass, ..Fault::new(file, format!("cannot be read: {error}"), next) }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.file.display(), self.rule, self.next)
    }
}

/// Why a folder of weights is refused: every fault that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightsError {
    /// At least one.
    pub faults: Vec<Fault>,
}

impl WeightsError {
    /// Whether time may mend all of it.
    pub fn may_pass(&self) -> bool {
        self.faults.iter().all(|fault| fault.may_pass)
    }
}

impl fmt::Display for WeightsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.faults.iter().map(Fault::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for WeightsError {}

impl From<Fault> for WeightsError {
    fn from(fault: Fault) -> Self {
        WeightsError { faults: vec![fault] }
    }
}

/// Weights that were checked, in host memory. Nets are made from it, one a lane.
#[derive(Clone, Debug)]
pub struct Bundle {
    manifest: Manifest,
    base: Checked,
    parities: Vec<Checked>,
    k: usize,
    calibration: Option<Calibration>,
    /// Of nets on GPUs.
    precision: Precision,
}

/// One model's weights, checked.
#[derive(Clone, Debug)]
struct Checked {
    plan: Plan,
    parameters: Parameters,
    preprocessing: Preprocessing,
    canary: Vec<f32>,
    /// What all CPU lanes share, once one has made it.
    on_cpu: Arc<Mutex<Option<Net>>>,
}

impl Checked {
    fn settled(&self, device: &Device, precision: Precision) -> Result<Net, TensorError> {
        Net::settled(&self.plan, self.preprocessing, &self.parameters, device, precision)
    }

    fn net(&self, device: &Device, precision: Precision) -> Result<Net, TensorError> {
        if !device.is_cpu() {
            return self.settled(device, precision);
        }
        let mut shared = self.on_cpu.lock();
        if let Some(net) = &*shared {
            return Ok(net.clone());
        }
        Ok(shared.insert(self.anew()?).clone())
    }

    fn anew(&self) -> Result<Net, TensorError> {
        Net::new(&self.plan, self.preprocessing, &self.parameters, &Device::Cpu)
    }
}

/// Known inputs and the outputs that they must give.
#[derive(Clone, Debug)]
pub struct Canary {
    /// One row a data slot (one row if there is no code). The base model is asked for the first.
    pub rows: Vec<Row>,
    /// Another row.
    pub second: Row,
    /// What the base model gives for the first row.
    pub base: Vec<f32>,
    /// What each parity model gives for the encoded rows; none where parity queries run on the base model.
    pub parities: Vec<Vec<f32>>,
    /// How far outputs may be from these, relative to the largest.
    pub tolerance: f32,
}

impl Bundle {
    /// Reads and checks the weights of `dir`: the base model, and the parity models of `code` if there is one.
    ///
    /// Refuses with every fault found; see the module.
    pub fn load(dir: &Path, code: Option<&dyn Code>) -> Result<Self, WeightsError> {
        Bundle::of(dir, Manifest::read(dir)?, code)
    }

    /// As [`Bundle::load`], of a manifest that was read before. A code with a [`decoder`] of its own is of that manifest, too: another reading may
    /// be that of an encoder that was trained meanwhile.
    pub fn of(dir: &Path, manifest: Manifest, code: Option<&dyn Code>) -> Result<Self, WeightsError> {
        let mut faults = Vec::new();
        let base = check::base(dir, &manifest, &mut faults);
        let parities =
            code.map_or_else(Vec::new, |code| check::parities((dir, &manifest), base.as_ref(), code, &mut faults));
        let calibration = code.and_then(|code| calibration::check(dir, &manifest, code, &mut faults));
        match base {
            Some(base) if faults.is_empty() => {
                let k = code.map_or(1, Code::k);
                Ok(Bundle { manifest, base, parities, k, calibration, precision: Precision::Single })
            }
            _ => Err(WeightsError { faults }),
        }
    }

    /// The same weights, whose nets compute in `precision` on GPUs. Those on CPUs compute in single precision.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        Bundle { precision, ..self }
    }

    /// What clients must know.
    pub fn signature(&self) -> Signature {
        let Manifest { deployment, input, output, base, .. } = &self.manifest;
        Signature {
            name: deployment.name.clone(),
            version: deployment.version.clone(),
            platform: base.architecture.to_string(),
            input: TensorSpec { name: input.name.clone(), shape: input.shape.clone() },
            input_range: (input.range[0], input.range[1]),
            output: TensorSpec { name: output.name.clone(), shape: output.shape.clone() },
            labels: output.labels.clone(),
        }
    }

    /// The base model on `device`; on the CPU all nets share one copy of the weights.
    pub fn base(&self, device: &Device) -> Result<Net, TensorError> {
        self.base.net(device, self.precision)
    }

    /// What the base model, if it is among them, and so many parity models take on a GPU.
    pub fn bytes(&self, base: bool, parities: usize) -> usize {
        let nets = base.then_some(&self.base).into_iter().chain(self.parities.iter().take(parities));
        nets.map(|net| net.plan.parameter_count() * self.precision.bytes()).sum()
    }

    /// What runs parity row `row`, on `device`: its parity model, or the base model once more. On the CPU all nets share one copy of the
    /// weights.
    pub fn parity(&self, row: usize, device: &Device) -> Result<Net, TensorError> {
        self.parities.get(row).unwrap_or(&self.base).net(device, self.precision)
    }

    /// The base model, and what runs parity row `row`, on the CPU and in memory of their own, for whoever measures what depends on where that lies.
    pub fn anew(&self, row: usize) -> Result<[Net; 2], TensorError> {
        Ok([self.base.anew()?, self.parities.get(row).unwrap_or(&self.base).anew()?])
    }

    /// The canary and the outputs that it must give under `code`: the one that was loaded, or its backup, whose stripes are the first row of those.
    pub fn canary(&self, code: Option<&dyn Code>) -> Canary {
        let width = self.manifest.input.shape.iter().product();
        let k = code.map_or(self.k, Code::k);
        Canary {
            rows: canary::stripe(width, self.k).into_iter().take(k).collect(),
            second: canary::row(width, 1),
            base: self.base.canary.clone(),
            parities: self
                .parities
                .iter()
                .map(|model| model.canary[..model.canary.len() * k / self.k].to_vec())
                .collect(),
            tolerance: canary::tolerance(self.precision),
        }
    }

    /// SHA-256 of the base weights, in hex: the epoch's name.
    pub fn base_sha256(&self) -> &str {
        &self.manifest.base.sha256
    }

    /// SHA-256 of all loaded weights, in hex: base, then parity rows.
    pub fn sha256(&self, kind: Kind) -> Vec<String> {
        let rows = self.manifest.rows_of(kind, self.k, self.parities.len());
        let parities = rows.iter().map(|parity| parity.sha256.clone());
        std::iter::once(self.manifest.base.sha256.clone()).chain(parities).collect()
    }

    /// How the code's decoded outputs are judged, if it is calibrated.
    pub const fn calibration(&self) -> Option<Calibration> {
        self.calibration
    }

    /// All that the manifest says.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The parameters of the base model.
    pub const fn base_parameters(&self) -> &Parameters {
        &self.base.parameters
    }

    /// The layers and costs of the base model.
    pub const fn base_plan(&self) -> &Plan {
        &self.base.plan
    }

    /// The layers and costs of what runs parity row `row`.
    pub fn parity_plan(&self, row: usize) -> &Plan {
        &self.parities.get(row).unwrap_or(&self.base).plan
    }
}

/// SHA-256 of `bytes`, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
        hex
    })
}

#[cfg(test)]
mod tests;
