//! Named tensors of one network: read from and written to safetensors, checked against a plan.
//!
//! Tensors are shared (`Arc`), so nets that are built from one [`Parameters`] on the CPU hold the same memory. Only safetensors is
//! read: it is data, never code.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

use super::Plan;

/// The parameters of one network, f32; in host memory, but for those that learn on a GPU.
#[derive(Clone, Debug, Default)]
pub struct Parameters(BTreeMap<String, Tensor>);

impl Parameters {
    /// Takes tensors by name.
    pub fn new(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Self {
        Parameters(tensors.into_iter().collect())
    }

    /// Reads the bytes of a safetensors file. Half-precision values become f32; how many batches `PyTorch`'s batch norms have seen is left
    /// out, since nothing is made of it.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self> {
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu)?;
        let used = tensors.into_iter().filter(|(name, _)| !name.ends_with(".num_batches_tracked"));
        Parameters::new(used).converted(DType::F16, DType::F32)
    }

    /// The same in half precision: for a file half as long, not for running.
    pub fn halved(&self) -> Result<Self> {
        self.clone().converted(DType::F32, DType::F16)
    }

    fn converted(self, from: DType, to: DType) -> Result<Self> {
        let convert = |(name, tensor): (String, Tensor)| {
            Ok((name, if tensor.dtype() == from { tensor.to_dtype(to)? } else { tensor }))
        };
        self.0.into_iter().map(convert).collect::<Result<_>>().map(Parameters)
    }

    /// The bytes of a safetensors file; the same parameters always give the same bytes.
    pub fn to_safetensors(&self) -> Result<Vec<u8>> {
        safetensors::serialize(&self.0, None).map_err(candle_core::Error::wrap)
    }

    /// A copy in host memory of its own, which no training step changes.
    pub fn copied(&self) -> Result<Self> {
        let copy =
            |(name, tensor): (&String, &Tensor)| Ok((name.clone(), tensor.detach().copy()?.to_device(&Device::Cpu)?));
        self.0.iter().map(copy).collect::<Result<_>>().map(Parameters)
    }

    /// The same where they are, variables as copies: nothing changes them, and what is made of them remembers nothing.
    pub(super) fn constants(&self) -> Result<Self> {
        let constant = |(name, tensor): (&String, &Tensor)| {
            Ok((name.clone(), if tensor.is_variable() { tensor.detach().copy()? } else { tensor.clone() }))
        };
        self.0.iter().map(constant).collect::<Result<_>>().map(Parameters)
    }

    /// The tensor called `name`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }

    /// Names and tensors, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Tensor)> {
        self.0.iter()
    }

    /// These and those of `other`; names that both have are taken from `other`.
    #[must_use]
    pub fn with(mut self, other: &Parameters) -> Self {
        self.0.extend(other.0.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        self
    }

    /// What keeps these parameters from being those of `plan`: one sentence a fault.
    pub fn faults(&self, plan: &Plan) -> Vec<String> {
        self.faults_against(&plan.parameters())
    }

    /// What keeps these parameters from having exactly these names and shapes: one sentence a fault.
    pub fn faults_against(&self, expected: &[(String, Vec<usize>)]) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, shape) in expected {
            match self.0.get(name) {
                None => faults.push(format!("tensor `{name}` is missing")),
                Some(tensor) if tensor.dims() != shape => {
                    faults.push(format!("tensor `{name}` has shape {:?}, not {shape:?}", tensor.dims()));
                }
                Some(tensor) if tensor.dtype() != DType::F32 => {
                    faults.push(format!("tensor `{name}` holds {:?}, not F32", tensor.dtype()));
                }
                Some(_) => {}
            }
        }
        let unknown = self.0.keys().filter(|name| expected.iter().all(|(expected, _)| expected != *name));
        faults.extend(unknown.map(|name| format!("tensor `{name}` is none of the architecture's")));
        faults
    }

    pub(super) fn builder(&self, device: &Device) -> VarBuilder<'static> {
        let tensors: HashMap<String, Tensor> = self.0.clone().into_iter().collect();
        VarBuilder::from_tensors(tensors, DType::F32, device)
    }
}
