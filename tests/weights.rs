//! The shipped weights are what their manifests say: they load, their canaries answer, and their accuracies hold on real images.
//!
//! The images are the first 100 of each class of the test set (`tests/data`). A share p measured on all 10,000 shows on n of them with
//! a standard deviation of at most sqrt(p (1 - p) / n); three of those are allowed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parityd::{
    code::{Code, Kind, Spec},
    eval::{self, MeasureOptions, Row},
    health::drift::Drift,
    model::Device,
    weights::{Bundle, Measured, canary, oracle},
};
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use tempfile::TempDir;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped() -> Vec<PathBuf> {
    eval::shipped(&repository().join("weights")).expect("the repository ships weights")
}

fn base(dir: &Path) -> Bundle {
    Bundle::load(dir, None).expect("shipped weights load")
}

/// Each shipped code: its folder, itself, its checked weights.
fn codes() -> Vec<(PathBuf, Arc<dyn Code>, Bundle)> {
    let mut codes = Vec::new();
    for dir in shipped() {
        for code in base(&dir).manifest().codes(&dir).expect("shipped codes are whole") {
            let bundle = Bundle::load(&dir, Some(&*code)).expect("shipped weights load");
            codes.push((dir.clone(), code, bundle));
        }
    }
    codes
}

#[test]
fn the_promised_sets_are_there() {
    let found: Vec<(String, usize, usize)> =
        codes().iter().map(|(_, code, bundle)| (bundle.signature().name, code.k(), code.r())).collect();
    for (name, k, r) in [("fashion-mnist", 2, 1), ("fashion-mnist-mlp", 2, 1), ("fashion-mnist-mlp", 4, 1)] {
        assert!(found.contains(&(name.to_owned(), k, r)), "{name} with k = {k}, r = {r} is not in {found:?}");
    }
    for (dir, _, bundle) in codes() {
        let signature = bundle.signature();
        assert!(dir.ends_with(Path::new(&signature.name).join(&signature.version)), "{}", dir.display());
        assert_eq!(
            (signature.input.shape.as_slice(), signature.output.shape.as_slice()),
            (&[1, 28, 28][..], &[10][..])
        );
        assert_eq!(signature.labels.len(), 10);
    }
}

#[test]
fn canaries_answer_as_the_manifest_says() {
    for (dir, code, bundle) in codes() {
        let canary = bundle.canary(None);
        let base = bundle.base(&Device::Cpu).unwrap();
        let agrees = |expected: &[f32], found: &[f32]| canary::agrees(expected, found, canary.tolerance);
        assert!(agrees(&canary.base, &base.predict(&canary.rows[0]).unwrap()), "base of {}", dir.display());
        for (row, expected) in canary.parities.iter().enumerate() {
            let query = canary::parity_query(&*code, row, base.width());
            let found = bundle.parity(row, &Device::Cpu).unwrap().predict(&query).unwrap();
            assert!(agrees(expected, &found), "parity row {row} of {}", dir.display());
            let other = base.predict(&query).unwrap();
            assert!(!agrees(expected, &other), "a canary that the base model passes proves nothing");
        }
    }
}

/// Accuracies on the subset.
fn measure(dir: &Path, seeds: &[u64]) -> Vec<Row> {
    let options = MeasureOptions { seeds, device: Device::Cpu, timed: false };
    eval::measure(dir, &repository().join("tests/data"), &options).expect("shipped weights are measured")
}

/// How far below the recorded share `p` a share of `n` may be.
fn slack(p: f64, n: usize) -> f64 {
    3.0 * (p * (1.0 - p) / n as f64).sqrt()
}

#[test]
fn recorded_accuracies_hold_on_the_subset() {
    for dir in shipped() {
        let bundle = base(&dir);
        let recorded = &bundle.manifest().measured;
        let rows = measure(&dir, &[0]);
        assert_eq!(rows.len(), recorded.len(), "run `parityd eval --all --record`");
        for row in rows {
            let of_row =
                |measured: &&Measured| (measured.code.as_str(), measured.k, measured.r) == (row.code, row.k, row.r);
            let recorded = recorded.iter().find(of_row).expect("every shipped code was measured");
            assert_eq!(recorded.weights_sha256, row.weights_sha256, "measured on other weights");
            assert_eq!((recorded.rows, row.rows), (10_000, 1_000));
            let a_a = recorded.a_a - slack(recorded.a_a, row.rows);
            assert!(row.a_a >= a_a, "A_a of {} is {}, under {a_a}", dir.display(), row.a_a);
            let (recorded, found) = (recorded.a_d.unwrap(), row.a_d.unwrap());
            let a_d = recorded - slack(recorded, row.rows);
            assert!(found >= a_d, "A_d of {} with k = {} is {found}, under {a_d}", dir.display(), row.k);
            if row.code == "berrut" {
                // It has no weights of its own to calibrate.
                continue;
            }
            let error = row.calibration_error.expect("every shipped code is calibrated");
            // A thousand rows in 15 bins are off by some 5 points by chance alone; `sum` without a temperature is by 15.
            assert!(error < 0.08, "confidences of {} with k = {} are off by {error}", row.code, row.k);
            let served: Vec<f64> = row.coverage.iter().map(|at| at.a_d).collect();
            // Of fewer than 800 rows, one more or less is chance.
            assert!(
                served[..5].is_sorted() && served[4] > served[0] + 0.03,
                "{} with k = {}: {served:?}",
                row.code,
                row.k
            );
        }
    }
}

