//! Tiny dense matrices in f64: just enough to check coefficients and to invert what is at most 8 x 8.
//!
//! Gaussian elimination with partial pivoting. A linear-algebra crate would bring more code than the two functions here replace.

/// A pivot smaller than this, relative to the largest entry, counts as zero.
const PIVOT_MIN: f64 = 1e-9;

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

fn subtract(row: &mut [f64], other: &[f64], factor: f64) {
    for (value, other) in row.iter_mut().zip(other) {
        *value -= factor * other;
    }
}
