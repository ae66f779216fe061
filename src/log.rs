//! The log: standard error, as text for people or as one JSON object a line for machines.
//!
//! Lines go through a bounded buffer and a thread of their own. A pipe whose reader has stalled then costs lines, never a deadline: the timer
//! thread and the lanes log, too. Panics do not take that way, because the process may be over before the buffer is; they have another thread that writes,
//! which whoever panics waits for, and no longer than for a moment.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    collections::BTreeMap,
    convert::Infallible,
    io::{self, IsTerminal, Write},
    panic::{self, PanicHookInfo},
    process,
    sync::{
        Mutex, OnceLock, PoisonError,
        mpsc::{self, SyncSender},
    },
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

/// How long a panic may take to be written, and the log's last lines before one ends the process.
const LAST_LINES: Duration = Duration::from_millis(100);
/// Panics that are not written yet, at most; others are left out.
const PANICS_MAX: usize = 16;

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
    let writer = PanicWriter::default();
    panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let next = places.lock().unwrap_or_else(PoisonError::into_inner).entry(place).or_default().next(clock.now());
        if let Line::Told { left_out } = next {
            writer.write(Panic::of(panic, left_out).told(format));
        }
        if thread::current().id() == main {
            clock.pause(LAST_LINES);
            process::exit(BUG.into());
        }
    }));
}

/// A text, and what is dropped once it is written.
type Unwritten = (String, SyncSender<Infallible>);

/// A thread that writes panics, from the first one on: what they are written to may be a pipe that nobody reads, and whoever waits there holds the lock of
/// standard error. A lane that waited, too, would be taken for one that hangs.
#[derive(Default)]
struct PanicWriter(OnceLock<Option<SyncSender<Unwritten>>>);

impl PanicWriter {
    /// Writes a text, and waits until it is written, for a moment at most.
    fn write(&self, text: String) {
        let Some(texts) = self.0.get_or_init(PanicWriter::start) else { return write(&text) };
        let (writes, written) = mpsc::sync_channel(0);
        if texts.try_send((text, writes)).is_ok() {
            // Nothing is ever sent: it ends when the text is written.
            let _written = written.recv_timeout(LAST_LINES);
        }
    }

    /// `None` if the system gives no thread.
    fn start() -> Option<SyncSender<Unwritten>> {
        let (texts, received) = mpsc::sync_channel::<Unwritten>(PANICS_MAX);
        let writes = move || received.into_iter().for_each(|(text, _writes)| write(&text));
        thread::Builder::new().name("panics".to_owned()).spawn(writes).is_ok().then_some(texts)
    }
}

fn write(text: &str) {
    // Nobody is left to be told that standard error is closed.
    drop(io::stderr().write_all(text.as_bytes()));
}

/// What is told of a panic.
struct Panic {
    at: String,
    payload: String,
    thread: Option<String>,
    location: Option<String>,
    backtrace: Option<String>,
    /// Panics of the same place that were not told since the last one that was.
    left_out: Option<u64>,
}

impl Panic {
    fn of(panic: &PanicHookInfo<'_>, left_out: Option<u64>) -> Self {
        let backtrace = Backtrace::capture();
        let mut at = String::new();
        // A clock that cannot be written down leaves it empty.
        let _told = tracing_subscriber::fmt::time().format_time(&mut Writer::new(&mut at));
        Panic {
            at,
            payload: panic.payload_as_str().unwrap_or("a payload that is no text").to_owned(),
            thread: thread::current().name().map(str::to_owned),
            location: panic.location().map(ToString::to_string),
            backtrace: (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string()),
            left_out,
        }
    }

    /// In the shape of the other lines.
    fn told(&self, format: Format) -> String {
        let Panic { at, payload, thread, location, backtrace, left_out } = self;
        match format {
            Format::Human => {
                let word = |word: &Option<String>| word.clone().unwrap_or_else(|| "unknown".to_owned());
                let left_out = left_out.map(|left_out| format!(" left_out={left_out}")).unwrap_or_default();
                let backtrace = backtrace.as_ref().map(|backtrace| format!("\n{backtrace}")).unwrap_or_default();
                let (thread, location) = (word(thread), word(location));
                format!(
                    "{at} ERROR parityd: panic panic={payload:?} thread={thread:?} location={location:?}{left_out}{backtrace}\n"
                )
            }
            Format::Json => {
                let line = json!({
                    "timestamp": at,
                    "level": "ERROR",
                    "fields": {
                        "message": "panic",
                        "panic": payload,
                        "thread": thread,
                        "location": location,
                        "backtrace": backtrace,
                        "left_out": left_out,
                    },
                    "target": "parityd",
                });
                format!("{line}\n")
            }
        }
    }
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

    #[test]
    fn a_panic_is_one_line_that_says_how_many_were_left_out() {
        let mut panic = Panic {
            at: "2026-01-01T00:00:00Z".to_owned(),
            payload: "too\nbad".to_owned(),
            thread: Some("lane-0".to_owned()),
            location: Some("src/a.rs:1:2".to_owned()),
            backtrace: None,
            left_out: Some(19),
        };
        let human = r#"2026-01-01T00:00:00Z ERROR parityd: panic panic="too\nbad" thread="lane-0" location="src/a.rs:1:2" left_out=19"#;
        assert_eq!(panic.told(Format::Human), format!("{human}\n"));
        let json: serde_json::Value = serde_json::from_str(&panic.told(Format::Json)).expect("JSON");
        assert_eq!((&json["fields"]["left_out"], &json["fields"]["panic"]), (&19.into(), &"too\nbad".into()));
        assert_eq!(panic.told(Format::Json).matches('\n').count(), 1);
        panic.left_out = None;
        assert!(!panic.told(Format::Human).contains("left_out"));
    }
}
