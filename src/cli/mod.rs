//! The command line: every subcommand and flag, and what each hands to the library.
//!
//! Only words and defaults are decided here. Flag beats environment beats file.

#![expect(clippy::doc_markdown, reason = "clap shows these comments as help, where backticks are noise")]

mod bench;

use std::{num::ParseFloatError, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand};
use parityd::{
    code::{Coefficients, Kind},
    config::{Device, plain_name},
    model::{Architecture, Encoder},
    train::Preset,
};

pub(crate) use bench::{Bench, BenchCompare, BenchForward, BenchHttp, BenchLanes, BenchVirtual, Json};

use crate::log::{self, Format};

/// A single-node, multi-GPU inference daemon that decodes the predictions of slow, hung or dead devices from parity models.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = false)]
pub(crate) struct Cli {
    /// Configuration file [default: ./config.toml, then /etc/parityd/config.toml]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,

    /// What to log: error, warn, info, debug, trace, or filters such as `parityd::lane=debug`
    #[arg(long, global = true, value_name = "LEVEL", env = "PARITYD_LOG", default_value = "info")]
    pub(crate) log: String,

    /// How the log looks: human or json
    #[arg(long, global = true, value_name = "FORMAT", env = "PARITYD_LOG_FORMAT", default_value = "human", value_parser = log::format)]
    pub(crate) log_format: Format,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

impl Cli {
    /// What to log. Daemons that are measured keep quiet about lanes that were made to fail, unless somebody asks.
    pub(crate) fn log_filter(&self) -> String {
        match &self.command {
            Some(Command::Bench(Bench::Lanes(_))) if self.log == "info" => {
                "info,parityd::engine=off,parityd::serve=warn,parityd::lane=off".to_owned()
            }
            Some(_) | None => self.log.clone(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve queries (what is done without a subcommand)
    Serve,
    /// Check configuration and weights, and stop
    Check,
    /// List GPUs, configured lanes, and their states in a running daemon
    Devices(Json),
    /// Train a base model or the parity models of a code
    #[command(subcommand)]
    Train(Train),
    /// Measure the accuracy of direct and of reconstructed answers on the test images
    Eval(Eval),
    /// Measure a running server, and compare measurements
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Train {
    /// Train a base model on the labels
    Base(TrainBase),
    /// Train parity models on a base model's outputs
    Parity(TrainParity),
    /// Calibrate the confidence of reconstructions, for every code of a folder of weights
    Calibrate(TrainCalibrate),
    /// Train every model anew that the manifests below a folder describe, and compare old and new accuracies
    All(TrainAll),
}

#[derive(Debug, Args)]
pub(crate) struct TrainBase {
    /// Network: linear, mlp, lenet5, vgg11, resnet18 or resnet152; the last three at any width, as in resnet18-w16
    #[arg(long)]
    pub(crate) arch: Architecture,

    /// Folder of weights to make, such as weights/fashion-mnist/1
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,

    /// Deployment name, told to clients
    #[arg(long, default_value = "fashion-mnist", value_parser = plain_name)]
    pub(crate) name: String,

    /// Deployment version, told to clients
    #[arg(long, default_value = "1", value_parser = plain_name)]
    pub(crate) version: String,

    /// Write over another base model that is there, whose parity models are lost
    #[arg(long)]
    pub(crate) replace: bool,

    #[command(flatten)]
    pub(crate) run: TrainRun,
}

/// The value of `--coefficients`.
#[derive(Clone, Debug)]
pub(crate) struct CoefficientRows(pub(crate) Coefficients);

impl FromStr for CoefficientRows {
    type Err = ParseFloatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let row = |row: &str| row.split(',').map(|number| number.trim().parse()).collect();
        text.split('/').map(row).collect::<Result<_, _>>().map(CoefficientRows)
    }
}

#[derive(Debug, Args)]
pub(crate) struct TrainParity {
    /// Folder of weights that holds the base model
    #[arg(long, value_name = "DIR")]
    pub(crate) weights: PathBuf,

    /// Kind of the code: sum, concat, mux, compact or learned
    #[arg(long, default_value = "sum")]
    pub(crate) kind: Kind,

    /// Data slots of a stripe
    #[arg(short)]
    pub(crate) k: usize,

    /// Parity slots of a stripe [default: as many as --coefficients has rows, else 1]
    #[arg(short)]
    pub(crate) r: Option<usize>,

    /// Coefficients of sum, rows apart by slashes: 1,1/1,-1 [default: those of the kind]
    #[arg(long, value_name = "ROWS", allow_hyphen_values = true)]
    pub(crate) coefficients: Option<CoefficientRows>,

    /// Network of the parity models [default: one that costs about as much a job as the base model]
    #[arg(long)]
    pub(crate) arch: Option<Architecture>,

    /// What stands in front of the base model in a learned code: conv or mlp [default: conv]
    #[arg(long, conflicts_with = "arch")]
    pub(crate) encoder: Option<Encoder>,

    /// Parity row to train, from 0; may be repeated [default: all]
    #[arg(long = "row")]
    pub(crate) rows: Vec<usize>,

    /// Write over other parity models of those rows that are there
    #[arg(long)]
    pub(crate) replace: bool,

    #[command(flatten)]
    pub(crate) run: TrainRun,
}

#[derive(Debug, Args)]
pub(crate) struct TrainCalibrate {
    /// Folder of weights that holds the base model and the parity models
    #[arg(long, value_name = "DIR")]
    pub(crate) weights: PathBuf,

    /// Folder of Fashion-MNIST's files [default: $PARITYD_DATA, then that of the Debian package]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Where the models run: cpu, cuda:N or GPU-<uuid>
    #[arg(long, default_value = "cpu")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
pub(crate) struct TrainAll {
    /// Folder of the weights to read (<deployment>/<version> below it)
    #[arg(long, value_name = "DIR", default_value = "weights")]
    pub(crate) weights: PathBuf,

    /// Folder that gets the same, trained anew
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,

    /// Passes over the training images [default: what each manifest records; fewer for a quick try]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) epochs: Option<u32>,

    /// Folder of Fashion-MNIST's files [default: $PARITYD_DATA, then that of the Debian package]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Keep what is there already, made with the same settings, and go on from checkpoints
    #[arg(long)]
    pub(crate) resume: bool,

    /// Write over other models that are there; with a base model its parity models are lost
    #[arg(long)]
    pub(crate) replace: bool,

    /// Where: cpu, cuda:N or GPU-<uuid>
    #[arg(long, default_value = "cpu")]
    pub(crate) device: Device,

    /// JSON alone on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

/// What both trainings take.
#[derive(Debug, Args)]
pub(crate) struct TrainRun {
    /// Passes over the training images
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) epochs: u32,

    /// End early after so many epochs without a better validation score
    #[arg(long, value_name = "EPOCHS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) patience: Option<u32>,

    /// Inputs (images or stripes) of one step [default: 64; 32 for k > 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Option<u32>,

    /// Seed of the initial weights and of every shuffle
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Settings: parm (the papers'), one_cycle (the rate rises and falls) or best (ours; see docs/codes.md)
    #[arg(long, default_value = "parm")]
    pub(crate) preset: Preset,

    /// Folder of Fashion-MNIST's files [default: $PARITYD_DATA, then that of the Debian package]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Go on from the last checkpoint of a run with the same settings, if there is one
    #[arg(long)]
    pub(crate) resume: bool,

    /// Where: cpu, cuda:N or GPU-<uuid>; weights are the same to the bit on the same kind of CPU alone
    #[arg(long, default_value = "cpu")]
    pub(crate) device: Device,
}

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Eval {
    /// Folder of weights to measure
    #[arg(long, value_name = "DIR", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) weights: Option<PathBuf>,

    /// Measure every folder of weights below ./weights
    #[arg(long)]
    pub(crate) all: bool,

    /// Folder of Fashion-MNIST's files [default: $PARITYD_DATA, then that of the Debian package]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// JSON alone on standard output
    #[arg(long)]
    pub(crate) json: bool,

    /// The page docs/accuracy.md on standard output: what was measured beside what the papers report
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,

    /// Draw the figures of what was measured into this folder, each as SVG and as PNG
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,

    /// How many permutations of the test images to measure, seeded from 0
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) seeds: u64,

    /// Write the measured accuracies into the manifest
    #[arg(long)]
    pub(crate) record: bool,

    /// Where the models run: cpu, cuda:N or GPU-<uuid>; what parity jobs cost in time is measured on the CPU alone
    #[arg(long, default_value = "cpu")]
    pub(crate) device: Device,
}
