//! A fault that is injected while the load runs: `AT:LANE:KIND[:ARG]`.
//!
//! Checked as a whole before anything is sent. A fault that turned out to be misspelt in the middle of a run would leave half a measurement.

use std::{fmt, str::FromStr, time::Duration};

use serde_json::{Value, json};

/// Kinds without an argument, as the admin route names them.
const PLAIN: [&str; 10] =
    ["hang", "stuck", "panic", "error", "fatal", "poison", "out_of_memory", "nan", "garbage", "clear"];

/// A fault and its moment.
#[derive(Clone, PartialEq, Debug)]
pub struct FaultAt {
    /// From the start of the load.
    pub at: Duration,
    /// The lane that gets it.
    pub lane: u16,
    kind: String,
    factor: Option<f64>,
}

impl FaultAt {
    /// Undoes whatever fault the lane has.
    pub(super) fn clear(at: Duration, lane: u16) -> Self {
        FaultAt { at, lane, kind: "clear".to_owned(), factor: None }
    }

    /// The kind, as the admin route names it.
    pub(super) fn kind(&self) -> &str {
        &self.kind
    }

    /// By how much `slow` slows.
    pub(super) fn factor(&self) -> Option<f64> {
        self.factor
    }

    /// The body of `POST /admin/lanes/{lane}/fault`.
    pub(super) fn body(&self) -> Value {
        self.factor.map_or_else(|| json!({"kind": self.kind}), |factor| json!({"kind": self.kind, "factor": factor}))
    }
}

impl fmt::Display for FaultAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.at.as_secs_f64(), self.lane, self.kind)?;
        self.factor.map_or(Ok(()), |factor| write!(f, ":{factor}"))
    }
}

impl FromStr for FaultAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (at, lane, kind, argument) = match parts[..] {
            [at, lane, kind] => (at, lane, kind, None),
            [at, lane, kind, argument] => (at, lane, kind, Some(argument)),
            _ => return Err("write AT:LANE:KIND or AT:LANE:slow:FACTOR, such as 5:0:hang or 5:0:slow:3".to_owned()),
        };
        let seconds = at.strip_suffix('s').unwrap_or(at).parse::<f64>().ok();
        let at = seconds
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| format!("{at:?} is no number of seconds from the start"))?;
        let lane = lane.parse().map_err(|_| format!("{lane:?} is no lane; lanes are numbered from 0"))?;
        let factor = factor(kind, argument)?;
        Ok(FaultAt { at, lane, kind: kind.to_owned(), factor })
    }
}

fn factor(kind: &str, argument: Option<&str>) -> Result<Option<f64>, String> {
    match (kind, argument) {
        ("slow", Some(argument)) => {
            let factor = argument.parse::<f64>().ok().filter(|factor| factor.is_finite() && *factor >= 1.0);
            factor.map(Some).ok_or_else(|| format!("slow takes a factor of at least 1, not {argument:?}"))
        }
        ("slow", None) => Err("slow needs its factor: AT:LANE:slow:3".to_owned()),
        (kind, _) if !PLAIN.contains(&kind) => Err(format!("{kind:?} is none of slow, {}", PLAIN.join(", "))),
        (kind, Some(_)) => Err(format!("{kind} takes no argument")),
        (_, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read_and_told_alike() {
        for text in ["5:0:hang", "0.5:2:slow:3", "0:1:clear", "10:65535:garbage"] {
            assert_eq!(text.parse::<FaultAt>().unwrap().to_string(), text);
        }
        let slow: FaultAt = "2.5s:1:slow:1.5".parse().unwrap();
        assert_eq!((slow.at, slow.lane), (Duration::from_millis(2500), 1));
        assert_eq!(slow.body(), json!({"kind": "slow", "factor": 1.5}));
        assert_eq!(FaultAt::clear(Duration::ZERO, 1).body(), json!({"kind": "clear"}));
    }

    #[test]
    fn a_wrong_fault_is_told_what_is_wrong() {
        for (text, told) in [
            ("", "AT:LANE:KIND"),
            ("1:0", "AT:LANE:KIND"),
            ("1:0:slow:2:3", "AT:LANE:KIND"),
            ("-1:0:hang", "seconds"),
            ("nan:0:hang", "seconds"),
            ("1m:0:hang", "seconds"),
            ("1:-1:hang", "lane"),
            ("1:0:hung", "none of"),
            ("1:0:hang:3", "no argument"),
            ("1:0:slow", "factor"),
            ("1:0:slow:0.5", "factor"),
            ("1:0:slow:inf", "factor"),
        ] {
            let error = text.parse::<FaultAt>().unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
