//! `train base`, `train parity` and `eval` end to end through the command, on a thousand images and few steps.
//!
//! Not how well it learns but that the same seed gives the same bytes, an interrupted run the same as a whole one, and that each refusal
//! has its exit code and its next step.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// A folder that has the subset as training and as test images.
fn data() -> TempDir {
    let dir = TempDir::new().expect("there is a temporary folder");
    let subset = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    for name in ["images-idx3-ubyte.gz", "labels-idx1-ubyte.gz"] {
        for part in ["train", "t10k"] {
            let copy = dir.path().join(format!("{part}-{name}"));
            fs::copy(subset.join(format!("t10k-{name}")), copy).expect("the subset is in the repository");
        }
    }
    dir
}

fn parityd(arguments: &str, dir: &Path) -> Output {
    parityd_on(1, arguments, dir)
}

fn parityd_on(threads: usize, arguments: &str, dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parityd"));
    command.current_dir(dir).args(arguments.split_whitespace()).env("RAYON_NUM_THREADS", threads.to_string());
    command.env_remove("PARITYD_DATA").env_remove("PARITYD_LOG").output().expect("cargo has built it")
}

#[track_caller]
fn run(arguments: &str, dir: &Path) -> String {
    let output = parityd(arguments, dir);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

#[track_caller]
fn refused(arguments: &str, dir: &Path, code: i32, says: &str) {
    let output = parityd(arguments, dir);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments}: {stderr}");
    assert!(stderr.contains(says), "{arguments} does not say {says}: {stderr}");
}

#[test]
fn a_seed_gives_the_same_weights_however_often_it_is_interrupted() {
    let dir = data();
    let train = |out: &str, arch: &str, more: &str| {
        run(&format!("train base --arch {arch} --out weights/{arch}-{out}/1 --data . {more}"), dir.path());
        fs::read(dir.path().join(format!("weights/{arch}-{out}/1/base.safetensors"))).unwrap()
    };
    for arch in ["mlp", "lenet5"] {
        let whole = train("whole", arch, "--epochs 2 --seed 3");
        assert_eq!(whole, train("again", arch, "--epochs 2 --seed 3"));
        assert_ne!(whole, train("again", arch, "--epochs 2 --seed 4 --replace"));
        train("parts", arch, "--epochs 1 --seed 3");
        assert_eq!(whole, train("parts", arch, "--epochs 2 --seed 3 --resume"));
    }
}

/// What it would write is not what these flags make: `train all` could not make it again.
#[test]
fn a_run_that_would_have_ended_before_does_not_go_on() {
    let dir = data();
    let train = "train base --arch linear --out w --data . --seed 3";
    run(&format!("{train} --epochs 20"), dir.path());
    let manifest = || fs::read_to_string(dir.path().join("w/manifest.toml")).unwrap();
    let whole = manifest();
    // Whether or not the model that is there may go.
    for (more, says) in [
        ("--epochs 19 --resume --replace", "longer run: 20 epochs are done"),
        ("--epochs 30 --patience 1 --resume --replace", "longer run: it took a patience of"),
        ("--epochs 19 --resume", "say --replace if it may go"),
        ("--epochs 30 --patience 1 --resume", "say --replace if it may go"),
    ] {
        refused(&format!("{train} {more}"), dir.path(), 78, says);
    }
    // Without a checkpoint it would begin anew, perhaps with other images.
    let checkpoint = dir.path().join("w/base.checkpoint");
    let kept = fs::read(&checkpoint).unwrap();
    fs::remove_file(&checkpoint).unwrap();
    refused(&format!("{train} --epochs 30 --resume"), dir.path(), 78, "say --replace if it may go");
    fs::write(&checkpoint, kept).unwrap();
    assert_eq!(manifest(), whole);
    // As long as it went on without a better epoch, or longer, changes nothing of what is done.
    run(&format!("{train} --epochs 20 --patience 20 --resume"), dir.path());
    assert!(manifest().contains("patience = 20"));
    // What ended by its patience does so again, and goes on with more.
    let epochs = |more: &str| {
        let output = parityd(&format!("train base --arch linear --out p --data . --epochs 30 {more}"), dir.path());
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");
        log.matches("epoch done").count()
    };
    assert!(epochs("--patience 1") < 30);
    assert_eq!(epochs("--patience 1 --resume"), 0);
    assert_ne!(epochs("--patience 2 --resume"), 0);
    let base = || fs::read(dir.path().join("p/base.safetensors")).unwrap();
    let resumed = base();
    epochs("--patience 2");
    assert!(base() == resumed, "the same as if it had had that patience at once");
}

