//! Properties of the source text that the compiler does not check: `cargo tidy`.
//!
//! One rule a test, so that a failure names its rule, and each states why it exists. `tidy/rules.rs` shows for each rule that it can fail.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::fs;

use rules::Layers;
use source::{root, sources, texts};

/// What each top-level module may import from this crate, from the bottom up: no entry names one that stands below it in this list.
/// Unit tests are free. A new edge is a decision about the architecture, so it is made here, in sight.
const LAYERS: &Layers = &[
    // The words: plain data, and what counts and measures it.
    ("clock", &[]),
    ("descriptors", &[]),
    ("exit", &[]),
    ("shortage", &[]),
    ("repeat", &["clock"]),
    ("query", &["clock"]),
    ("metrics", &["query", "clock"]),
    ("code", &["query"]),
    ("job", &["query"]),
    ("queue", &["query"]),
    ("pool", &["queue"]),
    ("reply", &["pool", "query", "clock"]),
    // Checked settings are plain data, too: the core takes its policy as it was written.
    ("config", &["code", "job", "query", "shortage"]),
    // The core: told the time, never asks for it; no thread, device or socket.
    ("health", &["job", "query", "metrics", "clock"]),
    ("stripe", &["code", "job", "pool", "queue", "reply", "query", "metrics", "clock"]),
    ("dispatch", &["stripe", "health", "config", "code", "job", "pool", "queue", "reply", "query", "metrics", "clock"]),
    // The rim towards clients.
    ("admission", &["reply", "query"]),
    ("otlp", &[]),
    ("wire", &["otlp", "admission", "reply", "query", "metrics", "repeat", "clock"]),
    ("http", &["wire", "admission", "reply", "query", "metrics", "job", "repeat", "clock"]),
    ("grpc", &["wire", "admission", "reply", "query", "metrics", "clock"]),
    // The rim towards devices: never names dispatch, they share `job`.
    ("model", &[]),
    ("nvml", &["health", "metrics", "query", "repeat", "clock"]),
    ("weights", &["model", "code", "query", "shortage"]),
    ("lane", &["model", "weights", "config", "code", "job", "queue", "query", "metrics", "repeat", "clock"]),
    // The core under real threads, and what puts everything together.
    (
        "engine",
        &[
            "admission",
            "dispatch",
            "stripe",
            "health",
            "config",
            "code",
            "job",
            "queue",
            "reply",
            "query",
            "metrics",
            "repeat",
            "clock",
        ],
    ),
    (
        "serve",
        &[
            "engine",
            "http",
            "grpc",
            "wire",
            "otlp",
            "lane",
            "nvml",
            "weights",
            "model",
            "admission",
            "dispatch",
            "stripe",
            "health",
            "config",
            "code",
            "job",
            "queue",
            "reply",
            "query",
            "repeat",
            "metrics",
            "descriptors",
            "exit",
            "shortage",
            "clock",
        ],
    ),
    // Programs beside the daemon; only `main` names them.
    ("data", &[]),
    ("chart", &[]),
    ("eval", &["chart", "data", "model", "weights", "code", "query", "clock"]),
    ("train", &["eval", "data", "model", "weights", "code", "clock"]),
    ("sim", &["dispatch", "stripe", "health", "config", "code", "job", "queue", "reply", "query", "metrics", "clock"]),
    // `http` is a client, which knows the daemon by its port alone. `simulated` sets policies before the virtual clock, `lanes` before real
    // threads: a daemon without a port.
    (
        "bench",
        &[
            "sim",
            "chart",
            "data",
            "serve",
            "engine",
            "http",
            "wire",
            "lane",
            "model",
            "nvml",
            "weights",
            "admission",
            "dispatch",
            "health",
            "config",
            "code",
            "job",
            "queue",
            "reply",
            "query",
            "metrics",
            "descriptors",
            "clock",
        ],
    ),
    // The binary: reaches the crate by its public name.
    ("log", &[]),
    ("cli", &["log"]),
    ("lib", &[]),
    ("output", &[]),
    ("measure", &["cli", "output"]),
    ("devices", &["output"]),
    ("main", &["cli", "devices", "log", "measure", "output"]),
];

