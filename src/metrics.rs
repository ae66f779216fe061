//! What the daemon counts, under the names that dashboards rely on.
//!
//! Handles are resolved once at start, so counting on the path of a query is one atomic addition. A value that does not exist is absent
//! from the text, never 0. Labels are plain words: this module knows no type of the layers above it.

mod gpus;
mod ports;
mod requests;
mod triton;

use std::time::Duration;

use prometheus::{
    Counter, Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, PullingGauge, Registry, TextEncoder,
};

pub use gpus::{GpuMetrics, GpuValue};
pub use ports::{Connected, Connections, Protocol};
pub use requests::{Answered, Fault, Requests, Total, Totals};

use crate::query::{LaneId, Provenance};

/// Upper bounds of the latency histograms, in seconds: 0.1 ms to 10 s, three a decade.
const SECONDS: [f64; 16] = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// The words of `parityd_errors_total`, all of them. Each is there from the start: a rate of what first appears with its first failure never shows that one.
const REASONS: [&str; 24] = [
    "bad_field",
    "bad_json",
    "bad_picture",
    "body_timeout",
    "body_too_long",
    "broken_body",
    "deadline",
    "draining",
    "foreign_origin",
    "full",
    "no_length",
    "not_ready",
    "not_served",
    "picture_too_large",
    "query_fault",
    "stopped",
    "too_many_rows",
    "unknown_lane",
    "unknown_model",
    "unknown_route",
    "unknown_version",
    "wrong_content_encoding",
    "wrong_content_type",
    "wrong_verb",
];

/// How a stripe ended; the `outcome` label of `parityd_stripes_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StripeOutcome {
    /// It was full, lost nothing, and nothing that it decoded was served.
    Complete,
    /// It decoded at least one member's answer.
    Reconstructed,
    /// It never got k members.
    Short,
    /// Its parity job found the queue full, or no fault domain to run in.
    Dropped,
    /// It lost a member's output, and had nothing to serve in its place.
    Lost,
}

/// All counters, gauges and histograms of one daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    queries: [IntCounter; Provenance::ALL.len()],
    errors: IntCounterVec,
    query_seconds: Histogram,
    connections: IntGaugeVec,
    /// `parityd_queue_jobs`: data jobs that wait.
    pub queue_jobs: IntGauge,
    lane_state: IntGaugeVec,
    lane_moves: IntCounterVec,
    lane_service: Vec<Histogram>,
    /// `parityd_stripes_open`: stripes that are not over.
    pub stripes_open: IntGauge,
    stripes: [IntCounter; 5],
    agreement: [IntCounter; 2],
    /// `parityd_unprotected_total`: queries that ran without a stripe under a policy that has a code.
    pub unprotected: IntCounter,
    /// `parityd_gated_total`: reconstructions that were held back.
    pub gated: IntCounter,
    drift: IntGauge,
    agreement_expected: Gauge,
    /// `parityd_late_total`: outputs that came after their query was answered.
    pub late: IntCounter,
    /// `parityd_standstill_seconds_total`: time that nothing of the process ran for.
    pub standstill: Counter,
    jobs: IntCounterVec,
    /// What the protocol's statistics tell, and metrics under Triton's names.
    pub requests: Requests,
    /// Model and version, once somebody has said them.
    served: Option<[String; 2]>,
}

