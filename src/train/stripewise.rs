//! The lesson of a parity model: to make of a parity query what the code wants of the base model's outputs.
//!
//! By the papers' settings that is the mean squared error to the code's target (`ParM`, section 3.4). By ours the loss is that of what is
//! decoded, against labels and the base model's softened probabilities. Stripes are drawn anew each epoch from all training rows, encoded by
//! the code that serves, and validated by reconstruction: the share of single losses that come back with the base model's class.

use candle_core::{Result, Tensor};
use rand_chacha::ChaCha8Rng;

use super::{
    Backend, Preset,
    fit::{Lesson, Loss},
    gather,
    init::Dense,
    labels,
};
use crate::{
    code::{Code, Reading},
    data::Images,
    eval::Stripes,
    model::{Learner, Net, Parameters, Plan, Preprocessing},
};

/// How much the probabilities of distillation are softened.
const TEMPERATURE: f64 = 3.0;

/// What a parity model learns of a code's stripes.
pub(super) struct Stripewise<'a> {
    pub(super) backend: &'a Backend,
    pub(super) plan: &'a Plan,
    pub(super) preprocessing: Preprocessing,
    pub(super) preset: Preset,
    /// Whether pictures are varied.
    pub(super) varied: bool,
    pub(super) code: &'a dyn Code,
    pub(super) row: usize,
    pub(super) base: &'a Net,
    pub(super) train: Known<'a>,
    pub(super) validation: Known<'a>,
    pub(super) validation_order: Vec<usize>,
}

impl Stripewise<'_> {
    /// What the base model makes of `rows`, which are the `picked` ones, perhaps varied.
    fn base_outputs(&self, picked: &[usize], rows: &[f32]) -> Result<Vec<f32>> {
        if !self.varied {
            return Ok(picked.iter().flat_map(|&row| self.train.output(row)).copied().collect());
        }
        match self.backend {
            // One by one: how rows are batched depends on the number of threads, and the last bits of their outputs on how they are batched.
            Backend::Programs => {
                let rows = rows.chunks(self.base.width()).map(|row| self.base.run(row));
                Ok(rows.collect::<Result<Vec<_>>>()?.concat())
            }
            Backend::Tensors(_) => self.base.predict(rows),
        }
    }

    /// What is decoded of each row of each stripe if it alone is lost, from parity outputs `found` and the base model's outputs: `[rows,
    /// outputs]`. Decoding one loss is affine in the parity output, `scale * found + offset`; both come from the decoder itself.
    fn decoded(&self, found: &Tensor, base: &[f32]) -> Result<Tensor> {
        let (code, k, outputs) = (self.code, self.code.k(), self.train.width());
        let decode = |slot: usize, members: &[&[f32]], parity: &[f32]| {
            let at_hand: Vec<Option<&[f32]>> = (0..k)
                .map(|other| (other != slot).then(|| members[other]))
                .chain((0..code.r()).map(|row| (row == self.row).then_some(parity)))
                .collect();
            code.decode(slot, &at_hand).expect("one loss is recoverable with one parity output at hand")
        };
        let (zeros, ones) = (vec![0.0; outputs], vec![1.0; outputs]);
        let nothing = vec![zeros.as_slice(); k];
        let scales: Vec<f32> = (0..k).map(|slot| decode(slot, &nothing, &ones)[0]).collect();
        let offsets = by_stripe(base, (k, outputs), k * outputs, |members, offsets| {
            for (slot, offset) in offsets.chunks_exact_mut(outputs).enumerate() {
                offset.copy_from_slice(&decode(slot, members, &zeros));
            }
        });
        let stripes = found.dim(0)?;
        let scales = Tensor::from_vec(scales, (1, k, 1), found.device())?;
        let offsets = Tensor::from_vec(offsets, (stripes, k, outputs), found.device())?;
        found.unsqueeze(1)?.broadcast_mul(&scales)?.broadcast_add(&offsets)?.reshape((stripes * k, outputs))
    }
}

/// Whether each row has an output of its own, to which its label belongs.
pub(super) fn has_output_a_row(code: &dyn Code) -> bool {
    match code.reading() {
        Reading::Row | Reading::Encoded => false,
        Reading::Channels | Reading::Rows => true,
    }
}