/// Words of code and the only modules that may use them, each with its reason.
const OWNERS: &[(&str, &[&str])] = &[
    // Tensors never leave the modules that know devices, so that another backend is a change in one place.
    ("candle_core", &["model", "lane", "weights", "train", "eval"]),
    ("candle_nn", &["model", "lane", "weights", "train", "eval"]),
    // What candle does not ask of CUDA, two modules do.
    ("cudarc", &["model", "lane"]),
    // Only http knows the wire, and bench, its client; the rest would be the same behind another protocol.
    ("hyper", &["http", "grpc", "bench"]),
    ("hyper_util", &["http", "grpc", "bench"]),
    ("http_body_util", &["http", "bench"]),
    // The same of the other protocol.
    ("opentelemetry", &["otlp"]),
    ("opentelemetry_sdk", &["otlp"]),
    ("opentelemetry_otlp", &["otlp"]),
    ("tonic", &["grpc"]),
    ("tonic_prost", &["grpc"]),
    ("tonic_reflection", &["grpc"]),
    ("prost", &["grpc"]),
    // Every queue is bounded because there is one place that makes them.
    ("crossbeam", &["queue"]),
    // A driver call may never return: whoever makes one must be prepared for that.
    ("nvml_wrapper", &["nvml"]),
    // System calls that the standard library lacks: a port for another process, a client that has left, more descriptors; and errors by name.
    ("rustix", &["serve", "wire", "descriptors", "shortage"]),
    // Parallel loops of candle and of `model` run in the pool of whoever calls them; the core must not have one.
    ("rayon", &["lane", "model", "train", "eval"]),
    // Vectors are for the inner loops of forward passes.
    ("pulp", &["model"]),
    // One look for all figures; the daemon draws none.
    ("plotters", &["chart"]),
    ("plotters_backend", &["chart"]),
    ("ab_glyph", &["chart"]),
    ("png", &["chart"]),
    // Files that strangers send are decoded in one place, which looks at their size first.
    ("image", &["http"]),
    // An executor that the core depended on could not be replaced by the simulator. bench is a program of its own, with its own sockets.
    ("tokio", &["wire", "http", "grpc", "serve", "bench", "main"]),
    ("async", &["wire", "http", "grpc", "serve", "bench", "main"]),
    (".await", &["wire", "http", "grpc", "serve", "bench", "main"]),
    // One clock: everything else is told the time, so that tests and the simulator control it.
    ("Instant::now", &["clock"]),
    // Spans are told in it.
    ("SystemTime", &["clock", "otlp"]),
    // From one GPU to another it would copy between two streams, and nothing orders these (decision 0027): to host memory, or from there.
    (".to_device", &["src/model/parameters.rs", "src/train/fit.rs", "src/train/adam.rs"]),
    // Decision 0027; another one needs a decision record, too.
    ("unsafe", UNSAFE),
];

/// What calls the driver, or cuDNN.
const UNSAFE: &[&str] = &[
    "src/model/gpu/mod.rs",
    "src/model/gpu/pinned.rs",
    "src/model/gpu/cudnn.rs",
    "src/model/gpu/cudnn/convolution.rs",
    "src/model/gpu/cudnn/description.rs",
    "src/model/gpu/cudnn/graph.rs",
    "src/model/gpu/bound.rs",
    "src/model/gpu/program.rs",
];

/// A file that is longer than this is read by nobody at one sitting.
const LINES_MAX: usize = 400;

/// Words that say nothing (manager, util, common, helper) or that are a second name for one that we have (shard: slot; task: job).
const BANNED: &[&str] = &["manager", "util", "common", "helper", "shard", "task"];

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// The straight path of a query stays readable, and the core stays free of clocks, threads and devices.
#[test]
fn modules_import_only_what_stands_below_them() {
    none(&rules::imports(&sources(), LAYERS));
    none(&rules::upward(LAYERS));
}

/// What only one place may do, only one place does.
#[test]
fn foreign_crates_and_special_words_stay_with_their_owners() {
    let sources = sources();
    for (word, owners) in OWNERS {
        none(&rules::outside(&sources, word, owners));
    }
}

/// A reader opens a file and learns at once what it owns; a file that grew too long is split while that is cheap.
#[test]
fn files_are_short_and_say_what_they_are() {
    none(&rules::shape(&sources(), LINES_MAX));
}

/// One word for one thing.
#[test]
fn names_use_the_words_of_the_project() {
    none(&rules::names(&sources(), BANNED, &["hyper_util", "http_body_util"]));
}

/// A clone works anywhere, so nothing in it points to where it was written.
#[test]
fn no_file_holds_a_path_of_the_authors_machine() {
    let folders = ["wo|rk/", "ro|ot/", "ho|me/", "Us|ers/"].map(|folder| format!("/{}", folder.replace('|', "")));
    none(&rules::lines_with(&texts(), &folders));
}

/// What is left to do is an issue or done, not a comment.
#[test]
fn no_file_defers_work() {
    let words = ["TO|DO", "FIX|ME", "X|XX"].map(|word| word.replace('|', ""));
    none(&rules::lines_with(&texts(), &words));
}

/// Each dependency is a decision; its reason stands with it.
#[test]
fn every_dependency_says_why_it_is_there() {
    none(&rules::unexplained(&fs::read_to_string(root().join("Cargo.toml")).unwrap()));
}

/// Decisions are found by number, and each says what it costs.
#[test]
fn decision_records_are_numbered_and_whole() {
    let texts = texts();
    assert!(texts.iter().any(|(path, _)| path.starts_with("docs/decisions/0001-")), "no decision record was found");
    none(&rules::records(&texts));
}
