//! The `parityd` command: reads the command line, starts the log, runs one subcommand, turns its outcome into an exit code.
//!
//! Exit codes: 0 ok, 2 usage, 65 measured but void, 70 a bug, 75 what may pass by itself (a device that did not open, a driver that is not ready, a port
//! that is taken, no threads or files left), 78 cannot start (configuration, weights, rights, data, server, a lane whose first canary is wrong), 130 a measurement that Ctrl-C ended. Errors are typed in the library; here, at the rim, they are told apart and printed. Output goes to
//! standard output, the log and the progress bar to standard error.

mod cli;
mod devices;
mod log;
mod measure;
mod output;

use std::{
    env, io,
    os::unix::process::CommandExt,
    panic,
    path::Path,
    process::{self, ExitCode},
};

use anyhow::Result;
use clap::{CommandFactory, Parser, error::ErrorKind};
use parityd::{
    bench::BenchError,
    code::{Kind, Spec},
    data,
    eval::{self, EvalError, MeasureOptions},
    exit::{BUG, CANNOT_START, INTERRUPTED, MAY_PASS, VOID},
    lane::{self, OpenError},
    serve::{self, Plan, ServeError, StartFaults},
    train::{self, AllOptions, Backend, BaseOptions, CalibrateOptions, ParityOptions, Remade, Settings, TrainError},
    weights::WeightsError,
};

use cli::{Cli, Command, Eval, Train, TrainAll, TrainBase, TrainCalibrate, TrainParity, TrainRun};
use output::{print, written};

/// Seeds of the permutations that `eval` uses, too, if nobody says otherwise.
const SEEDS: [u64; 5] = [0, 1, 2, 3, 4];

/// How many threads candle may take for what it does not do in the pool of its caller.
const CANDLE_THREADS: &str = "CANDLE_NUM_THREADS";

fn main() -> ExitCode {
    let shared = without_shared_pool();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => return answered(&answer),
    };
    // The log's, and one more.
    if let Err(error) = serve::room_for_threads(2) {
        return refused(&error.into());
    }
    // A wrong `--log` ends the process with 2, as any wrong flag.
    let log = log::start(&cli.log_filter(), cli.log_format).unwrap_or_else(|error| {
        Cli::command().error(ErrorKind::InvalidValue, format!("--log (or PARITYD_LOG) {}: {error}", cli.log)).exit()
    });
    if let Some(error) = shared {
        tracing::warn!(%error, "cannot set CANDLE_NUM_THREADS=1: lanes and trainers may wait for each other");
    }
    let ended = panic::catch_unwind(|| run(&cli));
    let code = match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => refused(&error),
        // One that was passed on from another thread; the message is already on standard error.
        Err(_) => ExitCode::from(BUG),
    };
    // Its last lines are written now; a lane that hangs may keep the process's end waiting, but not its log.
    drop(log);
    code
}

/// Says why nothing was done.
fn refused(error: &anyhow::Error) -> ExitCode {
    log::fatal(error);
    ExitCode::from(exit_code(error))
}

/// Prints what the command line alone asks for (help, the version), or what is wrong with it.
fn answered(answer: &clap::Error) -> ExitCode {
    let printed = answer.print();
    // Nobody is left to be told that standard error is closed.
    match if answer.use_stderr() { Ok(()) } else { written(printed) } {
        Ok(()) => ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(CANNOT_START)),
        Err(error) => refused(&error),
    }
}

