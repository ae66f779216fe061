//! What came back, counted: statuses, provenances, right answers, latencies as a whole and by the second.
//!
//! Always: sent = answered + unanswered, and every request is in the histogram once. A request without a good answer counts as if it had
//! taken the deadline at least: left out, a server would look the faster the more it drops. Replies are read here, after their time was
//! taken, and not in the sockets' threads.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Load,
    rows::Source,
    wire::{Reply, Silence},
};

/// A reply that has no provenance counts under this word.
pub(super) const UNLABELLED: &str = "unlabelled";

/// Digits that histograms keep: a relative error of a thousandth.
const DIGITS: u8 = 3;

/// The longest latency that they tell apart, in microseconds: an hour, six times the longest deadline. It bounds their memory.
const LONGEST: u64 = 3_600_000_000;

/// A request and what became of it.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Its intended time, from the start.
    pub(super) at: Duration,
    /// How much later it began to be sent.
    pub(super) lateness: Duration,
    /// From the intended time to the whole reply, or to giving up.
    pub(super) latency: Duration,
    pub(super) received: Result<Reply, Silence>,
}

/// One second of the schedule.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Window {
    /// Requests that were to leave in it.
    pub sent: u64,
    /// Those of them that were answered.
    pub answered: u64,
    /// Rows of the answered ones.
    pub rows: u64,
    /// Rows with the class of their label.
    pub right: u64,
    /// (microseconds, requests): all of `sent`, by what histograms tell apart.
    pub latency_us: Vec<(u64, u64)>,
}

/// Rows of one provenance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Rows {
    pub(super) count: u64,
    pub(super) right: u64,
}

/// The counts of one run.
#[derive(Debug)]
pub(super) struct Tally {
    deadline: Duration,
    rows: usize,
    pub(super) statuses: BTreeMap<String, u64>,
    pub(super) provenance: BTreeMap<String, Rows>,
    pub(super) answered: u64,
    /// Requests that found no descriptor or port on this machine.
    pub(super) unsendable: u64,
    /// Requests whose deadline was over before this client came to them.
    pub(super) overdue: u64,
    pub(super) latencies: Histogram<u64>,
    pub(super) lateness: Histogram<u64>,
    windows: Vec<(Window, BTreeMap<u64, u64>)>,
}

impl Tally {
    /// Nothing yet.
    pub(super) fn new(load: &Load) -> Self {
        let histogram = || Histogram::new_with_max(LONGEST, DIGITS).expect("three digits up to an hour are allowed");
        Tally {
            deadline: load.deadline,
            rows: load.rows as usize,
            statuses: BTreeMap::new(),
            provenance: BTreeMap::new(),
            answered: 0,
            unsendable: 0,
            overdue: 0,
            latencies: histogram(),
            lateness: histogram(),
            windows: Vec::new(),
        }
    }

    /// Requests so far.
    pub(super) fn sent(&self) -> u64 {
        self.latencies.len()
    }

    /// Counts one request. `picks` are its rows.
    pub(super) fn add(&mut self, outcome: &Outcome, picks: &[u32], source: &Source) {
        let answer = self.answer(outcome);
        *self.statuses.entry(status(outcome, answer.is_err())).or_default() += 1;
        let ours = outcome.received.as_ref().err().is_some_and(Silence::is_ours);
        self.unsendable += u64::from(ours);
        self.overdue += u64::from(matches!(outcome.received, Err(Silence::Overdue)));
        let answer = answer.ok().flatten();
        let latency = if answer.is_some() { outcome.latency } else { outcome.latency.max(self.deadline) };
        self.lateness.saturating_record(micros(outcome.lateness));
        self.latencies.saturating_record(micros(latency));
        let second = usize::try_from(outcome.at.as_secs()).unwrap_or(usize::MAX);
        if self.windows.len() <= second {
            self.windows.resize_with(second + 1, Default::default);
        }
        let (window, counts) = &mut self.windows[second];
        window.sent += 1;
        *counts.entry(self.latencies.highest_equivalent(micros(latency))).or_default() += 1;
        let Some(answer) = answer else { return };
        self.answered += 1;
        window.answered += 1;
        for ((word, class), &row) in answer.provenance.into_iter().zip(answer.classes).zip(picks) {
            let right = u64::from(class.is_some() && class == source.label(row).map(usize::from));
            let rows = self.provenance.entry(word).or_default();
            (rows.count, rows.right) = (rows.count + 1, rows.right + right);
            (window.rows, window.right) = (window.rows + 1, window.right + right);
        }
    }

    /// What a good reply says; `None` without one, or too late. An error for a 200 that says nothing of these rows.
    fn answer(&self, outcome: &Outcome) -> Result<Option<Answer>, ()> {
        match &outcome.received {
            Ok(reply) if reply.status.as_u16() == 200 => {
                let answer = Answer::read(&reply.body, self.rows).ok_or(())?;
                Ok((outcome.latency <= self.deadline).then_some(answer))
            }
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// The seconds of the schedule, in order.
    pub(super) fn windows(&self) -> Vec<Window> {
        let whole = |(window, counts): &(Window, BTreeMap<u64, u64>)| Window {
            latency_us: counts.iter().map(|(&micros, &count)| (micros, count)).collect(),
            ..window.clone()
        };
        self.windows.iter().map(whole).collect()
    }
}

/// A status as it is counted: the number, `none` without a reply, `unreadable` for a 200 that says nothing.
fn status(outcome: &Outcome, unreadable: bool) -> String {
    match &outcome.received {
        Ok(_) if unreadable => "unreadable".to_owned(),
        Ok(reply) => reply.status.as_u16().to_string(),
        Err(_) => "none".to_owned(),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What a 200 says of each row.
struct Answer {
    provenance: Vec<String>,
    classes: Vec<Option<usize>>,
}

impl Answer {
    fn read(body: &[u8], rows: usize) -> Option<Self> {
        let told: Value = serde_json::from_slice(body).ok()?;
        let mut values = Vec::new();
        flatten(told.get("outputs")?.get(0)?.get("data")?, &mut values);
        if values.is_empty() || values.len() % rows != 0 {
            return None;
        }
        let words: Vec<&str> = told["parameters"]["provenance"].as_str().unwrap_or_default().split(',').collect();
        let labelled = words.len() == rows && words.iter().all(|word| !word.is_empty());
        let words = if labelled { words } else { vec![UNLABELLED; rows] };
        let classes = values.chunks(values.len() / rows).map(|row| largest(row.iter().copied()));
        Some(Answer { provenance: words.into_iter().map(str::to_owned).collect(), classes: classes.collect() })
    }
}

/// Values in row order, nested or flat; what is no number is never the largest of a row that has one.
fn flatten(data: &Value, values: &mut Vec<f64>) {
    match data {
        Value::Array(items) => items.iter().for_each(|item| flatten(item, values)),
        Value::Number(number) => values.push(number.as_f64().unwrap_or(f64::NEG_INFINITY)),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Object(_) => values.push(f64::NEG_INFINITY),
    }
}

/// The class that a row of values speaks for: the first of the largest, as `eval` has it; none where nothing is a number.
pub(super) fn largest(values: impl IntoIterator<Item = f64>) -> Option<usize> {
    let numbers = values.into_iter().enumerate().filter(|(_, value)| *value > f64::NEG_INFINITY);
    let larger = |best: (usize, f64), other: (usize, f64)| if other.1 > best.1 { other } else { best };
    numbers.reduce(larger).map(|(place, _)| place)
}

#[cfg(test)]
pub(super) mod tests;