#[test]
fn a_checkpoint_of_other_images_is_refused() {
    let dir = data();
    run("train base --arch linear --out w --data . --epochs 1", dir.path());
    run("train parity --weights w -k 2 --data . --epochs 1", dir.path());
    // As many, with the same labels, but darker.
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let name = "train-labels-idx1-ubyte.gz";
    fs::copy(dir.path().join(name), other.join(name)).unwrap();
    let mut images = [0x803_u32, 1_000, 28, 28].map(u32::to_be_bytes).concat();
    images.resize(images.len() + 1_000 * 28 * 28, 7);
    fs::write(other.join("train-images-idx3-ubyte"), images).unwrap();
    for training in ["parity --weights w -k 2", "base --arch linear --out w --replace"] {
        let training = format!("train {training} --epochs 2 --resume");
        refused(&format!("{training} --data other"), dir.path(), 78, "other settings or images");
        run(&format!("{training} --data ."), dir.path());
    }
}

/// Running averages are part of what is kept: of the weights, of their average and of a checkpoint.
#[test]
fn a_network_with_batch_norm_goes_on_as_if_it_had_never_stopped() {
    let dir = data();
    let train = |threads: usize, out: &str, more: &str| {
        let arguments = format!("train base --arch resnet18-w2 --out weights/{out}/1 --data . --preset best {more}");
        let output = parityd_on(threads, &arguments, dir.path());
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        fs::read(dir.path().join(format!("weights/{out}/1/base.safetensors"))).unwrap()
    };
    let whole = train(1, "whole", "--epochs 2");
    assert!(whole == train(2, "again", "--epochs 2"), "two threads");
    // An interrupted run: the checkpoint after the first of two epochs.
    let interrupted = dir.path().join("weights/parts/1");
    let mut command = Command::new(env!("CARGO_BIN_EXE_parityd"));
    command.current_dir(dir.path()).env("RAYON_NUM_THREADS", "1");
    command.args("train base --arch resnet18-w2 --out weights/parts/1 --data . --preset best --epochs 2".split(' '));
    let mut child = command.spawn().expect("cargo has built it");
    while !interrupted.join("base.checkpoint").exists() {
        std::thread::yield_now();
    }
    child.kill().and_then(|()| child.wait()).expect("it was running");
    assert!(whole == train(1, "parts", "--epochs 2 --resume"), "resumed");
}

/// Each kind of code, with a residual network as base and as parity model.
#[test]
fn networks_with_batch_norm_learn() {
    let dir = data();
    run("train base --arch resnet18-w4 --out w --data . --epochs 8 --batch 16", dir.path());
    let manifest = || fs::read_to_string(dir.path().join("w/manifest.toml")).unwrap();
    let validation = manifest().lines().find_map(|line| line.strip_prefix("validation = ")?.parse::<f64>().ok());
    assert!(validation.is_some_and(|validation| validation > 0.5), "{validation:?}");
    let arguments = "--weights w --data . --epochs 1 --batch 32 -k 2";
    for kind in ["sum", "concat", "mux --preset best", "compact --preset best", "learned --encoder mlp"] {
        run(&format!("train parity {arguments} --kind {kind}"), dir.path());
    }
    assert_eq!(manifest().matches("[[parity]]").count(), 5);
}

