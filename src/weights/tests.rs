//! Folders of weights that are right, and every way in which one is refused.

use std::{fs, thread};

use tempfile::TempDir;

use super::*;
use crate::code::{Spec, Sum};

const SHAPE: [usize; 3] = [1, 4, 4];

fn code() -> Sum {
    Sum::with_defaults(2, 2).unwrap()
}

fn folder() -> TempDir {
    let dir = TempDir::new().unwrap();
    oracle::write(dir.path(), &SHAPE, 3, &code()).unwrap();
    dir
}

/// Changes the manifest of a good folder and gives the faults that this makes.
fn faults(change: impl FnOnce(&mut Manifest, &Path)) -> Vec<String> {
    let dir = folder();
    let mut manifest = Manifest::read(dir.path()).unwrap();
    change(&mut manifest, dir.path());
    manifest.write(dir.path()).unwrap();
    let error = Bundle::load(dir.path(), Some(&code())).unwrap_err();
    error.faults.iter().map(Fault::to_string).collect()
}

#[track_caller]
fn assert_faults(found: &[String], expected: &[&str]) {
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found} does not say {expected}");
        assert!(found.contains(';'), "{found} names no next step");
    }
}

#[test]
fn a_file_that_may_not_be_read_need_not_be_made_again() {
    let told = |kind: io::ErrorKind| unread(Path::new("base.safetensors"), &kind.into(), "train it again").to_string();
    assert!(told(io::ErrorKind::PermissionDenied).ends_with("make it readable for the user that parityd runs as"));
    assert!(told(io::ErrorKind::NotFound).ends_with("train it again"));
}

/// A supervisor tries again only where that is all that is wrong.
#[test]
fn a_file_for_which_there_are_no_means_may_be_read_later() {
    let lacks = |next| unread(Path::new("base.safetensors"), &io::Error::from_raw_os_error(24), next);
    assert!(lacks("train it again").to_string().ends_with("raise LimitNOFILE= (ulimit -n)"));
    let faults = |absent: &[Fault]| WeightsError { faults: [&[lacks("train it again")], absent].concat() };
    assert!(faults(&[]).may_pass());
    let absent = unread(Path::new("row0.safetensors"), &io::ErrorKind::NotFound.into(), "train it again");
    assert!(!faults(&[absent]).may_pass());
}

