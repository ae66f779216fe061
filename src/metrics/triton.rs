//! The same numbers under Triton's names, for dashboards and scalers that know only those.
//!
//! A name is here only if it means in Triton what it means here; docs/compat.md lists them, and says of those that are not here why. What is
//! counted of requests are the protocol's statistics, so nothing is counted twice: families are made when somebody asks.

use prometheus::{GaugeVec, IntCounterVec, Opts, Registry, proto::MetricFamily};

use super::{GpuValue, NAMES_ARE_VALID, Total, Totals, counters, register, requests::Fault};

/// Counters with the labels of a model alone.
type OfModel = (&'static str, &'static str, fn(&Totals, Total) -> u64);

const OF_MODEL: [OfModel; 8] = [
    ("nv_inference_request_success", "Requests that were answered.", |totals, _| totals.success.count),
    ("nv_inference_count", "Rows of requests that were answered.", |totals, _| totals.rows),
    ("nv_inference_exec_count", "Batches that lanes have run.", |_, batches| batches.count),
    ("nv_inference_request_duration_us", "Time of requests that were answered, in microseconds.", |totals, _| {
        micros(totals.success)
    }),
    ("nv_inference_queue_duration_us", "Their wait for a lane, in microseconds: an estimate.", |totals, _| {
        micros(totals.queue)
    }),
    ("nv_inference_compute_input_duration_us", "Reading their bodies, in microseconds.", |totals, _| {
        micros(totals.reading)
    }),
    ("nv_inference_compute_infer_duration_us", "Their batches, in microseconds: an estimate.", |totals, _| {
        micros(totals.computing)
    }),
    ("nv_inference_compute_output_duration_us", "Writing their replies, in microseconds.", |totals, _| {
        micros(totals.writing)
    }),
];

const fn micros(total: Total) -> u64 {
    total.nanos / 1000
}

/// What has become of requests to one version of a model.
pub(super) fn families([model, version]: [&str; 2], totals: &Totals, batches: Total) -> Vec<MetricFamily> {
    let registry = Registry::new();
    for (name, help, value) in OF_MODEL {
        let family = counters(&registry, name, help, &["model", "version"]);
        family.with_label_values(&[model, version]).inc_by(value(totals, batches));
    }
    let failures: IntCounterVec = counters(
        &registry,
        "nv_inference_request_failure",
        "Requests that were read, and then refused or not answered.",
        &["model", "version", "reason"],
    );
    for fault in Fault::ALL {
        failures.with_label_values(&[model, version, fault.word()]).inc_by(totals.fail_by[fault as usize]);
    }
    registry.gather()
}

/// What drivers tell of GPUs.
#[derive(Clone, Debug)]
pub(super) struct Gpus([(GpuValue, GaugeVec); 3]);

impl Gpus {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauges = |value, name, help| {
            let family = GaugeVec::new(Opts::new(name, help), &["gpu_uuid"]).expect(NAMES_ARE_VALID);
            register(registry, &family);
            (value, family)
        };
        Gpus([
            gauges(GpuValue::Utilisation, "nv_gpu_utilization", "Share of the last moments in which something ran."),
            gauges(GpuValue::Memory, "nv_gpu_memory_used_bytes", "Memory in use, by anybody."),
            gauges(GpuValue::MemoryTotal, "nv_gpu_memory_total_bytes", "All memory of the GPU."),
        ])
    }

    /// What a GPU told; whatever is not among it is absent from now on.
    pub(super) fn read(&self, gpu: &str, values: &[(GpuValue, f64)]) {
        for (value, family) in &self.0 {
            match values.iter().find(|(told, _)| told == value) {
                Some((_, number)) => family.with_label_values(&[gpu]).set(*number),
                // It may not have been there.
                None => family.remove_label_values(&[gpu]).unwrap_or(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Answered, Fault, GpuMetrics, GpuValue, Metrics};
    use crate::query::LaneId;

    #[test]
    fn requests_are_told_under_tritons_names_with_its_types() {
        let metrics = Metrics::new("m", 1);
        assert!(!metrics.text().contains("nv_"), "no version, no labels");
        let metrics = metrics.of_version("m", "7");
        metrics.requests.answered(Answered {
            rows: 3,
            whole: Duration::from_micros(900),
            reading: Duration::from_micros(100),
            writing: Duration::from_micros(50),
            at_millis: 1,
        });
        metrics.requests.failed(Duration::from_micros(5), Fault::Rejected);
        metrics.served(LaneId(0), Duration::from_micros(500));
        let text = metrics.text();
        for line in [
            "# TYPE nv_inference_request_success counter",
            "# HELP nv_inference_count Rows of requests that were answered.",
            "nv_inference_request_success{model=\"m\",version=\"7\"} 1",
            "nv_inference_request_failure{model=\"m\",reason=\"REJECTED\",version=\"7\"} 1",
            "nv_inference_request_failure{model=\"m\",reason=\"BACKEND\",version=\"7\"} 0",
            "nv_inference_count{model=\"m\",version=\"7\"} 3",
            "nv_inference_exec_count{model=\"m\",version=\"7\"} 1",
            "nv_inference_request_duration_us{model=\"m\",version=\"7\"} 900",
            "nv_inference_queue_duration_us{model=\"m\",version=\"7\"} 250",
            "nv_inference_compute_input_duration_us{model=\"m\",version=\"7\"} 100",
            "nv_inference_compute_infer_duration_us{model=\"m\",version=\"7\"} 500",
            "nv_inference_compute_output_duration_us{model=\"m\",version=\"7\"} 50",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
        assert!(metrics.text().contains("_queue_duration_us{model=\"m\",version=\"7\"} 250"), "nothing new");
    }

    #[test]
    fn gpus_are_told_by_uuid_and_a_value_that_is_gone_is_absent() {
        let metrics = Metrics::new("m", 1);
        let gpus = GpuMetrics::new(&metrics);
        gpus.read("GPU-1", &[(GpuValue::Utilisation, 0.5), (GpuValue::MemoryTotal, 80.0)], Some(&[]));
        let text = metrics.text();
        assert!(
            text.contains("# TYPE nv_gpu_utilization gauge\nnv_gpu_utilization{gpu_uuid=\"GPU-1\"} 0.5\n"),
            "{text}"
        );
        assert!(text.contains("nv_gpu_memory_total_bytes{gpu_uuid=\"GPU-1\"} 80\n"), "{text}");
        assert!(text.contains("parityd_gpu_memory_bytes{gpu=\"GPU-1\"} 80\n"), "{text}");
        assert!(!text.contains("nv_gpu_memory_used_bytes"), "{text}");
        gpus.read("GPU-1", &[], None);
        assert!(!metrics.text().contains("nv_gpu_"));
    }
}
