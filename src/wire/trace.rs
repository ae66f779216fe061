//! Which request a log line is about: the id that its client gave it, or one of ours, and the trace that it belongs to.
//!
//! Every reply bears the id as `x-request-id`, so that a client's complaint finds its line. What clients send is repeated only if it is short and plain:
//! it goes into headers and logs. A `traceparent` (W3C Trace Context, level 1) is logged and not answered; nothing is called from here, so
//! there is nobody to pass it on to, and none is made up.
//!
//! Answered requests are told at `debug`. Those that are refused or fail are told at `info` and `warn`, as long as there are few; of many, like all
//! lines that repeat, the first ten and one a minute, and the others at `debug`. Mistakes of clients do not use up the lines of what is ours.

use std::{
    fmt::Display,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tracing::Value;

use super::{Error, cut};
#[cfg(feature = "otlp")]
use crate::otlp::{Begun, Ended};
use crate::{
    clock::Clock,
    repeat::{Line, Repeats},
};

/// What a request's id is called, in both directions.
pub(crate) const REQUEST_ID: &str = "x-request-id";
/// What the trace that it belongs to is called.
pub(crate) const TRACE_PARENT: &str = "traceparent";
/// The longest id that is taken over, in bytes.
const ID_BYTES_MAX: usize = 128;
/// The odd number of the splitmix generator, whose steps meet every u64 once.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// What makes ids, and tells of requests.
#[derive(Debug)]
pub(crate) struct Traces {
    next: AtomicU64,
    clock: Clock,
    refused: Mutex<Repeats>,
    failed: Mutex<Repeats>,
}

/// What names a request.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    id: String,
    /// The trace id of its `traceparent`.
    belongs_to: Option<String>,
    #[cfg(feature = "otlp")]
    begun: Begun,
}

impl Traces {
    /// Ids that start anywhere: those of two daemons do not meet.
    pub(crate) fn new() -> Self {
        Traces {
            next: AtomicU64::new(rand::random()),
            clock: Clock::start(),
            refused: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// What a request is called, that came with this id and this parent.
    pub(crate) fn of(&self, id: Option<&[u8]>, parent: Option<&[u8]>) -> Trace {
        let given = id.filter(|id| is_plain(id)).and_then(|id| str::from_utf8(id).ok());
        let parent = parent.and_then(|parent| str::from_utf8(parent).ok());
        let belongs_to = parent.and_then(trace_id).map(str::to_owned);
        Trace {
            id: given.map_or_else(|| self.made(), str::to_owned),
            #[cfg(feature = "otlp")]
            begun: Begun::now(parent.filter(|_| belongs_to.is_some())),
            belongs_to,
        }
    }

    fn made(&self) -> String {
        let mut word = self.next.fetch_add(STEP, Ordering::Relaxed);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        format!("{:016x}", word ^ (word >> 31))
    }

    /// Tells of a request that was answered.
    pub(crate) fn answered(trace: &Trace, (method, path): (&str, &str), status: impl Value + Display) {
        trace.end((method, path), &status, None);
        let Trace { id: request, belongs_to: trace, .. } = trace;
        tracing::debug!(request, trace, method, path, status, "a request is answered");
    }

    /// Tells of a request that was not.
    pub(crate) fn unanswered(
        &self,
        trace: &Trace,
        (method, path): (&str, &str),
        status: impl Value + Display + Copy,
        error: &Error,
    ) {
        trace.end((method, path), &status, Some(error.reason()));
        let (failed, repeats) = match error {
            Error::Client(_) | Error::Busy(_) | Error::Refused(_) => (false, &self.refused),
            Error::Failed { .. } => (true, &self.failed),
        };
        let line = repeats.lock().next(self.clock.now());
        if line == Line::LeftOut && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let (Trace { id: request, belongs_to: trace, .. }, path, reason) =
            (trace, cut(path.to_owned()), error.reason());
        // Clients choose some of the words, and a line of theirs must not look like one of ours.
        let error = error.to_string().replace(char::is_control, " ");
        match (failed, line) {
            (false, Line::Told { left_out }) => {
                tracing::info!(request, trace, method, path, status, reason, error, left_out, "a request is refused");
            }
            (true, Line::Told { left_out }) => {
                tracing::warn!(request, trace, method, path, status, reason, error, left_out, "a request fails");
            }
            (_, Line::LeftOut) => {
                tracing::debug!(request, trace, method, path, status, reason, error, "a request is not answered");
            }
        }
    }
}

impl Trace {
    /// What the reply bears.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    #[cfg(not(feature = "otlp"))]
    #[expect(clippy::unused_self, reason = "spans are made in another build")]
    fn end(&self, _: (&str, &str), _: &dyn Display, _: Option<&'static str>) {}

    #[cfg(feature = "otlp")]
    fn end(&self, (method, path): (&str, &str), status: &dyn Display, reason: Option<&'static str>) {
        let path = cut(path.to_owned());
        self.begun.end(Ended { request: &self.id, method, path: &path, status: status.to_string(), reason });
    }
}

fn is_plain(id: &[u8]) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// The trace id of a `traceparent`; `None` of one that is not as the standard says, which is to be ignored.
fn trace_id(parent: &str) -> Option<&str> {
    let is_hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_some = |text: &str| text.bytes().any(|byte| byte != b'0');
    let mut fields = parent.trim().split('-');
    let (version, trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let whole = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    // Later versions may say more behind what this one says.
    let known = version != "ff" && (version != "00" || fields.next().is_none());
    (whole && known && is_some(trace) && is_some(span)).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_traceparent_is_taken_only_if_it_is_right() {
        let parent = |version: &str, trace: &str, span: &str, rest: &str| format!("{version}-{trace}-{span}-{rest}");
        let (span, none) = ("00f067aa0ba902b7", "0".repeat(32));
        assert_eq!(trace_id(&parent("00", TRACE, span, "01")), Some(TRACE));
        assert_eq!(trace_id(&parent("cc", TRACE, span, "01-what-comes")), Some(TRACE), "a later version");
        for wrong in [
            parent("00", TRACE, span, "01-more"),
            parent("ff", TRACE, span, "01"),
            parent("00", &none, span, "01"),
            parent("00", TRACE, &none[..16], "01"),
            parent("00", &TRACE.to_uppercase(), span, "01"),
            parent("00", TRACE, span, "1"),
            parent("0", TRACE, span, "01"),
            TRACE.to_owned(),
            String::new(),
        ] {
            assert_eq!(trace_id(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ids_are_the_clients_or_new() {
        let traces = Traces::new();
        let of = |id: Option<&str>| traces.of(id.map(str::as_bytes), None).id().to_owned();
        assert_eq!(of(Some("order-7/a")), "order-7/a");
        let (long, made) = ("x".repeat(ID_BYTES_MAX + 1), of(None));
        assert!(made.len() == 16 && made != of(None));
        for unfit in ["", "two words", &long] {
            assert_ne!(of(Some(unfit)), unfit);
        }
    }
}
