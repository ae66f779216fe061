//! `bench forward`: how long a network takes for a batch on a device, from rows in host memory to outputs in host memory, as a lane runs it.
//!
//! Without a file of weights, networks that papers and peers know run on drawn weights: only sizes matter to time. With one, its own
//! rows run and the outputs are told, so that a peer which has the same file can check that both compute the same
//! (`docs/benchmarks/forward/peers.py`). Batches take turns for as long as they are measured, so that a change of the machine meets all.

use std::{fmt, fs, hint::black_box, path::PathBuf, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{BenchError, Env, Watch, cell, doctor};
use crate::{
    clock::Clock,
    config,
    lane::{open_device, precision},
    model::{Architecture, Device, Intake, Net, Parameters, Plan, Preprocessing, Tensor, TensorError},
};

const AS_IT_IS: Preprocessing = Preprocessing { mean: 0.0, std: 1.0, weight: 1.0 };

/// Runs of a batch at least, however long they take.
const RUNS: usize = 5;
/// Runs before any is timed: the first ones load kernels and take memory.
const WARM_UP_RUNS: usize = 2;

/// What is measured where nothing is named.
const KNOWN: [(&str, [usize; 3], usize); 8] = [
    ("mlp", [1, 28, 28], 10),
    ("lenet5", [1, 28, 28], 10),
    ("compact2", [1, 28, 28], 10),
    ("compact4", [1, 28, 28], 10),
    ("resnet18-w16", [1, 28, 28], 10),
    ("vgg11", [3, 32, 32], 10),
    ("resnet18", [3, 32, 32], 10),
    ("resnet18", [3, 224, 224], 1000),
];

/// What [`forward`] does.
#[derive(Clone, PartialEq, Debug)]
pub struct ForwardOptions {
    /// Where.
    pub device: config::Device,
    /// What it computes in, if it is a GPU; CPUs compute in single precision.
    pub precision: config::Precision,
    /// The one architecture that is measured; of the known ones, all shapes of it. `None` is all.
    pub architecture: Option<Architecture>,
    /// A safetensors file with the architecture's parameters, and `input` and `output` of the same rows.
    pub weights: Option<PathBuf>,
    /// Rows of a batch.
    pub batches: Vec<usize>,
    /// Seconds for each network and batch.
    pub seconds: f64,
    /// The command line.
    pub command: String,
}

impl ForwardOptions {
    fn net(&self, plan: &Plan, parameters: &Parameters, device: &Device) -> Result<Net, TensorError> {
        match self.device {
            config::Device::Cpu => Net::new(plan, AS_IT_IS, parameters, device),
            config::Device::Cuda(_) | config::Device::CudaUuid(_) => {
                Net::settled(plan, AS_IT_IS, parameters, device, precision(self.precision))
            }
        }
    }
}

/// One network and batch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Pass {
    /// The architecture's name.
    pub network: String,
    /// Shape of one row.
    pub row: Vec<usize>,
    /// Rows of a batch.
    pub batch: usize,
    /// Whose kernels ran it ([`Net::kernels`]); empty in reports from before that was told.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kernels: String,
    /// Half of all batches took no longer, in microseconds.
    pub p50_us: f64,
    /// 99 of 100.
    pub p99_us: f64,
    /// Multiply-adds a nanosecond, by the median.
    pub rate: f64,
    /// What a lane hears while a batch runs, one batch in the middle of a few.
    pub progress: Vec<Told>,
    /// Outputs of the rows of the file, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<f32>>,
}

/// A word of a device that has not finished a batch.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The share of the multiply-adds that is over, from 0 to 1.
    pub done: f32,
    /// After which share of the batch's time that was told.
    pub at: f64,
}

/// All of them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ForwardReport {
    /// Where they ran, as a configuration calls it.
    pub device: String,
    /// Why nothing should be concluded from it.
    #[serde(default)]
    pub void_reason: Option<String>,
    /// The figures.
    pub passes: Vec<Pass>,
    /// Where they were made.
    pub env: Env,
}

/// A network with rows for its largest batch.
struct Subject {
    name: String,
    net: Net,
    rows: Vec<f32>,
    tells_outputs: bool,
}

/// Measures them. `measured` hears each figure as soon as there is one: a network that fails later does not take it back.
pub fn forward(options: &ForwardOptions, measured: &dyn Fn(&Pass)) -> Result<ForwardReport, BenchError> {
    let watch = Watch::start();
    let mut passes = Vec::new();
    let mut measure = |subject: &Subject| {
        let found = subject.passes(options).map_err(BenchError::Forward)?;
        found.iter().for_each(measured);
        passes.extend(found);
        Ok::<_, BenchError>(())
    };
    match &options.weights {
        Some(file) => measure(&Subject::of_file(options, file)?)?,
        None => Subject::known(options)?.try_for_each(|subject| measure(&subject?))?,
    }
    let env = Env::read(&options.command, 0, &watch);
    Ok(ForwardReport { device: options.device.to_string(), void_reason: doctor::void_reason(&env.doctor), passes, env })
}

