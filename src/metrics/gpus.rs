//! What drivers tell of GPUs, under our names.

use prometheus::{GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::{Metrics, NAMES_ARE_VALID, counters, gauge, gauges, register, triton::Gpus as Triton};

/// A value that a GPU's driver tells, in base units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GpuValue {
    /// °C.
    Temperature,
    /// Hz.
    Clock,
    /// Bytes in use.
    Memory,
    /// Bytes.
    MemoryTotal,
    /// 0 to 1.
    Utilisation,
    /// A count.
    EccUncorrected,
    /// A count.
    PcieReplays,
    /// 1 to 6, so far.
    PcieGeneration,
}

impl GpuValue {
    const ALL: [GpuValue; 8] = [
        GpuValue::Temperature,
        GpuValue::Clock,
        GpuValue::Memory,
        GpuValue::MemoryTotal,
        GpuValue::Utilisation,
        GpuValue::EccUncorrected,
        GpuValue::PcieReplays,
        GpuValue::PcieGeneration,
    ];
}

/// What drivers tell of GPUs; there only if GPUs are watched. A value that a GPU does not tell is absent.
#[derive(Clone, Debug)]
pub struct GpuMetrics {
    answers: IntGauge,
    up: IntGaugeVec,
    values: [GaugeVec; GpuValue::ALL.len()],
    limited: IntGaugeVec,
    xids: IntCounterVec,
    triton: Triton,
}

impl GpuMetrics {
    /// Metrics beside those of a daemon.
    pub fn new(metrics: &Metrics) -> Self {
        let registry = &metrics.registry;
        let value = |(name, help)| {
            let family = GaugeVec::new(Opts::new(name, help), &["gpu"]).expect(NAMES_ARE_VALID);
            register(registry, &family);
            family
        };
        let gauges = |name, help, labels: &[&str]| gauges(registry, name, help, labels);
        GpuMetrics {
            answers: gauge(registry, "parityd_nvml_answers", "1 while NVML answers, 0 while nothing is known."),
            up: gauges("parityd_gpu_up", "0 for a GPU that its driver has lost.", &["gpu"]),
            values: [
                ("parityd_gpu_temperature_celsius", "Temperature of the chip."),
                ("parityd_gpu_clock_hertz", "Clock of the multiprocessors."),
                ("parityd_gpu_memory_used_bytes", "Memory in use, by anybody."),
                ("parityd_gpu_memory_bytes", "All memory of the GPU."),
                ("parityd_gpu_utilisation_ratio", "Share of the last moments in which something ran."),
                (
                    "parityd_gpu_ecc_uncorrected",
                    "Errors of memory that were not corrected, since the driver was loaded.",
                ),
                ("parityd_gpu_pcie_replays", "Packets on the PCIe link that were sent again."),
                ("parityd_gpu_pcie_generation", "Generation of the PCIe link now."),
            ]
            .map(value),
            limited: gauges("parityd_gpu_limited", "1 for what holds the clock down.", &["gpu", "by"]),
            xids: counters(registry, "parityd_gpu_xid_total", "Xid events.", &["gpu", "xid"]),
            triton: Triton::new(registry),
        }
    }

    /// Whether NVML answers.
    pub fn answers(&self, answers: bool) {
        self.answers.set(i64::from(answers));
    }

    /// Whether the driver has the GPU; `None` where nothing is known of that, and it is absent.
    pub fn up(&self, gpu: &str, up: Option<bool>) {
        match up {
            Some(up) => self.up.with_label_values(&[gpu]).set(i64::from(up)),
            // It may not have been there.
            None => self.up.remove_label_values(&[gpu]).unwrap_or(()),
        }
    }

    /// What a GPU told, and what holds its clock down, `None` where that is not known; whatever is not among them is absent from now on.
    pub fn read(&self, gpu: &str, values: &[(GpuValue, f64)], limits: Option<&[&str]>) {
        for value in GpuValue::ALL {
            let family = &self.values[value as usize];
            match values.iter().find(|(told, _)| *told == value) {
                Some((_, number)) => family.with_label_values(&[gpu]).set(*number),
                // It may not have been there.
                None => family.remove_label_values(&[gpu]).unwrap_or(()),
            }
        }
        self.triton.read(gpu, values);
        for by in ["hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"] {
            match limits {
                Some(limits) => self.limited.with_label_values(&[gpu, by]).set(i64::from(limits.contains(&by))),
                None => self.limited.remove_label_values(&[gpu, by]).unwrap_or(()),
            }
        }
    }

    /// An Xid event.
    pub fn xid(&self, gpu: &str, xid: u64) {
        self.xids.with_label_values(&[gpu, &xid.to_string()]).inc();
    }
}
