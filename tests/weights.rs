//! The shipped weights are what their manifests say: they load, their canaries answer, and their accuracies hold on real images.
//!
//! The images are the first 100 of each class of the test set (`tests/data`). A share p measured on all 10,000 shows on n of them with
//! a standard deviation of at most sqrt(p (1 - p) / n); three of those are allowed.

use std::path::{Path, PathBuf};

use parityd::{
    code::{Code, Sum},
    eval,
    model::{Device, Net},
    weights::{Bundle, Measured, canary, oracle},
};
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
fn codes() -> Vec<(PathBuf, Sum, Bundle)> {
    let mut codes = Vec::new();
    for dir in shipped() {
        for code in base(&dir).manifest().codes(&dir).expect("shipped codes are whole") {
            let bundle = Bundle::load(&dir, Some(&code)).expect("shipped weights load");
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
        let canary = bundle.canary();
        let base = bundle.base(&Device::Cpu).unwrap();
        assert!(canary::agrees(&canary.base, &base.predict(&canary.rows[0]).unwrap()), "base of {}", dir.display());
        for (row, expected) in canary.parities.iter().enumerate() {
            let query = canary::parity_query(&code, row, base.width());
            let found = bundle.parity(row, &Device::Cpu).unwrap().predict(&query).unwrap();
            assert!(canary::agrees(expected, &found), "parity row {row} of {}", dir.display());
            let other = base.predict(&query).unwrap();
            assert!(!canary::agrees(expected, &other), "a canary that the base model passes proves nothing");
        }
    }
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
        let rows = eval::measure(&dir, &repository().join("tests/data"), &[0]).unwrap();
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
        }
    }
}

#[test]
fn accuracies_are_those_that_were_asked_for() {
    for dir in shipped() {
        let manifest = base(&dir).manifest().clone();
        let least = if manifest.deployment.name == "fashion-mnist" { 0.905 } else { 0.885 };
        for measured in manifest.measured {
            assert!(measured.a_a >= least, "A_a of {} is {}", dir.display(), measured.a_a);
            if measured.k == 2 {
                let a_d = measured.a_d.unwrap();
                assert!(measured.a_a - a_d <= 0.11, "A_d of {} is {a_d}", dir.display());
            }
        }
    }
}

#[test]
fn parity_models_are_not_the_base_model() {
    for (_, code, bundle) in codes() {
        let row = bundle.canary().rows[0].to_vec();
        let run = |net: Net| net.predict(&row).unwrap();
        let base = run(bundle.base(&Device::Cpu).unwrap());
        for parity in 0..code.r() {
            assert_ne!(base, run(bundle.parity(parity, &Device::Cpu).unwrap()));
        }
    }
}

/// A linear model is its own parity model, so whatever is lost comes back with the class of the direct answer, but for near ties.
#[test]
fn linear_weights_reconstruct_every_pattern_exactly() {
    for (k, r) in [(2, 1), (3, 2)] {
        let dir = TempDir::new().unwrap();
        let code = Sum::with_defaults(k, r).unwrap();
        oracle::write(dir.path(), &[1, 28, 28], 10, &code).unwrap();
        let rows = eval::measure(dir.path(), &repository().join("tests/data"), &[0, 1]).unwrap();
        let row = rows.first().expect("it has one code");
        assert!(row.agreement.unwrap() > 0.998, "agreement {:?} with k = {k}, r = {r}", row.agreement);
        assert_eq!(row.a_d_by_pattern.len(), if r == 1 { k } else { k * (k + 1) / 2 });
    }
}