impl Metrics {
    /// Metrics of a daemon with one deployment and `lanes` lanes.
    pub fn new(deployment: &str, lanes: usize) -> Self {
        let registry = Registry::new();
        let queries = counters(&registry, "parityd_queries_total", "Answered queries.", &["deployment", "provenance"]);
        let errors = counters(&registry, "parityd_errors_total", "Refused requests and failed queries.", &["reason"]);
        for reason in REASONS {
            drop(errors.with_label_values(&[reason]));
        }
        let stripes = counters(&registry, "parityd_stripes_total", "Stripes that are over.", &["outcome"]);
        let agreement = counters(
            &registry,
            "parityd_agreement_total",
            "Late direct answers against the reconstruction that was served.",
            &["agree"],
        );
        let jobs = counters(&registry, "parityd_jobs_total", "Jobs that lanes have run.", &["kind"]);
        let service_opts = HistogramOpts::new("parityd_lane_service_seconds", "Time of one batch, without queueing.");
        let service = HistogramVec::new(service_opts.buckets(SECONDS.to_vec()), &["lane"]).expect(NAMES_ARE_VALID);
        register(&registry, &service);
        let seconds_opts = HistogramOpts::new("parityd_query_seconds", "From admission to the answer.");
        let query_seconds = Histogram::with_opts(seconds_opts.buckets(SECONDS.to_vec())).expect(NAMES_ARE_VALID);
        register(&registry, &query_seconds);
        let lane_state =
            gauges(&registry, "parityd_lane_state", "1 for the state that the lane is in.", &["lane", "state"]);
        let lane_moves =
            counters(&registry, "parityd_lane_moves_total", "Moves of the lane to the state.", &["lane", "to"]);
        let connections = gauges(&registry, "parityd_connections", "Connections that are open.", &["protocol"]);
        Metrics {
            queries: Provenance::ALL.map(|provenance| queries.with_label_values(&[deployment, provenance.as_str()])),
            errors,
            query_seconds,
            connections,
            queue_jobs: gauge(&registry, "parityd_queue_jobs", "Data jobs that wait for a lane."),
            lane_state,
            lane_moves,
            lane_service: (0..lanes).map(|lane| service.with_label_values(&[&lane.to_string()])).collect(),
            stripes_open: gauge(&registry, "parityd_stripes_open", "Stripes that are not over."),
            stripes: ["complete", "reconstructed", "short", "dropped", "lost"]
                .map(|outcome| stripes.with_label_values(&[outcome])),
            agreement: ["false", "true"].map(|agree| agreement.with_label_values(&[agree])),
            unprotected: counter(
                &registry,
                "parityd_unprotected_total",
                "Queries that ran without a stripe under a policy that has a code.",
            ),
            gated: counter(&registry, "parityd_gated_total", "Reconstructions of too little confidence to be served."),
            // Registered once there is a calibration.
            drift: IntGauge::new("parityd_drift", "1 while reconstructions agree less than calibrated.")
                .expect(NAMES_ARE_VALID),
            agreement_expected: Gauge::new("parityd_agreement_expected", "The calibration's share of agreement.")
                .expect(NAMES_ARE_VALID),
            late: counter(&registry, "parityd_late_total", "Outputs that came after the answer."),
            standstill: standstill(&registry),
            jobs,
            requests: Requests::default(),
            served: None,
            registry,
        }
    }

    /// The same for a model and its version; under Triton's names there is nothing without.
    #[must_use]
    pub fn of_version(mut self, model: &str, version: &str) -> Self {
        self.served = Some([model.to_owned(), version.to_owned()]);
        self
    }

    /// The connections of a port, to be kept.
    pub fn connections(&self, protocol: Protocol) -> Connections {
        Connections::of(&self.connections, protocol)
    }

    /// `parityd_start_time_seconds`: counters began with this process, which began then.
    pub fn began(&self, unix: Duration) {
        let name = "parityd_start_time_seconds";
        let began = gauge(&self.registry, name, "When this process began, in seconds since 1970.");
        began.set(i64::try_from(unix.as_secs()).unwrap_or(i64::MAX));
    }

    /// `parityd_queries_open`: `admitted` is asked whenever somebody reads.
    pub fn watch_queries(&self, admitted: impl Fn() -> usize + Send + Sync + 'static) {
        let help = "Admitted queries that are not over.";
        self.watch("parityd_queries_open", help, move || admitted() as f64);
    }

