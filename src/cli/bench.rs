//! `bench` on the command line.

#![expect(clippy::doc_markdown, reason = "clap shows these comments as help, where backticks are noise")]

use std::path::PathBuf;

use clap::{Args, Subcommand};
use parityd::{
    bench::{self, Arrivals, FaultAt, ServerUrl},
    config::{Device, Precision},
    model::Architecture,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Send an open-loop load to a server of the Open Inference Protocol v2, and report latencies, provenance and accuracy
    #[command(after_help = BENCH_EXITS)]
    Http(BenchHttp),
    /// Compare all policies under faults and loads, on the daemon's core under a virtual clock
    Virtual(BenchVirtual),
    /// Compare policies in real time: on emulated lanes beside their twins in virtual time, or on the lanes of a configuration
    #[command(after_help = LANES_EXITS)]
    Lanes(BenchLanes),
    /// How long networks take for a batch on a device
    Forward(BenchForward),
    /// What the parts of a query's path cost by themselves
    Micro(Json),
    /// What on this machine makes latencies lie, and what to do about it
    Doctor(Json),
    /// Compare two results of `bench http --json`: ratios b/a with 95 % intervals
    #[command(after_help = COMPARE_EXITS)]
    Compare(BenchCompare),
}

const BENCH_EXITS: &str = "Latency is from the intended time of a request to its whole reply; without a readable 200 by the deadline it \
counts as the deadline at least.\nExit codes: 0 a valid run, 2 usage, 65 the run is void (this client was too late, no query was answered, or \
time was stolen; what it measured is printed all the same), 78 cannot start, 130 \
interrupted.";

const LANES_EXITS: &str = "Exit codes: 0 a valid run, 2 usage, 65 the run is void (emulated lanes or their client were later than 4 % of a job, the client of real ones later than a quarter of a median latency or than 5 ms, or time was stolen), 78 cannot start.";

const COMPARE_EXITS: &str = "Exit codes: 0 compared, 2 usage, 78 not a result, a void run, or runs that are unlike.";

#[derive(Debug, Args)]
pub(crate) struct BenchHttp {
    /// The server; http only [default: where the configuration that --config names listens, else http://127.0.0.1:8000]
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<ServerUrl>,

    /// The model to ask
    #[arg(long, value_name = "NAME", default_value = "fashion-mnist")]
    pub(crate) model: String,

    /// Requests a second, on average
    #[arg(long, value_name = "R", default_value = "100", value_parser = within::<1, 10_000_000_000>)]
    pub(crate) rate: f64,

    /// How long requests are sent; replies are waited for beyond it
    #[arg(long, value_name = "S", default_value = "30", value_parser = within::<1, 1_000_000_000>)]
    pub(crate) seconds: f64,

    /// Seed of the times and of the rows
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// poisson, or bursty: 4 times the rate for 100 ms, a quarter of it for 400 ms, both on average
    #[arg(long, value_name = "KIND", default_value = "poisson")]
    pub(crate) arrivals: Arrivals,

