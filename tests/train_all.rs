//! `train all` through the command: manifests in, the same models out, on a thousand images and linear models.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

/// A folder that has the subset as training and as test images, and two deployments that were trained on it.
fn trained() -> TempDir {
    let dir = TempDir::new().expect("there is a temporary folder");
    let subset = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for name in ["images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"] {
        for part in ["train", "t10k"] {
            let copy = dir.path().join(format!("{part}-{name}"));
            fs::copy(subset.join(format!("t10k-{name}")), copy).expect("the subset is in the repository");
        }
    }
    let base = "train base --data . --arch linear --seed 5";
    run(&format!("{base} --out weights/a/1 --name a --epochs 3 --preset one_cycle"), dir.path());
    run(&format!("{base} --out weights/b/2 --name b --version 2 --epochs 9 --patience 1"), dir.path());
    let parity = "train parity --data . --weights weights/a/1 --batch 16";
    run(&format!("{parity} -k 2 --epochs 2 --seed 6"), dir.path());
    run(&format!("{parity} -k 2 -r 2 --coefficients 1,1/1,2 --epochs 1 --preset best"), dir.path());
    dir
}

fn parityd(arguments: &str, dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parityd"));
    command.current_dir(dir).args(arguments.split_whitespace()).env("RAYON_NUM_THREADS", "1");
    command.env_remove("PARITYD_DATA").env_remove("PARITYD_LOG").output().expect("cargo has built it")
}

/// What the command prints, and its log.
#[track_caller]
fn run(arguments: &str, dir: &Path) -> (String, String) {
    let output = parityd(arguments, dir);
    let log = String::from_utf8(output.stderr).expect("the log is UTF-8");
    assert!(output.status.success(), "{arguments}: {log}");
    (String::from_utf8(output.stdout).expect("output is UTF-8"), log)
}

/// Every file of weights below a folder, with its bytes.
fn weights(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let models = [
        "a/1/base.safetensors",
        "a/1/sum-k2-r1/row0.safetensors",
        "a/1/sum-k2-r2/row0.safetensors",
        "a/1/sum-k2-r2/row1.safetensors",
        "b/2/base.safetensors",
    ];
    models.iter().map(|file| (PathBuf::from(file), fs::read(dir.join(file)).expect(file))).collect()
}

const EPOCH: &str = "epoch done";

