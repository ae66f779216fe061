//! Forward passes of the architectures on one thread.
//!
//! `cargo bench --bench forward` prints a table with random weights. `docs/benchmarks/forward/peers.py` runs it for one architecture at a time,
//! in turn with other libraries, on the same weights and rows: `forward ARCHITECTURE WEIGHTS BATCH SECONDS`, where WEIGHTS is a safetensors
//! file that holds `input` too; it prints JSON with the median time of a batch in microseconds and the outputs.

use std::{env, error::Error, fs, hint::black_box, time::Duration};

use parityd::{
    clock::Clock,
    model::{Architecture, Device, Net, Parameters, Preprocessing, Tensor},
};

const AS_IT_IS: Preprocessing = Preprocessing { mean: 0.0, std: 1.0, weight: 1.0 };

/// Runs of a batch at least, however long they take.
const RUNS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.as_slice() {
        [] => table(),
        [architecture, weights, batch, seconds] => one(architecture, weights, batch.parse()?, seconds.parse()?),
        _ => Err("usage: forward [ARCHITECTURE WEIGHTS BATCH SECONDS]".into()),
    }
}

/// Median time of a run of `net`.
fn median(net: &Net, rows: &[f32], seconds: f64) -> Result<Duration, Box<dyn Error>> {
    let mut times = Vec::new();
    let clock = Clock::start();
    let begun = clock.now();
    while times.len() < RUNS || clock.now().since(begun).as_secs_f64() < seconds {
        let started = clock.now();
        black_box(net.run(black_box(rows))?);
        times.push(clock.now().since(started));
    }
    times.sort();
    Ok(times[times.len() / 2])
}

fn one(architecture: &str, weights: &str, batch: usize, seconds: f64) -> Result<(), Box<dyn Error>> {
    let all = Parameters::from_safetensors(&fs::read(weights)?)?;
    let input = all.get("input").ok_or("no tensor `input`")?.clone();
    let outputs = all.get("output").ok_or("no tensor `output`")?.dim(1)?;
    let plan = architecture.parse::<Architecture>()?.plan(&input.dims()[1..], outputs)?;
    let parameters = Parameters::new(all.iter().map(|(name, tensor)| (name.clone(), tensor.clone())));
    let net = Net::new(&plan, AS_IT_IS, &parameters, &Device::Cpu)?;
    let rows: Vec<f32> = input.narrow(0, 0, batch)?.flatten_all()?.to_vec1()?;
    let outputs = net.run(&rows)?;
    let time = median(&net, &rows, seconds)?;
    say(&serde_json::json!({ "us": time.as_secs_f64() * 1e6, "output": outputs }).to_string());
    Ok(())
}

fn table() -> Result<(), Box<dyn Error>> {
    say("| architecture | row | batch | us | multiply-adds per ns |\n|---|---|---|---|---|");
    for (name, shape, outputs) in [
        ("mlp", [1, 28, 28], 10),
        ("lenet5", [1, 28, 28], 10),
        ("compact2", [1, 28, 28], 10),
        ("compact4", [1, 28, 28], 10),
        ("resnet18-w16", [1, 28, 28], 10),
        ("vgg11", [3, 32, 32], 10),
        ("resnet18", [3, 32, 32], 10),
        ("resnet18", [3, 224, 224], 1000),
    ] {
        let plan = name.parse::<Architecture>()?.plan(&shape, outputs)?;
        let mut state = 1_u32;
        let mut parameters = Vec::new();
        for (name, shape) in plan.parameters() {
            let count: usize = shape.iter().product();
            let fan = (count / shape[0]).max(1) as f32;
            let values =
                (0..count).map(|_| if name.ends_with("running_var") { 1.0 } else { draw(&mut state) / fan.sqrt() });
            parameters.push((name.clone(), Tensor::from_vec(values.collect::<Vec<f32>>(), shape, &Device::Cpu)?));
        }
        let net = Net::new(&plan, AS_IT_IS, &Parameters::new(parameters), &Device::Cpu)?;
        for batch in [1, 8, 32] {
            let rows: Vec<f32> = (0..batch * net.width()).map(|_| draw(&mut state)).collect();
            let us = median(&net, &rows, 1.0)?.as_secs_f64() * 1e6;
            let rate = (plan.multiply_adds() * batch) as f64 / us / 1e3;
            say(&format!("| {name} | {shape:?} | {batch} | {us:.1} | {rate:.1} |"));
        }
    }
    Ok(())
}

/// From -1 to 1, by a linear congruence: any numbers will do that are not zero.
fn draw(state: &mut u32) -> f32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (*state >> 8) as f32 / 8_388_608.0 - 1.0
}

#[expect(clippy::print_stdout, reason = "a benchmark speaks to whoever runs it")]
fn say(text: &str) {
    println!("{text}");
}
