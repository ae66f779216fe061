//! Pictures as they might have been taken as well: mirrored, and moved by up to two pixels.
//!
//! True of clothes, which is what Fashion-MNIST shows; it would not be true of digits or letters. A preset asks for it by name. What a
//! parity model must give for such a picture is computed anew from it, unlike in the papers, which keep the target of the untouched one.

use rand::{Rng, RngExt};

/// How far a picture is moved at most, in pixels.
const SHIFT_MAX: usize = 2;

/// Appends one variant of `row`, a picture of `height` x `width`, to `rows`. What comes into view is background, 0.
pub(super) fn append(row: &[f32], (height, width): (usize, usize), rng: &mut impl Rng, rows: &mut Vec<f32>) {
    let mirrored = rng.random_bool(0.5);
    let (down, right) = (rng.random_range(0..=2 * SHIFT_MAX), rng.random_range(0..=2 * SHIFT_MAX));
    for y in 0..height {
        for x in 0..width {
            // Where this pixel was: a shift of SHIFT_MAX is none.
            let (from_y, from_x) = ((y + SHIFT_MAX).wrapping_sub(down), (x + SHIFT_MAX).wrapping_sub(right));
            let seen = from_y < height && from_x < width;
            rows.push(match (seen, mirrored) {
                (false, _) => 0.0,
                (true, false) => row[from_y * width + from_x],
                (true, true) => row[from_y * width + width - 1 - from_x],
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

    use super::*;

    #[test]
    fn every_variant_is_the_picture_mirrored_or_moved() {
        let row: Vec<f32> = (1_u8..=48).map(f32::from).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = BTreeSet::new();
        for _ in 0..1000 {
            let mut variant = Vec::new();
            append(&row, (6, 8), &mut rng, &mut variant);
            assert_eq!(variant.len(), row.len());
            let kept: Vec<f32> = variant.iter().copied().filter(|value| *value > 0.0).collect();
            assert!(kept.len() >= 4 * 6, "at most two lines and two columns leave the picture");
            assert!(kept.iter().all(|value| row.contains(value)));
            seen.insert(variant.iter().map(|value| value.to_bits()).collect::<Vec<_>>());
        }
        assert_eq!(seen.len(), 2 * 5 * 5, "both sides, and each of five shifts in two directions");
        assert!(seen.contains(&row.iter().map(|value| value.to_bits()).collect::<Vec<_>>()));
    }
}
