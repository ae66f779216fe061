//! What a training computes with: programs of our own on the CPU, or tensors on a device.
//!
//! On the CPU a batch runs in four parts, which cores share, each normed by its own rows and cut the same way on any machine, so that a seed gives the
//! same weights. A GPU runs a batch as one and adds up in an order of its own: its weights are as good, but are not the same bits, nor are
//! those of two GPUs.

use std::fmt;

use candle_core::{DeviceLocation, Result};

use crate::model::{Device, Learner, Net, Parameters, Plan, Precision, Preprocessing};

/// Parts of a batch that may run on cores of their own.
const PARTS: usize = 4;

/// What a training computes with.
#[derive(Clone, Debug)]
pub enum Backend {
    /// Programs on the CPU.
    Programs,
    /// Tensors on this device; that may be the CPU, to see what a GPU would do.
    Tensors(Device),
}

impl Backend {
    /// What fits the device.
    pub fn of(device: Device) -> Self {
        if device.is_cpu() { Backend::Programs } else { Backend::Tensors(device) }
    }

    /// Where variables are.
    pub(super) fn device(&self) -> Device {
        match self {
            Backend::Programs => Device::Cpu,
            Backend::Tensors(device) => device.clone(),
        }
    }

    /// Parts that a batch is cut into.
    pub(super) fn parts(&self) -> usize {
        match self {
            Backend::Programs => PARTS,
            Backend::Tensors(_) => 1,
        }
    }

    /// A net that learns; its variables are on [`Backend::device`].
    pub(super) fn learner(
        &self,
        plan: &Plan,
        preprocessing: Preprocessing,
        parameters: &Parameters,
    ) -> Result<Learner> {
        match self {
            Backend::Programs => Learner::new(plan, preprocessing, parameters),
            Backend::Tensors(device) => Learner::of_tensors(plan, preprocessing, parameters, device),
        }
    }

    /// A net as it would be served.
    pub(super) fn net(&self, plan: &Plan, preprocessing: Preprocessing, parameters: &Parameters) -> Result<Net> {
        match self {
            Backend::Programs => Net::new(plan, preprocessing, parameters, &Device::Cpu),
            Backend::Tensors(device) => Net::settled(plan, preprocessing, parameters, device, Precision::Single),
        }
    }
}