/// Starts this process anew, with the same id, so that candle has no pool beside those of its callers.
///
/// Candle runs element-wise work on tensors of 64 Ki values and more in a pool of the whole process: one caller at a time, and all threads
/// spin until the last is done. Lanes and the parts of a training step then wait for each other, and burn the cores that the others need. The size of
/// that pool is read from the environment once; changing the environment of a running process is unsafe, starting with another is not.
/// Gives why it could not be done.
fn without_shared_pool() -> Option<io::Error> {
    if env::var_os(CANDLE_THREADS).is_some_and(|threads| !threads.is_empty()) {
        return None;
    }
    let mut arguments = env::args_os();
    let name = arguments.next()?;
    let program = match env::current_exe() {
        Ok(program) => program,
        Err(error) => return Some(error),
    };
    Some(process::Command::new(program).arg0(name).args(arguments).env(CANDLE_THREADS, "1").exec())
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        None | Some(Command::Serve) => Ok(serve::run(Plan::load(cli.config.as_deref())?)?),
        Some(Command::Check) => check(&Plan::load(cli.config.as_deref())?),
        Some(Command::Devices(options)) => devices::devices(cli.config.as_deref(), options.json),
        Some(Command::Train(Train::Base(options))) => train_base(options),
        Some(Command::Train(Train::Parity(options))) => train_parity(options),
        Some(Command::Train(Train::Calibrate(options))) => train_calibrate(options),
        Some(Command::Train(Train::All(options))) => train_all(options),
        Some(Command::Eval(options)) => evaluate(options),
        Some(Command::Bench(bench)) => measure::run(bench, cli.config.as_deref()),
    }
}

/// Prints the configuration in force. Loading it has checked it, and the weights.
fn check(plan: &Plan) -> Result<()> {
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
    if let Some(fault) = plan.needs_cuda() {
        anyhow::bail!("{fault}");
    }
    print(&plan.config.to_string())
}

/// Who has to act: the operator (78), whoever measures (65), us (70), or time (75).
fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(BenchError::Void { .. }) => return VOID,
        Some(BenchError::Interrupted) => return INTERRUPTED,
        Some(BenchError::Figure { .. }) => return BUG,
        Some(BenchError::Daemon(error)) if error.may_pass() => return MAY_PASS,
        Some(BenchError::Plan(faults)) if faults.may_pass() => return MAY_PASS,
        Some(BenchError::Device(error)) if error.is_of_a_device() => return MAY_PASS,
        Some(_) | None => {}
    }
    let starting = error.downcast_ref().is_some_and(StartFaults::may_pass);
    let serving = error.downcast_ref().is_some_and(ServeError::may_pass);
    let reading = error.downcast_ref().is_some_and(WeightsError::may_pass);
    if starting || serving || reading || error.downcast_ref().is_some_and(OpenError::is_of_a_device) {
        return MAY_PASS;
    }
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(TrainError::Tensor(_)), _) | (_, Some(EvalError::Tensor(_))) => BUG,
        (Some(TrainError::Weights(error)), _) | (_, Some(EvalError::Weights(error))) if error.may_pass() => MAY_PASS,
        _ => CANNOT_START,
    }
}

fn train_base(options: &TrainBase) -> Result<()> {
    let TrainBase { arch, out, name, version, replace, run } = options;
    let options = BaseOptions {
        architecture: *arch,
        out: out.clone(),
        name: name.clone(),
        version: version.clone(),
        data: data::locate(run.data.as_deref()),
        replace: *replace,
        settings: settings(run, 64)?,
    };
    Ok(train::base(&options)?)
}

fn train_parity(options: &TrainParity) -> Result<()> {
    let TrainParity { weights, kind, k, r, coefficients, arch, encoder, rows, replace, run } = options;
    let coefficients = coefficients.as_ref().map(|rows| rows.0.clone());
    let usual = if *kind == Kind::Replica { *k } else { coefficients.as_ref().map_or(1, Vec::len) };
    let code = Spec { coefficients, ..Spec::of(*kind, *k, r.unwrap_or(usual)) };
    let options = ParityOptions {
        weights: weights.clone(),
        code,
        architecture: *arch,
        encoder: *encoder,
        rows: rows.clone(),
        data: data::locate(run.data.as_deref()),
        replace: *replace,
        // The papers' batches.
        settings: settings(run, if *k == 2 { 64 } else { 32 })?,
    };
    if let Err(error) = options.check() {
        Cli::command().error(ErrorKind::InvalidValue, error).exit();
    }
    Ok(train::parity(&options)?)
}

fn train_calibrate(options: &TrainCalibrate) -> Result<()> {
    let TrainCalibrate { weights, data, device } = options;
    let device = lane::open_device(device)?;
    Ok(train::calibrate(&CalibrateOptions { weights: weights.clone(), data: data::locate(data.as_deref()), device })?)
}

