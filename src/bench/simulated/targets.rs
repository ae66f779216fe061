//! What was asked of the policies before they were built, beside what the tables say.
//!
//! Each target is worked out from the cells of a report, so the page cannot claim what its own tables do not show. A target whose cells were
//! not run is left out.

use super::{ORACLE, VirtualReport};
use crate::bench::{
    cell::Cell,
    contender::{BASELINE, DEFAULT},
    weather::Weather,
};

/// One target and what became of it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Target {
    /// What was asked.
    pub(super) words: String,
    /// The most, or the least, that was asked.
    pub(super) bound: String,
    /// The worst figure, with its place.
    pub(super) found: String,
    /// Whether it was met.
    pub(super) is_met: bool,
}

/// The decoded share that counts as nothing.
const NOTHING: f64 = 0.0005;
/// The policy with parity on idle lanes, and the ladder.
const POOLED: &str = "coded, pooled";
const LADDER: &str = "adaptive";
/// Whom the ladder is held to, besides others.
const RIVALS: [&str; 4] = [BASELINE, DEFAULT, POOLED, "approximate"];

/// All targets whose cells the report has.
pub(super) fn all(report: &VirtualReport) -> Vec<Target> {
    let per_service = |cell: &Cell| cell.p999.ms / report.service_ms;
    let most = |words: &str, bound: f64, cells: &Cells<'_>, figure: &dyn Fn(&Cell) -> f64| {
        let worst = cells.0.iter().max_by(|a, b| figure(a).total_cmp(&figure(b)))?;
        Some(Target {
            words: words.to_owned(),
            bound: format!("≤ {bound}"),
            found: format!("{:.2} ({} at {:.0} %)", figure(worst), worst.scenario, 100.0 * worst.load),
            is_met: figure(worst) <= bound,
        })
    };
    let of = |policy: &str, scenarios: &str, load_max: f64| Cells::of(report, policy, scenarios, load_max);
    let mut targets = Vec::new();
    let hedged = of(DEFAULT, "BC", 0.545);
    targets.extend(most("`hedged`, B and C up to 54 % load: p99.9 in service times", 1.7, &hedged, &per_service));
    targets.extend(most("the same: jobs per query", 1.05, &hedged, &|cell| cell.jobs_per_query));
    targets.extend(most("the same: share decoded", NOTHING, &hedged, &|cell| cell.decoded));
    targets.extend(most("`hedged`, E up to 83 %", 2.5, &of(DEFAULT, "E", 0.835), &per_service));
    targets.extend(most("`hedged`, F up to 67 %", 2.5, &of(DEFAULT, "F", 0.675), &per_service));
    let against_none =
        |figure: fn(&Cell) -> f64| move |cell: &Cell| figure(cell) / report.baseline(cell).map_or(f64::NAN, figure);
    let healthy = of(DEFAULT, "D", 0.405);
    targets.extend(most(
        "`hedged`, D up to 40 %: p50 over that of `none`",
        1.02,
        &healthy,
        &against_none(|c| c.p50.ms),
    ));
    targets.extend(most("the same: p99.9", 1.2, &healthy, &against_none(|c| c.p999.ms)));
    targets.extend(most("parity on idle lanes (k = 2), E up to 38 %", 1.7, &of(POOLED, "E", 0.385), &per_service));
    targets.extend(most("the same, F up to 38 %", 1.8, &of(POOLED, "F", 0.385), &per_service));
    let over_best = |cell: &Cell| (cell.p999.ms - cell.p999.half.unwrap_or(0.0)) / report.best(cell);
    // "Any weather" and "the best policy" mean nothing unless all of them were run.
    let whole = Weather::ALL.iter().all(|weather| report.cells.iter().any(|cell| cell.scenario == weather.to_string()))
        && RIVALS.iter().all(|rival| report.cells.iter().any(|cell| cell.policy == *rival));
    for k in [2, 4].into_iter().filter(|_| whole) {
        let ladder = Cells::of_k(report, (LADDER, k), "ABCDEFGHIJ", 1.0);
        let words = format!(
            "`adaptive` (k = {k}), any weather and load: p99.9, less half its interval, over that of the best policy of any k"
        );
        targets.extend(most(&words, 1.2, &ladder, &over_best));
        let healthy = Cells::of_k(report, (LADDER, k), "D", 1.0);
        let words = format!("`adaptive` (k = {k}), D at any load: p99.9 over that of `none`");
        targets.extend(most(&words, 1.2, &healthy, &against_none(|c| c.p999.ms)));
    }
    for (scenario, least) in [("B", 15.0), ("C", 4.0), ("E", 8.0), ("F", 4.0)] {
        let cells = Cells(of(LADDER, scenario, 0.385).0.into_iter().filter(|cell| cell.load > 0.375).collect());
        targets.extend(factor(
            &format!("`adaptive` (k = 2), {scenario} at 38 %: gap of `none` over its own"),
            least,
            &cells,
        ));
    }
    targets.extend(factor("ParM (k = 2), E up to 38 %: gap of `none` over its own", 5.0, &of("ParM", "E", 0.385)));
    targets
}

/// A gap factor of at least so much.
fn factor(words: &str, least: f64, cells: &Cells<'_>) -> Option<Target> {
    let factor = |cell: &Cell| cell.gap_factor.unwrap_or(1.0);
    let worst = cells.0.iter().min_by(|a, b| factor(a).total_cmp(&factor(b)))?;
    Some(Target {
        words: words.to_owned(),
        bound: format!("≥ {least}"),
        found: format!("{:.1} (at {:.0} %)", factor(worst), 100.0 * worst.load),
        is_met: factor(worst) >= least,
    })
}

/// Some cells of one policy.
struct Cells<'r>(Vec<&'r Cell>);

impl<'r> Cells<'r> {
    /// Those of these scenarios, up to that load; with two data slots, if the policy has any.
    fn of(report: &'r VirtualReport, policy: &str, scenarios: &str, load_max: f64) -> Self {
        Cells::of_k(report, (policy, 2), scenarios, load_max)
    }

    /// The same with so many data slots, if the policy has any.
    fn of_k(report: &'r VirtualReport, (policy, k): (&str, usize), scenarios: &str, load_max: f64) -> Self {
        let wanted = |cell: &&Cell| {
            cell.policy == policy
                && scenarios.contains(&cell.scenario)
                && cell.load <= load_max
                && cell.k.is_none_or(|slots| slots == k)
        };
        Cells(report.cells.iter().filter(wanted).collect())
    }
}

impl VirtualReport {
    /// Cells of the same weather and load.
    fn beside<'r>(&'r self, cell: &'r Cell) -> impl Iterator<Item = &'r Cell> {
        self.cells.iter().filter(|other| other.is_beside(cell))
    }

    /// Equal resources without redundancy in the same place.
    fn baseline<'r>(&'r self, cell: &'r Cell) -> Option<&'r Cell> {
        self.beside(cell).find(|other| other.policy == BASELINE)
    }

    /// The lowest p99.9 of all policies in the same place.
    fn best(&self, cell: &Cell) -> f64 {
        let policies = self.beside(cell).filter(|other| other.policy != ORACLE);
        policies.map(|other| other.p999.ms).fold(f64::INFINITY, f64::min)
    }
}
