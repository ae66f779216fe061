//! The result of one run under fixed names: what `--json` prints and `bench compare` reads.
//!
//! Shares are 0..1, latencies milliseconds. A percentile is the smallest latency that at least its share of *all* requests did not exceed;
//! the failed ones are in it. Whether a run is void is decided here, from how late the client itself was.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{
    Env, FaultAt, HttpOptions, Load, Watch, Window,
    cell::has_few_beyond,
    doctor,
    tally::{Rows, Tally},
};

/// The percentiles of latency that are told, by name.
pub(super) const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999)];

/// One in a hundred requests leaves later than this: the client was starved of processor time for longer than one turn of the scheduler,
/// and what the server saw was no longer the drawn schedule but clumps of it.
pub(super) const LATENESS_P99_MAX_MS: f64 = 5.0;

/// The client's own lateness as a share of a latency, both at the same percentile. Above it, a good part of that figure is the client and
/// not the server; where even the median is, the run is void.
pub(super) const LATENESS_SHARE_MAX: f64 = 0.25;

/// Percentiles, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Percentiles {
    /// Half of the requests.
    pub p50: f64,
    /// 9 of 10.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p999: f64,
    /// 9,999 of 10,000.
    pub p9999: f64,
    /// All.
    pub max: f64,
}

impl Percentiles {
    fn new(micros: &Histogram<u64>) -> Self {
        let [p50, p90, p99, p999, p9999] = QUANTILES.map(|(_, share)| millis(micros.value_at_quantile(share)));
        Percentiles { p50, p90, p99, p999, p9999, max: millis(micros.max()) }
    }

    /// In the order of [`QUANTILES`].
    pub(super) fn values(&self) -> [f64; QUANTILES.len()] {
        [self.p50, self.p90, self.p99, self.p999, self.p9999]
    }
}

/// The load that was asked for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LoadReport {
    /// The server.
    pub url: String,
    /// The model.
    pub model: String,
    /// Its version, where the server tells one.
    pub version: Option<String>,
    /// Mean requests a second.
    pub rate: f64,
    /// Length of the schedule.
    pub seconds: f64,
    /// Seed of times and rows.
    pub seed: u64,
    /// `poisson` or `bursty`.
    pub arrivals: String,
    /// Rows of one request.
    pub rows: u32,
    /// After which a reply counted as none.
    pub deadline_ms: u64,
    /// Whether a reconstruction was an answer.
    pub allow_reconstructed: bool,
    /// `images` or `random`.
    pub data: String,
}

/// What `GET /v2` says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerReport {
    /// Empty if it does not tell.
    pub name: String,
    /// Empty if it does not tell.
    pub version: String,
}

/// A fault that was injected.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FaultReport {
    /// Seconds from the start.
    pub at: f64,
    /// The lane.
    pub lane: u16,
    /// As the admin route names it.
    pub kind: String,
    /// Of `slow`.
    pub factor: Option<f64>,
}

/// One run. The JSON fields are a contract.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Requests of the schedule; all of them were sent.
    pub sent: u64,
    /// Requests with a readable 200 within the deadline.
    pub answered: u64,
    /// All others.
    pub unanswered: u64,
    /// Requests by status; `none` without a reply, `unreadable` for a 200 without outputs for its rows. A 200 after the deadline is a 200.
    pub status: BTreeMap<String, u64>,
    /// Rows of answered requests by provenance; `unlabelled` where the server tells none.
    pub provenance: BTreeMap<String, u64>,
    /// Share of the rows of answered requests that were right; `null` for rows without labels.
    pub accuracy: Option<f64>,
    /// The same of reconstructed rows; `null` if there are none.
    pub accuracy_reconstructed: Option<f64>,
    /// The same by provenance.
    pub accuracy_by_provenance: BTreeMap<String, f64>,
    /// Jobs that lanes ran during the run, for each row answered; other clients' are in it. `null` if the server does not count them, or was started
    /// anew meanwhile.
    pub jobs_per_query: Option<f64>,
    /// Those jobs.
    pub jobs: Option<u64>,
    /// Latency from the intended time.
    pub latency_ms: Percentiles,
    /// Names of the percentiles of `latency_ms` with fewer than ten requests beyond them.
    pub percentiles_with_few_samples: Vec<String>,
    /// How much later than intended the client began to send. It is part of the latency.
    pub lateness_ms: Percentiles,
    /// Names of the percentiles that owe more than a quarter to that.
    pub percentiles_with_late_client: Vec<String>,
    /// Whether the load was not what was asked for, so that nothing should be concluded.
    pub void: bool,
    /// Why.
    pub void_reason: Option<String>,
    /// What was asked for.
    pub load: LoadReport,
    /// Who answered.
    pub server: ServerReport,
    /// Faults, in the order of their times.
    pub faults: Vec<FaultReport>,
    /// Where it was measured.
    pub env: Env,
    /// The run by seconds of the schedule.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
}

/// What the report tells beside the counts.
pub(super) struct Context<'a> {
    pub(super) options: &'a HttpOptions,
    pub(super) faults: &'a [FaultAt],
    /// Looked at the machine during the run.
    pub(super) watch: Watch,
    /// Model version, server name and server version.
    pub(super) version: Option<String>,
    pub(super) server: (String, String),
    pub(super) is_labelled: bool,
    pub(super) jobs: Option<u64>,
}