#[test]
fn accuracies_are_those_that_were_asked_for() {
    for dir in shipped() {
        let manifest = base(&dir).manifest().clone();
        let least = match manifest.deployment.name.as_str() {
            "fashion-mnist" => 0.905,
            "fashion-mnist-resnet18" => 0.92,
            _ => 0.885,
        };
        for measured in manifest.measured {
            assert!(measured.a_a >= least, "A_a of {} is {}", dir.display(), measured.a_a);
            if measured.k == 2 && measured.code != "berrut" {
                let a_d = measured.a_d.unwrap();
                assert!(measured.a_a - a_d <= 0.11, "A_d of {} is {a_d}", dir.display());
            }
        }
    }
}

/// The calibrations are of these weights (or they would not load), and agreement on the validation images is as on the test images.
#[test]
fn every_shipped_code_is_calibrated() {
    for (dir, code, bundle) in codes() {
        let calibration = bundle.calibration().expect("run `parityd train calibrate`");
        assert_eq!(calibration.rows, 5_000 - 5_000 % code.k());
        let agreement = measured_agreement(&*code, &bundle);
        let off = (calibration.agreement - agreement).abs();
        assert!(
            off < 0.02,
            "{code:?} of {} agrees in {agreement}, calibrated in {}",
            dir.display(),
            calibration.agreement
        );
    }
}

/// Whoever serves pictures like the test images is not alarmed: a hundred thousand comparisons that agree as often as `eval` measured.
#[test]
fn the_test_images_are_no_drift() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for (dir, code, bundle) in codes() {
        let calibration = bundle.calibration().expect("every shipped code is calibrated");
        let agreement = measured_agreement(&*code, &bundle);
        let mut drift = Drift::new(calibration.agreement, calibration.rows);
        let alarm = (0..100_000).find(|_| drift.compared(random.random_bool(agreement)).is_some());
        assert_eq!(alarm, None, "{code:?} of {}: {agreement} under {}", dir.display(), calibration.agreement);
    }
}

/// The share of agreement that `eval --record` measured. With r = 2 that has double losses, too, and calibrations have not.
fn measured_agreement(code: &dyn Code, bundle: &Bundle) -> f64 {
    let of_code = |measured: &&Measured| {
        (measured.code.as_str(), measured.k, measured.r) == (code.kind().as_str(), code.k(), code.r())
    };
    bundle.manifest().measured.iter().filter(of_code).find_map(|measured| measured.agreement).expect("it was measured")
}

/// What the documents say of the codes that are shipped as the best of their kind, from what `eval --record` measured.
#[test]
fn the_best_codes_lose_no_more_than_the_documents_say() {
    let most = [
        ("fashion-mnist", "compact", 2, 0.018),
        ("fashion-mnist", "compact", 4, 0.038),
        ("fashion-mnist-mlp", "sum", 2, 0.06),
        ("fashion-mnist-mlp-learned-mlp", "learned", 2, 0.03),
    ];
    for (name, code, k, most) in most {
        let dir = repository().join("weights").join(name).join("1");
        let measured = base(&dir).manifest().measured.clone();
        let row = measured.iter().find(|row| (row.code.as_str(), row.k, row.r) == (code, k, 1)).expect(name);
        let lost = row.a_a - row.a_d.unwrap();
        assert!(lost <= most, "{code} with k = {k} on {name} loses {lost:.4}");
    }
}

#[test]
fn parity_models_are_not_the_base_model() {
    for (_, code, bundle) in codes() {
        let base = bundle.base(&Device::Cpu).unwrap();
        for parity in 0..code.r() {
            let query = canary::parity_query(&*code, parity, base.width());
            let found = bundle.parity(parity, &Device::Cpu).unwrap().predict(&query).unwrap();
            assert_ne!(found, base.predict(&query).unwrap());
        }
    }
}

/// A linear model is its own parity model, so whatever is lost comes back with the class of the direct answer, but for near ties.
#[test]
fn linear_weights_reconstruct_every_pattern_exactly() {
    for (kind, k, r) in [(Kind::Sum, 2, 1), (Kind::Sum, 3, 2), (Kind::Compact, 2, 1)] {
        let dir = TempDir::new().unwrap();
        let code = Spec::of(kind, k, r).build(&[1, 28, 28], None).unwrap();
        oracle::write(dir.path(), &[1, 28, 28], 10, &*code).unwrap();
        let rows = measure(dir.path(), &[0, 1]);
        let row = rows.first().expect("it has one code");
        assert!(row.agreement.unwrap() > 0.998, "agreement {:?} with k = {k}, r = {r}", row.agreement);
        assert_eq!(row.a_d_by_pattern.len(), if r == 1 { k } else { k * (k + 1) / 2 });
    }
}