#[test]
fn what_manifests_record_makes_the_same_models_again() {
    let dir = trained();
    let (table, _) = run("train all --weights weights --out again --data .", dir.path());
    let (old, new) = (weights(&dir.path().join("weights")), weights(&dir.path().join("again")));
    for ((file, old), (_, new)) in old.iter().zip(&new) {
        assert!(old == new, "{} is another", file.display());
    }
    assert_eq!(table.lines().filter(|line| line.ends_with("+0.00")).count(), 3, "{table}");
    let manifest = |root: &str| fs::read_to_string(dir.path().join(root).join("a/1/manifest.toml")).unwrap();
    assert!(manifest("again").contains("[[measured]]"), "what was measured is recorded");
    let commands = |root: &str| {
        let text = manifest(root).replace(&format!("{root}/"), "");
        text.lines().filter(|line| line.starts_with("command")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(commands("weights"), commands("again"));
}

#[test]
fn what_is_there_is_kept_and_what_is_not_is_made() {
    let dir = trained();
    let all = "train all --weights weights --out quick --data . --epochs 1";
    let (_, log) = run(all, dir.path());
    assert_eq!(log.matches(EPOCH).count(), 5, "five models, an epoch each: {log}");
    let made = weights(&dir.path().join("quick"));
    let (json, log) = run(&format!("{all} --resume --json"), dir.path());
    assert_eq!(log.matches(EPOCH).count(), 0, "{log}");
    let changes: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(changes.as_array().unwrap().len(), 3);
    assert_eq!(changes[0]["a_d"].as_array().unwrap().len(), 2, "{json}");

    // A model that is gone is made again, and it alone; without its checkpoint, from the start.
    for file in ["row1.safetensors", "row1.checkpoint"] {
        fs::remove_file(dir.path().join("quick/a/1/sum-k2-r2").join(file)).unwrap();
    }
    let (_, log) = run(&format!("{all} --resume"), dir.path());
    assert_eq!(log.matches(EPOCH).count(), 1, "{log}");
    assert!(made == weights(&dir.path().join("quick")));

    // Without --resume nothing is kept.
    let (_, log) = run(all, dir.path());
    assert_eq!(log.matches(EPOCH).count(), 5, "{log}");

    // Other models go only if they may.
    let other = "train all --weights weights --out quick --data . --epochs 2";
    let output = parityd(other, dir.path());
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(78) && log.contains("the 3 parity models that learned from it"), "{log}");
    assert!(made == weights(&dir.path().join("quick")));
    run(&format!("{other} --replace"), dir.path());
}

#[test]
fn the_folder_that_is_read_is_not_written() {
    let dir = trained();
    let before = fs::read(dir.path().join("weights/a/1/manifest.toml")).unwrap();
    for (arguments, says) in [
        ("train all --weights weights --out ./weights/ --data .", "another folder"),
        ("train all --weights again --out weights --data .", "again"),
    ] {
        let output = parityd(arguments, dir.path());
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{arguments}: {log}");
        assert!(log.contains(says), "{arguments}: {log}");
    }
    assert_eq!(before, fs::read(dir.path().join("weights/a/1/manifest.toml")).unwrap());
}

/// Whoever meant another folder, or only to try something, must not lose what took hours.
#[test]
fn a_base_model_that_is_there_is_not_replaced_unless_it_may_go() {
    let dir = trained();
    let files = |folder: &str| {
        ["manifest.toml", "base.safetensors"].map(|file| fs::read(dir.path().join(folder).join(file)).unwrap())
    };
    let refused = |arguments: &str, says: &str| {
        let before = [files("weights/a/1"), files("weights/b/2")];
        let output = parityd(arguments, dir.path());
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(78) && log.contains(says), "{arguments}: {log}");
        assert!(before == [files("weights/a/1"), files("weights/b/2")], "{arguments}");
    };
    // Nothing has learned from this one, and a longer run of it is what --resume is for.
    let b = "train base --data . --arch linear --out weights/b/2 --name b --version 2 --patience 1";
    refused(
        &format!("{b} --epochs 9 --seed 6"),
        "weights/b/2 holds a base model (linear) that this would replace; name another",
    );
    refused(&format!("{b} --epochs 20 --seed 5"), "--replace if it may go");
    run(&format!("{b} --epochs 20 --seed 5 --resume"), dir.path());
    // From this one three have.
    let a = "train base --data . --out weights/a/1 --name a";
    let lost = "and the 3 parity models that learned from it would be lost";
    for more in
        ["--epochs 3 --seed 6", "--epochs 4 --seed 5", "--epochs 4 --seed 5 --resume", "--epochs 3 --seed 5 --batch 32"]
    {
        refused(&format!("{a} --arch linear --preset one_cycle {more}"), lost);
    }
    refused(&format!("{a} --arch linear --epochs 3 --seed 5"), lost);
    refused("train base --data nowhere --out weights/a/1 --arch mlp --epochs 3", lost);
    // The same once more changes nothing. Of other images it is another model, which shows in the end, and costs nothing either.
    let again = "train base --out weights/a/1 --name a --arch linear --preset one_cycle --epochs 3 --seed 5";
    run(&format!("{again} --data ."), dir.path());
    other_images(dir.path());
    refused(&format!("{again} --data other"), "say --resume --replace if it may go");
    // With that nothing is learned twice.
    fs::create_dir(dir.path().join("copy")).unwrap();
    for file in ["manifest.toml", "base.checkpoint"] {
        fs::copy(dir.path().join("weights/a/1").join(file), dir.path().join("copy").join(file)).unwrap();
    }
    let copy = format!("{} --data other --resume --replace", again.replace("weights/a/1", "copy"));
    let (_, log) = run(&copy, dir.path());
    assert_eq!(log.matches(EPOCH).count(), 0, "{log}");
    // A manifest that cannot be read is somebody's, too.
    fs::write(dir.path().join("weights/b/2/manifest.toml"), "format = 99").unwrap();
    refused(&format!("{b} --epochs 20 --seed 5"), "say --replace if it may go");
    for (arguments, folder) in
        [(format!("{again} --seed 6 --data ."), "a/1"), (format!("{b} --epochs 2 --seed 5"), "b/2")]
    {
        run(&format!("{} --replace", arguments.replace("--seed 5 --seed 6", "--seed 6")), dir.path());
        assert!(!String::from_utf8_lossy(&files(&format!("weights/{folder}"))[0]).contains("[[parity]]"));
    }
}