/// A batch is cut into the same parts whoever runs them, and their gradients are added up in order.
#[test]
fn the_number_of_threads_changes_no_bit_of_the_weights() {
    let dir = data();
    let trained = |threads: usize| {
        let at = format!("weights/t{threads}/1");
        for arguments in [
            format!("train base --arch lenet5 --out {at} --data . --epochs 1 --preset best"),
            format!("train parity --weights {at} -k 2 --data . --epochs 1 --preset best"),
        ] {
            let output = parityd_on(threads, &arguments, dir.path());
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let read = |file: &str| fs::read(dir.path().join(&at).join(file)).unwrap();
        (read("base.safetensors"), read("sum-k2-r1/row0.safetensors"))
    };
    let one = trained(1);
    for threads in [2, 3, 7] {
        assert!(one == trained(threads), "{threads} threads");
    }
}

/// Candle's own pool, which all of a process shares, would make the parts of a batch wait for each other.
#[cfg(target_os = "linux")]
#[test]
#[expect(clippy::disallowed_methods, reason = "waits for another process")]
fn candle_gets_no_pool_beside_those_of_its_callers() {
    let dir = data();
    let mut command = Command::new(env!("CARGO_BIN_EXE_parityd"));
    command.current_dir(dir.path()).env("RAYON_NUM_THREADS", "2").env_remove("CANDLE_NUM_THREADS");
    command.args("train base --arch lenet5 --out w --data . --epochs 1000 --log error".split(' '));
    let mut child = command.spawn().expect("cargo has built it");
    let set = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let environment = fs::read(format!("/proc/{}/environ", child.id())).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|entry| entry == b"CANDLE_NUM_THREADS=1")
    });
    child.kill().and_then(|()| child.wait()).expect("it was running");
    assert!(set, "the process has the id that it was started with, and one thread of candle's");
}

/// Rows without what differs between two runs.
fn untimed(json: &str) -> serde_json::Value {
    let mut rows: serde_json::Value = serde_json::from_str(json).expect("JSON");
    for row in rows.as_array_mut().expect("a list") {
        let row = row.as_object_mut().expect("an object");
        assert!(row.remove("parity_time").is_some());
    }
    rows
}

/// The rows of trained codes. The others are of the code that needs no training, for three sizes.
fn without_interpolated(rows: &[serde_json::Value]) -> Vec<&serde_json::Value> {
    let (interpolated, trained): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["code"] == "berrut");
    assert_eq!(interpolated.len(), 3);
    // Of three workers one is late, in turn, and both rows come back from the other two.
    let patterns = interpolated[0]["a_d_by_pattern"].as_object().expect("an object");
    assert_eq!(patterns.keys().collect::<Vec<_>>(), ["0,1,2", "0,1,3", "0,1,4"]);
    trained
}

#[test]
fn a_trained_folder_is_measured_and_recorded() {
    let dir = data();
    run("train base --arch mlp --out weights/tiny/1 --name tiny --data . --epochs 8 --batch 16", dir.path());
    run("train parity --weights weights/tiny/1 --kind sum -k 2 -r 2 --data . --epochs 2", dir.path());
    run("train parity --weights weights/tiny/1 -k 4 --row 0 --data . --epochs 20 --batch 8", dir.path());
    run("train parity --weights weights/tiny/1 --kind compact -k 2 --data . --epochs 4 --preset best", dir.path());
    let json = run("eval --all --data . --seeds 2 --json --record", dir.path());
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    let rows = without_interpolated(rows.as_array().unwrap());
    assert_eq!(rows.len(), 3);
    let patterns = rows[0]["a_d_by_pattern"].as_object().unwrap();
    assert_eq!(patterns.keys().collect::<Vec<_>>(), ["0", "0,1", "1"]);
    for row in rows {
        assert_eq!((row["rows"].as_u64(), row["seeds"].as_array().unwrap().len()), (Some(1_000), 2));
        for share in ["a_a", "a_d", "agreement"] {
            let value = row[share].as_f64().unwrap();
            assert!((0.1..=1.0).contains(&value), "{share} is {value}, no better than chance");
        }
        let costs_more = row["parity_flops"].as_u64() > row["base_flops"].as_u64();
        assert_eq!(costs_more, row["code"] == "sum", "an encoder costs something, a compact model less");
    }
    let manifest = fs::read_to_string(dir.path().join("weights/tiny/1/manifest.toml")).unwrap();
    assert_eq!(manifest.matches("[[parity]]").count(), 4);
    assert_eq!(manifest.matches("[[measured]]").count(), 6);
    assert!(manifest.contains("parityd train parity --weights weights/tiny/1 --kind sum -k 2 -r 2 --row 1"));
    let again = run("eval --weights weights/tiny/1 --data . --seeds 2 --json", dir.path());
    assert_eq!(untimed(&json), untimed(&again), "only time is measured anew");
    assert!(run("eval --all --data . --seeds 1 --plots figures", dir.path()).contains("A_d"));
    let figures = fs::read_dir(dir.path().join("figures")).unwrap().count();
    assert!(figures >= 8, "{figures} files, a network's figures as SVG and as PNG");

    // A new base leaves no parity model behind that learned from the old one.
    run("train base --arch mlp --out weights/tiny/1 --name tiny --data . --epochs 1 --seed 9 --replace", dir.path());
    let json = run("eval --all --data . --json", dir.path());
    assert!(json.contains("\"code\": \"none\"") && json.contains("\"a_d\": null"), "{json}");
}

