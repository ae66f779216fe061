//! What `train`, `eval` and `bench` refuse before they begin, each with its exit code and the next step: data that is too little, runs that would fill
//! the memory or have nothing in them, and names that are no text.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

const USAGE: i32 = 2;
const CANNOT_START: i32 = 78;

fn parityd<'a>(arguments: impl IntoIterator<Item = &'a OsStr>, dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parityd"));
    command.current_dir(dir).args(arguments).env_remove("PARITYD_DATA").env_remove("PARITYD_LOG");
    command.env("CANDLE_NUM_THREADS", "1").output().unwrap()
}

fn words(arguments: &str) -> impl Iterator<Item = &OsStr> {
    arguments.split_whitespace().map(OsStr::new)
}

#[track_caller]
fn refused(arguments: &str, dir: &Path, code: i32, says: &str) {
    let output = parityd(words(arguments), dir);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments}: {log}");
    assert!(log.contains(says) && output.stdout.is_empty(), "{arguments} does not say {says}: {log}");
}

#[track_caller]
fn run(arguments: &str, dir: &Path) -> String {
    let output = parityd(words(arguments), dir);
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// A folder with one of so many images in each, called by that, for training and for measurement.
fn data(counts: &[u32]) -> TempDir {
    data_of(28, counts)
}

/// The same of images of this height and width.
fn data_of(side: u32, counts: &[u32]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for &count in counts {
        let folder = dir.path().join(count.to_string());
        fs::create_dir(&folder).unwrap();
        let mut images = [0x803, count, side, side].map(u32::to_be_bytes).concat();
        images.extend((0..=250_u8).cycle().take((count * side * side) as usize));
        let mut labels = [0x801, count].map(u32::to_be_bytes).concat();
        labels.extend((0..10_u8).cycle().take(count as usize));
        for part in ["train", "t10k"] {
            fs::write(folder.join(format!("{part}-images-idx3-ubyte")), &images).unwrap();
            fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), &labels).unwrap();
        }
    }
    dir
}

#[test]
fn data_that_is_too_little_is_refused_before_anything_is_learned() {
    let data = data(&[0, 4, 9, 20]);
    let dir = data.path();
    let base = "train base --arch linear --out w --epochs 1";
    refused(&format!("{base} --data 0"), dir, CANNOT_START, "train-images-idx3-ubyte: holds no images");
    refused(&format!("{base} --data 4"), dir, CANNOT_START, "name a folder with 5 training images or more");
    run(&format!("{base} --data 9"), dir);
    let parity = "train parity --weights w -k 2 --epochs 1";
    refused(&format!("{parity} --data 9"), dir, CANNOT_START, "name a folder with 10 training images or more");
    run(&format!("{parity} --data 20"), dir);
    refused("train calibrate --weights w --data 9", dir, CANNOT_START, "name a folder with 10 training images or more");
    let other = data_of(8, &[20]);
    for words in [
        parity,
        "train parity --weights w --kind concat -k 2 --epochs 1",
        "train calibrate --weights w",
        "eval --weights w",
    ] {
        refused(
            &format!("{words} --data {}/20", other.path().display()),
            dir,
            CANNOT_START,
            "w: the data has 64 pixels a row",
        );
    }
}

#[test]
fn what_makes_no_stripe_has_no_accuracy() {
    let data = data(&[0, 4, 9]);
    let dir = data.path();
    run("train base --arch linear --out w --epochs 1 --data 9", dir);
    refused("eval --weights w --data 0", dir, CANNOT_START, "t10k-images-idx3-ubyte: holds no images");
    let rows: serde_json::Value = serde_json::from_str(&run("eval --weights w --data 4 --json --record", dir)).unwrap();
    let of = |k: u64| rows.as_array().unwrap().iter().find(|row| row["code"] == "berrut" && row["k"] == k).unwrap();
    assert!(of(4)["a_d"].is_f64() && of(8)["a_d"].is_null(), "{rows}");
    assert!(!run("eval --weights w --data 4 --plots plots", dir).contains("NaN"));
}

