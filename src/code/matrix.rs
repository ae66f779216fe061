//! Tiny dense matrices in f64: just enough to check coefficients and to invert what is at most 8 x 8.
//!
//! Gaussian elimination with partial pivoting. A linear-algebra crate would bring more code than the functions here replace.

/// A pivot smaller than this, relative to the largest entry, counts as zero.
const PIVOT_MIN: f64 = 1e-9;

/// A column of whose length less than this share is left beside the columns before it depends on them. Entries are f32 values that passed
/// through a model, so the rounding of a dependent column leaves some 1e-7.
const RANK_MIN: f64 = 1e-6;

/// Solves `a x = b` for square `a` (row-major, both consumed) and several right-hand sides; `None` if `a` is singular.
pub(super) fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    let n = a.len();
    let scale = a.iter().flatten().fold(0.0_f64, |most, value| most.max(value.abs()));
    for column in 0..n {
        let pivot = (column..n).max_by(|&i, &j| a[i][column].abs().total_cmp(&a[j][column].abs()))?;
        if a[pivot][column].abs() <= PIVOT_MIN * scale {
            return None;
        }
        a.swap(column, pivot);
        b.swap(column, pivot);
        let (pivot_a, pivot_b) = (a[column].clone(), b[column].clone());
        for row in (0..n).filter(|&row| row != column) {
            let factor = a[row][column] / pivot_a[column];
            subtract(&mut a[row], &pivot_a, factor);
            subtract(&mut b[row], &pivot_b, factor);
        }
    }
    for row in 0..n {
        let pivot = a[row][row];
        b[row].iter_mut().for_each(|value| *value /= pivot);
    }
    Some(b)
}

/// The least-squares inverse `(aᵀ a)⁻¹ aᵀ` of a tall matrix (rows ≥ columns); the inverse if it is square. `None` if rank is missing.
pub(super) fn pseudo_inverse(a: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
    let columns = a.first()?.len();
    let transposed: Vec<Vec<f64>> = (0..columns).map(|column| a.iter().map(|row| row[column]).collect()).collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let gram = transposed.iter().map(|x| transposed.iter().map(|y| dot(x, y)).collect()).collect();
    solve(gram, transposed.clone())
}

/// The x that brings the sum of `columns[j] x[j]` nearest to `values`. A column that depends on those before it gets 0: of all solutions, one
/// that does with the earlier columns. Gram-Schmidt, each column twice (Giraud et al., Numer. Math. 101, 2005: twice is enough).
pub(super) fn least_squares(columns: &[Vec<f64>], values: &[f64]) -> Vec<f64> {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let norm = |x: &[f64]| dot(x, x).sqrt();
    // For each column that is kept: its place, its direction, and what of it lies along the directions before.
    let mut kept: Vec<(usize, Vec<f64>, Vec<f64>)> = Vec::new();
    for (place, column) in columns.iter().enumerate() {
        let (mut rest, mut along) = (column.clone(), vec![0.0; kept.len()]);
        for _ in 0..2 {
            for (share, (_, direction, _)) in along.iter_mut().zip(&kept) {
                let projection = dot(direction, &rest);
                *share += projection;
                subtract(&mut rest, direction, projection);
            }
        }
        let length = norm(&rest);
        if length > RANK_MIN * norm(column) {
            for value in &mut rest {
                *value /= length;
            }
            along.push(length);
            kept.push((place, rest, along));
        }
    }
    let mut shares: Vec<f64> = kept.iter().map(|(_, direction, _)| dot(direction, values)).collect();
    let mut solution = vec![0.0; columns.len()];
    for (last, (place, _, along)) in kept.iter().enumerate().rev() {
        let weight = shares[last] / along[last];
        subtract(&mut shares[..last], &along[..last], weight);
        solution[*place] = weight;
    }
    solution
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

    #[test]
    fn a_column_that_depends_on_earlier_ones_gets_nothing() {
        let columns = [vec![1.0, 1.0, 1.0], vec![2.0, 2.0, 2.0 + 1e-7], vec![0.0, 0.0, 0.0], vec![0.0, 1.0, 2.0]];
        let found = least_squares(&columns, &[1.0, 3.0, 5.0]);
        assert!(is(&found, &[1.0, 0.0, 0.0, 2.0]), "{found:?}");
    }
}