#[test]
fn the_last_row_of_a_code_has_it_calibrated() {
    let dir = data();
    let manifest = || fs::read_to_string(dir.path().join("w/manifest.toml")).unwrap();
    let train = |row: usize| {
        run(&format!("train parity --weights w -k 2 -r 2 --row {row} --data . --epochs 1"), dir.path());
        manifest()
    };
    run("train base --arch mlp --out w --data . --epochs 2", dir.path());
    refused("train calibrate --weights w --data .", dir.path(), 78, "no parity models to calibrate");
    assert!(!train(0).contains("[[calibration]]"), "row 1 is missing");
    let whole = train(1);
    assert_eq!(whole.matches("[[calibration]]").count(), 1);
    assert_eq!(train(0), whole, "the same model again, and so the same calibration");
    run("train calibrate --weights w --data .", dir.path());
    assert_eq!(manifest(), whole);
    // The same base once more takes nothing away from what learned from it.
    for more in ["--resume", ""] {
        run(&format!("train base --arch mlp --out w --data . --epochs 2 {more}"), dir.path());
        assert_eq!(manifest(), whole, "{more}");
    }
    let rows: serde_json::Value =
        serde_json::from_str(&run("eval --weights w --data . --seeds 1 --json", dir.path())).unwrap();
    let at = rows[0]["coverage"].as_array().unwrap();
    assert_eq!(
        at.iter().map(|at| at["coverage"].as_f64().unwrap()).collect::<Vec<_>>(),
        [1.0, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5]
    );
    assert_eq!((&at[0]["a_d"], &at[0]["a_a"]), (&rows[0]["a_d"], &rows[0]["a_a"]), "all of them, of each pattern");
    assert!(rows[0]["calibration_error"].as_f64().is_some_and(|error| error < 0.5));
    run("train base --arch mlp --out w --data . --epochs 1 --seed 9 --replace", dir.path());
    assert!(!manifest().contains("[[calibration]]"), "it was for another base");
}

/// A row that is to be trained yet is no fault; one that cannot be read is.
#[test]
fn a_code_that_is_whole_is_calibrated_or_it_is_told_why_not() {
    let dir = data();
    let row = |row: usize| dir.path().join(format!("w/sum-k2-r2/row{row}.safetensors"));
    let calibrations =
        || fs::read_to_string(dir.path().join("w/manifest.toml")).unwrap().matches("[[calibration]]").count();
    let train = "train parity --weights w -k 2 -r 2 --data . --epochs 1 --resume --row 0";
    run("train base --arch linear --out w --data . --epochs 1", dir.path());
    run("train parity --weights w -k 2 -r 2 --data . --epochs 1", dir.path());
    assert_eq!(calibrations(), 1);
    // Something that is there, and that not even the administrator can read.
    fs::remove_file(row(1)).unwrap();
    fs::create_dir(row(1)).unwrap();
    refused(train, dir.path(), 78, "row1.safetensors: cannot be read");
    fs::remove_dir(row(1)).unwrap();
    run(train, dir.path());
    assert_eq!(calibrations(), 0, "row 1 is gone");
    fs::write(row(1), "of another training").unwrap();
    run(train, dir.path());
    assert_eq!(calibrations(), 0, "row 1 is another");
}