impl fmt::Display for Backend {
    /// As `--device` takes it; nothing where that may be left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Backend::Programs => Ok(()),
            Backend::Tensors(device) => match device.location() {
                DeviceLocation::Cpu => f.write_str("tensors"),
                DeviceLocation::Cuda { gpu_id } => write!(f, "cuda:{gpu_id}"),
                DeviceLocation::Metal { gpu_id } => write!(f, "metal:{gpu_id}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use tempfile::TempDir;

    use super::*;
    use crate::{
        code::{Kind, Spec},
        model::test_device,
        train::{BaseOptions, CalibrateOptions, ParityOptions, Preset, Settings, TrainError, base, calibrate, parity},
        weights::Manifest,
    };

    /// A folder that has the thousand images of the tests as training images.
    fn data() -> TempDir {
        let dir = TempDir::new().unwrap();
        let subset = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        for name in ["images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"] {
            fs::copy(subset.join(format!("t10k-{name}")), dir.path().join(format!("train-{name}"))).unwrap();
        }
        dir
    }

    fn settings(backend: &Backend, preset: Preset, epochs: usize) -> Settings {
        let backend = backend.clone();
        Settings { preset, seed: 3, batch: 32, epochs, patience: None, resume: true, backend }
    }

    fn train_base(dir: &Path, architecture: &str, settings: Settings) -> Parameters {
        let out = dir.join(format!("weights/{architecture}/{}/1", settings.backend));
        let options = BaseOptions {
            architecture: architecture.parse().unwrap(),
            out: out.clone(),
            name: "a".to_owned(),
            version: "1".to_owned(),
            data: dir.to_path_buf(),
            replace: false,
            settings,
        };
        base(&options).unwrap();
        Parameters::from_safetensors(&fs::read(out.join("base.safetensors")).unwrap()).unwrap()
    }

    /// Where a batch is normed as a whole or not at all, the parts that it is cut into change nothing but rounding.
    #[test]
    fn tensors_learn_what_programs_learn() {
        let dir = data();
        for architecture in ["linear", "lenet5"] {
            let [expected, found] = [Backend::Programs, Backend::Tensors(test_device())]
                .map(|backend| train_base(dir.path(), architecture, settings(&backend, Preset::Parm, 1)));
            for ((name, expected), (_, found)) in expected.iter().zip(found.iter()) {
                let off = (expected - found).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(off < 1e-4, "{architecture}: {name} is off by {off}");
            }
        }
    }

    /// A run that ended early goes on as one that did not, with batch norm, variations and averaged weights, too.
    #[test]
    fn a_training_on_tensors_goes_on_from_its_checkpoint() {
        let tensors = Backend::Tensors(test_device());
        for (architecture, preset) in [("linear", Preset::Parm), ("resnet18-w1", Preset::Best)] {
            let (whole, parts) = (data(), data());
            let settings = |patience| Settings { patience, ..settings(&tensors, preset, 2) };
            // Weights, moments and averages, whatever epoch was the best.
            let state = |dir: &Path, patience| {
                train_base(dir, architecture, settings(patience));
                let file = dir.join(format!("weights/{architecture}/{tensors}/1/base.checkpoint"));
                Parameters::from_safetensors(&fs::read(file).unwrap()).unwrap().to_safetensors().unwrap()
            };
            let ended = state(parts.path(), Some(0));
            let (gone_on, at_once) = (state(parts.path(), None), state(whole.path(), None));
            assert!(gone_on == at_once && gone_on != ended, "{architecture}");
        }
    }

    /// The codes are calibrated on the way.
    #[test]
    fn every_lesson_is_learned_on_tensors() {
        let dir = data();
        let tensors = Backend::Tensors(test_device());
        train_base(dir.path(), "linear", settings(&tensors, Preset::Parm, 1));
        let weights = dir.path().join(format!("weights/linear/{tensors}/1"));
        for (kind, preset) in [(Kind::Sum, Preset::Parm), (Kind::Compact, Preset::Best), (Kind::Learned, Preset::Parm)]
        {
            let options = ParityOptions {
                weights: weights.clone(),
                code: Spec::of(kind, 2, 1),
                architecture: (kind == Kind::Sum).then(|| "linear".parse().unwrap()),
                encoder: (kind == Kind::Learned).then_some(crate::model::Encoder::Mlp),
                rows: Vec::new(),
                data: dir.path().to_path_buf(),
                replace: false,
                settings: settings(&tensors, preset, 1),
            };
            parity(&options).unwrap();
            // The same once more needs no word, whatever the kind; another does.
            let manifest = Manifest::read(&weights).unwrap();
            parity::may_replace(&options, &manifest).unwrap();
            let anew = Settings { resume: false, ..settings(&tensors, preset, 2) };
            let other = ParityOptions { settings: anew, ..options };
            assert!(matches!(parity(&other), Err(TrainError::ReplacesParity { epochs: 1, .. })), "{kind}");
        }
        let manifest = || Manifest::read(&weights).unwrap();
        assert_eq!((manifest().parities.len(), manifest().calibrations.len()), (3, 3));
        assert!(manifest().parities[0].training.command.ends_with(&format!("--device {tensors}")));
        let calibrated = manifest().calibrations.clone();
        let data = dir.path().to_path_buf();
        calibrate(&CalibrateOptions { weights: weights.clone(), data, device: Device::Cpu }).unwrap();
        assert_eq!(manifest().calibrations, calibrated, "programs and tensors calibrate alike");
    }

    #[test]
    fn a_checkpoint_of_the_other_kind_is_refused() {
        let dir = data();
        let out = dir.path().join("weights");
        let options = |backend: Backend| BaseOptions {
            architecture: "linear".parse().unwrap(),
            out: out.clone(),
            name: "a".to_owned(),
            version: "1".to_owned(),
            data: dir.path().to_path_buf(),
            replace: false,
            settings: settings(&backend, Preset::Parm, 1),
        };
        base(&options(Backend::Programs)).unwrap();
        let refused = base(&options(Backend::Tensors(test_device()))).unwrap_err().to_string();
        assert!(refused.contains("other settings"), "{refused}");
    }
}