/// What `write` makes of the k rows (`row_width` values each) of each stripe: `width` values a stripe, one after the other.
fn by_stripe(
    values: &[f32],
    (k, row_width): (usize, usize),
    width: usize,
    write: impl Fn(&[&[f32]], &mut [f32]),
) -> Vec<f32> {
    let mut written = vec![0.0; values.len() / (k * row_width) * width];
    for (stripe, place) in values.chunks_exact(k * row_width).zip(written.chunks_exact_mut(width)) {
        write(&stripe.chunks_exact(row_width).collect::<Vec<_>>(), place);
    }
    written
}

/// Half cross-entropy to the labels, half Kullback-Leibler divergence to the base model's probabilities, both softened by a temperature
/// (Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2). A row of `found` and `base` each.
pub(super) fn distilled(found: &Tensor, base: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let hard = candle_nn::loss::cross_entropy(found, labels)?;
    let softened = |logits: &Tensor| candle_nn::ops::log_softmax(&(logits / TEMPERATURE)?, 1);
    let (found, base) = (softened(found)?, softened(base)?);
    let divergence = (base.exp()? * (base - found)?)?.sum(1)?.mean_all()?;
    // The gradient of softened probabilities shrinks with the square of the temperature.
    (hard * 0.5)? + (divergence * (0.5 * TEMPERATURE * TEMPERATURE))?
}

/// Images with the base model's outputs.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) images: &'a Images,
    pub(super) outputs: &'a [f32],
}

impl Known<'_> {
    /// Values of one output row.
    pub(super) fn width(&self) -> usize {
        self.outputs.len() / self.images.count()
    }

    pub(super) fn output(&self, row: usize) -> &[f32] {
        let width = self.width();
        &self.outputs[row * width..(row + 1) * width]
    }
}

impl Lesson for Stripewise<'_> {
    type Model = Learner;

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.plan.parameters()
    }

    fn dense(&self) -> Dense {
        Dense::Fixed
    }

    fn model(&self, parameters: &Parameters) -> Result<Learner> {
        self.backend.learner(self.plan, self.preprocessing, parameters)
    }

    fn rows(&self) -> usize {
        self.train.images.count()
    }

    fn rows_per_input(&self) -> usize {
        self.code.k()
    }

    fn loss<'a>(&self, learner: &'a Learner, picked: &[usize], rng: &mut ChaCha8Rng) -> Result<Loss<'a>> {
        let (code, k, row, outputs) = (self.code, self.code.k(), self.row, self.train.width());
        let images = self.train.images;
        let rows = gather(images, picked, self.varied, rng);
        let base = self.base_outputs(picked, &rows)?;
        let queries = by_stripe(&rows, (k, images.width()), code.query_width(images.width()), |rows, query| {
            code.encode(row, rows, query);
        });
        let pass = learner.forward(&queries)?;
        let found = pass.outputs();
        let decoded = match (self.preset.distils(), has_output_a_row(code)) {
            (true, true) => found.reshape((picked.len(), outputs))?,
            (true, false) => self.decoded(found, &base)?,
            (false, _) => {
                let targets = by_stripe(&base, (k, outputs), code.output_width(outputs), |outputs, target| {
                    assert!(code.target(row, outputs, target), "this lesson is for kinds that have a target");
                });
                let targets = Tensor::from_vec(targets, found.shape(), found.device())?;
                return Ok(Loss { value: candle_nn::loss::mse(found, &targets)?, pass });
            }
        };
        let base = Tensor::from_vec(base, decoded.shape(), decoded.device())?;
        let value = distilled(&decoded, &base, &labels(images, picked, decoded.device())?)?;
        Ok(Loss { value, pass })
    }

    fn score(&self, parameters: &Parameters) -> Result<f64> {
        let net = self.backend.net(self.plan, self.preprocessing, parameters)?;
        let nets: Vec<Option<&Net>> = (0..self.code.r()).map(|row| (row == self.row).then_some(&net)).collect();
        let Known { images, outputs } = self.validation;
        Ok(Stripes::run(self.code, images, &self.validation_order, outputs, &nets)?.agreement())
    }
}