fn names(dir: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn changes_made_side_by_side_are_all_kept() {
    let dir = folder();
    let before = names(dir.path());
    let add = |thread: usize| {
        for k in 0..8 {
            let add = |manifest: Result<Manifest, Fault>| {
                let mut manifest = manifest?;
                let of_thread = Calibrated { k, r: thread, ..calibrated(&manifest) };
                manifest.calibrations.push(of_thread);
                Ok(manifest)
            };
            Manifest::change(dir.path(), add).unwrap();
            try_write(dir.path()).unwrap();
        }
    };
    thread::scope(|scope| (0..4).for_each(|thread| drop(scope.spawn(move || add(thread)))));
    assert_eq!(Manifest::read(dir.path()).unwrap().calibrations.len(), 32);
    assert_eq!(names(dir.path()), before, "no lock and no part of a file is left behind");
}

#[test]
fn a_manifest_that_cannot_be_changed_says_why() {
    let dir = folder();
    let before = fs::read(dir.path().join(MANIFEST_FILE)).unwrap();
    let fault = Fault::new(dir.path(), "is of another base", "train it again");
    let refused = Manifest::change(dir.path(), |_| Err(fault)).unwrap_err().to_string();
    assert!(refused.contains("is of another base; train it again"), "{refused}");
    assert_eq!(fs::read(dir.path().join(MANIFEST_FILE)).unwrap(), before);
    let refused = Manifest::change(Path::new("/nowhere"), |manifest| manifest).unwrap_err().to_string();
    assert!(refused.contains("/nowhere/manifest.toml: cannot be written: the folder cannot be locked"), "{refused}");
}

/// A daemon that starts at any moment finds the weights that the manifest names.
#[test]
fn old_weights_stay_until_their_manifest_may_change() {
    let dir = folder();
    let files = || [names(dir.path()), names(&dir.path().join("sum-k2-r2"))];
    let before = files();
    let file = Manifest::read(dir.path()).unwrap().parities[0].file.clone();
    let new = [fs::read(dir.path().join(&file)).unwrap(), vec![0]].concat();
    let fault = Fault::new(dir.path(), "names another base", "train it again");
    Manifest::change_with(dir.path(), (&file, &new), |_| Err(fault)).unwrap_err();
    Bundle::load(dir.path(), Some(&code())).unwrap();
    // Nothing takes the place of a folder that is not empty.
    Manifest::change_with(dir.path(), ("sum-k2-r2", &new), |manifest| manifest).unwrap_err();
    Bundle::load(dir.path(), Some(&code())).unwrap();
    assert_eq!(files(), before, "no part of a file is left behind");
    let named = |manifest: Result<Manifest, Fault>| {
        let mut manifest = manifest?;
        manifest.parities[0].sha256 = sha256(&new);
        Ok(manifest)
    };
    Manifest::change_with(dir.path(), (&file, &new), named).unwrap();
    let named = Manifest::read(dir.path()).unwrap().parities[0].sha256.clone();
    assert_eq!((sha256(&fs::read(dir.path().join(file)).unwrap()), files()), (named, before));
}

#[test]
fn a_good_folder_gives_nets_signature_and_canary() {
    let dir = folder();
    let bundle = Bundle::load(dir.path(), Some(&code())).unwrap();
    let signature = bundle.signature();
    assert_eq!((signature.name.as_str(), signature.version.as_str()), ("oracle", "1"));
    assert_eq!((signature.input.width(), signature.output.width()), (16, 3));
    let canary = bundle.canary(None);
    let base = bundle.base(&Device::Cpu).unwrap().predict(&canary.rows[0]).unwrap();
    assert!(canary::agrees(&canary.base, &base, canary.tolerance));
    for row in 0..2 {
        let query = canary::parity_query(&code(), row, 16);
        let found = bundle.parity(row, &Device::Cpu).unwrap().predict(&query).unwrap();
        assert!(canary::agrees(&canary.parities[row], &found, canary.tolerance));
    }
    assert_eq!(bundle.sha256(Kind::Sum).len(), 3);
    assert!(Bundle::load(dir.path(), None).unwrap().canary(None).parities.is_empty());
}

/// As GPUs run them; tensors do the same on a CPU.
#[test]
fn shipped_canaries_tell_rounding_from_garbage() {
    for name in ["fashion-mnist", "fashion-mnist-mlp", "fashion-mnist-resnet18"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights").join(name).join("1");
        // Candle multiplies no matrices of bfloat16 on a CPU.
        let more = (!crate::model::test_device().is_cpu()).then_some(Precision::Bfloat);
        for precision in [Precision::Single, Precision::TensorFloat, Precision::Half].into_iter().chain(more) {
            let bundle = Bundle::load(&dir, None).unwrap().in_precision(precision);
            let canary = bundle.canary(None);
            let net = bundle.base.settled(&crate::model::test_device(), precision).unwrap();
            let found = |row: &[f32]| net.run(row).unwrap();
            let off = |found: &[f32]| {
                let scale = canary.base.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
                let furthest = canary.base.iter().zip(found).map(|(known, found)| (known - found).abs());
                furthest.fold(0.0_f32, f32::max) / scale
            };
            let (right, wrong) = (off(&found(&canary.rows[0])), off(&found(&canary.second)));
            println!("{name}, {precision:?}: {right:.1e} for the canary, {wrong:.1e} for another row");
            assert!(right <= canary.tolerance && wrong > canary.tolerance, "{name}, {precision:?}: {right}, {wrong}");
        }
    }
}

/// Reading a pipe waits for who writes, and a device may go on for ever.
#[test]
fn what_is_no_file_is_not_read() {
    let dir = folder();
    let base = Manifest::read(dir.path()).unwrap().base.file;
    for name in [&*base, MANIFEST_FILE] {
        let file = dir.path().join(name);
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("/dev/null", &file).unwrap();
        let told = Bundle::load(dir.path(), None).unwrap_err().to_string();
        assert!(told.contains(name) && told.contains("a pipe or a device"), "{told}");
    }
}

#[test]
fn the_manifest_round_trips_and_refuses_unknown_keys() {
    let dir = folder();
    let manifest = Manifest::read(dir.path()).unwrap();
    manifest.write(dir.path()).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
    let file = dir.path().join(MANIFEST_FILE);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("[input]\n", "[input]\nunits = 3\n")).unwrap();
    assert!(Manifest::read(dir.path()).unwrap_err().to_string().contains("units"));
    fs::write(&file, text.replace("format = 1", "format = 2")).unwrap();
    assert!(Manifest::read(dir.path()).unwrap_err().to_string().contains("format 2"));
}