#[test]
fn a_broken_folder_is_found_before_the_others_are_measured() {
    let data = data(&[9]);
    let dir = data.path();
    for name in ["a", "b"] {
        run(&format!("train base --arch linear --out weights/{name}/1 --epochs 1 --data 9"), dir);
    }
    fs::write(dir.join("weights/b/1/base.safetensors"), "broken").unwrap();
    refused("eval --all --data nowhere", dir, CANNOT_START, "b/1/base.safetensors: has SHA-256");
}

#[test]
fn what_an_ended_run_left_goes_with_the_next() {
    let data = data(&[9, 20]);
    let dir = data.path();
    run("train base --arch linear --out w --epochs 1 --data 9", dir);
    let left = dir.join("w/base.checkpoint.0123456789abcdef.new");
    fs::write(&left, "a part of a checkpoint").unwrap();
    run("train base --arch linear --out w --epochs 1 --data 9", dir);
    assert!(!left.exists());
    run("train parity --weights w -k 2 --epochs 1 --data 20", dir);
    let left = dir.join("w/sum-k2-r1/row0.checkpoint.0123456789abcdef.new");
    fs::write(&left, "a part of a checkpoint").unwrap();
    run("train parity --weights w -k 2 --epochs 1 --data 20", dir);
    assert!(!left.exists());
}

#[test]
fn runs_that_fill_the_memory_or_have_nothing_in_them_are_refused() {
    for (arguments, says) in [
        ("bench http --rate 1e6 --seconds 11", "more than 10000000 requests"),
        ("bench http --rate 1000 --seconds 1000 --rows 1000", "more than 100000000 rows"),
        ("bench http --rate 1e-14 --seconds 1e20", "from 0.001"),
        ("bench http --arrivals bursty --rate 1e-12 --seconds 1", "from 0.001"),
        ("bench http --seconds 1e20", "from 0.001"),
        ("bench virtual --seconds 1e6", "at most 1000000 a run"),
        ("bench virtual --seconds 1000 --loads 90 --seeds 1000", "10000000 in all"),
        ("bench virtual --grid --seconds 1e6", "at most 1000000 a run"),
        ("bench virtual --seconds 1 --service-ms 10000", "no query falls into 1 s"),
        ("bench lanes --seconds 1e5 --service-ms 1", "at most 1000000 a run"),
        ("bench lanes --seconds 1 --service-ms 10000", "no query falls into 1 s"),
        ("eval --weights w --seeds 18446744073709551615", "1..=1000"),
    ] {
        refused(arguments, &root(), USAGE, says);
    }
}

#[test]
fn a_report_of_an_earlier_run_takes_no_word_about_another() {
    for (arguments, word) in [
        ("bench virtual --from x.json --policy none", "--policy"),
        ("bench virtual --from x.json --scenarios B", "--scenarios"),
        ("bench virtual --from x.json --loads 30", "--loads"),
        ("bench virtual --from x.json --seeds 1", "--seeds"),
        ("bench virtual --from x.json --weights w", "--weights"),
        ("bench lanes --from x.json --real", "--real"),
        ("bench lanes --from x.json --runs 1", "--runs"),
    ] {
        refused(arguments, &root(), USAGE, "cannot be used with");
        refused(arguments, &root(), USAGE, word);
    }
}

#[test]
fn a_file_with_fewer_rows_than_a_batch_is_refused() {
    let file = "bench forward --network mlp --weights tests/data/pytorch/mlp-1x28x28.safetensors --seconds 0.01";
    let rows = 2;
    for batches in ["1,64", "64"] {
        let says = format!("it has {rows} rows, and a batch of 64 was asked for; name --batches of at most {rows}");
        refused(&format!("{file} --batches {batches}"), &root(), CANNOT_START, &says);
    }
}

#[test]
fn names_that_are_no_text_are_no_bug() {
    let name = OsStr::from_bytes(b"no\xfftext");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let http = format!("bench http --seconds 1 --url {url} --data");
    for command in [http.as_str(), "bench forward --network mlp --weights"] {
        let output = parityd(words(command).chain([name]), &root());
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(CANNOT_START), "{command}: {log}");
    }
}
