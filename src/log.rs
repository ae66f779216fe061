//! The log: standard error, as text for people or as one JSON object a line for machines.
//!
//! Lines go through a bounded buffer and a thread of their own. A pipe whose reader has stalled then costs lines, never a deadline: the timer
//! thread and the lanes log, too. Panics do not take that way, because the process may be over before the buffer is; their hook writes
//! them itself.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
    panic::{self, PanicHookInfo},
    process,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use parityd::exit::BUG;
use parityd::{
    clock::Clock,
    repeat::{Line, Repeats},
};
use serde_json::json;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{
    EnvFilter,
    fmt::{format::Writer, time::FormatTime},
};

/// How long the log may take to write its last lines before a panic ends the process.
const LAST_LINES: Duration = Duration::from_millis(100);

/// How lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text for people; in colour on a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

/// The format of a word. A variable that is set to nothing is not set.
pub(crate) fn format(word: &str) -> Result<Format, String> {
    match word.trim() {
        "" => Ok(Format::Human),
        word => clap::ValueEnum::from_str(word, true).map_err(|_| "write human or json".to_owned()),
    }
}

/// Writes what is left in the buffer when it is dropped.
#[derive(Debug)]
pub(crate) struct Log(#[expect(dead_code, reason = "held for its drop")] WorkerGuard);

/// Starts the log on standard error. The message of a failure is for the user of `--log`.
pub(crate) fn start(filter: &str, format: Format) -> Result<Log, String> {
    let filter = parse(filter)?;
    // First: there may be no thread for the log.
    tell_panics(format);
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        Format::Human => builder.with_ansi(io::stderr().is_terminal()).init(),
        Format::Json => builder.json().init(),
    }
    Ok(Log(guard))
}

/// The filter of `--log`: a level, filters for parts of the program, or both. Parts that are not named keep `info`, and a word that is no
/// level is refused: it would be taken for a part of that name, and everything else would be silent.
fn parse(text: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    // A variable that is set to nothing is not set.
    let text = if text.trim().is_empty() { "info" } else { text };
    let directives = || text.split(',').map(str::trim);
    let is_level = |word: &str| LEVELS.contains(&word.to_ascii_lowercase().as_str());
    let is_filter = |word: &str| word.contains(['=', '[']);
    if let Some(word) = directives().find(|word| !is_level(word) && !is_filter(word)) {
        return Err(format!(
            "{word:?} is no level; use error, warn, info, debug, trace, or a filter such as parityd::lane=debug"
        ));
    }
    let general = if directives().any(is_level) { "" } else { "info," };
    EnvFilter::try_new(format!("{general}{text}")).map_err(|error| error.to_string())
}

/// Says why the process ends, although the log may have been told to say nothing.
pub(crate) fn fatal(error: &anyhow::Error) {
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!("{error}");
    } else {
        // Nobody is left to be told that standard error is closed.
        drop(writeln!(io::stderr(), "parityd: {error}"));
    }
}

/// A lane whose device panics in every canary is told like any other line that repeats. A panic of the main thread, which calls this, ends the process here:
/// unwinding would wait for threads that wait for it, and a daemon that holds its port and answers nothing is restarted by nobody.
#[expect(clippy::exit, reason = "where the main thread panics, its own way out may never end")]
fn tell_panics(format: Format) {
    let main = thread::current().id();
    // One for each place: what breaks all the time must not hide what breaks once, and ends the process.
    let (clock, places) = (Clock::start(), Mutex::new(BTreeMap::<String, Repeats>::new()));
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let next = places.lock().unwrap_or_else(PoisonError::into_inner).entry(place).or_default().next(clock.now());
        match (next, format) {
            (Line::LeftOut, _) => {}
            (Line::Told { .. }, Format::Human) => usual(panic),
            (Line::Told { left_out }, Format::Json) => {
                // Nobody is left to be told that standard error is closed.
                drop(writeln!(io::stderr(), "{}", line(panic, left_out)));
            }
        }
        if thread::current().id() == main {
            clock.pause(LAST_LINES);
            process::exit(BUG.into());
        }
    }));
}

/// A panic in the shape of the other JSON lines.
fn line(panic: &PanicHookInfo<'_>, left_out: Option<u64>) -> serde_json::Value {
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let mut timestamp = String::new();
    // A clock that cannot be written down leaves it empty.
    let _told = tracing_subscriber::fmt::time().format_time(&mut Writer::new(&mut timestamp));
    json!({
        "timestamp": timestamp,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused_and_the_rest_keeps_info() {
        for wrong in ["nonsense", "info,loud", "parityd::lane"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for right in ["", "info", "OFF", "warn,parityd::lane=debug"] {
            assert!(parse(right).is_ok(), "{right}");
        }
        assert!(parse("parityd::lane=debug").expect("a filter").to_string().contains("info"));
    }
}
