//! The `parityd` command: reads the command line, starts the log, runs one subcommand, turns its outcome into an exit code.
//!
//! Exit codes: 0 ok, 2 usage, 70 a bug, 78 cannot start (configuration, weights, device, data). Errors are typed in the library; here,
//! at the rim, they are only told apart and printed.

mod cli;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use parityd::{
    code::Sum,
    data,
    train::{self, BaseOptions, ParityOptions, Settings},
};
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command, Train, TrainBase, TrainParity, TrainRun};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(78)
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let filter = EnvFilter::try_new(&cli.log).context("--log")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match &cli.command {
        None | Some(Command::Serve | Command::Check | Command::Eval(_)) => anyhow::bail!("not written yet"),
        Some(Command::Train(Train::Base(options))) => train_base(options),
        Some(Command::Train(Train::Parity(options))) => train_parity(options),
    }
}

fn train_base(options: &TrainBase) -> Result<()> {
    let TrainBase { arch, out, name, version, run } = options;
    let options = BaseOptions {
        architecture: *arch,
        out: out.clone(),
        name: name.clone(),
        version: version.clone(),
        data: data::locate(run.data.as_deref()),
        settings: settings(run, 64),
    };
    Ok(train::base(&options)?)
}

fn train_parity(options: &TrainParity) -> Result<()> {
    let TrainParity { weights, k, r, rows, run, .. } = options;
    let options = ParityOptions {
        weights: weights.clone(),
        code: Sum::with_defaults(*k, *r)?,
        rows: rows.clone(),
        data: data::locate(run.data.as_deref()),
        settings: settings(run, if *k == 2 { 64 } else { 32 }),
    };
    Ok(train::parity(&options)?)
}

fn settings(run: &TrainRun, batch: u32) -> Settings {
    Settings {
        preset: run.preset,
        seed: run.seed,
        batch: run.batch.unwrap_or(batch) as usize,
        epochs: run.epochs as usize,
        resume: run.resume,
    }
}
