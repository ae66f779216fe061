//! Why nothing was measured or compared: a sentence for the operator, with the next step.

use std::{io, path::PathBuf};

use super::ServerUrl;
use crate::{
    data::DataError,
    lane::OpenError,
    model::TensorError,
    serve::{ServeError, StartFaults},
};

/// Why a bench ended without a valid result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Nobody listens there, or not a server.
    #[error(
        "no server answers at {url} ({problem}): is the daemon running? Start it with `cargo run --release`, or name another with --url"
    )]
    Unreachable {
        /// Where it was looked for.
        url: ServerUrl,
        /// What happened instead.
        problem: String,
    },
    /// The server does not know the model.
    #[error("{url} does not serve {model:?}; it says: {told}. Name a model that it serves with --model")]
    UnknownModel {
        /// The server.
        url: ServerUrl,
        /// What was asked for.
        model: String,
        /// Its error.
        told: String,
    },
    /// The model's metadata cannot be turned into requests.
    #[error("{model} cannot be sent rows: {problem}; name another model with --model")]
    Metadata {
        /// The model.
        model: String,
        /// What is wrong.
        problem: String,
    },
    /// The model takes a fixed number of rows.
    #[error("{model} takes exactly {taken} rows a request, not {asked}: say --rows {taken}")]
    Rows {
        /// The model.
        model: String,
        /// What it takes.
        taken: u64,
        /// What was asked for.
        asked: u32,
    },
    /// Weights or configuration of the daemon that is to be measured.
    #[error(transparent)]
    Plan(#[from] StartFaults),
    /// The daemon that is to be measured did not start, or what measures it has not what a daemon needs for a start, either.
    #[error(transparent)]
    Daemon(Box<ServeError>),
    /// No device to measure.
    #[error(transparent)]
    Device(OpenError),
    /// A network failed on its device.
    #[error("a batch failed: {0}")]
    Forward(#[source] TensorError),
    /// Weights of no network.
    #[error("name the network with --network: the file does not tell what its parameters are of")]
    NoNetwork,
    /// A file that holds no weights of the network.
    #[error("{}: {problem}; it must hold the network's parameters, `input` and `output`", file.display())]
    NoWeights {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file with fewer rows than a batch.
    #[error("{}: it has {rows} rows, and a batch of {batch} was asked for; name --batches of at most {rows}", file.display())]
    TooFewRows {
        /// The file.
        file: PathBuf,
        /// Its rows.
        rows: usize,
        /// The largest batch.
        batch: usize,
    },
    /// A figure could not be drawn; a bug.
    #[error("the figure {title:?} cannot be drawn: {fault}")]
    Figure {
        /// Which.
        title: String,
        /// What went wrong.
        fault: String,
    },
    /// The page could not be written.
    #[error("{} cannot be written: {error}; name another with --html or --plots", file.display())]
    Unwritten {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No such policy.
    #[error("no policy is called {name:?}; known: {known}")]
    NoPolicy {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Too few lanes for every policy to have base and parity lanes.
    #[error("{lanes} lanes are too few: policies with k data slots need {least}; list more, or lower -k")]
    TooFewLanes {
        /// Lanes of the configuration.
        lanes: usize,
        /// How many there must be.
        least: usize,
    },
    /// No base time for which this machine is fast enough.
    #[error(
        "lanes came back {late_ms:.2} ms late (p99) at jobs of {service_ms} ms, which is more than 4 %: end other programs, or name fewer policies with \
         --policy"
    )]
    TooSlow {
        /// The longest base time that was tried.
        service_ms: f64,
        /// How late lanes were with it.
        late_ms: f64,
    },
    /// The folder that was named holds no data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The images of the folder that was named do not fit the model.
    #[error(
        "the images of --data have {width} pixels and 10 classes, which does not fit {model}; leave --data out to send random rows"
    )]
    OtherData {
        /// The model.
        model: String,
        /// Pixels of an image.
        width: usize,
    },
    /// Faults are asked for, and the server has no admin routes.
    #[error(
        "{url} lets nobody inject faults: set `faults = true` under [admin] in its configuration and start it again"
    )]
    AdminOff {
        /// The server.
        url: ServerUrl,
    },
    /// A fault for a lane that is not there.
    #[error("{fault}: {url} has {lanes} lanes, numbered from 0; name one of them")]
    NoLane {
        /// As on the command line.
        fault: String,
        /// The server.
        url: ServerUrl,
        /// How many it has.
        lanes: usize,
    },
    /// A fault was refused while the load ran.
    #[error(
        "the server refused the fault {fault} ({problem}), so the run was ended; its lanes are listed by GET /admin/lanes"
    )]
    FaultRefused {
        /// As on the command line.
        fault: String,
        /// Status and text, or why there was no reply.
        problem: String,
    },
    /// The drawn schedule is empty.
    #[error("no request falls into {seconds} s at {rate} a second: raise --rate or --seconds")]
    Nothing {
        /// Asked rate.
        rate: f64,
        /// Asked length.
        seconds: f64,
    },
    /// No query would be drawn into a run.
    #[error(
        "no query falls into {seconds} s at {rate:.3} a second: raise --seconds or the load, or shorten the jobs (--service-ms)"
    )]
    NoQuery {
        /// Asked length.
        seconds: f64,
        /// What load and jobs come to.
        rate: f64,
    },
    /// More queries than are held in memory.
    #[error(
        "{queries:.0} queries a run, in {runs} runs: at most {run_max} a run and {cell_max} in all are held in memory; lower --seconds or the load, or have \
         fewer runs"
    )]
    TooManyQueries {
        /// Those of one run.
        queries: f64,
        /// Runs of a policy.
        runs: u64,
        /// The most of one run.
        run_max: usize,
        /// The most of all runs of a policy.
        cell_max: usize,
    },
    /// Ctrl-C.
    #[error("interrupted: nothing is reported; faults that were injected are cleared")]
    Interrupted,
    /// No thread, runtime or signal.
    #[error("cannot start the client: {0}; end other programs and try again")]
    Start(#[source] io::Error),
    /// The load was not what was asked for.
    #[error("this run is void: {reason}")]
    Void {
        /// Why, and what to do.
        reason: String,
    },
    /// A result could not be read.
    #[error("{}: {error}; name a file that `parityd bench … --json` wrote", file.display())]
    Unread {
        /// The file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file that holds something else.
    #[error("{} is no result of `parityd bench {command} --json`: {problem}", file.display())]
    NoResult {
        /// The file.
        file: PathBuf,
        /// What should have written it.
        command: &'static str,
        /// Why not.
        problem: String,
    },
    /// Two results that must not be compared.
    #[error("these runs cannot be compared: {}; measure both anew, or compare them with --anyway", .faults.join("; "))]
    Unlike {
        /// Each difference with both values, and each void run.
        faults: Vec<String>,
    },
}
