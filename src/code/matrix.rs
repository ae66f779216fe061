//! Tiny dense matrices in f64: just enough to check coefficients and to decode with them.
//!
//! Everything goes by Gram-Schmidt on columns, each twice (Giraud et al., Numer. Math. 101, 2005: twice is enough). The normal equations would be
//! shorter, and square the condition: they fail where the columns themselves can still be told apart. A linear-algebra crate would bring more code than
//! the functions here replace.

/// A column of whose length less than this share is left beside the columns before it depends on them. Entries are f32 values, some of which passed
/// through a model, so the rounding of a dependent column leaves some 1e-7.
const RANK_MIN: f64 = 1e-6;

/// A column that does not depend on those before it.
struct Kept {
    /// Its place among all columns.
    place: usize,
    /// Its direction beside those of the columns that were kept before.
    direction: Vec<f64>,
    /// What of it lies along these, and along its own.
    along: Vec<f64>,
}

/// The least-squares inverse `(aᵀ a)⁻¹ aᵀ` of a tall matrix, given as `columns`: a row for each of them; the inverse if it is square. `None` if
/// one depends on others.
pub(super) fn pseudo_inverse(columns: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
    let kept = independent(columns);
    if kept.len() < columns.len() {
        return None;
    }
    let mut inverse: Vec<Vec<f64>> = kept.iter().map(|kept| kept.direction.clone()).collect();
    for (last, Kept { along, .. }) in kept.iter().enumerate().rev() {
        let (before, from) = inverse.split_at_mut(last);
        let row = from.first_mut()?;
        for value in &mut *row {
            *value /= along[last];
        }
        for (before, share) in before.iter_mut().zip(along) {
            subtract(before, row, *share);
        }
    }
    Some(inverse)
}

/// The x that brings the sum of `columns[j] x[j]` nearest to `values`. A column that depends on those before it gets 0: of all solutions, one
/// that does with the earlier columns.
pub(super) fn least_squares(columns: &[Vec<f64>], values: &[f64]) -> Vec<f64> {
    let kept = independent(columns);
    let mut shares: Vec<f64> = kept.iter().map(|kept| dot(&kept.direction, values)).collect();
    let mut solution = vec![0.0; columns.len()];
    for (last, Kept { place, along, .. }) in kept.iter().enumerate().rev() {
        let weight = shares[last] / along[last];
        subtract(&mut shares[..last], &along[..last], weight);
        solution[*place] = weight;
    }
    solution
}

/// The columns that do not depend on those before them.
fn independent(columns: &[Vec<f64>]) -> Vec<Kept> {
    let mut kept: Vec<Kept> = Vec::with_capacity(columns.len());
    for (place, column) in columns.iter().enumerate() {
        let (mut rest, mut along) = (column.clone(), vec![0.0; kept.len()]);
        for _ in 0..2 {
            for (share, Kept { direction, .. }) in along.iter_mut().zip(&kept) {
                let projection = dot(direction, &rest);
                *share += projection;
                subtract(&mut rest, direction, projection);
            }
        }
        let left = length(&rest);
        if left > RANK_MIN * length(column) {
            for value in &mut rest {
                *value /= left;
            }
            along.push(left);
            kept.push(Kept { place, direction: rest, along });
        }
    }
    kept
}

/// How long a row or column is.
pub(super) fn length(values: &[f64]) -> f64 {
    dot(values, values).sqrt()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn subtract(row: &mut [f64], other: &[f64], factor: f64) {
    for (value, other) in row.iter_mut().zip(other) {
        *value -= factor * other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(found: &[f64], expected: &[f64]) -> bool {
        found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-9)
    }

    /// The line through (0, 1), (1, 2), (2, 4) by least squares is 5/6 + 3/2 x.
    #[test]
    fn a_line_is_fitted() {
        let columns = [vec![1.0, 1.0, 1.0], vec![0.0, 1.0, 2.0]];
        assert!(is(&least_squares(&columns, &[1.0, 2.0, 4.0]), &[5.0 / 6.0, 1.5]));
    }

    /// One part in a hundred thousand of them is apart; of what normal equations hold of them, one in ten thousand million.
    #[test]
    fn columns_that_are_near_each_other_are_told_apart() {
        let columns = [vec![1.0, 1.0, 1.0], vec![1.0, 1.0, 1.0 + 1e-5]];
        let inverse = pseudo_inverse(&columns).unwrap();
        for (place, row) in inverse.iter().enumerate() {
            let products: Vec<f64> = columns.iter().map(|column| dot(row, column)).collect();
            assert!(is(&products, &[f64::from(u8::from(place == 0)), f64::from(u8::from(place == 1))]), "{products:?}");
        }
        assert!(pseudo_inverse(&[vec![1.0, 1.0], vec![2.0, 2.0]]).is_none());
    }

    #[test]
    fn a_column_that_depends_on_earlier_ones_gets_nothing() {
        let columns = [vec![1.0, 1.0, 1.0], vec![2.0, 2.0, 2.0 + 1e-7], vec![0.0, 0.0, 0.0], vec![0.0, 1.0, 2.0]];
        let found = least_squares(&columns, &[1.0, 3.0, 5.0]);
        assert!(is(&found, &[1.0, 0.0, 0.0, 2.0]), "{found:?}");
    }
}
