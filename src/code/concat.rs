//! The `concat` code: images made smaller and put side by side in one image; decoded by subtraction (ParM, SOSP 2019, section 4.2.2,
//! whose authors recommend it for images).
//!
//! k = 2 halves the width, k = 4 both sides. Each smaller value is the mean of the values that it covers, so brightness stays what it
//! was and the base model's normalisation fits the parity query, too.

use super::{Code, CodeError, Kind, Reading, SlotSet, spec, sum::Sum};

/// Smaller images side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Concat {
    /// Decodes: the parity model's output is the sum of all members' outputs.
    sum: Sum,
    /// [channels, height, width]
    input: [usize; 3],
    /// Tiles down and across.
    tiles: [usize; 2],
}

impl Concat {
    /// The code for k images of shape `input`, `[channels, height, width]`.
    pub fn new(k: usize, input: &[usize]) -> Result<Self, CodeError> {
        spec::check_size(k, 1)?;
        let tiles = match k {
            2 => [1, 2],
            4 => [2, 2],
            _ => return Err(CodeError::Tiles { k }),
        };
        match *input {
            [channels, height, width] if height.is_multiple_of(2) && width.is_multiple_of(2) => {
                Ok(Concat { sum: Sum::with_defaults(k, 1)?, input: [channels, height, width], tiles })
            }
            _ => Err(CodeError::NoImage { input: input.to_vec() }),
        }
    }

    /// Writes one image, made smaller, into its tile of every channel.
    fn place(&self, slot: usize, row: &[f32], parity_query: &mut [f32]) {
        let ([channels, height, width], [down, across]) = (self.input, self.tiles);
        let (tile_height, tile_width) = (height / down, width / across);
        let (top, left) = (slot / across * tile_height, slot % across * tile_width);
        let share = 1.0 / f32::from(u8::try_from(down * across).expect("at most four tiles"));
        for plane in 0..channels {
            let pixels = &row[plane * height * width..(plane + 1) * height * width];
            for (y, x) in (0..tile_height).flat_map(|y| (0..tile_width).map(move |x| (y, x))) {
                let line = |dy: usize| &pixels[(y * down + dy) * width + x * across..][..across];
                let covered: f32 = (0..down).flat_map(|dy| line(dy).iter()).sum();
                parity_query[(plane * height + top + y) * width + left + x] = covered * share;
            }
        }
    }
}

impl Code for Concat {
    fn kind(&self) -> Kind {
        Kind::Concat
    }

    fn k(&self) -> usize {
        self.sum.k()
    }

    fn r(&self) -> usize {
        1
    }

    fn reading(&self) -> Reading {
        Reading::Row
    }

    fn encode(&self, parity: usize, rows: &[&[f32]], parity_query: &mut [f32]) {
        assert_eq!((parity, rows.len()), (0, self.k()), "one parity row of a full stripe");
        let width = self.input.iter().product();
        for (slot, row) in rows.iter().enumerate() {
            assert_eq!(
                (row.len(), parity_query.len()),
                (width, width),
                "rows have the shape that the code was built for"
            );
            self.place(slot, row, parity_query);
        }
    }

    fn target(&self, parity: usize, outputs: &[&[f32]], target: &mut [f32]) -> bool {
        self.sum.target(parity, outputs, target)
    }

    fn recoverable(&self, present: SlotSet) -> SlotSet {
        self.sum.recoverable(present)
    }

    fn decode(&self, slot: usize, outputs: &[Option<&[f32]>]) -> Option<Vec<f32>> {
        self.sum.decode(slot, outputs)
    }

    fn decode_into(&self, slot: usize, outputs: &[Option<&[f32]>], decoded: &mut Vec<f32>) -> bool {
        self.sum.decode_into(slot, outputs, decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_images_are_halved_in_width_and_put_side_by_side() {
        let code = Concat::new(2, &[1, 2, 4]).unwrap();
        let first = [1.0, 3.0, 5.0, 7.0, 0.0, 2.0, 4.0, 6.0];
        let second = [10.0; 8];
        let mut query = [0.0; 8];
        code.encode(0, &[&first, &second], &mut query);
        assert_eq!(query.map(f32::to_bits), [2.0, 6.0, 10.0, 10.0, 1.0, 5.0, 10.0, 10.0].map(f32::to_bits));
    }

    #[test]
    fn four_images_become_quadrants_of_each_channel() {
        let code = Concat::new(4, &[2, 2, 2]).unwrap();
        let rows: Vec<Vec<f32>> =
            (0_u8..4).map(|slot| vec![f32::from(slot); 4].into_iter().chain(vec![9.0; 4]).collect()).collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let mut query = [0.0; 8];
        code.encode(0, &rows, &mut query);
        assert_eq!(query.map(f32::to_bits), [0.0, 1.0, 2.0, 3.0, 9.0, 9.0, 9.0, 9.0].map(f32::to_bits));
    }

    #[test]
    fn only_images_that_can_be_halved_are_taken() {
        assert!(matches!(Concat::new(3, &[1, 4, 4]), Err(CodeError::Tiles { k: 3 })));
        assert!(matches!(Concat::new(2, &[784]), Err(CodeError::NoImage { .. })));
        assert!(matches!(Concat::new(2, &[1, 4, 5]), Err(CodeError::NoImage { .. })));
    }
}