/// The same labels with other images, in a folder `other`.
fn other_images(dir: &Path) {
    let other = dir.join("other");
    fs::create_dir(&other).expect("it is not there");
    fs::copy(dir.join("train-labels-idx1-ubyte.gz"), other.join("train-labels-idx1-ubyte.gz")).expect("it is there");
    let mut images = [0x803_u32, 1_000, 28, 28].map(u32::to_be_bytes).concat();
    images.extend((0..1_000 * 28 * 28).map(|pixel: usize| pixel.to_le_bytes()[0]));
    fs::write(other.join("train-images-idx3-ubyte"), images).expect("the folder is there");
}

/// `train parity` has the same manners.
#[test]
fn a_parity_model_that_is_there_is_not_replaced_unless_it_may_go() {
    let dir = trained();
    let read = |file: &str| fs::read(dir.path().join("weights/a/1").join(file)).unwrap();
    let files = || ["manifest.toml", "sum-k2-r1/row0.safetensors", "sum-k2-r2/row1.safetensors"].map(read);
    let refused = |arguments: &str, says: &str| {
        let before = files();
        let output = parityd(arguments, dir.path());
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(78) && log.contains(says), "{arguments}: {log}");
        assert!(before == files() && !log.contains("dataset-fashion-mnist"), "{arguments}: {log}");
    };
    let epochs = |arguments: &str| run(arguments, dir.path()).1.matches(EPOCH).count();
    let train = "train parity --weights weights/a/1 --batch 16 -k 2";
    let there = "weights/a/1 holds a parity model (kind = \"sum\", k = 2, r = 1, row 0; linear, 2 epochs)";
    // Before anything is learned, or an image is read.
    for more in [
        "--epochs 1 --seed 6",
        "--epochs 3 --seed 6",
        "--epochs 2 --seed 7",
        "--epochs 2 --seed 6 --preset best",
        "--epochs 2 --seed 6 --patience 1",
        "--epochs 2 --seed 6 --arch mlp",
        "--epochs 2 --seed 6 --coefficients 1,2",
        "--epochs 1 --seed 6 --resume",
    ] {
        refused(&format!("{train} {more} --data nowhere"), there);
    }
    refused(&format!("{train} --epochs 2 --seed 6 --batch 8 --data nowhere").replace("--batch 16 ", ""), there);
    // Of two rows the one that is there.
    let two = "train parity --weights weights/a/1 --batch 16 -k 2 -r 2 --coefficients 1,1/1,2 --preset best --data .";
    refused(&format!("{two} --epochs 2"), "r = 2, row 0; linear, 1 epochs) that this would replace");
    // The same once more, and a longer run with its checkpoint.
    let before = files();
    assert_eq!(epochs(&format!("{train} --epochs 2 --seed 6 --data .")), 2);
    assert_eq!(epochs(&format!("{two} --epochs 1")), 2);
    assert!(before == files());
    assert_eq!(epochs(&format!("{train} --epochs 3 --seed 6 --data . --resume")), 1);
    assert!(before != files());
    fs::remove_file(dir.path().join("weights/a/1/sum-k2-r1/row0.checkpoint")).unwrap();
    refused(&format!("{train} --epochs 4 --seed 6 --data . --resume"), "say --replace if it may go");
    // What other images give shows in the end, and is not learned twice.
    other_images(dir.path());
    refused(&format!("{train} --epochs 3 --seed 6 --data other"), "say --resume --replace if it may go");
    assert_eq!(epochs(&format!("{train} --epochs 3 --seed 6 --data other --resume --replace")), 0);
    assert_eq!(epochs(&format!("{train} --epochs 1 --seed 7 --data . --replace")), 1);
}

/// All of it, before the first of them is trained.
#[test]
fn parity_models_of_other_settings_go_only_if_they_may() {
    let dir = trained();
    let all = "train all --weights weights --out again --data .";
    run(all, dir.path());
    let mine = "train parity --weights again/a/1 -k 2 --epochs 1 --seed 8 --data .";
    run(&format!("{mine} --replace"), dir.path());
    for more in ["", " --resume"] {
        let output = parityd(&format!("{all}{more}"), dir.path());
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{more}: {log}");
        assert!(log.contains("again/a/1 holds a parity model") && !log.contains(EPOCH), "{more}: {log}");
    }
    run(&format!("{all} --replace"), dir.path());
    assert!(weights(&dir.path().join("weights")) == weights(&dir.path().join("again")));
}