    /// `parityd_ready`: `is_ready` is asked whenever somebody reads.
    pub fn watch_readiness(&self, is_ready: impl Fn() -> bool + Send + Sync + 'static) {
        let help = "1 while enough lanes that hold the base model can answer.";
        self.watch("parityd_ready", help, move || f64::from(u8::from(is_ready())));
    }

    fn watch(&self, name: &str, help: &str, value: impl Fn() -> f64 + Send + Sync + 'static) {
        let gauge = PullingGauge::new(name, help, Box::new(value)).expect(NAMES_ARE_VALID);
        register(&self.registry, &gauge);
    }

    /// A query was answered with a prediction, `latency` after admission.
    pub fn answered(&self, provenance: Provenance, latency: Duration) {
        let place = Provenance::ALL.iter().position(|&p| p == provenance).expect("ALL lists every provenance");
        self.queries[place].inc();
        self.query_seconds.observe(latency.as_secs_f64());
    }

    /// Queries answered so far, by provenance.
    pub fn answers(&self) -> [(Provenance, u64); Provenance::ALL.len()] {
        let mut answers = Provenance::ALL.map(|provenance| (provenance, 0));
        for ((_, count), counter) in answers.iter_mut().zip(&self.queries) {
            *count = counter.get();
        }
        answers
    }

    /// A query was refused or failed.
    pub fn failed(&self, reason: &str, queries: usize) {
        self.errors.with_label_values(&[reason]).inc_by(queries as u64);
    }

    /// A lane begins in a state, and may move to these. Its moves are there from then on: a rate of what first appears with its first move never shows that one.
    pub fn lane_begins(&self, lane: LaneId, begins: &str, states: &[&str]) {
        let lane = lane.to_string();
        for state in states {
            self.lane_state.with_label_values(&[lane.as_str(), state]).set(i64::from(*state == begins));
            drop(self.lane_moves.with_label_values(&[lane.as_str(), state]));
        }
    }

    /// A lane moved from one state to another.
    pub fn lane_moved(&self, lane: LaneId, from: &str, to: &str) {
        let lane = lane.to_string();
        self.lane_state.with_label_values(&[lane.as_str(), from]).set(0);
        self.lane_state.with_label_values(&[lane.as_str(), to]).set(1);
        self.lane_moves.with_label_values(&[lane.as_str(), to]).inc();
    }

    /// A lane ran a batch in `service`.
    pub fn served(&self, lane: LaneId, service: Duration) {
        self.lane_service[usize::from(lane.0)].observe(service.as_secs_f64());
    }

    /// Batches that lanes have run, of every kind, and how long they took.
    pub fn batches(&self) -> Total {
        let count = self.lane_service.iter().map(Histogram::get_sample_count).sum();
        let seconds: f64 = self.lane_service.iter().map(Histogram::get_sample_sum).sum();
        let nanos = u64::try_from(Duration::from_secs_f64(seconds).as_nanos()).unwrap_or(u64::MAX);
        Total { count, nanos }
    }

    /// The counter of jobs of one kind, to be kept.
    pub fn jobs(&self, kind: &str) -> IntCounter {
        self.jobs.with_label_values(&[kind])
    }

    /// A stripe is over.
    pub fn stripe_over(&self, outcome: StripeOutcome) {
        self.stripes_open.dec();
        self.stripes[outcome as usize].inc();
    }

    /// A direct output came after a reconstruction had been served.
    pub fn agreement(&self, agree: bool) {
        self.agreement[usize::from(agree)].inc();
    }

    /// Reconstructions are expected to agree with the base model in this share.
    pub fn expect_agreement(&self, share: f64) {
        register(&self.registry, &self.drift);
        register(&self.registry, &self.agreement_expected);
        self.agreement_expected.set(share);
    }

    /// Reconstructions agree less often than expected, or do so no more.
    pub fn drifted(&self, drifted: bool) {
        self.drift.set(i64::from(drifted));
    }