    /// Rows of one request
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) rows: u32,

    /// Folder of Fashion-MNIST's files [default: $PARITYD_DATA, then that of the Debian package, else random rows]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Milliseconds after its intended time by when a request must be answered
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub(crate) deadline_ms: u64,

    /// Fault to inject AT seconds after the start: hang, stuck, panic, error, fatal, poison, out_of_memory, nan, garbage, clear or slow:FACTOR; may be repeated. Every lane is
    /// cleared at the end
    #[arg(long = "fault", value_name = "AT:LANE:KIND[:FACTOR]")]
    pub(crate) faults: Vec<FaultAt>,

    /// Ask for nothing reconstructed (sends allow_reconstructed = false)
    #[arg(long)]
    pub(crate) no_reconstructed: bool,

    /// JSON alone on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchVirtual {
    /// Loads, in percent of what all lanes can carry
    #[arg(long, value_name = "%", value_delimiter = ',', default_value = "30,38,54,67,75,83,90,95", value_parser = within::<1_000, 1_000_000>)]
    pub(crate) loads: Vec<f64>,

    /// Data slots of a stripe
    #[arg(short, value_name = "K", value_delimiter = ',', default_value = "2,4", value_parser = clap::value_parser!(u32).range(2..=15))]
    pub(crate) k: Vec<u32>,

    /// ParM's own experiments instead of our scenarios: 12 instances and 12/k for parity, by query rate, k, imbalance, tenants and batch size
    #[arg(long, conflicts_with_all = ["loads", "k", "scenarios", "policies", "from", "html", "plots"])]
    pub(crate) grid: bool,

    /// Letters of the scenarios, such as BCE [default: all]
    #[arg(long, value_name = "LETTERS", default_value = "", value_parser = letters)]
    pub(crate) scenarios: String,

    /// Policy, as the tables call it; may be repeated [default: all]
    #[arg(long = "policy", value_name = "NAME", value_parser = policy)]
    pub(crate) policies: Vec<String>,

    /// Report on what an earlier run wrote as JSON; run nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "loads", "k", "scenarios", "policies", "service_ms", "weights", "seconds", "seeds", "seed"])]
    pub(crate) from: Option<PathBuf>,

    /// Milliseconds of one job
    #[arg(long, value_name = "MS", default_value = "25", value_parser = within::<100, 10_000_000>)]
    pub(crate) service_ms: f64,

    /// Folder of weights whose recorded accuracies answers are worth [default: weights/fashion-mnist/1, if it is there]
    #[arg(long, value_name = "DIR")]
    pub(crate) weights: Option<PathBuf>,

    /// Virtual seconds of one run
    #[arg(long, value_name = "S", default_value = "60", value_parser = within::<1_000, 1_000_000_000>)]
    pub(crate) seconds: f64,

    /// Runs of each cell
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) seeds: u64,

    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Draw the hang and the tail in each scenario as SVG into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,

    /// One self-contained page of HTML with figures, written to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,

    /// JSON alone on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchLanes {
    /// Measure the lanes of the configuration (--config) as they are, instead of emulated ones
    #[arg(long)]
    pub(crate) real: bool,

    /// Folder of weights of emulated lanes
    #[arg(long, value_name = "DIR", default_value = "weights/fashion-mnist-mlp/1", conflicts_with = "real")]
    pub(crate) weights: PathBuf,

    /// Folder of Fashion-MNIST's files [default: $PARITYD_DATA, then that of the Debian package, else equal rows]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Load, in percent of what all lanes can carry
    #[arg(long, value_name = "%", default_value = "38", value_parser = within::<1_000, 1_000_000>)]
    pub(crate) load: f64,

    /// Data slots of a stripe
    #[arg(short, value_name = "K", default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=15))]
    pub(crate) k: u32,

    /// Letters of the scenarios
    #[arg(long, value_name = "LETTERS", default_value = "BCE", value_parser = some_letters)]
    pub(crate) scenarios: String,

    /// Policy, as the tables call it; may be repeated [default: none, ParM, hedged, "coded, pooled" and adaptive]
    #[arg(long = "policy", value_name = "NAME", value_parser = policy)]
    pub(crate) policies: Vec<String>,

    /// Milliseconds of one emulated job [default: the shortest for which this machine is fast enough]
    #[arg(long, value_name = "MS", value_parser = within::<1_000, 10_000_000>, conflicts_with = "real")]
    pub(crate) service_ms: Option<f64>,

    /// Seconds of one run
    #[arg(long, value_name = "S", default_value = "120", value_parser = within::<1_000, 100_000_000>)]
    pub(crate) seconds: f64,

    /// Runs of each scenario
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) runs: u64,

    /// The first seed
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Report on what an earlier run wrote as JSON; run nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "real", "weights", "data", "load", "k", "scenarios", "policies", "service_ms", "seconds", "runs", "seed"])]
    pub(crate) from: Option<PathBuf>,

    /// One self-contained page of HTML with figures, written to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,

    /// JSON alone on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// What has no other flag.
#[derive(Debug, Args)]
pub(crate) struct Json {
    /// JSON alone on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchCompare {
    /// The run to divide by
    #[arg(value_name = "A.json")]
    pub(crate) a: PathBuf,

    /// The run to divide
    #[arg(value_name = "B.json")]
    pub(crate) b: PathBuf,

    /// Compare although the runs are void, or unlike in machine or load
    #[arg(long)]
    pub(crate) anyway: bool,

    /// Seed of the bootstrap
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// JSON alone on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchForward {
    /// Where: cpu, cuda:N or GPU-<uuid>
    #[arg(long, default_value = "cpu")]
    pub(crate) device: Device,

    /// What it computes in, if it is a GPU: f32, tf32, f16 or bf16
    #[arg(long, value_name = "P", default_value = "f32", value_parser = precision)]
    pub(crate) precision: Precision,

    /// Measure one network, such as resnet18, instead of a list of known ones
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<Architecture>,

    /// Run the weights and rows of this safetensors file (parameters, `input`, `output`), and tell the outputs as JSON
    #[arg(long, value_name = "FILE", requires = "network")]
    pub(crate) weights: Option<PathBuf>,

    /// Rows of a batch
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_values_t = [1, 8, 32], value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) batches: Vec<u16>,

    /// Seconds for each network and batch
    #[arg(long, value_name = "S", default_value = "1", value_parser = positive)]
    pub(crate) seconds: f64,

    /// JSON alone on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

fn precision(text: &str) -> Result<Precision, String> {
    let found = Precision::WORDS.iter().find(|(word, _)| *word == text);
    found.map(|&(_, precision)| precision).ok_or_else(|| "f32, tf32, f16 or bf16".to_owned())
}

fn letters(text: &str) -> Result<String, String> {
    let known = |letter: char| ('A'..='J').contains(&letter);
    if text.chars().all(known) { Ok(text.to_owned()) } else { Err("write letters from A to J, such as BCE".to_owned()) }
}

fn some_letters(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("write letters from A to J, such as BCE".to_owned()) } else { letters(text) }
}

fn policy(text: &str) -> Result<String, String> {
    let known = bench::policies();
    let found = known.iter().find(|known| **known == text);
    found.map(|known| (*known).to_owned()).ok_or_else(|| format!("known policies: {}", known.join("; ")))
}

/// A number from `LEAST` to `MOST` thousandths.
fn within<const LEAST: u64, const MOST: u64>(text: &str) -> Result<f64, String> {
    let (least, most) = (LEAST as f64 / 1e3, MOST as f64 / 1e3);
    let number = text.parse::<f64>().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("write a number from {least} to {most}"))
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "write a number above 0".to_owned())
}
