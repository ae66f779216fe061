//! The `learned` code: encoder and decoder are small networks, trained together through the frozen base model (Kosaian, Rashmi,
//! Venkataraman: Learning-Based Coded Computation, JSAIT 2020, section IV).
//!
//! The parity query is the k rows, one after the other: the encoder stands in front of the base model and runs with it, as one network on
//! the device of the parity job. What is left here is the decoder, three small matrices over the outputs of all slots, zeros where there
//! is none. They are plain slices rather than a network of candle: at k = 2 and ten classes they take about two thousand multiply-adds, less
//! than handing them to a worker or building one tensor would.

use super::{Code, CodeError, Kind, Reading, SlotSet, present, spec, stack};

/// One full matrix with a bias: `outputs` rows of `inputs` values.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Its values, row by row.
    pub values: Vec<f32>,
    /// What is added to each output.
    pub bias: Vec<f32>,
}

impl Matrix {
    fn inputs(&self) -> usize {
        self.values.len() / self.bias.len().max(1)
    }

    fn apply(&self, read: &[f32]) -> Vec<f32> {
        let rows = self.values.chunks_exact(self.inputs());
        let dot = |row: &[f32]| row.iter().zip(read).map(|(weight, value)| weight * value).sum::<f32>();
        rows.zip(&self.bias).map(|(row, bias)| dot(row) + bias).collect()
    }
}

/// The decoder: three matrices, `ReLU` between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoder([Matrix; 3]);

impl Decoder {
    /// Refuses matrices that do not fit one another.
    pub fn new(matrices: [Matrix; 3]) -> Result<Self, CodeError> {
        let whole = |matrix: &Matrix| {
            let (count, outputs) = (matrix.values.len(), matrix.bias.len());
            count > 0 && outputs > 0 && count.is_multiple_of(outputs)
        };
        let chained = matrices.windows(2).all(|pair| pair[0].bias.len() == pair[1].inputs());
        if matrices.iter().all(whole) && chained { Ok(Decoder(matrices)) } else { Err(CodeError::Decoder) }
    }

    fn run(&self, read: &[f32]) -> Vec<f32> {
        let rectified = |values: Vec<f32>| values.into_iter().map(|value| value.max(0.0)).collect::<Vec<f32>>();
        let [first, second, third] = &self.0;
        third.apply(&rectified(second.apply(&rectified(first.apply(read)))))
    }
}

/// A learned code.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    k: usize,
    decoder: Decoder,
}

impl Learned {
    /// The code of k rows and one parity row with this decoder, which must read k + 1 outputs and write k.
    pub fn new(k: usize, decoder: Decoder) -> Result<Self, CodeError> {
        spec::check_size(k, 1)?;
        let (read, written) = (decoder.0[0].inputs(), decoder.0[2].bias.len());
        let fits = written.is_multiple_of(k) && read == written / k * (k + 1);
        if fits { Ok(Learned { k, decoder }) } else { Err(CodeError::Decoder) }
    }

    /// What its decoder reads: the outputs of all slots one after the other (`width` values each), zeros where there is none.
    pub fn read(outputs: &[Option<&[f32]>], width: usize) -> Vec<f32> {
        let mut read = vec![0.0; outputs.len() * width];
        for (output, place) in outputs.iter().zip(read.chunks_exact_mut(width)) {
            if let Some(output) = output {
                place.copy_from_slice(output);
            }
        }
        read
    }
}

impl Code for Learned {
    fn kind(&self) -> Kind {
        Kind::Learned
    }

    fn k(&self) -> usize {
        self.k
    }

    fn r(&self) -> usize {
        1
    }

    fn reading(&self) -> Reading {
        Reading::Encoded
    }

    fn encode(&self, parity: usize, rows: &[&[f32]], parity_query: &mut [f32]) {
        assert_eq!((parity, rows.len()), (0, self.k), "one parity row of a full stripe");
        stack(rows, parity_query);
    }

    /// None: encoder and decoder agree on their own about what the parity output means.
    fn target(&self, _parity: usize, _outputs: &[&[f32]], _target: &mut [f32]) -> bool {
        false
    }

    fn recoverable(&self, present: SlotSet) -> SlotSet {
        let missing = SlotSet::below(self.k).without(present);
        // It was trained with one output missing, and says nothing of use with more.
        if present.has(self.k) && missing.count() == 1 { missing } else { SlotSet::EMPTY }
    }

    fn decode(&self, slot: usize, outputs: &[Option<&[f32]>]) -> Option<Vec<f32>> {
        assert_eq!(outputs.len(), self.k + 1, "one entry a slot");
        if !self.recoverable(present(outputs)).has(slot) {
            return None;
        }
        let width = outputs[self.k]?.len();
        let decoded = self.decoder.run(&Learned::read(outputs, width));
        decoded.chunks_exact(width).nth(slot).map(<[f32]>::to_vec)
    }
}
