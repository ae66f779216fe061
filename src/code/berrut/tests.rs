//! Interpolation against values worked out by hand, against polynomials, and with workers that are wrong.

use super::*;

/// A fixed linear model of two inputs and three classes.
fn linear(row: &[f32]) -> Vec<f32> {
    vec![row[0] - 2.0 * row[1], 0.5 * row[0] + row[1], 3.0 * row[1]]
}

/// What the workers return for `rows`.
fn returned(code: &Berrut, rows: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let run = |worker| {
        let mut query = vec![f32::NAN; 2];
        code.encode(worker, &rows, &mut query);
        linear(&query)
    };
    (0..code.r()).map(run).collect()
}

fn at_hand<'a>(code: &Berrut, returned: &'a [Vec<f32>], missing: &[usize]) -> Vec<Option<&'a [f32]>> {
    let workers = returned.iter().enumerate().map(|(worker, output)| (!missing.contains(&worker)).then_some(&**output));
    std::iter::repeat_n(None, code.k()).chain(workers).collect()
}

fn rows(k: usize) -> Vec<Vec<f32>> {
    (0..k).map(|i| vec![i as f32 * 0.7 - 1.0, 2.0 - (i * i) as f32 * 0.3]).collect()
}

fn distance(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| (left - right).abs()).fold(0.0, f32::max)
}

/// Two rows on three workers: the points are ±√½ and 1, 0, -1, so the coded rows can be worked out by hand.
#[test]
fn two_rows_are_coded_as_by_hand() {
    let code = Berrut::new(2, 1, 0).unwrap();
    let expected = [[1.2071, -0.2071], [0.5, 0.5], [-0.2071, 1.2071]];
    for (found, expected) in code.encoder.iter().zip(expected) {
        assert!(distance(found, &expected) < 1e-4, "{found:?}");
    }
}

/// With two rows the interpolant is a straight line, so a linear model comes back exactly whoever is missing.
#[test]
fn two_rows_of_a_linear_model_come_back_exactly() {
    let (code, rows) = (Berrut::new(2, 1, 0).unwrap(), rows(2));
    let returned = returned(&code, &rows);
    for missing in 0..3 {
        for (slot, row) in rows.iter().enumerate() {
            let decoded = code.decode(slot, &at_hand(&code, &returned, &[missing])).unwrap();
            assert!(distance(&decoded, &linear(row)) < 1e-4, "slot {slot} without worker {missing}: {decoded:?}");
        }
    }
    assert_eq!(code.decode(0, &at_hand(&code, &returned, &[0, 1])), None);
}

/// More rows are approximated: better the more workers return, and the weights of each answer always sum to 1, so a constant is exact.
#[test]
fn more_workers_approximate_better_and_constants_are_exact() {
    let rows = rows(4);
    let worst = |r: usize| {
        let code = Berrut::new(4, r, 0).unwrap();
        let returned = returned(&code, &rows);
        let error =
            |slot: usize| distance(&code.decode(slot, &at_hand(&code, &returned, &[])).unwrap(), &linear(&rows[slot]));
        (0..4).map(error).fold(0.0, f32::max)
    };
    assert!(worst(10) < 0.5 * worst(1), "{} against {}", worst(10), worst(1));
    let code = Berrut::new(4, 2, 0).unwrap();
    let returned = returned(&code, &vec![vec![0.3, -0.4]; 4]);
    for slot in 0..4 {
        let decoded = code.decode(slot, &at_hand(&code, &returned, &[1, 4])).unwrap();
        assert!(distance(&decoded, &linear(&[0.3, -0.4])) < 1e-4);
    }
}

/// k = 3 on 5 workers: the middle worker stands at the point of the middle row, where the interpolant would divide by zero.
#[test]
fn points_that_collide_are_taken_as_they_are() {
    let code = Berrut::new(3, 2, 0).unwrap();
    assert_eq!(code.encoder[2], [0.0, 1.0, 0.0]);
    let rows = rows(3);
    let returned = returned(&code, &rows);
    let decoded = code.decode(1, &at_hand(&code, &returned, &[0, 4])).unwrap();
    assert!(distance(&decoded, &linear(&rows[1])) < 1e-5);
    for (k, r) in (2..=8).flat_map(|k| (1..=4).map(move |r| (k, r))) {
        let code = Berrut::new(k, r, 0).unwrap();
        let sums = code.encoder.iter().map(|row| row.iter().sum::<f32>());
        assert!(sums.into_iter().all(|sum| (sum - 1.0).abs() < 1e-3), "k = {k}, r = {r}");
    }
}

/// Whichever workers are wrong, and however few of those that may be: they are left out, so the answers are those without them.
#[test]
fn erroneous_workers_are_found_and_left_out() {
    let sizes = [(2, 1, 0), (2, 1, 1), (2, 2, 0), (2, 2, 1), (2, 3, 0), (3, 1, 0), (3, 2, 1), (4, 1, 0)];
    let sizes_and_wrong = sizes.iter().flat_map(|&size| (1..=size.1).map(move |wrong| (size, wrong)));
    for ((k, errors, stragglers), wrong) in sizes_and_wrong {
        let r = k + 2 * errors + stragglers - 1;
        let code = Berrut::new(k, r, errors).unwrap();
        assert_eq!(code.stragglers(), stragglers);
        let (rows, n) = (rows(k), code.r());
        let right = returned(&code, &rows);
        for first in 0..n {
            let wrong: Vec<usize> = (0..wrong).map(|error| (first + 2 * error) % n).collect();
            let late: Vec<usize> = (0..stragglers).map(|late| (first + 1 + 2 * late) % n).collect();
            let mut spoiled = right.clone();
            for &worker in &wrong {
                spoiled[worker] = spoiled[worker].iter().map(|value| 5.0 - 3.0 * value).collect();
            }
            let present =
                SlotSet::below(n).without(late.iter().fold(SlotSet::EMPTY, |all, &one| all.with(SlotSet::only(one))));
            let trusted = code.trusted(present, &at_hand(&code, &spoiled, &late));
            assert!(
                wrong.iter().all(|&worker| !trusted.has(worker)),
                "k = {k}, E = {errors}: {wrong:?} in {trusted:?}"
            );
            assert_eq!(trusted.count(), present.count() - errors);
        }
    }
}

#[test]
fn too_few_workers_for_errors_are_refused() {
    assert_eq!(Berrut::new(2, 2, 1).err(), Some(CodeError::Errors { k: 2, r: 2, errors: 1, least: 3 }));
    assert!(Berrut::new(8, 1, 0).is_ok() && Berrut::new(16, 8, 0).is_err());
}