    /// Everything in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut families = self.registry.gather();
        if let Some([model, version]) = &self.served {
            let batches = self.batches();
            families.extend(triton::families([model, version], &self.requests.totals(batches), batches));
        }
        let mut text = Vec::new();
        let encoded = TextEncoder::new().encode(&families, &mut text);
        encoded.expect("every family has a name and writing to memory cannot fail");
        String::from_utf8(text).expect("names and labels are UTF-8")
    }
}

const NAMES_ARE_VALID: &str = "metric and label names are literals of this file";

fn register(registry: &Registry, collector: &(impl prometheus::core::Collector + Clone + 'static)) {
    registry.register(Box::new(collector.clone())).expect("each name is registered once");
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let family = IntCounterVec::new(Opts::new(name, help), labels).expect(NAMES_ARE_VALID);
    register(registry, &family);
    family
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    let counter = IntCounter::new(name, help).expect(NAMES_ARE_VALID);
    register(registry, &counter);
    counter
}

fn standstill(registry: &Registry) -> Counter {
    let counter = Counter::new("parityd_standstill_seconds_total", "Time that nothing of the process ran for.")
        .expect(NAMES_ARE_VALID);
    register(registry, &counter);
    counter
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let family = IntGaugeVec::new(Opts::new(name, help), labels).expect(NAMES_ARE_VALID);
    register(registry, &family);
    family
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    let gauge = IntGauge::new(name, help).expect(NAMES_ARE_VALID);
    register(registry, &gauge);
    gauge
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_names_are_in_the_text() {
        let metrics = Metrics::new("m", 2);
        metrics.answered(Provenance::Reconstructed, Duration::from_millis(3));
        metrics.failed("deadline", 2);
        metrics.lane_begins(LaneId(1), "starting", &["starting", "healthy", "failed"]);
        metrics.lane_moved(LaneId(1), "starting", "healthy");
        metrics.served(LaneId(0), Duration::from_micros(150));
        metrics.jobs("data").inc();
        assert!(!metrics.text().contains("parityd_drift"), "what does not exist is absent");
        metrics.expect_agreement(0.93);
        metrics.watch_queries(|| 7);
        metrics.watch_readiness(|| true);
        metrics.began(Duration::from_millis(1_700_000_000_900));
        let http = metrics.connections(Protocol::Http);
        let first = http.opened();
        let text = metrics.text();
        assert!(text.contains("parityd_connections{protocol=\"http\"} 1"), "{text}");
        drop(first);
        assert!(metrics.text().contains("parityd_connections{protocol=\"http\"} 0"), "it has closed");
        for line in [
            "parityd_queries_total{deployment=\"m\",provenance=\"reconstructed\"} 1",
            "parityd_errors_total{reason=\"deadline\"} 2",
            "parityd_errors_total{reason=\"full\"} 0",
            "parityd_query_seconds_bucket{le=\"0.005\"} 1",
            "parityd_queue_jobs 0",
            "parityd_queries_open 7",
            "parityd_ready 1",
            "parityd_start_time_seconds 1700000000",
            "parityd_lane_state{lane=\"1\",state=\"healthy\"} 1",
            "parityd_lane_state{lane=\"1\",state=\"starting\"} 0",
            "parityd_lane_moves_total{lane=\"1\",to=\"healthy\"} 1",
            "parityd_lane_moves_total{lane=\"1\",to=\"failed\"} 0",
            "parityd_lane_service_seconds_bucket{lane=\"0\",le=\"0.0002\"} 1",
            "parityd_stripes_open 0",
            "parityd_stripes_total{outcome=\"complete\"} 0",
            "parityd_agreement_total{agree=\"true\"} 0",
            "parityd_unprotected_total 0",
            "parityd_gated_total 0",
            "parityd_standstill_seconds_total 0",
            "parityd_drift 0",
            "parityd_agreement_expected 0.93",
            "parityd_jobs_total{kind=\"data\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing from\n{text}");
        }
    }
}
