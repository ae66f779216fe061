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
    let per_service = |cell: &Cell| Some(cell.p999.ms / report.service_ms);
    // Cells without the figure are left out.
    let most = |words: &str, bound: f64, cells: &Cells<'_>, figure: &dyn Fn(&Cell) -> Option<f64>| {
        let figures = cells.0.iter().filter_map(|cell| Some((cell, figure(cell)?)));
        let (worst, found) = figures.max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        Some(Target {
            words: words.to_owned(),
            bound: format!("≤ {bound}"),
            found: format!("{found:.2} ({} at {:.0} %)", worst.scenario, 100.0 * worst.load),
            is_met: found <= bound,
        })
    };
    let of = |policy: &str, scenarios: &str, load_max: f64| Cells::of(report, policy, scenarios, load_max);
    let mut targets = Vec::new();
    let hedged = of(DEFAULT, "BC", 0.545);
    targets.extend(most("`hedged`, B and C up to 54 % load: p99.9 in service times", 1.7, &hedged, &per_service));
    targets.extend(most("the same: jobs per query", 1.05, &hedged, &|cell| Some(cell.jobs_per_query)));
    targets.extend(most("the same: share decoded", NOTHING, &hedged, &|cell| Some(cell.decoded)));
    targets.extend(most("`hedged`, E up to 83 %", 2.5, &of(DEFAULT, "E", 0.835), &per_service));
    targets.extend(most("`hedged`, F up to 67 %", 2.5, &of(DEFAULT, "F", 0.675), &per_service));
    let against_none =
        |figure: fn(&Cell) -> f64| move |cell: &Cell| Some(figure(cell) / figure(report.baseline(cell)?));
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
    let over_best = |cell: &Cell| Some((cell.p999.ms - cell.p999.half.unwrap_or(0.0)) / report.best(cell));
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
        let words = format!("`adaptive` (k = 2), {scenario} at 38 %: gap of `none` over its own");
        targets.extend(factor(report, (&words, least), &cells));
    }
    let parm = "ParM (k = 2), E up to 38 %: gap of `none` over its own";
    targets.extend(factor(report, (parm, 5.0), &of("ParM", "E", 0.385)));
    targets
}

/// A gap factor of at least so much. Beside a baseline that is overloaded, or was not run, there is none.
fn factor(report: &VirtualReport, (words, least): (&str, f64), cells: &Cells<'_>) -> Option<Target> {
    let factors = cells.0.iter().filter_map(|cell| {
        let baseline = report.baseline(cell).filter(|baseline| !baseline.is_overloaded())?;
        // One that is overloaded itself is no better than that.
        Some((cell, if cell.is_overloaded() { 0.0 } else { cell.gap_over(baseline) }))
    });
    let (worst, factor) = factors.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let found = if worst.is_overloaded() { "overloaded".to_owned() } else { format!("{factor:.1}") };
    Some(Target {
        words: words.to_owned(),
        bound: format!("≥ {least}"),
        found: format!("{found} (at {:.0} %)", 100.0 * worst.load),
        is_met: factor >= least,
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::simulated::{VirtualOptions, simulate};

    fn report(scenarios: &str, policies: &[&str]) -> VirtualReport {
        let options = VirtualOptions {
            loads: vec![0.38],
            ks: vec![2],
            scenarios: scenarios.to_owned(),
            policies: policies.iter().map(|&policy| policy.to_owned()).collect(),
            service: Duration::from_millis(25),
            span: Duration::from_secs(2),
            seeds: 1,
            seed: 1,
            command: String::new(),
            weights: "nowhere".into(),
        };
        simulate(&options, &|_, _| ())
    }

    #[test]
    fn nothing_is_missed_beside_what_was_not_run() {
        let alone = report("BD", &[DEFAULT, LADDER]);
        let words: Vec<String> = all(&alone).into_iter().map(|target| target.words).collect();
        assert!(!words.is_empty() && words.iter().all(|words| !words.contains("`none`")), "{words:?}");
        let page = alone.markdown().to_string();
        assert!(page.contains("## Targets") && !page.contains("NaN"), "{page}");
        let both = report("BD", &[BASELINE, DEFAULT, LADDER]);
        let beside = all(&both).into_iter().filter(|target| target.words.contains("`none`"));
        assert_eq!(beside.count(), 2, "p50 of `hedged` in D, the gap of `adaptive` in B");
    }

    #[test]
    fn what_is_overloaded_is_called_that() {
        let mut both = report("B", &[BASELINE, LADDER]);
        let found = |report: &VirtualReport| all(report).pop().map(|target| (target.found, target.is_met));
        let late = |report: &mut VirtualReport, policy: &str| {
            let cell = report.cells.iter_mut().find(|cell| cell.policy == policy).unwrap();
            (cell.p999.ms, cell.gap_factor) = (2000.0, None);
        };
        assert!(found(&both).is_some_and(|(found, _)| found.ends_with("(at 38 %)") && !found.starts_with('o')));
        late(&mut both, LADDER);
        assert_eq!(found(&both), Some(("overloaded (at 38 %)".to_owned(), false)));
        late(&mut both, BASELINE);
        assert_eq!(found(&both), None, "beside what is overloaded there is no gap");
    }
}
