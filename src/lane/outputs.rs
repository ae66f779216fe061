//! What a batch gives: one output row a job, and the memory of rows that were given away before.
//!
//! Outputs leave a lane as shared host memory that whoever waits for them reads, for as long as they like. The lane keeps a hold of those it gave
//! last, and writes over one once it holds it alone; rows that are held for long are passed over, and replaced when there are too many of them. What
//! has to be finite and is not never leaves it.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    job::{Batch, Completion, Loss},
    query::Values,
};

/// Rows of which a hold is kept, at most.
const ROWS_MAX: usize = 256;
/// Values in them, at most: where rows are that large, their memory is not what they cost.
const VALUES_MAX: usize = 1 << 20;
/// The oldest are the first to be let go of, so the search stops early.
const LOOKS: usize = 8;

/// The output rows of one batch, one after the other.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Outputs {
    pub(super) values: Vec<f32>,
    /// Values in a row.
    pub(super) width: usize,
}

impl Outputs {
    pub(super) fn rows(&self) -> impl DoubleEndedIterator<Item = &[f32]> {
        self.values.chunks_exact(self.width)
    }

    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.values.chunks_exact_mut(self.width)
    }

    /// Puts the rows in the opposite order.
    pub(super) fn reverse(&mut self) {
        let (width, mut rest) = (self.width, self.values.as_mut_slice());
        while rest.len() >= 2 * width {
            let (front, last) = rest.split_at_mut(rest.len() - width);
            let (first, between) = front.split_at_mut(width);
            first.swap_with_slice(last);
            rest = between;
        }
    }
}

/// Output rows that were given away.
#[derive(Default, Debug)]
pub(super) struct Given(VecDeque<Values>);

impl Given {
    /// Gives a row away.
    pub(super) fn give(&mut self, row: &[f32]) -> Values {
        let is_free = |given: &Values| Arc::strong_count(given) == 1 && given.len() == row.len();
        let free = self.0.iter().take(LOOKS).position(is_free);
        let mut values = free.and_then(|at| self.0.remove(at)).unwrap_or_else(|| row.into());
        if free.is_some() {
            Arc::get_mut(&mut values).expect("nobody else held it, and only holders pass it on").copy_from_slice(row);
        } else if self.0.len() >= (VALUES_MAX / row.len().max(1)).clamp(1, ROWS_MAX) {
            self.0.pop_front();
        }
        self.0.push_back(Arc::clone(&values));
        values
    }
}

/// An output that may be used, unless it had to be finite and is not.
pub(super) fn finite_or_lost(batch: &Batch, job: usize, output: &[f32], given: &mut Given) -> Completion {
    let must_be_finite = match batch {
        Batch::Base(inputs) => inputs[job].must_be_finite,
        Batch::Parity(_) => true,
    };
    if must_be_finite && !output.iter().all(|value| value.is_finite()) {
        return Completion::Lost(Loss::NonFinite);
    }
    Completion::Output(given.give(output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_over_when_nobody_holds_them() {
        let mut given = Given::default();
        let first = given.give(&[1.0, 2.0]);
        let place = first.as_ptr();
        let second = given.give(&[3.0, 4.0]);
        assert_eq!((&first[..], &second[..]), (&[1.0, 2.0][..], &[3.0, 4.0][..]));
        drop(first);
        let third = given.give(&[5.0, 6.0]);
        assert!(std::ptr::eq(place, third.as_ptr()), "the first one's memory");
        assert_eq!((&second[..], &third[..]), (&[3.0, 4.0][..], &[5.0, 6.0][..]));
    }

    #[test]
    fn no_more_are_kept_than_may_be_and_other_widths_are_new() {
        let mut given = Given::default();
        let held: Vec<Values> = (0..2 * ROWS_MAX).map(|_| given.give(&[0.0])).collect();
        assert_eq!(given.0.len(), ROWS_MAX);
        drop(held);
        assert_eq!(given.give(&[1.0, 2.0])[..], [1.0, 2.0]);
        let large = vec![0.0; VALUES_MAX];
        let held = [given.give(&large), given.give(&large)];
        assert!(given.0.len() <= ROWS_MAX && held.iter().all(|row| row.len() == VALUES_MAX));
    }

    #[test]
    fn rows_change_their_order() {
        for rows in 1..5_u8 {
            let mut outputs = Outputs { values: (0..2 * rows).map(f32::from).collect(), width: 2 };
            let expected: Vec<Vec<f32>> = outputs.rows().map(<[f32]>::to_vec).rev().collect();
            outputs.reverse();
            assert_eq!(outputs.rows().map(<[f32]>::to_vec).collect::<Vec<_>>(), expected);
        }
    }
}
