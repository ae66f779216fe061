//! The log: standard error, as text for people or as one JSON object a line for machines.
//!
//! Lines go through a bounded buffer and a thread of their own. A pipe whose reader has stalled then costs lines, never a deadline: the timer
//! thread and the lanes log, too. Panics do not take that way, because the process may be over before the buffer is; their hook writes
//! them itself.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write},
    panic::{self, PanicHookInfo},
    sync::{Mutex, PoisonError},
    thread,
};

use parityd::{
    clock::Clock,
    repeat::{Line, Repeats},
};
use serde_json::json;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text for people; in colour on a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

/// Writes what is left in the buffer when it is dropped.
#[derive(Debug)]
pub(crate) struct Log(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

/// Starts the log on standard error. The message of a failure is for the user of `--log`.
pub(crate) fn start(filter: &str, format: Format) -> Result<Log, String> {
    let parsed = EnvFilter::try_new(filter);
    let filter = parsed.map_err(|error| format!("{error}; use error, warn, info, debug or trace"))?;
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        Format::Human => builder.with_ansi(io::stderr().is_terminal()).init(),
        Format::Json => builder.json().init(),
    }
    tell_panics(format);
    Ok(Log(guard))
}

/// A lane whose device panics in every canary is told like any other line that repeats.
fn tell_panics(format: Format) {
    let (clock, repeats) = (Clock::start(), Mutex::new(Repeats::default()));
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let next = repeats.lock().unwrap_or_else(PoisonError::into_inner).next(clock.now());
        match (next, format) {
            (Line::LeftOut, _) => {}
            (Line::Told { .. }, Format::Human) => usual(panic),
            (Line::Told { left_out }, Format::Json) => {
                // Nobody is left to be told that standard error is closed.
                drop(writeln!(io::stderr(), "{}", line(panic, left_out)));
            }
        }
    }));
}

/// A panic in the shape of the other JSON lines.
fn line(panic: &PanicHookInfo<'_>, left_out: Option<u64>) -> serde_json::Value {
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    json!({
        "level": "ERROR",
        "fields": {
            "message": "panic",
            "panic": panic.payload_as_str().unwrap_or("a payload that is no text"),
            "thread": thread::current().name(),
            "location": panic.location().map(ToString::to_string),
            "backtrace": backtrace,
            "left_out": left_out,
        },
        "target": "parityd",
    })
}
