//! What `eval` prints: JSON under fixed names, or a table for people.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::{Cost, Coverage};
use crate::{code::Kind, model::Encoder, weights::Measured};

/// Fractions lost for which the table gives the overall accuracy.
const LOST: [f64; 3] = [0.01, 0.05, 0.1];

/// One code of one folder of weights, measured. Accuracies are fractions 0..1; the JSON fields are a contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Deployment name, for the table.
    #[serde(skip)]
    pub deployment: String,
    /// Short name of the data.
    pub dataset: String,
    /// The base network.
    pub architecture: String,
    /// Kind of the code; `none` for the base model alone.
    pub code: &'static str,
    /// What stands in front of the base model (`learned`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<Encoder>,
    /// Data slots.
    pub k: usize,
    /// Parity slots.
    pub r: usize,
    /// Settings that the parity models (without a code: the base model) were trained with.
    pub preset: String,
    /// Accuracy of direct answers.
    pub a_a: f64,
    /// Accuracy of always answering the most frequent class, for the figures.
    #[serde(skip)]
    pub a_default: f64,
    /// Accuracy of reconstructed answers over all patterns, mean over the seeds.
    pub a_d: Option<f64>,
    /// Its standard deviation over the seeds, for the table and the manifest.
    #[serde(skip)]
    pub a_d_sd: Option<f64>,
    /// Accuracy of reconstructed answers by the data slots that were lost (`"0"`, `"0,1"`).
    pub a_d_by_pattern: BTreeMap<String, f64>,
    /// Share of reconstructed answers with the class of the base model's own output.
    pub agreement: Option<f64>,
    /// What a gate would serve, from all of it to less; empty if the code is not calibrated.
    pub coverage: Vec<Coverage>,
    /// How far confidences are from the share of right answers among those that have them, on average.
    pub calibration_error: Option<f64>,
    /// The distances from the direct answer that 0 %, 1 % … 100 % of the reconstructed ones do not exceed, for the figures: each the largest
    /// difference of a class's probability.
    #[serde(skip)]
    pub distances: Vec<f32>,
    /// Encoder, parity model and decoder: two FLOPs a multiply-add.
    pub parity_flops: Option<u64>,
    /// The base model on one row.
    pub base_flops: u64,
    /// What else a parity job costs.
    #[serde(flatten)]
    pub cost: Option<Cost>,
    /// Test images.
    pub rows: usize,
    /// Seeds of the permutations.
    pub seeds: Vec<u64>,
    /// SHA-256 of the weight files: base, then parity rows.
    pub weights_sha256: Vec<String>,
}

/// Leaves out what is there already: several folders may hold the same base model, and a code that has no weights of its own is the same for all.
pub fn leave_out_repeats(rows: &mut Vec<Row>) {
    let mut seen = HashSet::new();
    rows.retain(|row| seen.insert((row.code, row.k, row.r, row.weights_sha256.clone())));
}

impl Row {
    /// The code's name for people: its kind, and what tells two of one kind apart.
    pub(super) const fn label(&self) -> &'static str {
        match self.encoder {
            None => self.code,
            Some(Encoder::Mlp) => "learned, mlp",
            Some(Encoder::Conv) => "learned, conv",
        }
    }

    /// Whether answers are direct unless something is lost. Under the other codes every answer is a reconstructed one.
    pub(super) fn is_systematic(&self) -> bool {
        self.code != Kind::Berrut.as_str()
    }

    /// `A_o`: the accuracy of all answers if a share `lost` of all predictions is.
    pub(super) fn overall(&self, lost: f64) -> Option<f64> {
        let lost = if self.is_systematic() { lost } else { 1.0 };
        self.a_d.map(|a_d| (1.0 - lost) * self.a_a + lost * a_d)
    }

    /// What a parity job costs, as multiples of a base job: arithmetic, time of one and of eight, parameters, bytes.
    pub(super) fn multiples(&self) -> Option<[f64; 5]> {
        let (flops, cost) = (self.parity_flops?, self.cost.as_ref()?);
        let over = |parity: usize, base: usize| parity as f64 / base as f64;
        let [one, eight] = cost.parity_time?;
        let parameters = over(cost.parity_parameters, cost.base_parameters);
        let bytes = over(cost.parity_bytes, cost.base_bytes);
        Some([flops as f64 / self.base_flops as f64, one, eight, parameters, bytes])
    }
}

impl From<&Row> for Measured {
    /// To five digits after the point: one test image is 1e-4.
    fn from(row: &Row) -> Self {
        let round = |value: f64| (value * 1e5).round() / 1e5;
        Measured {
            code: row.code.to_owned(),
            k: row.k,
            r: row.r,
            rows: row.rows,
            a_a: round(row.a_a),
            a_d: row.a_d.map(round),
            a_d_sd: row.a_d_sd.map(round),
            agreement: row.agreement.map(round),
            seeds: row.seeds.clone(),
            a_d_by_pattern: row.a_d_by_pattern.iter().map(|(name, &value)| (name.clone(), round(value))).collect(),
            weights_sha256: row.weights_sha256.clone(),
        }
    }
}

/// The rows as a JSON list.
pub fn json(rows: &[Row]) -> String {
    serde_json::to_string_pretty(rows).expect("rows hold numbers, strings and maps with string keys")
}

