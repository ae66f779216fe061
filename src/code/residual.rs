//! How well the outputs of a complete stripe fit together: the parity residual.
//!
//! *Intuition.* When every slot of a stripe has arrived, what parity would have decoded for a slot can be set beside what came: a free check of every lane that
//! took part. With exact codes the two are equal to rounding. Parity models only approximate, so one residual proves nothing; many of one lane do
//! ([`health::residual`](crate::health::residual)).
//!
//! *Which slot.* Leave one out: without the slot that is wrong, the rest fits. That needs a second check: r = 2, or a code that decodes each member from
//! parity alone (`mux`, `compact`), where the residuals of the other members do not contain it. With one additive parity all slots look alike.
//! The idea is that of syndrome decoding (a single error in a distance-3 code); the papers on coded inference use r for erasures, and speak of errors for
//! interpolation alone (`ApproxIFER`), which decodes around them. A slot and its copy look alike, too: without either, the rest fits equally well.

use super::{Code, SLOTS_MAX, SlotSet};

/// A slot is named only if what is left without it fits so many times better than the whole, and than what is left without any other.
const BETTER: f64 = 2.0;

/// The mean distance between what came and what would have been decoded, over the mean length of the two: 0 is equal, 2 opposite. `None` if the code cannot
/// decode any data slot from the others. `outputs` are those of a complete stripe, by slot; `decoded` is memory at hand.
pub fn residual(code: &dyn Code, outputs: &[&[f32]], decoded: &mut Vec<f32>) -> Option<f64> {
    mismatch(code, outputs, SlotSet::below(outputs.len()), decoded)
}

/// The slot without which the others fit, in a stripe of this residual; `None` if that cannot be told.
pub fn odd(code: &dyn Code, outputs: &[&[f32]], residual: f64, decoded: &mut Vec<f32>) -> Option<usize> {
    let all = SlotSet::below(outputs.len());
    let mut rests = [f64::INFINITY; SLOTS_MAX];
    for (slot, rest) in rests.iter_mut().enumerate().take(outputs.len()) {
        *rest = mismatch(code, outputs, all.without(SlotSet::only(slot)), decoded).unwrap_or(f64::INFINITY);
    }
    let (odd, least) = rests.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1))?;
    let others = rests.iter().enumerate().filter(|&(slot, _)| slot != odd);
    let next = others.map(|(_, &rest)| rest).fold(residual, f64::min);
    (least * BETTER < next).then_some(odd)
}

/// The mean distance over those present data slots that can be decoded from the other present ones.
fn mismatch(code: &dyn Code, outputs: &[&[f32]], present: SlotSet, decoded: &mut Vec<f32>) -> Option<f64> {
    let mut held = [None; SLOTS_MAX];
    for slot in present.iter() {
        held[slot] = Some(outputs[slot]);
    }
    let (mut sum, mut count) = (0.0, 0.0);
    for slot in present.and(SlotSet::below(code.k())).iter() {
        let own = held[slot].take();
        let others = &held[..outputs.len()];
        if code.recoverable(present.without(SlotSet::only(slot))).has(slot) && code.decode_into(slot, others, decoded) {
            sum += distance(outputs[slot], decoded);
            count += 1.0;
        }
        held[slot] = own;
    }
    (count > 0.0).then(|| sum / count)
}

/// |a - b| over the mean of |a| and |b|.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let (mut apart, mut of_a, mut of_b) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a), f64::from(b));
        apart += (a - b) * (a - b);
        of_a += a * a;
        of_b += b * b;
    }
    // Two rows of zeros are equal. What is not finite is as far off as can be.
    let distance = if apart == 0.0 { 0.0 } else { apart.sqrt() / f64::midpoint(of_a.sqrt(), of_b.sqrt()) };
    if distance.is_finite() { distance.min(2.0) } else { 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::{Replica, Stacked, Sum};

    fn check(code: &dyn Code, outputs: &[&[f32]]) -> (f64, Option<usize>) {
        let residual = residual(code, outputs, &mut Vec::new()).unwrap();
        (residual, odd(code, outputs, residual, &mut Vec::new()))
    }

    #[test]
    fn rows_that_fit_have_no_residual_and_no_odd_slot() {
        let sum = Sum::with_defaults(2, 1).unwrap();
        let (residual, odd) = check(&sum, &[&[1.0, 2.0], &[3.0, -1.0], &[4.0, 1.0]]);
        assert!(residual < 1e-6 && odd.is_none(), "{residual} {odd:?}");
    }

    #[test]
    fn with_one_parity_a_wrong_row_is_seen_and_not_located() {
        let sum = Sum::with_defaults(2, 1).unwrap();
        let (residual, odd) = check(&sum, &[&[1.0, 2.0], &[0.0, 2.0], &[4.0, 1.0]]);
        assert!(residual > 0.5 && odd.is_none(), "{residual} {odd:?}");
    }

    #[test]
    fn with_two_parities_it_is_located_wherever_it_is() {
        let sum = Sum::with_defaults(2, 2).unwrap();
        // Rows (1, 1) and (1, -1).
        let right: [&[f32]; 4] = [&[1.0, 2.0], &[3.0, -1.0], &[4.0, 1.0], &[-2.0, 3.0]];
        for slot in 0..4 {
            let mut rows = right;
            rows[slot] = &[-5.0, 0.5];
            assert_eq!(check(&sum, &rows).1, Some(slot));
        }
    }

    #[test]
    fn where_parity_alone_decodes_each_member_a_wrong_member_is_located() {
        let compact = Stacked::compact(2).unwrap();
        // The parity slot holds a row for each member.
        assert_eq!(check(&compact, &[&[-5.0, 0.5], &[3.0, -1.0], &[1.0, 2.0, 3.0, -1.0]]).1, Some(0));
    }

    #[test]
    fn of_a_row_and_its_copy_neither_is_blamed_alone() {
        let replica = Replica::new(2).unwrap();
        let right: [&[f32]; 4] = [&[1.0, 2.0], &[3.0, -1.0], &[1.0, 2.0], &[3.0, -1.0]];
        for slot in 0..4 {
            let mut rows = right;
            rows[slot] = &[-5.0, 0.5];
            let (residual, odd) = check(&replica, &rows);
            assert!(residual > 0.5 && odd.is_none(), "slot {slot}: {residual} {odd:?}");
        }
    }

    #[test]
    fn what_is_not_finite_is_as_far_off_as_can_be() {
        assert_eq!(distance(&[f32::NAN], &[1.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(distance(&[0.0], &[0.0]).to_bits(), 0.0_f64.to_bits());
    }
}