impl Subject {
    /// One after the other, so that one which fails, or finds no memory beside the others, costs none of those before it.
    fn known(options: &ForwardOptions) -> Result<impl Iterator<Item = Result<Self, BenchError>>, BenchError> {
        let device = open_device(&options.device).map_err(BenchError::Device)?;
        let mut state = 1;
        let mut subject = move |(architecture, plan): (Architecture, Plan)| {
            let parameters = drawn(&plan.parameters(), &mut state)?;
            let net = options.net(&plan, &parameters, &device)?;
            let most = options.batches.iter().max().copied().unwrap_or(1);
            let rows = (0..most * net.width()).map(|_| draw(&mut state)).collect();
            Ok(Subject { name: architecture.to_string(), net, rows, tells_outputs: false })
        };
        let plans = plans(options.architecture).into_iter();
        Ok(plans.map(move |known| subject(known).map_err(BenchError::Forward)))
    }

    fn of_file(options: &ForwardOptions, file: &PathBuf) -> Result<Self, BenchError> {
        let architecture = options.architecture.ok_or(BenchError::NoNetwork)?;
        let device = open_device(&options.device).map_err(BenchError::Device)?;
        let bytes = fs::read(file).map_err(|error| BenchError::Unread { file: file.clone(), error })?;
        let no_result = |problem: String| BenchError::NoWeights { file: file.clone(), problem };
        let of_tensors = |error: TensorError| no_result(error.to_string());
        let all = Parameters::from_safetensors(&bytes).map_err(of_tensors)?;
        let tensor = |name: &str| all.get(name).ok_or_else(|| no_result(format!("it has no tensor {name:?}")));
        let (input, output) = (tensor("input")?, tensor("output")?);
        let (rows, outputs) = (input.dim(0).map_err(of_tensors)?, output.dim(1).map_err(of_tensors)?);
        if let Some(&batch) = options.batches.iter().max().filter(|&&batch| batch > rows) {
            return Err(BenchError::TooFewRows { file: file.clone(), rows, batch });
        }
        let plan = architecture.plan(input.dims().get(1..).unwrap_or_default(), outputs);
        let plan = plan.map_err(|error| no_result(error.to_string()))?;
        let parameters = Parameters::new(all.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
        let net = options.net(&plan, &parameters, &device).map_err(of_tensors)?;
        let rows = input.flatten_all().and_then(|rows| rows.to_vec1()).map_err(of_tensors)?;
        Ok(Subject { name: architecture.to_string(), net, rows, tells_outputs: true })
    }

    fn passes(&self, options: &ForwardOptions) -> Result<Vec<Pass>, TensorError> {
        let clock = Clock::start();
        // There are rows for the largest.
        let batch = |&batch: &usize| (batch, &self.rows[..batch * self.net.width()]);
        let batches: Vec<(usize, &[f32])> = options.batches.iter().map(batch).collect();
        self.net.prepare(batches.iter().map(|&(rows, _)| rows))?;
        let mut run = self.runner();
        for (_, rows) in batches.iter().cycle().take(WARM_UP_RUNS * batches.len()) {
            run(rows, &|_| ())?;
        }
        let mut times = vec![Vec::new(); batches.len()];
        let begun = clock.now();
        let span = options.seconds * batches.len() as f64;
        while times[0].len() < RUNS || clock.now().since(begun).as_secs_f64() < span {
            for ((_, rows), times) in batches.iter().zip(&mut times) {
                let started = clock.now();
                run(black_box(rows), &|_| ())?;
                times.push(clock.now().since(started).as_secs_f64() * 1e6);
            }
        }
        let pass = |((batch, rows), mut times): ((usize, &[f32]), Vec<f64>)| {
            times.sort_unstable_by(f64::total_cmp);
            let (p50_us, p99_us) = (cell::at(&times, 0.5), cell::at(&times, 0.99));
            Ok(Pass {
                network: self.name.clone(),
                row: self.net.plan().input().to_vec(),
                batch,
                kernels: self.net.kernels(batch).to_owned(),
                p50_us,
                p99_us,
                progress: self.progress(rows)?,
                rate: (self.net.plan().multiply_adds() * batch) as f64 / p50_us / 1e3,
                outputs: self.tells_outputs.then(|| self.net.run(rows)).transpose()?,
            })
        };
        batches.into_iter().zip(times).map(pass).collect()
    }

    /// Runs rows as a lane does: through memory that is kept.
    fn runner(&self) -> impl FnMut(&[f32], &(dyn Fn(f32) + Sync)) -> Result<(), TensorError> {
        let (mut intake, mut outputs, width) = (Intake::default(), Vec::new(), self.net.width());
        move |rows, told| {
            let of = |row: usize| &rows[row * width..][..width];
            let taken =
                intake.take(&self.net, (rows.len() / width, width), |row, into| into.copy_from_slice(of(row)))?;
            self.net.run_into(taken, &mut outputs, told)?;
            black_box(&outputs);
            Ok(())
        }
    }

    /// When a batch told of what: of a few, the one of the median time.
    fn progress(&self, rows: &[f32]) -> Result<Vec<Told>, TensorError> {
        let (clock, mut run, mut runs) = (Clock::start(), self.runner(), Vec::new());
        for _ in 0..RUNS {
            let heard = Mutex::new(Vec::new());
            let started = clock.now();
            run(rows, &|share| heard.lock().push((share, clock.now().since(started))))?;
            runs.push((clock.now().since(started), heard.into_inner()));
        }
        runs.sort_unstable_by_key(|(time, _)| *time);
        let (time, heard) = runs.swap_remove(RUNS / 2);
        let mut done = 0.0;
        let told = |(share, at): (f32, Duration)| {
            done += share;
            Told { done, at: at.as_secs_f64() / time.as_secs_f64() }
        };
        Ok(heard.into_iter().map(told).collect())
    }
}

/// What is measured: all that is known; of one that is wanted, all shapes that are known for it, else the first of any that fits.
fn plans(wanted: Option<Architecture>) -> Vec<(Architecture, Plan)> {
    let plan = |architecture: Architecture, (_, shape, outputs): &(&str, [usize; 3], usize)| {
        Some((architecture, architecture.plan(shape, *outputs).ok()?))
    };
    let known = |known: &(&str, [usize; 3], usize)| {
        let architecture = known.0.parse().expect("the table has names of architectures");
        if wanted.is_none_or(|wanted| wanted == architecture) { plan(architecture, known) } else { None }
    };
    let mut plans: Vec<_> = KNOWN.iter().filter_map(known).collect();
    if let Some(wanted) = wanted.filter(|_| plans.is_empty()) {
        plans.extend(KNOWN.iter().find_map(|known| plan(wanted, known)));
    }
    plans
}

/// Weights that keep values from growing or vanishing.
fn drawn(shapes: &[(String, Vec<usize>)], state: &mut u32) -> Result<Parameters, TensorError> {
    let mut parameters = Vec::new();
    for (name, shape) in shapes {
        let count: usize = shape.iter().product();
        let fan = (count / shape[0]).max(1) as f32;
        let value = |_| if name.ends_with("running_var") { 1.0 } else { draw(state) / fan.sqrt() };
        let values: Vec<f32> = (0..count).map(value).collect();
        parameters.push((name.clone(), Tensor::from_vec(values, shape.as_slice(), &Device::Cpu)?));
    }
    Ok(Parameters::new(parameters))
}

/// From -1 to 1, by a linear congruence: any numbers will do that are not zero.
fn draw(state: &mut u32) -> f32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*state >> 8) as f32 / 8_388_608.0 - 1.0
}

