//! `bench micro`: what the parts of a query's path cost by themselves, each beside something that cannot be avoided.
//!
//! A figure is the median over batches; batches of arithmetic that is compared take turns, so that a change of the machine meets both. Allocations
//! are counted by `cargo bench --bench core`, whose allocator may count; the daemon's does not.

mod arithmetic;
mod hop;
mod reply;

use std::fmt::{self, Display, Write as _};

use serde::{Deserialize, Serialize};

use super::{BenchError, Env, Watch, doctor};
use crate::clock::Clock;

/// One figure.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// Half of all took no longer, in nanoseconds.
    pub p50_ns: f64,
    /// 99 of 100; `null` where single runs are too short to be timed.
    pub p99_ns: Option<f64>,
    /// What it is to be seen beside.
    pub beside: Option<Beside>,
    /// What was asked for.
    pub target: Option<Target>,
}

/// Something that cannot be avoided.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Beside {
    /// What.
    pub what: String,
    /// Half of all took no longer, in nanoseconds.
    pub p50_ns: f64,
}

/// A bound on a figure.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// At most so many nanoseconds.
    Nanos(f64),
    /// At most so many times what it is beside.
    Times(f64),
}

impl Figure {
    /// Whether the target is met; `None` where there is none.
    pub fn is_met(&self) -> Option<bool> {
        match (self.target?, &self.beside) {
            (Target::Nanos(most), _) => Some(self.p50_ns <= most),
            (Target::Times(most), Some(beside)) => Some(self.p50_ns <= most * beside.p50_ns),
            (Target::Times(_), None) => None,
        }
    }
}

/// All figures.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MicroReport {
    /// Why nothing should be concluded from it.
    #[serde(default)]
    pub void_reason: Option<String>,
    /// The figures.
    pub figures: Vec<Figure>,
    /// Where they were made.
    pub env: Env,
}

/// Measures them all; some seconds.
pub fn micro(command: &str) -> Result<MicroReport, BenchError> {
    let (clock, watch) = (Clock::start(), Watch::start());
    let mut figures = arithmetic::figures(clock);
    figures.extend(hop::figures(clock));
    figures.extend(reply::figures(clock)?);
    let env = Env::read(command, 0, &watch);
    Ok(MicroReport { void_reason: doctor::void_reason(&env.doctor), figures, env })
}

/// Runs them in turns, `batch` times each in a row, and gives the median time of each in nanoseconds.
fn in_turns<const N: usize>(clock: Clock, batch: u32, mut them: [&mut dyn FnMut(); N]) -> [f64; N] {
    const TURNS: usize = 101;
    let mut times = [const { Vec::new() }; N];
    for _ in 0..TURNS {
        for (run, times) in them.iter_mut().zip(&mut times) {
            let from = clock.now();
            for _ in 0..batch {
                run();
            }
            times.push(clock.now().since(from).as_secs_f64() * 1e9 / f64::from(batch));
        }
    }
    times.map(|mut times| quantile(&mut times, 0.5))
}

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    super::cell::at(values, share)
}

impl MicroReport {
    /// As JSON.
    ///
    /// # Panics
    ///
    /// If a figure is not a finite number, which would be a bug.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data has a JSON form")
    }
}

impl Display for MicroReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(reason) = &self.void_reason {
            writeln!(f, "VOID: {reason}\n")?;
        }
        let cpu = self.env.cpu.as_deref().unwrap_or("an unknown processor");
        writeln!(f, "Made by `{}` on {cpu}.\n", self.env.command)?;
        writeln!(f, "| what | p50 | p99 | beside it | target | |\n|---|---|---|---|---|---|")?;
        for figure in &self.figures {
            let p99 = figure.p99_ns.map_or_else(String::new, time);
            let beside = figure.beside.as_ref().map_or_else(String::new, |Beside { what, p50_ns }| {
                format!("{what}: {}, {:.2} times that", time(*p50_ns), figure.p50_ns / p50_ns)
            });
            let target = match figure.target {
                None => String::new(),
                Some(Target::Nanos(most)) => format!("≤ {}", time(most)),
                Some(Target::Times(most)) => format!("≤ {most} times"),
            };
            let met = figure.is_met().map_or("", |met| if met { "met" } else { "**missed**" });
            writeln!(f, "| {} | {} | {p99} | {beside} | {target} | {met} |", figure.what, time(figure.p50_ns))?;
        }
        Ok(())
    }
}

/// Nanoseconds with three digits and a unit.
fn time(nanos: f64) -> String {
    let mut text = String::new();
    let (value, unit) = if nanos >= 1e3 { (nanos / 1e3, "µs") } else { (nanos, "ns") };
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    write!(text, "{value:.digits$} {unit}").expect("text in memory can be written to");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_met_or_missed() {
        let figure = |p50_ns, target, beside| Figure {
            what: String::new(),
            p50_ns,
            p99_ns: None,
            beside: Some(Beside { what: String::new(), p50_ns: beside }),
            target,
        };
        assert_eq!(figure(5.0, Some(Target::Nanos(5.0)), 1.0).is_met(), Some(true));
        assert_eq!(figure(5.0, Some(Target::Times(1.6)), 3.0).is_met(), Some(false));
        assert_eq!(figure(5.0, None, 3.0).is_met(), None);
    }

    #[test]
    fn a_void_report_says_so_first() {
        let report = |void_reason| MicroReport {
            void_reason,
            figures: Vec::new(),
            env: Env::read("parityd bench micro", 0, &Watch::start()),
        };
        let void = report(Some("steal: 9 %; move away".to_owned()));
        assert!(void.to_string().starts_with("VOID: steal: 9 %; move away\n\nMade by"));
        assert!(report(None).to_string().starts_with("Made by"));
    }

    #[test]
    fn turns_are_timed_each_for_itself() {
        let clock = Clock::start();
        let (mut short, mut long) = (0_u64, 0_u64);
        let mut work = |times: u64, sum: &mut u64| (0..times).for_each(|i| *sum = std::hint::black_box(*sum + i));
        let work = std::cell::RefCell::new(&mut work);
        let [a, b] = in_turns(
            clock,
            10,
            [&mut || work.borrow_mut()(100, &mut short), &mut || work.borrow_mut()(10_000, &mut long)],
        );
        assert!(b > 10.0 * a, "{a} {b}");
    }

    #[test]
    fn times_have_three_digits() {
        assert_eq!([3.456, 34.56, 345.6, 3456.0].map(time), ["3.46 ns", "34.6 ns", "346 ns", "3.46 µs"]);
    }
}