#[test]
fn rows_trained_side_by_side_both_enter_the_manifest() {
    let dir = data();
    run("train base --arch linear --out w --data . --epochs 4", dir.path());
    let manifest = || fs::read_to_string(dir.path().join("w/manifest.toml")).unwrap();
    for epochs in 1..4 {
        let train = |row: usize| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_parityd"));
            command.current_dir(dir.path()).env("RAYON_NUM_THREADS", "1").env_remove("PARITYD_LOG");
            command.args("train parity --weights w -k 2 -r 2 --data . --resume --log error".split(' '));
            command.args(["--epochs", &epochs.to_string(), "--row", &row.to_string()]);
            command.spawn().expect("cargo has built it")
        };
        for mut child in [train(0), train(1)] {
            let ended = child.wait().expect("it was started");
            // Whoever calibrated the one row while the other came leaves that to the one that came, and says so.
            assert!(ended.success() || ended.code() == Some(78), "{ended}");
        }
        assert_eq!(manifest().matches("[[parity]]").count(), 2, "after {epochs} epochs");
        assert_eq!(manifest().matches("[[calibration]]").count(), 1, "after {epochs} epochs");
        let of_both =
            manifest().lines().filter(|line| line.contains(&format!("--arch linear --epochs {epochs} "))).count();
        assert_eq!(of_both, 2, "{}", manifest());
    }
}

#[test]
fn refusals_have_their_exit_codes() {
    let dir = data();
    let empty = TempDir::new().unwrap();
    refused("train base --arch mlp --out w --epochs 1 --data .", empty.path(), 78, "dataset-fashion-mnist");
    refused("train parity --weights none -k 2 --epochs 1 --data .", dir.path(), 78, "train base");
    refused("eval --weights none --data .", dir.path(), 78, "manifest.toml");
    refused("train base --arch resnet --out w --epochs 1", dir.path(), 2, "lenet5");
    refused("train base --arch mlp --out w --epochs 0", dir.path(), 2, "epochs");
    refused("train parity --weights w -k 1 --epochs 1", dir.path(), 2, "k >= 2");
    // Else another code's weights would be written over.
    refused("train parity --weights w -k 2 --coefficients 1,1,1 --epochs 1 --data .", dir.path(), 2, "1 rows of 2");
    refused("train base --arch mlp --out w --name a/b --epochs 1", dir.path(), 2, "A-Z a-z 0-9");
    refused("train base --arch mlp --out /proc/w --epochs 1 --data .", dir.path(), 78, "/proc/w: cannot be written");
    refused("eval --all --data .", dir.path(), 78, "name a folder of them with --weights DIR");
    refused("eval --weights none --plots /proc/w --data .", dir.path(), 78, "name another folder with --plots");
    refused("eval --weights /proc --record --data .", dir.path(), 78, "record into a copy of the folder");
    refused("eval", dir.path(), 2, "--weights");
    refused("--log nonsense=loud eval --all", dir.path(), 2, "--log");
    // What the arguments alone tell, whatever the weights are.
    for (wrong, says) in [
        ("-k 2 --row 1", "no parity row 1"),
        ("-k 2 --kind replica", "runs on the base model"),
        ("-k 2 --kind berrut", "runs on the base model"),
        ("-k 2 --encoder conv", "--encoder is for"),
        ("-k 2 --kind learned --arch mlp", "--arch is for other kinds"),
    ] {
        refused(&format!("train parity --weights none --epochs 1 {wrong}"), dir.path(), 2, says);
    }
    run("train base --arch mlp --out w --epochs 1 --data .", dir.path());
    refused(
        "train base --arch mlp --out w --epochs 2 --data . --seed 2 --resume --replace",
        dir.path(),
        78,
        "other settings",
    );
}