#[test]
fn a_code_that_was_not_trained_is_refused() {
    let dir = folder();
    let other = Sum::with_defaults(3, 1).unwrap();
    let error = Bundle::load(dir.path(), Some(&other)).unwrap_err().to_string();
    assert!(error.contains("no parity model for kind = \"sum\", k = 3, r = 1, row = 0"), "{error}");
    let other = Sum::new(vec![vec![1.0, 1.0], vec![1.0, 2.0]]).unwrap();
    let error = Bundle::load(dir.path(), Some(&other)).unwrap_err();
    assert_faults(&[error.to_string()], &["was trained with coefficients [1.0, -1.0], and the code has [1.0, 2.0]"]);
}

#[test]
fn every_mismatch_is_told_at_once() {
    let found = faults(|manifest, dir| {
        manifest.input.range = [1.0, 1.0];
        manifest.parities[0].base_sha256 = "0".repeat(64);
        manifest.parities[1].preprocessing.mean = 0.5;
        fs::write(dir.join(&manifest.base.file), b"tampered").unwrap();
    });
    let expected =
        ["is no range", "has SHA-256", "was trained on base 000000", "was trained with Normalisation { mean: 0.5"];
    assert_faults(&found, &expected);
}

#[test]
fn a_tampered_file_is_refused() {
    let found = faults(|manifest, dir| {
        let file = dir.join(&manifest.parities[1].file);
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file, bytes).unwrap();
    });
    assert_faults(&found, &["row1.safetensors: has SHA-256"]);
}

#[test]
fn files_that_are_absent_elsewhere_or_no_safetensors_are_refused() {
    let found = faults(|manifest, _| {
        manifest.base.file = "../base.safetensors".to_owned();
        manifest.parities[0].file = "none.safetensors".to_owned();
    });
    assert_faults(&found, &["is not within the folder", "none.safetensors: cannot be read"]);
    let found = faults(|manifest, dir| {
        fs::write(dir.join(&manifest.base.file), b"no tensors").unwrap();
        manifest.base.sha256 = sha256(b"no tensors");
        for parity in &mut manifest.parities {
            parity.base_sha256.clone_from(&manifest.base.sha256);
        }
    });
    assert_faults(&found, &["base.safetensors: is no safetensors file"]);
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let found = faults(|manifest, _| manifest.output.shape = vec![4]);
    let of_one_model = ["`canary` of", "has shape [3, 16], not [4, 16]"];
    assert_faults(&found, &[of_one_model, of_one_model, of_one_model].concat());
    let found = faults(|manifest, _| manifest.base.architecture = crate::model::Architecture::Lenet5);
    assert_faults(&found, &["lenet5 does not fit rows of [1, 4, 4]"]);
}

#[test]
fn parity_rows_that_are_missing_or_there_twice_are_refused() {
    let found = faults(|manifest, _| {
        manifest.parities.remove(1);
    });
    assert_faults(&found, &["no parity model for kind = \"sum\", k = 2, r = 2, row = 1"]);
    let found = faults(|manifest, _| manifest.parities.push(manifest.parities[0].clone()));
    assert_faults(&found, &["two parity models"]);
}

fn calibrated(manifest: &Manifest) -> Calibrated {
    let parities = manifest.parities.iter().map(|parity| parity.sha256.clone());
    Calibrated {
        kind: Kind::Sum,
        k: 2,
        r: 2,
        temperature: 1.5,
        agreement: 0.9,
        rows: 100,
        weights_sha256: std::iter::once(manifest.base.sha256.clone()).chain(parities).collect(),
    }
}

#[test]
fn a_calibration_is_read_for_its_code_alone() {
    let dir = folder();
    let load = || Bundle::load(dir.path(), Some(&code())).unwrap().calibration();
    assert_eq!(load(), None);
    let mut manifest = Manifest::read(dir.path()).unwrap();
    // What is wrong with the calibration of a code that is not loaded matters to nobody.
    let of_another = Calibrated { k: 3, temperature: -1.0, ..calibrated(&manifest) };
    manifest.calibrations = vec![of_another, calibrated(&manifest)];
    manifest.write(dir.path()).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap(), manifest);
    let calibration = load().unwrap();
    assert_eq!((calibration.temperature.get().to_bits(), calibration.rows), (1.5_f64.to_bits(), 100));
    assert_eq!(Bundle::load(dir.path(), None).unwrap().calibration(), None);
}

