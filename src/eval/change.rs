//! What became of accuracies: two measurements of the same codes, side by side.

use serde::Serialize;

use super::{Row, UNTRAINED_PRESET, report::aligned};

/// One code, before and after. Accuracies are fractions 0..1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Deployment name.
    pub deployment: String,
    /// Kind of the code; `none` for the base model alone.
    pub code: &'static str,
    /// Data slots.
    pub k: usize,
    /// Parity slots.
    pub r: usize,
    /// Accuracy of direct answers, before and after.
    pub a_a: [f64; 2],
    /// Accuracy of reconstructed answers, before and after.
    pub a_d: Option<[f64; 2]>,
}

/// Every code that both measurements have, and that is trained.
pub fn changes(old: &[Row], new: &[Row]) -> Vec<Change> {
    let change = |old: &Row| {
        let same = |new: &&Row| (new.code, new.k, new.r) == (old.code, old.k, old.r);
        let new = new.iter().find(|new| new.deployment == old.deployment && same(new))?;
        let Row { deployment, code, k, r, .. } = old.clone();
        let a_d = old.a_d.zip(new.a_d).map(<[f64; 2]>::from);
        Some(Change { deployment, code, k, r, a_a: [old.a_a, new.a_a], a_d })
    };
    old.iter().filter(|row| row.preset != UNTRAINED_PRESET).filter_map(change).collect()
}

/// The changes as a table, in percent; differences in points.
pub fn changes_table(changes: &[Change]) -> String {
    let names = ["deployment", "code", "k", "r", "A_a", "A_a new", "A_d", "A_d new", "change"].map(str::to_owned);
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let cells = |change: &Change| {
        let Change { deployment, code, k, r, a_a, a_d } = change;
        let mut cells = vec![deployment.clone(), (*code).to_owned(), k.to_string(), r.to_string()];
        cells.extend(a_a.map(percent));
        cells.extend(a_d.map_or_else(|| [(); 2].map(|()| "-".to_owned()), |a_d| a_d.map(percent)));
        let [old, new] = a_d.unwrap_or(*a_a);
        cells.push(format!("{:+.2}", 100.0 * (new - old)));
        cells
    };
    aligned(std::iter::once(names.to_vec()).chain(changes.iter().map(cells)).collect())
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::row, *};

    #[test]
    fn codes_meet_their_own_kind() {
        let old = [row(), Row { k: 4, ..row() }];
        let new = [Row { a_d: Some(0.7), k: 4, ..row() }, Row { a_d: Some(0.85), ..row() }];
        let changes = changes(&old, &new);
        assert_eq!(
            changes.iter().map(|change| (change.k, change.a_d)).collect::<Vec<_>>(),
            [(2, Some([0.8, 0.85])), (4, Some([0.8, 0.7]))]
        );
        let table = changes_table(&changes);
        assert!(table.contains("+5.00") && table.contains("-10.00"), "{table}");
    }

    #[test]
    fn a_base_model_alone_has_a_change_too() {
        let alone = |a_a| Row { code: "none", a_a, a_d: None, ..row() };
        assert!(changes_table(&changes(&[alone(0.9)], &[alone(0.88)])).contains("-2.00"));
    }
}