impl Report {
    /// The report of a finished run.
    pub(super) fn new(tally: &Tally, context: Context<'_>) -> Self {
        let rows: u64 = tally.provenance.values().map(|rows| rows.count).sum();
        let right: u64 = tally.provenance.values().map(|rows| rows.right).sum();
        let share = |Rows { count, right }| (context.is_labelled && count > 0).then(|| right as f64 / count as f64);
        let by_word = || tally.provenance.iter();
        let accuracies = by_word().filter_map(|(word, &rows)| Some((word.clone(), share(rows)?)));
        let (latency, lateness) = (Percentiles::new(&tally.latencies), Percentiles::new(&tally.lateness));
        let env = Env::read(&context.options.command, context.options.load.seed, &context.watch);
        let void_reason = void_reason(tally, &latency, &lateness).or_else(|| doctor::void_reason(&env.doctor));
        Report {
            sent: tally.sent(),
            answered: tally.answered,
            unanswered: tally.sent() - tally.answered,
            status: tally.statuses.clone(),
            provenance: by_word().map(|(word, rows)| (word.clone(), rows.count)).collect(),
            accuracy: share(Rows { count: rows, right }),
            accuracy_reconstructed: tally.provenance.get("reconstructed").and_then(|&rows| share(rows)),
            accuracy_by_provenance: accuracies.collect(),
            jobs_per_query: context.jobs.filter(|_| rows > 0).map(|jobs| jobs as f64 / rows as f64),
            jobs: context.jobs,
            latency_ms: latency,
            percentiles_with_few_samples: few_samples(tally.sent()),
            lateness_ms: lateness,
            percentiles_with_late_client: late_client(&latency, &lateness),
            void: void_reason.is_some(),
            void_reason,
            load: load(&context),
            server: ServerReport { name: context.server.0, version: context.server.1 },
            faults: context.faults.iter().map(fault).collect(),
            env,
            windows: tally.windows(),
        }
    }

    /// As JSON: indented, but with one line for each window.
    pub fn json(&self) -> String {
        const PLAIN: &str = "results hold numbers, strings and maps with string keys";
        let head = serde_json::to_string_pretty(&Report { windows: Vec::new(), ..self.clone() }).expect(PLAIN);
        let lines: Vec<String> =
            self.windows.iter().map(|window| serde_json::to_string(window).expect(PLAIN)).collect();
        let head = head.strip_suffix("\n}").unwrap_or(&head);
        format!("{head},\n  \"windows\": [\n    {}\n  ]\n}}", lines.join(",\n    "))
    }
}

fn load(context: &Context<'_>) -> LoadReport {
    let Load { rate, seconds, seed, arrivals, rows, deadline, allow_reconstructed } = context.options.load;
    LoadReport {
        url: context.options.url.to_string(),
        model: context.options.model.clone(),
        version: context.version.clone(),
        rate,
        seconds,
        seed,
        arrivals: arrivals.to_string(),
        rows,
        deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        allow_reconstructed,
        data: if context.is_labelled { "images" } else { "random" }.to_owned(),
    }
}

fn fault(fault: &FaultAt) -> FaultReport {
    let (at, kind) = (fault.at.as_secs_f64(), fault.kind().to_owned());
    FaultReport { at, lane: fault.lane, kind, factor: fault.factor() }
}

/// Microseconds as milliseconds.
fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}

/// Names of percentiles that too few of `sent` requests lie beyond.
fn few_samples(sent: u64) -> Vec<String> {
    let few = QUANTILES.iter().filter(|(_, share)| has_few_beyond(sent as f64, *share));
    few.map(|(name, _)| (*name).to_owned()).collect()
}

/// Names of percentiles of which the client's lateness makes up too much.
fn late_client(latency: &Percentiles, lateness: &Percentiles) -> Vec<String> {
    let pairs = QUANTILES.iter().zip(latency.values().into_iter().zip(lateness.values()));
    let late = pairs.filter(|(_, (latency, lateness))| *lateness > LATENESS_SHARE_MAX * latency);
    late.map(|((name, _), _)| (*name).to_owned()).collect()
}

/// Why nothing should be concluded from this run.
fn void_reason(tally: &Tally, latency: &Percentiles, lateness: &Percentiles) -> Option<String> {
    let Percentiles { p50, p99, .. } = *lateness;
    if tally.unsendable > 0 {
        let (count, reason) = (tally.unsendable, "this client had no descriptor or port left");
        return Some(format!("{count} requests were not sent, because {reason}; raise `ulimit -n` or lower --rate"));
    }
    if tally.overdue > 0 {
        let count = tally.overdue;
        return Some(format!(
            "{count} requests were not sent, because this client came to them after their deadline; give it a core of its own or lower --rate"
        ));
    }
    if tally.answered == 0 {
        return Some("no request was answered: there is no latency to speak of".to_owned());
    }
    if p99 > LATENESS_P99_MAX_MS {
        return Some(format!(
            "one request in a hundred left {p99} ms late or later, and {LATENESS_P99_MAX_MS} ms is the most at which the schedule is still \
             the one asked for; give the client a core of its own or lower --rate"
        ));
    }
    (p50 > LATENESS_SHARE_MAX * latency.p50).then(|| {
        format!(
            "half of the requests left {p50} ms late or later, more than a quarter of the median latency of {} ms; the server is \
             faster than this client can measure on this machine",
            latency.p50
        )
    })
}

#[cfg(test)]
mod tests;
