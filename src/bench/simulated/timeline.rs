//! What a hang looks like from outside: the slowest query of each moment, around the first lane that stands still.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LANES, Order, VirtualOptions, runs};
use crate::{
    bench::{
        cell::{self, Latency, millis, rounded},
        contender,
        weather::Weather,
        worth::Worth,
    },
    clock::Time,
    sim::{Arrivals, Pace},
};

/// Policies that are shown.
const SHOWN: [&str; 4] = [contender::BASELINE, "ParM", contender::DEFAULT, "adaptive"];
/// The load that it is shown at.
const LOAD: f64 = 0.38;
/// Length of a moment.
const MOMENT: Duration = Duration::from_millis(100);
/// Shown before the hang, and from its start on.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(8);

/// The slowest queries around a hang.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Timeline {
    /// The load, as a share of what all lanes can carry.
    pub load: f64,
    /// How long the lane stands still, in seconds from 0.
    pub hang_s: f64,
    /// Of each policy, pairs of seconds after the hang began (of a query's arrival) and the milliseconds of the slowest query of that moment.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// That of scenario C, under the first seed; `None` if no lane hangs within the span.
pub(super) fn timeline(options: &VirtualOptions, worth: &Worth) -> Option<Timeline> {
    let options = VirtualOptions { seeds: 1, ..options.clone() };
    let courses = Weather::C.courses(LANES, 2 * options.span, options.seed);
    let stops = |course: &crate::sim::Course| {
        let place = course.changes.iter().position(|(_, pace)| *pace == Pace::Still)?;
        Some((course.changes[place].0, course.changes.get(place + 1)?.0))
    };
    let (from, to) = courses.iter().filter_map(stops).min()?;
    if from.since(Time::ZERO) + AFTER > options.span {
        return None;
    }
    let gap = Order::gap(options.service, LOAD);
    // The loads that were asked for may be far lower.
    cell::queries(options.span, gap, 1).ok()?;
    let k = *options.ks.first()?;
    let shown = contender::all(k, LANES).into_iter().filter(|contender| SHOWN.contains(&contender.name));
    let lines = shown.map(|contender| {
        let name = contender.name.to_owned();
        let order = Order::new(Weather::C, (None, LOAD), options.service, Some(contender));
        let (mut runs, _) = runs(&options, &order, worth);
        (name, slowest(&runs.remove(0), Arrivals::new(options.seed, gap), from))
    });
    let lines = lines.collect();
    Some(Timeline { load: LOAD, hang_s: to.since(from).as_secs_f64(), lines })
}

/// The slowest query of each moment around `origin`.
fn slowest(run: &[Latency], arrivals: impl Iterator<Item = Time>, origin: Time) -> Vec<(f64, f64)> {
    let mut moments: Vec<(f64, f64)> = Vec::new();
    for (at, latency) in arrivals.zip(run) {
        if at + BEFORE < origin || at > origin + AFTER {
            continue;
        }
        let after = at.since(Time::ZERO).as_secs_f64() - origin.since(Time::ZERO).as_secs_f64();
        let moment = rounded((after / MOMENT.as_secs_f64()).floor() * MOMENT.as_secs_f64());
        let slowest = rounded(millis(latency.time));
        match moments.last_mut().filter(|(last, _)| (last - moment).abs() < 1e-9) {
            Some((_, most)) => *most = most.max(slowest),
            None => moments.push((moment, slowest)),
        }
    }
    moments
}
