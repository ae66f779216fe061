//! `bench`: from the command line to the library and back to standard output.

use std::{
    env,
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Result;
use clap::{CommandFactory, error::ErrorKind};
use parityd::{
    bench::{
        self, BenchError, CompareOptions, ForwardOptions, HttpOptions, LanesOptions, Load, ServerUrl, VirtualOptions,
        VirtualReport,
    },
    config::{self, Config},
    serve::StartFaults,
    weights::{Manifest, WeightsError, try_page, try_write, write_page},
};

use crate::{
    cli::{Bench, BenchCompare, BenchForward, BenchHttp, BenchLanes, BenchVirtual, Cli, Json},
    output::print,
};

/// Runs one of them.
pub(crate) fn run(bench: &Bench, config: Option<&Path>) -> Result<()> {
    match bench {
        Bench::Http(options) => http(options, config),
        Bench::Virtual(options) => simulate(options),
        Bench::Lanes(options) => lanes(options, config),
        Bench::Forward(options) => forward(options),
        Bench::Micro(options) => micro(options),
        Bench::Doctor(options) => doctor(options),
        Bench::Compare(options) => compare(options),
    }
}

fn http(options: &BenchHttp, config: Option<&Path>) -> Result<()> {
    let requests = options.rate * options.seconds;
    if requests > bench::REQUESTS_MAX {
        usage(&format!("--rate times --seconds is more than {} requests", bench::REQUESTS_MAX));
    }
    if requests * f64::from(options.rows) > bench::ROWS_MAX {
        usage(&format!("--rate times --seconds times --rows is more than {} rows", bench::ROWS_MAX));
    }
    let end = Duration::from_secs_f64(options.seconds);
    if let Some(fault) = options.faults.iter().find(|fault| fault.at >= end) {
        usage(&format!("--fault {fault}: the load ends after {} s; raise --seconds", options.seconds));
    }
    let report = bench::http(&HttpOptions {
        url: server(options.url.as_ref(), config)?,
        model: options.model.clone(),
        load: Load {
            rate: options.rate,
            seconds: options.seconds,
            seed: options.seed,
            arrivals: options.arrivals,
            rows: options.rows,
            deadline: Duration::from_millis(options.deadline_ms),
            allow_reconstructed: !options.no_reconstructed,
        },
        data: options.data.clone(),
        faults: options.faults.clone(),
        command: command(),
    })?;
    print(&if options.json { report.json() } else { report.table() })?;
    valid(report.void_reason)
}

/// The server to measure: the one that is named, else that of the configuration that is named, else the usual one.
fn server(url: Option<&ServerUrl>, config: Option<&Path>) -> Result<ServerUrl> {
    if let Some(url) = url {
        return Ok(url.clone());
    }
    let listen = match config {
        Some(path) => Config::load(path).map_err(StartFaults::Config)?.http.listen,
        None => SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
    };
    ServerUrl::of(listen).ok_or_else(|| {
        let told = "the configuration's [http] listen leaves the port to the system; name the server with --url";
        usage(&told)
    })
}

fn simulate(options: &BenchVirtual) -> Result<()> {
    may_write(options.plots.as_deref(), options.html.as_deref())?;
    if let Some(file) = &options.from {
        let report = VirtualReport::read(file)?;
        drawings(options, &report)?;
        return print(&report.markdown().to_string());
    }
    if let Some(dir) = &options.weights {
        Manifest::read(dir).map_err(|fault| WeightsError { faults: vec![fault] })?;
    }
    let asked = VirtualOptions {
        loads: options.loads.iter().map(|percent| percent / 100.0).collect(),
        ks: options.k.iter().map(|&k| k as usize).collect(),
        scenarios: options.scenarios.clone(),
        policies: options.policies.clone(),
        service: Duration::from_secs_f64(options.service_ms / 1e3),
        span: Duration::from_secs_f64(options.seconds),
        seeds: options.seeds,
        seed: options.seed,
        weights: options.weights.clone().unwrap_or_else(|| "weights/fashion-mnist/1".into()),
        command: command(),
    };
    let checked = if options.grid { asked.check_grid() } else { asked.check() };
    checked.unwrap_or_else(|error| usage(&error));
    let progress = |done: usize, all: usize| {
        // A line for each tenth.
        if done * 10 / all != done.saturating_sub(1) * 10 / all {
            tracing::info!("{done} of {all} cells");
        }
    };
    if options.grid {
        let report = bench::grid(&asked, &progress);
        return print(&if options.json { report.json() } else { report.to_string() });
    }
    let report = bench::simulate(&asked, &progress);
    // What was measured is told first: a file that cannot be written must not cost it.
    print(&match options {
        BenchVirtual { json: true, .. } => report.json(),
        BenchVirtual { .. } => report.markdown().to_string(),
    })?;
    drawings(options, &report)
}

/// What else was asked for of a report.
fn drawings(options: &BenchVirtual, report: &VirtualReport) -> Result<()> {
    if let Some(dir) = &options.plots {
        report.plot(dir)?;
    }
    page_to(options.html.as_deref(), || report.html())
}

fn lanes(options: &BenchLanes, config: Option<&Path>) -> Result<()> {
    may_write(None, options.html.as_deref())?;
    if let Some(file) = &options.from {
        let report = bench::LanesReport::read(file)?;
        page_to(options.html.as_deref(), || report.html())?;
        return print(&report.markdown().to_string());
    }
    let real = if options.real { Some(config::find(config).map_err(StartFaults::Config)?) } else { None };
    let asked = LanesOptions {
        real,
        weights: options.weights.clone(),
        data: options.data.clone(),
        load: options.load / 100.0,
        k: options.k as usize,
        scenarios: options.scenarios.clone(),
        policies: options.policies.clone(),
        service: options.service_ms.map(|ms| Duration::from_secs_f64(ms / 1e3)),
        span: Duration::from_secs_f64(options.seconds),
        runs: options.runs,
        seed: options.seed,
        command: command(),
    };
    asked.check().unwrap_or_else(|error| usage(&error));
    let report = bench::lanes(&asked, &|done, all| tracing::info!("{done} of {all} runs"))?;
    print(&if options.json { report.json() } else { report.markdown().to_string() })?;
    page_to(options.html.as_deref(), || report.html())?;
    valid(report.void_reason)
}

fn forward(options: &BenchForward) -> Result<()> {
    if options.device == config::Device::Cpu && options.precision != config::Precision::F32 {
        let told = "--precision: CPUs compute in f32 alone; leave it out, or name a GPU with --device";
        usage(&told);
    }
    let asked = ForwardOptions {
        device: options.device.clone(),
        precision: options.precision,
        architecture: options.network,
        weights: options.weights.clone(),
        batches: options.batches.iter().copied().map(usize::from).collect(),
        seconds: options.seconds,
        command: command(),
    };
    let report = bench::forward(&asked, &|pass| {
        let bench::Pass { network, row, batch, kernels, p50_us, p99_us, .. } = pass;
        tracing::info!(network, ?row, batch, kernels, p50_us, p99_us, "a batch is timed");
    })?;
    print(&if options.json || options.weights.is_some() { report.json() } else { report.to_string() })?;
    valid(report.void_reason)
}

fn micro(options: &Json) -> Result<()> {
    let report = bench::micro(&command())?;
    print(&if options.json { report.json() } else { report.to_string() })?;
    valid(report.void_reason)
}

fn doctor(options: &Json) -> Result<()> {
    let findings = bench::doctor();
    print(&if options.json { serde_json::to_string_pretty(&findings)? } else { bench::doctor_table(&findings) })
}

fn compare(options: &BenchCompare) -> Result<()> {
    let BenchCompare { a, b, anyway, seed, json } = options;
    let comparison = bench::compare(&CompareOptions { a: a.clone(), b: b.clone(), anyway: *anyway, seed: *seed })?;
    print(&if *json { comparison.json() } else { comparison.table() })
}

/// What is printed of a run is no measurement if it is void.
fn valid(void_reason: Option<String>) -> Result<()> {
    match void_reason {
        Some(reason) => Err(BenchError::Void { reason }.into()),
        None => Ok(()),
    }
}

/// Ends the process: what is asked for is wrong whatever is there.
fn usage(fault: &dyn Display) -> ! {
    Cli::command().error(ErrorKind::ValueValidation, fault).exit()
}

/// The command line, for results.
fn command() -> String {
    // Names of files need not be text.
    let arguments = env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    // Wherever it lies, and whatever it is called there.
    std::iter::once("parityd".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// Whether figures and a page can be written where they are asked for: found out before anything is measured.
fn may_write(plots: Option<&Path>, page: Option<&Path>) -> Result<()> {
    let unwritten = |file: &Path, error| BenchError::Unwritten { file: file.to_path_buf(), error };
    if let Some(dir) = plots {
        try_write(dir).map_err(|error| unwritten(dir, error))?;
    }
    if let Some(file) = page {
        try_page(file).map_err(|error| unwritten(file, error))?;
    }
    Ok(())
}

/// Writes a page where one is asked for.
fn page_to(file: Option<&Path>, page: impl FnOnce() -> Result<String, BenchError>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    Ok(write_page(file, page()?.as_bytes())
        .map_err(|error| BenchError::Unwritten { file: file.to_path_buf(), error })?)
}
