//! The command line: every subcommand and flag, and what each hands to the library.
//!
//! Only words and defaults are decided here. Flag beats environment beats file.

#![expect(clippy::doc_markdown, reason = "clap shows these comments as help, where backticks are noise")]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use parityd::{model::Architecture, train::Preset};

use crate::log::Format;

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

    /// How the log looks
    #[arg(long, global = true, value_name = "FORMAT", env = "PARITYD_LOG_FORMAT", default_value = "human")]
    pub(crate) log_format: Format,

    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve queries (what is done without a subcommand)
    Serve,
    /// Check configuration and weights, and stop
    Check,
    /// Train a base model or the parity models of a code
    #[command(subcommand)]
    Train(Train),
    /// Measure the accuracy of direct and of reconstructed answers on the test images
    Eval(Eval),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Train {
    /// Train a base model on the labels
    Base(TrainBase),
    /// Train parity models on a base model's outputs
    Parity(TrainParity),
}

#[derive(Debug, Args)]
pub(crate) struct TrainBase {
    /// Network: linear, mlp or lenet5
    #[arg(long)]
    pub(crate) arch: Architecture,

    /// Folder of weights to make, such as weights/fashion-mnist/1
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,

    /// Deployment name, told to clients
    #[arg(long, default_value = "fashion-mnist")]
    pub(crate) name: String,

    /// Deployment version, told to clients
    #[arg(long, default_value = "1")]
    pub(crate) version: String,

    #[command(flatten)]
    pub(crate) run: TrainRun,
}

#[derive(Debug, Args)]
pub(crate) struct TrainParity {
    /// Folder of weights that holds the base model
    #[arg(long, value_name = "DIR")]
    pub(crate) weights: PathBuf,

    /// Kind of the code
    #[arg(long, default_value = "sum", value_parser = ["sum"])]
    pub(crate) kind: String,

    /// Data slots of a stripe
    #[arg(short)]
    pub(crate) k: usize,

    /// Parity slots of a stripe
    #[arg(short, default_value_t = 1)]
    pub(crate) r: usize,

    /// Parity row to train, from 0; may be repeated [default: all]
    #[arg(long = "row")]
    pub(crate) rows: Vec<usize>,

    #[command(flatten)]
    pub(crate) run: TrainRun,
}

/// What both trainings take.
#[derive(Debug, Args)]
pub(crate) struct TrainRun {
    /// Passes over the training images
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) epochs: u32,

    /// Inputs (images or stripes) of one step [default: 64; 32 for k > 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Option<u32>,

    /// Seed of the initial weights and of every shuffle
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,

    /// Settings: parm (the papers') or one_cycle (the rate rises and falls)
    #[arg(long, default_value = "parm")]
    pub(crate) preset: Preset,

    /// Folder of Fashion-MNIST's files [default: $PARITYD_DATA, then that of the Debian package]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// Go on from the last checkpoint of a run with the same settings, if there is one
    #[arg(long)]
    pub(crate) resume: bool,
}

#[derive(Debug, Args)]
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

    /// How many permutations of the test images to measure, seeded from 0
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seeds: u64,

    /// Write the measured accuracies into the manifest
    #[arg(long)]
    pub(crate) record: bool,
}