/// Trains, then measures old and new on the same images: what a manifest records may have been measured on others.
fn train_all(options: &TrainAll) -> Result<()> {
    let data = data::locate(options.data.as_deref());
    let device = lane::open_device(&options.device)?;
    let made = train::all(&AllOptions {
        weights: options.weights.clone(),
        out: options.out.clone(),
        data: data.clone(),
        epochs: options.epochs.map(|epochs| epochs as usize),
        resume: options.resume,
        replace: options.replace,
        backend: Backend::of(device.clone()),
    })?;
    let measuring = MeasureOptions { seeds: &SEEDS, device, timed: false };
    let measure = |weights: &Path| eval::measure(weights, &data, &measuring);
    let mut changes = Vec::new();
    for Remade { old, new } in made {
        let measured = measure(&new)?;
        eval::record(&new, &measured)?;
        changes.extend(eval::changes(&measure(&old)?, &measured));
    }
    print(&if options.json { serde_json::to_string_pretty(&changes)? } else { eval::changes_table(&changes) })
}

fn settings(run: &TrainRun, batch: u32) -> Result<Settings> {
    Ok(Settings {
        preset: run.preset,
        seed: run.seed,
        batch: run.batch.unwrap_or(batch) as usize,
        epochs: run.epochs as usize,
        patience: run.patience.map(|epochs| epochs as usize),
        resume: run.resume,
        backend: Backend::of(lane::open_device(&run.device)?),
    })
}

fn evaluate(options: &Eval) -> Result<()> {
    let data = data::locate(options.data.as_deref());
    let folders = match &options.weights {
        Some(folder) => vec![folder.clone()],
        None => eval::shipped(Path::new("weights"))?,
    };
    // What is measured of the others is told only when all are over.
    for folder in folders.iter().filter(|_| options.all) {
        eval::may_measure(folder)?;
    }
    for folder in folders.iter().filter(|_| options.record) {
        eval::may_record(folder)?;
    }
    if let Some(dir) = &options.plots {
        eval::may_plot(dir)?;
    }
    let seeds: Vec<u64> = (0..options.seeds).collect();
    let device = lane::open_device(&options.device)?;
    let measuring = MeasureOptions { seeds: &seeds, timed: device.is_cpu(), device };
    let (mut rows, mut of_folders) = (Vec::new(), Vec::new());
    for folder in &folders {
        let measured = eval::measure(folder, &data, &measuring)?;
        rows.extend(measured.iter().cloned());
        of_folders.push((folder, measured));
    }
    eval::leave_out_repeats(&mut rows);
    let text = match options {
        Eval { json: true, .. } => eval::json(&rows),
        Eval { markdown: true, .. } => eval::markdown(&rows),
        Eval { .. } => eval::table(&rows),
    };
    // What was measured is told first: a file that cannot be written after all must not cost it.
    print(&text)?;
    for (folder, measured) in of_folders.iter().filter(|_| options.record) {
        eval::record(folder, measured)?;
    }
    if let Some(dir) = &options.plots {
        eval::plot(&rows, dir)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use parityd::weights::Fault;

    #[test]
    fn weights_that_may_be_read_later_are_tried_again() {
        let weights = |may_pass| {
            let (file, rule) = ("base.safetensors".into(), "cannot be read".to_owned());
            WeightsError { faults: vec![Fault { file, rule, next: "raise LimitNOFILE=", may_pass }] }
        };
        for (may_pass, code) in [(true, MAY_PASS), (false, CANNOT_START)] {
            assert_eq!(exit_code(&TrainError::Weights(weights(may_pass)).into()), code);
            assert_eq!(exit_code(&EvalError::Weights(weights(may_pass)).into()), code);
            assert_eq!(exit_code(&weights(may_pass).into()), code);
        }
    }

    #[test]
    fn void_runs_have_a_code_of_their_own() {
        assert_eq!(exit_code(&BenchError::Void { reason: "steal".to_owned() }.into()), VOID);
    }
}
