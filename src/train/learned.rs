//! The lesson of a learned code: encoder and decoder together, through the frozen base model, over every single loss of each stripe
//! (Kosaian, Rashmi, Venkataraman: Learning-Based Coded Computation, JSAIT 2020, section IV).
//!
//! The decoded output is compared with the base model's own: mean squared error by the papers' settings, labels and softened probabilities
//! by ours. The base model's parameters are constants here; gradients pass through it to the encoder.

use candle_core::{Result, Tensor};
use rand_chacha::ChaCha8Rng;

use super::{
    Backend, Preset,
    fit::{Lesson, Loss},
    gather,
    init::Dense,
    labels,
    stripewise::{Known, distilled},
};
use crate::{
    code::Learned,
    eval::Stripes,
    model::{Learner, Net, Parameters, Plan, Preprocessing, decoder_plan},
    weights::{ParityPlan, decoder_of},
};

/// What the decoder's network reads is taken as it is.
const AS_IT_IS: Preprocessing = Preprocessing { mean: 0.0, std: 1.0, weight: 1.0 };

/// What encoder and decoder learn.
pub(super) struct Joint<'a> {
    pub(super) backend: &'a Backend,
    pub(super) plan: &'a ParityPlan,
    pub(super) preprocessing: Preprocessing,
    pub(super) preset: Preset,
    pub(super) k: usize,
    /// The base model's parameters, which stay as they are.
    pub(super) base: &'a Parameters,
    pub(super) train: Known<'a>,
    pub(super) validation: Known<'a>,
    pub(super) validation_order: Vec<usize>,
}

/// Encoder and base model as one net, and the decoder, which is small enough for a graph of tensors.
pub(super) struct Coded {
    parity: Learner,
    decoder: Net,
}

impl Joint<'_> {
    /// Encoder and base model as they are served, by `backend`.
    pub(super) fn net(&self, parameters: &Parameters, backend: &Backend) -> Result<Net> {
        let all = parameters.clone().with(self.base);
        backend.net(&self.plan.plan, self.preprocessing, &all)
    }

    fn decoder_plan(&self) -> Plan {
        decoder_plan(self.k, 1, self.train.width())
    }

    /// What the decoder makes of each single loss: `[stripes * k, outputs]`, the output of slot j where slot j was lost.
    fn decoded(&self, model: &Coded, found: &Tensor, base: &[f32]) -> Result<Tensor> {
        let (k, outputs) = (self.k, self.train.width());
        let stripes = found.dim(0)?;
        let mut known = Vec::with_capacity(base.len() * k);
        for (stripe, lost) in base.chunks_exact(k * outputs).flat_map(|stripe| (0..k).map(move |lost| (stripe, lost))) {
            let start = known.len() + lost * outputs;
            known.extend_from_slice(stripe);
            known[start..start + outputs].fill(0.0);
        }
        let known = Tensor::from_vec(known, (stripes * k, k * outputs), found.device())?;
        let parity = found.unsqueeze(1)?.expand((stripes, k, outputs))?.reshape((stripes * k, outputs))?;
        let all = model.decoder.forward(&Tensor::cat(&[&known, &parity], 1)?)?.reshape((stripes, k, k, outputs))?;
        let own: Vec<f32> = (0..k * k).map(|place| f32::from(u8::from(place / k == place % k))).collect();
        let own = Tensor::from_vec(own, (1, k, k, 1), found.device())?;
        all.broadcast_mul(&own)?.sum(2)?.reshape((stripes * k, outputs))
    }
}

impl Lesson for Joint<'_> {
    type Model = Coded;

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.plan.stored.clone()
    }

    fn dense(&self) -> Dense {
        Dense::BySize
    }

    fn model(&self, parameters: &Parameters) -> Result<Coded> {
        let all = parameters.clone().with(self.base);
        Ok(Coded {
            parity: self.backend.learner(&self.plan.plan, self.preprocessing, &all)?,
            decoder: Net::live(&self.decoder_plan(), AS_IT_IS, parameters, &self.backend.device())?,
        })
    }

    fn rows(&self) -> usize {
        self.train.images.count()
    }

    fn rows_per_input(&self) -> usize {
        self.k
    }

    fn loss<'a>(&self, model: &'a Coded, picked: &[usize], rng: &mut ChaCha8Rng) -> Result<Loss<'a>> {
        // The k rows of a stripe, one after the other, are its parity query.
        let pass = model.parity.forward(&gather(self.train.images, picked, false, rng))?;
        let base: Vec<f32> = picked.iter().flat_map(|&row| self.train.output(row)).copied().collect();
        let decoded = self.decoded(model, pass.outputs(), &base)?;
        let base = Tensor::from_vec(base, decoded.shape(), decoded.device())?;
        let value = if self.preset.distils() {
            distilled(&decoded, &base, &labels(self.train.images, picked, decoded.device())?)?
        } else {
            candle_nn::loss::mse(&decoded, &base)?
        };
        Ok(Loss { value, pass })
    }

    fn score(&self, parameters: &Parameters) -> Result<f64> {
        let net = self.net(parameters, self.backend)?;
        let code = Learned::new(self.k, decoder_of(&parameters.copied()?)?).map_err(candle_core::Error::wrap)?;
        let Known { images, outputs } = self.validation;
        Ok(Stripes::run(&code, images, &self.validation_order, outputs, &[Some(&net)])?.agreement())
    }
}
