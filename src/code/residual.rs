//! How well the outputs of a complete stripe fit together: the parity residual.
//!
//! *Intuition.* When every slot of a stripe has arrived, what parity would have decoded for a slot can be set beside what came: a free check of every lane that
//! took part. With exact codes the two are equal to rounding. Parity models only approximate, so one residual proves nothing; many of one lane do
//! ([`health::residual`](crate::health::residual)).
//!
//! *Which slot.* Leave one out: without the slot that is wrong, the rest fits. That needs a second check: r = 2, or a code that decodes each member from
//! parity alone (`mux`, `compact`), where the residuals of the other members do not contain it. With one additive parity all slots look alike.
//! The idea is that of syndrome decoding (a single error in a distance-3 code); the papers on coded inference use r for erasures, and speak of errors for
//! interpolation alone (`ApproxIFER`), which decodes around them.

use super::{Code, SlotSet};

/// A slot is named only if what is left without it fits so many times better.
const BETTER: f64 = 2.0;
/// Residuals below this are rounding.
const ROUNDING: f64 = 1e-4;

/// What a complete stripe says of itself.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Check {
    /// The mean distance between what came and what would have been decoded, over the mean length of the two: 0 is equal, 2 opposite.
    pub residual: f64,
    /// The slot without which the others fit; `None` if that cannot be told.
    pub odd: Option<usize>,
}

/// Checks outputs of which none is missing; `None` if the code cannot decode any of its data slots from the others.
pub fn check(code: &dyn Code, outputs: &[&[f32]]) -> Option<Check> {
    let all = SlotSet::below(outputs.len());
    let residual = mismatch(code, outputs, all)?;
    let without = |slot: usize| Some((slot, mismatch(code, outputs, all.without(SlotSet::only(slot)))?));
    let odd = || {
        let (slot, rest) = (0..outputs.len()).filter_map(without).min_by(|a, b| a.1.total_cmp(&b.1))?;
        (rest * BETTER < residual).then_some(slot)
    };
    Some(Check { residual, odd: if residual > ROUNDING { odd() } else { None } })
}

/// The mean distance over those present data slots that can be decoded from the other present ones.
fn mismatch(code: &dyn Code, outputs: &[&[f32]], present: SlotSet) -> Option<f64> {
    let mut held: Vec<Option<&[f32]>> =
        outputs.iter().enumerate().map(|(slot, output)| present.has(slot).then_some(*output)).collect();
    let (mut sum, mut count) = (0.0, 0.0);
    for slot in present.and(SlotSet::below(code.k())).iter() {
        if !code.recoverable(present.without(SlotSet::only(slot))).has(slot) {
            continue;
        }
        let own = held[slot].take();
        let decoded = code.decode(slot, &held);
        held[slot] = own;
        sum += distance(outputs[slot], &decoded?);
        count += 1.0;
    }
    (count > 0.0).then(|| sum / count)
}

/// |a - b| over the mean of |a| and |b|.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let (a, b) = (wide(a), wide(b));
    let apart = length(&mut a.iter().zip(&b).map(|(a, b)| a - b));
    let mean = f64::midpoint(length(&mut a.iter().copied()), length(&mut b.iter().copied()));
    // Two rows of zeros are equal. What is not finite is as far off as can be.
    let distance = if apart.abs() <= 0.0 { 0.0 } else { apart / mean };
    if distance.is_finite() { distance.min(2.0) } else { 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::{Stacked, Sum};

    #[test]
    fn rows_that_fit_have_no_residual_and_no_odd_slot() {
        let sum = Sum::with_defaults(2, 1).unwrap();
        let check = check(&sum, &[&[1.0, 2.0], &[3.0, -1.0], &[4.0, 1.0]]).unwrap();
        assert!(check.residual < 1e-6 && check.odd.is_none(), "{check:?}");
    }

    #[test]
    fn with_one_parity_a_wrong_row_is_seen_and_not_located() {
        let sum = Sum::with_defaults(2, 1).unwrap();
        let check = check(&sum, &[&[1.0, 2.0], &[0.0, 2.0], &[4.0, 1.0]]).unwrap();
        assert!(check.residual > 0.5 && check.odd.is_none(), "{check:?}");
    }

    #[test]
    fn with_two_parities_it_is_located_wherever_it_is() {
        let sum = Sum::with_defaults(2, 2).unwrap();
        // Rows (1, 1) and (1, -1).
        let right: [&[f32]; 4] = [&[1.0, 2.0], &[3.0, -1.0], &[4.0, 1.0], &[-2.0, 3.0]];
        for slot in 0..4 {
            let mut rows = right;
            rows[slot] = &[-5.0, 0.5];
            assert_eq!(check(&sum, &rows).unwrap().odd, Some(slot));
        }
    }

    #[test]
    fn where_parity_alone_decodes_each_member_a_wrong_member_is_located() {
        let compact = Stacked::compact(2).unwrap();
        // The parity slot holds a row for each member.
        let rows: [&[f32]; 3] = [&[-5.0, 0.5], &[3.0, -1.0], &[1.0, 2.0, 3.0, -1.0]];
        assert_eq!(check(&compact, &rows).unwrap().odd, Some(0));
    }

    #[test]
    fn what_is_not_finite_is_as_far_off_as_can_be() {
        assert_eq!(distance(&[f32::NAN], &[1.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(distance(&[0.0], &[0.0]).to_bits(), 0.0_f64.to_bits());
    }
}