impl ForwardReport {
    /// As JSON.
    ///
    /// # Panics
    ///
    /// If a time is not a finite number, which would be a bug.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("plain data has a JSON form")
    }
}

impl fmt::Display for ForwardReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Env { cpu, gpu, command, .. } = &self.env;
        if let Some(reason) = &self.void_reason {
            writeln!(f, "VOID: {reason}\n")?;
        }
        let card = if self.device == "cpu" { cpu } else { gpu };
        let card = card.as_deref().unwrap_or("a device of unknown name");
        writeln!(f, "Made by `{command}` on {} ({card}).\n", self.device)?;
        writeln!(f, "| network | row | batch | kernels | p50 µs | p99 µs | rows a second | multiply-adds a ns |")?;
        writeln!(f, "|---|---|---|---|---|---|---|---|")?;
        for Pass { network, row, batch, kernels, p50_us, p99_us, rate, .. } in &self.passes {
            let row = row.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
            let rows = *batch as f64 / p50_us * 1e6;
            let times = format!("{p50_us:.1} | {p99_us:.1}");
            writeln!(f, "| {network} | {row} | {batch} | {kernels} | {times} | {rows:.0} | {rate:.1} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_void_report_says_so_first() {
        let void_reason = Some("steal: 9 %; move away".to_owned());
        let env = Env::read("parityd bench forward", 0, &Watch::start());
        let report = ForwardReport { device: "cpu".to_owned(), void_reason, passes: Vec::new(), env };
        assert!(report.to_string().starts_with("VOID: steal: 9 %; move away\n\nMade by"));
    }
}