/// The rows as a table: accuracies in percent, `A_d` with its spread over the seeds.
pub fn table(rows: &[Row]) -> String {
    let [few, some, many] = LOST.map(|lost| format!("A_o {lost}"));
    let names = ["deployment", "network", "code", "k", "r", "preset", "A_a", "A_d", "agree"];
    let names = names.map(str::to_owned).into_iter().chain([few, some, many]).chain(COSTS.map(str::to_owned));
    aligned(std::iter::once(names.collect()).chain(rows.iter().map(cells)).collect())
}

/// Lines of cells, each column as wide as its widest cell.
#[expect(clippy::needless_pass_by_value, reason = "a table is built to be printed")]
pub(super) fn aligned(lines: Vec<Vec<String>>) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let aligned = |line: &Vec<String>| {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}")).collect();
        cells.join("  ")
    };
    lines.iter().map(aligned).collect::<Vec<String>>().join("\n")
}

fn cells(row: &Row) -> Vec<String> {
    let percent = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{:.2}", 100.0 * value));
    let spread = row.a_d_sd.map_or_else(String::new, |sd| format!(" ± {:.2}", 100.0 * sd));
    let overall = LOST.map(|lost| percent(row.overall(lost)));
    let mut cells = vec![row.deployment.clone(), row.architecture.clone(), row.label().to_owned()];
    cells.extend([row.k.to_string(), row.r.to_string(), row.preset.clone()]);
    cells.extend([percent(Some(row.a_a)), percent(row.a_d) + &spread, percent(row.agreement)]);
    cells.extend(overall);
    cells.extend(costs(row));
    cells
}

/// Columns of [`Row::multiples`].
const COSTS: [&str; 5] = ["FLOPs x", "time x", "time/8 x", "params x", "bytes x"];

fn costs(row: &Row) -> [String; 5] {
    row.multiples()
        .map_or_else(|| [(); 5].map(|()| "-".to_owned()), |multiples| multiples.map(|cost| format!("{cost:.2}")))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn row() -> Row {
        Row {
            deployment: "fashion-mnist".to_owned(),
            dataset: "fashion-mnist".to_owned(),
            architecture: "lenet5".to_owned(),
            code: "sum",
            encoder: None,
            k: 2,
            r: 1,
            preset: "parm".to_owned(),
            a_a: 0.9,
            a_default: 0.1,
            a_d: Some(0.8),
            a_d_sd: Some(0.001),
            a_d_by_pattern: BTreeMap::from([("0".to_owned(), 0.79), ("1".to_owned(), 0.81)]),
            agreement: Some(0.82),
            coverage: vec![Coverage { coverage: 0.95, threshold: 0.25, a_d: 0.83, a_a: 0.91 }],
            calibration_error: Some(0.01),
            distances: vec![0.0, 0.2, 1.0],
            parity_flops: Some(840_000),
            base_flops: 833_040,
            cost: Some(Cost {
                parity_parameters: 61_706,
                base_parameters: 61_706,
                parity_bytes: 3_176,
                base_bytes: 3_176,
                parity_time: Some([1.1, 1.0]),
            }),
            rows: 10_000,
            seeds: vec![0, 1],
            weights_sha256: vec!["ab".to_owned(), "cd".to_owned()],
        }
    }

    #[test]
    fn json_has_the_fixed_names_and_the_costs() {
        let parsed: serde_json::Value = serde_json::from_str(&json(&[row()])).unwrap();
        let mut names: Vec<&str> = parsed[0].as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        let mut fixed = [
            "dataset",
            "architecture",
            "code",
            "k",
            "r",
            "preset",
            "a_a",
            "a_d",
            "a_d_by_pattern",
            "agreement",
            "coverage",
            "calibration_error",
            "parity_flops",
            "base_flops",
            "rows",
            "seeds",
            "weights_sha256",
            "parity_parameters",
            "base_parameters",
            "parity_bytes",
            "base_bytes",
            "parity_time",
        ];
        fixed.sort_unstable();
        assert_eq!(names, fixed);
    }

    #[test]
    fn the_table_gives_overall_accuracies() {
        let table = table(&[row()]);
        assert!(table.contains("80.00 ± 0.10") && table.contains("89.00"), "{table}");
    }

    #[test]
    fn interpolated_answers_pay_whether_or_not_something_is_lost() {
        let close = |found: Option<f64>, expected: f64| found.is_some_and(|found| (found - expected).abs() < 1e-9);
        assert!(close(row().overall(0.1), 0.89) && close(row().overall(0.0), 0.9));
        assert!(close(Row { code: "berrut", ..row() }.overall(0.1), 0.8));
    }

    #[test]
    fn one_code_on_one_base_model_is_one_row() {
        let learned =
            |encoder| Row { code: "learned", encoder: Some(encoder), weights_sha256: vec!["x".to_owned()], ..row() };
        let other = Row { deployment: "copy".to_owned(), ..row() };
        let mut rows = vec![row(), other, Row { k: 4, ..row() }, learned(Encoder::Mlp)];
        leave_out_repeats(&mut rows);
        assert_eq!(
            rows.iter().map(|row| (row.deployment.as_str(), row.k)).collect::<Vec<_>>(),
            [("fashion-mnist", 2), ("fashion-mnist", 4), ("fashion-mnist", 2)]
        );
        assert_eq!(
            (rows[2].label(), learned(Encoder::Conv).label(), rows[0].label()),
            ("learned, mlp", "learned, conv", "sum")
        );
    }
}
