//! `bench`: how fast and how right a server answers, and whether two such measurements differ.
//!
//! [`http`] is an open-loop client of any server of the Open Inference Protocol v2; [`compare()`] sets two of its results side by side.
//! It knows nothing of the daemon's insides, only its port, so the same client measures another server the same way. Latency counts
//! from the intended time of a request, never from when the client got round to it. `docs/method.md` says what that can show.
//!
//! `load` draws the schedule, `target` asks what the server is, `rows` makes bodies, `run` sends, `tally` counts, `report` tells.

mod cell;
mod compare;
mod contender;
mod doctor;
mod env;
mod error;
mod fault;
mod figures;
mod forward;
mod html;
mod lanes;
mod load;
mod micro;
mod progress;
mod report;
mod rows;
mod run;
mod simulated;
mod table;
mod tally;
mod target;
mod weather;
mod wire;
mod worth;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::de::DeserializeOwned;

pub use cell::{Cell, Quantile};
pub use compare::{CompareOptions, Comparison, Ratio, compare};
pub use doctor::{Finding, Verdict, Watch, doctor, doctor_table};
pub use env::Env;
pub use error::BenchError;
pub use fault::FaultAt;
pub use forward::{ForwardOptions, ForwardReport, Pass, Told, forward};
pub use lanes::{Agreement, FIVE, LanesOptions, LanesPage, LanesReport, Lateness, Trial, lanes};
pub use load::{Arrivals, Load};
pub use micro::{Beside, Figure, MicroReport, Target, micro};
pub use report::{FaultReport, LoadReport, Percentiles, Report, ServerReport};
pub use simulated::{GridCell, GridReport, Page, Timeline, VirtualOptions, VirtualReport, grid, simulate};
pub use tally::Window;
pub use wire::ServerUrl;

use crate::{descriptors, serve};
use report::Context;
use rows::{Bodies, Source};
use run::Plan;
use wire::Server;

/// Threads of the sockets. Two, as in the daemon: reading replies must not wait for a body that is being written.
const WORKERS: usize = 2;

/// Files that a run may have open.
const DESCRIPTORS: usize = 65_536;

/// Requests of one run at most: their times and rows are held in memory.
pub const REQUESTS_MAX: f64 = 1e7;

/// Rows of one run at most: which they are is held in memory.
pub const ROWS_MAX: f64 = 1e8;

/// The names of all policies that are compared, and of the bound beside them.
pub fn policies() -> Vec<&'static str> {
    let all = contender::all(2, simulated::LANES);
    all.into_iter().map(|contender| contender.name).chain([simulated::ORACLE]).collect()
}

/// A result that `bench {command} --json` wrote.
fn read<T: DeserializeOwned>(file: &Path, command: &'static str) -> Result<T, BenchError> {
    let bytes = fs::read(file).map_err(|error| BenchError::Unread { file: file.to_path_buf(), error })?;
    let wrong = |problem: String| BenchError::NoResult { file: file.to_path_buf(), command, problem };
    serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))
}

/// What [`http`] does.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpOptions {
    /// The server.
    pub url: ServerUrl,
    /// The model to ask.
    pub model: String,
    /// What to send, and when.
    pub load: Load,
    /// The folder of images that was named, if one was.
    pub data: Option<PathBuf>,
    /// Faults to inject.
    pub faults: Vec<FaultAt>,
    /// The command line, for the result.
    pub command: String,
}

/// Measures a server. Every lane that was given a fault is cleared before this returns.
pub fn http(options: &HttpOptions) -> Result<Report, BenchError> {
    // A connection for each request in flight; where these do not suffice, the report says so.
    let _files = descriptors::at_least(DESCRIPTORS);
    let lacking = |error| BenchError::Daemon(Box::new(error));
    serve::room_for_threads(WORKERS + 1).and_then(|()| serve::room_for_a_runtime()).map_err(lacking)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(WORKERS).enable_all().thread_name("sockets").build();
    let runtime = runtime.map_err(BenchError::Start)?;
    let plan = Arc::new(runtime.block_on(prepare(options))?);
    let watch = Watch::start();
    let server = runtime.block_on(target::server_names(&plan.server));
    let before = runtime.block_on(target::jobs(&plan.server));
    let counted = run::run(&runtime, &plan);
    let after = runtime.block_on(target::jobs(&plan.server));
    runtime.block_on(run::clear(&plan));
    let tally = counted?;
    let context = Context {
        options,
        faults: &plan.faults,
        version: plan.target.version.clone(),
        server,
        watch,
        is_labelled: plan.source.is_labelled(),
        jobs: before.zip(after).and_then(|(before, after)| before.until(&after)),
    };
    Ok(Report::new(&tally, context))
}

/// All that can be known, drawn or refused before the first request.
async fn prepare(options: &HttpOptions) -> Result<Plan, BenchError> {
    let load = options.load;
    let times = load.times();
    if times.is_empty() {
        return Err(BenchError::Nothing { rate: load.rate, seconds: load.seconds });
    }
    let server = Server::find(&options.url).await?;
    let target = target::model(&server, &options.model, load.rows).await?;
    target::check_lanes(&server, &options.faults).await?;
    let source = Source::open(options.data.as_deref(), &options.model, &target, load.seed)?;
    let picks = load.picks(times.len(), source.count());
    let bodies = Bodies::new(&load, &target, &source, &picks);
    let mut faults = options.faults.clone();
    faults.sort_by_key(|fault| fault.at);
    Ok(Plan { server, load, target, source, times, picks, bodies, faults })
}