#[test]
fn a_calibration_for_other_weights_or_without_sense_is_refused() {
    let with = |change: fn(&mut Calibrated)| {
        faults(|manifest, _| {
            let mut calibrated = calibrated(manifest);
            change(&mut calibrated);
            manifest.calibrations = vec![calibrated];
        })
    };
    assert_faults(&with(|calibrated| calibrated.weights_sha256[2].replace_range(..1, "x")), &["for other weights"]);
    assert_faults(&with(|calibrated| drop(calibrated.weights_sha256.pop())), &["for other weights"]);
    for change in [
        (|calibrated| calibrated.temperature = 0.0) as fn(&mut Calibrated),
        |calibrated| calibrated.agreement = 1.1,
        |calibrated| calibrated.rows = 0,
    ] {
        assert_faults(&with(change), &["needs a temperature above 0"]);
    }
    let found = faults(|manifest, _| manifest.calibrations = vec![calibrated(manifest); 2]);
    assert_faults(&found, &["r = 2 twice"]);
}

#[test]
fn codes_are_whole_or_refused() {
    let dir = folder();
    let mut manifest = Manifest::read(dir.path()).unwrap();
    let told = |manifest: &Manifest| format!("{:?}", manifest.codes(dir.path()).unwrap());
    assert_eq!(told(&manifest), format!("[{:?}]", code()));
    manifest.parities.swap(0, 1);
    assert_eq!(told(&manifest), format!("[{:?}]", code()));
    manifest.parities.remove(0);
    assert!(manifest.codes(dir.path()).unwrap_err().to_string().contains("each parity row"));
    manifest.parities[0].kind = Kind::Concat;
    assert!(manifest.codes(dir.path()).unwrap_err().to_string().contains("concat"));
}

/// A learned code that was trained, and its folder.
fn learned() -> (TempDir, Spec) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/fashion-mnist-mlp-learned-mlp/1");
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("learned-k2-r1")).unwrap();
    for file in [MANIFEST_FILE, "base.safetensors", "learned-k2-r1/row0.safetensors"] {
        fs::copy(shipped.join(file), dir.path().join(file)).unwrap();
    }
    (dir, Spec::of(Kind::Learned, 2, 1))
}

/// Trains the encoder and its decoder anew, as far as a reader can tell.
fn train_again(dir: &Path, manifest: &mut Manifest) {
    let file = dir.join(&manifest.parities[0].file);
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    manifest.parities[0].sha256 = sha256(&bytes);
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_decoder_is_of_the_bytes_that_the_manifest_names() {
    let (dir, spec) = learned();
    let mut manifest = Manifest::read(dir.path()).unwrap();
    let read = |manifest: &Manifest| decoder(dir.path(), manifest, &spec);
    assert!(read(&manifest).unwrap().is_some());
    let old = manifest.clone();
    train_again(dir.path(), &mut manifest);
    assert!(read(&manifest).unwrap().is_some());
    assert_faults(&[read(&old).unwrap_err().to_string()], &["row0.safetensors: has SHA-256"]);
    manifest.parities[0].file = format!("../{}", manifest.parities[0].file);
    assert_faults(&[read(&manifest).unwrap_err().to_string()], &["is not within the folder"]);
}

/// Between the reading of the decoder and that of the encoder both are trained anew.
#[test]
fn an_encoder_that_was_trained_meanwhile_is_not_read_with_the_old_decoder() {
    let (dir, spec) = learned();
    let old = Manifest::read(dir.path()).unwrap();
    let code = spec.build(&old.input.shape, decoder(dir.path(), &old, &spec).unwrap()).unwrap();
    Bundle::of(dir.path(), old.clone(), Some(&*code)).unwrap();
    let mut new = old.clone();
    train_again(dir.path(), &mut new);
    new.calibrations.clear();
    new.write(dir.path()).unwrap();
    let refused = Bundle::of(dir.path(), old, Some(&*code)).unwrap_err().to_string();
    assert_faults(&[refused], &["row0.safetensors: has SHA-256"]);
}

#[test]
fn an_absent_folder_says_what_to_do() {
    let error = Bundle::load(Path::new("/nowhere"), None).unwrap_err().to_string();
    assert!(error.contains("/nowhere/manifest.toml") && error.contains("train base"), "{error}");
}

/// A code whose parity queries run on the base model needs no parity models.
#[test]
fn copies_run_on_the_base_model() {
    let dir = folder();
    let code = Spec::of(Kind::Replica, 2, 2).build(&SHAPE, None).unwrap();
    let bundle = Bundle::load(dir.path(), Some(&*code)).unwrap();
    let row = canary::row(16, 1);
    let direct = bundle.base(&Device::Cpu).unwrap().predict(&row).unwrap();
    for parity in 0..2 {
        assert_eq!(bundle.parity(parity, &Device::Cpu).unwrap().predict(&row).unwrap(), direct);
    }
    assert!(bundle.canary(None).parities.is_empty(), "a lane of copies proves itself with the base model's canary");
    assert_eq!(bundle.sha256(Kind::Replica).len(), 1);
}
