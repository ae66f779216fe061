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
