//! Which losses are tried, and what becomes of what was measured.

use super::*;
use crate::{code::Sum, weights::oracle};

/// Linear weights that are their own parity models, for rows of the images of the tests.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    oracle::write(dir.path(), &[1, 28, 28], 10, &Sum::with_defaults(2, 1).unwrap()).unwrap();
    dir
}

fn measured(dir: &Path) -> Vec<Row> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    measure(dir, &data, &MeasureOptions { seeds: &[0], device: Device::Cpu, timed: false }).unwrap()
}

#[test]
fn what_was_measured_of_other_weights_is_not_recorded() {
    let dir = folder();
    let rows = measured(dir.path());
    record(dir.path(), &rows).unwrap();
    let mut manifest = Manifest::read(dir.path()).unwrap();
    assert_eq!(manifest.measured.len(), rows.len());
    assert!(manifest.measured.iter().all(|measured| measured.fits(&manifest)));
    // While somebody measures, somebody else trains.
    manifest.measured.clear();
    manifest.parities[0].sha256 = "0".repeat(64);
    manifest.write(dir.path()).unwrap();
    let refused = record(dir.path(), &rows).unwrap_err().to_string();
    assert!(
        refused.ends_with("names other weights than those that were measured; run `parityd eval --record` again"),
        "{refused}"
    );
    assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
    // What needs no parity model is as it was.
    let rest: Vec<Row> = rows.into_iter().filter(|row| row.code != "sum").collect();
    record(dir.path(), &rest).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap().measured.len(), rest.len());
}

#[test]
fn weights_that_cannot_be_used_are_found_before_anything_is_measured() {
    let dir = folder();
    may_measure(dir.path()).unwrap();
    fs::write(dir.path().join("sum-k2-r1/row0.safetensors"), "broken").unwrap();
    assert!(may_measure(dir.path()).unwrap_err().to_string().contains("row0.safetensors: has SHA-256"));
}

#[test]
fn patterns_are_the_recoverable_ones() {
    let names = |k, r| -> Vec<String> {
        let patterns = patterns(&Sum::with_defaults(k, r).unwrap());
        patterns.into_iter().map(|pattern| named(&(pattern, 0.0)).0).collect()
    };
    assert_eq!(names(2, 1), ["0", "1"]);
    assert_eq!(names(3, 2), ["0", "1", "2", "0,1", "0,2", "1,2"]);
}

#[test]
fn a_look_makes_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("not there");
    may_record(&missing).unwrap();
    assert!(!missing.exists());
    assert!(may_record(Path::new("/proc")).is_err());
}

#[test]
fn spread_is_that_of_a_sample() {
    let (mean, sd) = mean_and_sd(&[1.0, 2.0, 3.0]);
    assert!((mean - 2.0).abs() < 1e-12 && (sd - 1.0).abs() < 1e-12);
    assert!(mean_and_sd(&[0.5]).1.abs() < 1e-12);
}
