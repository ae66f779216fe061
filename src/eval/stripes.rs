//! Stripes of a data set: rows in some order, cut into k, with the outputs of base and parity models at hand.
//!
//! The one place where predictions are reconstructed outside the daemon, with the daemon's own encoder, nets and decoder. The trainer
//! validates with it and `eval` measures with it, so both mean the same.

use crate::{
    code::{Code, SlotSet},
    data::Images,
    model::{Net, TensorError},
};

/// Stripes with all their outputs.
#[derive(Debug)]
pub struct Stripes<'a> {
    code: &'a dyn Code,
    /// Indices of rows; each k of them are a stripe.
    order: &'a [usize],
    /// Base outputs, by row index, one after the other.
    base: &'a [f32],
    /// Output of each parity row for each stripe, one after the other; `None` where there is no model.
    parities: Vec<Option<Vec<f32>>>,
    outputs: usize,
}

/// The parity queries of one parity row for the stripes of `order`, one after the other.
pub fn encode(code: &dyn Code, parity: usize, images: &Images, order: &[usize]) -> Vec<f32> {
    let width = code.query_width(images.width());
    let mut queries = vec![0.0; order.len() / code.k() * width];
    for (stripe, query) in order.chunks_exact(code.k()).zip(queries.chunks_exact_mut(width)) {
        let rows: Vec<&[f32]> = stripe.iter().map(|&index| images.row(index)).collect();
        code.encode(parity, &rows, query);
    }
    queries
}

impl<'a> Stripes<'a> {
    /// Cuts `order` into stripes (a rest is left out) and runs the parity models that there are on them.
    ///
    /// `base` holds the base model's output for each of `images`.
    pub fn run(
        code: &'a dyn Code,
        images: &Images,
        order: &'a [usize],
        base: &'a [f32],
        nets: &[Option<&Net>],
    ) -> Result<Self, TensorError> {
        assert_eq!(nets.len(), code.r(), "one entry a parity row");
        let order = &order[..order.len() - order.len() % code.k()];
        let run = |(parity, net): (usize, Option<&Net>)| match net {
            Some(net) => net.predict(&encode(code, parity, images, order)).map(Some),
            None => Ok(None),
        };
        let parities = nets.iter().copied().enumerate().map(run).collect::<Result<_, _>>()?;
        Ok(Stripes { code, order, base, parities, outputs: base.len() / images.count() })
    }

    /// Reconstructs the data slots of `lost` in every stripe, without the parity slots of `lost`; `visit` gets each row's index and its
    /// reconstruction.
    ///
    /// Gives false, and visits nothing, if the code cannot recover those data slots from what is left.
    pub fn reconstruct(&self, lost: SlotSet, mut visit: impl FnMut(usize, &[f32])) -> bool {
        let (k, outputs) = (self.code.k(), self.outputs);
        let parity_width = self.code.output_width(outputs);
        let there = |j: &usize| self.parities[*j].is_some();
        let parities = (0..self.code.r()).filter(there).fold(SlotSet::EMPTY, |set, j| set.with(SlotSet::only(k + j)));
        let present = SlotSet::below(k).with(parities).without(lost);
        let lost = lost.and(SlotSet::below(k));
        if !lost.without(self.code.recoverable(present)).is_empty() {
            return false;
        }
        for (stripe, members) in self.order.chunks_exact(k).enumerate() {
            let data = members
                .iter()
                .enumerate()
                .map(|(slot, &row)| present.has(slot).then(|| &self.base[row * outputs..(row + 1) * outputs]));
            let parities = self.parities.iter().enumerate().map(|(j, parity)| {
                parity
                    .as_ref()
                    .filter(|_| present.has(k + j))
                    .map(|values| &values[stripe * parity_width..(stripe + 1) * parity_width])
            });
            let at_hand: Vec<Option<&[f32]>> = data.chain(parities).collect();
            for slot in lost.iter() {
                let decoded = self.code.decode(slot, &at_hand).expect("the lost set is recoverable");
                visit(members[slot], &decoded);
            }
        }
        true
    }

    /// Share of reconstructions, over each single loss in turn, that have the class of the base model's own output.
    pub fn agreement(&self) -> f64 {
        let (mut agree, mut all) = (0_usize, 0_usize);
        for slot in 0..self.code.k() {
            self.reconstruct(SlotSet::only(slot), |row, decoded| {
                let direct = &self.base[row * self.outputs..(row + 1) * self.outputs];
                agree += usize::from(class(decoded) == class(direct));
                all += 1;
            });
        }
        agree as f64 / all.max(1) as f64
    }
}

/// The class that an output row speaks for: the index of its largest value, the first of equals.
pub fn class(output: &[f32]) -> usize {
    let larger = |best: usize, index: usize| if output[index] > output[best] { index } else { best };
    (0..output.len()).fold(0, larger)
}
