//! The page of accuracies, `docs/accuracy.md`: what was measured, beside what the papers report.

use std::fmt::Write;

use super::{
    Row,
    papers::PUBLISHED,
    plot::{Figure, networks},
};

/// The whole page.
pub fn markdown(rows: &[Row]) -> String {
    let mut page = String::from(HEAD);
    page.push_str("| deployment | network | code | k | r | preset | A_a % | A_d % | loss | agree % | FLOPs | time | time of 8 | parameters | bytes |\n");
    page.push_str("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        line(&mut page, row);
    }
    page.push_str(READING);
    page.push_str(COVERAGE);
    for row in rows.iter().filter(|row| !row.coverage.is_empty()) {
        coverage(&mut page, row);
    }
    figures(&mut page, rows);
    page.push_str(PAPERS);
    page.push_str("| data | network | code | k | A_a % | A_d % | source | here |\n|---|---|---|---|---|---|---|---|\n");
    for published in &PUBLISHED {
        let here = published.missing.map_or_else(|| "above".to_owned(), |why| format!("not measured: {why}"));
        let cells = [published.data, published.network, published.code, &published.k.to_string()];
        let rest = [published.a_a, published.a_d, published.source, &here];
        writeln!(page, "| {} | {} |", cells.join(" | "), rest.join(" | ")).expect(TO_MEMORY);
    }
    page
}

/// The figures that `--plots docs/plots` draws of these rows.
fn figures(page: &mut String, rows: &[Row]) {
    page.push_str("\n## Figures\n");
    for figure in Figure::ALL {
        writeln!(page, "\n{}\n", figure.sentence()).expect(TO_MEMORY);
        for network in networks(rows) {
            let file = format!("plots/{}-{}", network.stem, figure.name());
            writeln!(page, "[![{} of {}]({file}.png)]({file}.svg)", figure.name(), network.stem).expect(TO_MEMORY);
        }
    }
}

fn line(page: &mut String, row: &Row) {
    let percent = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{:.2}", 100.0 * value));
    let spread = row.a_d_sd.map_or_else(String::new, |sd| format!(" ± {:.2}", 100.0 * sd));
    let loss = row.a_d.map_or_else(|| "–".to_owned(), |a_d| format!("{:.1}", 100.0 * (row.a_a - a_d)));
    let costs = row
        .multiples()
        .map_or_else(|| vec!["–".to_owned(); 5], |costs| costs.map(|cost| format!("{cost:.2}")).to_vec());
    let Row { deployment, architecture, k, r, preset, .. } = row;
    let code = row.label();
    let (a_a, a_d, agree) = (percent(Some(row.a_a)), percent(row.a_d), percent(row.agreement));
    writeln!(
        page,
        "| `{deployment}` | {architecture} | `{code}` | {k} | {r} | {preset} | {a_a} | {a_d}{spread} | {loss} | {agree} | {} |",
        costs.join(" | ")
    )
    .expect(TO_MEMORY);
}

/// What a gate serves of one code: `A_d` of what is served, `A_a` of the same rows, from which confidence.
fn coverage(page: &mut String, row: &Row) {
    let Row { deployment, k, r, .. } = row;
    let code = row.label();
    let error = row.calibration_error.map_or_else(String::new, |error| format!("{:.1}", 100.0 * error));
    // The figure shows the rest.
    let cells = row.coverage.iter().filter(|at| at.coverage > 0.75).map(|at| {
        let from = if at.coverage < 1.0 { format!(" from {:.2}", at.threshold) } else { String::new() };
        format!("{:.2}, {:.2}{from}", 100.0 * at.a_d, 100.0 * at.a_a)
    });
    let cells = cells.collect::<Vec<_>>().join(" | ");
    writeln!(page, "| `{deployment}` | `{code}` | {k} | {r} | {error} | {cells} |").expect(TO_MEMORY);
}

const TO_MEMORY: &str = "writing to a string cannot fail";

const HEAD: &str = "# Accuracy

Made by

    parityd eval --all --plots docs/plots --markdown > docs/accuracy.md

from the shipped weights: every code on the 10,000 test images of Fashion-MNIST, permuted with several seeds (five unless `--seeds` says otherwise), cut into stripes of k, every
recoverable set of lost data slots in turn. A_a is the accuracy of direct answers, A_d that of decoded ones (mean and standard deviation
over the seeds), *loss* their difference in points, *agree* the share of decoded answers with the base model's own class. The last five
columns are costs of a parity job as multiples of a base job: arithmetic (encoder, model, decoder), time of one job and of eight on
one CPU lane of the machine that made this page, parameters, and bytes moved to the device and back.

";

const READING: &str = "
`sum` and `concat` add pictures up and take the difference: their model does k tasks at once, and the errors of all members meet in the
answer. `mux` keeps the rows apart as channels and has a head for each. `compact` runs each row through a small copy of the base model that
costs 1/k of it; its answers are called `approximate`. [codes.md](codes.md) says more, and which settings each preset stands for.
";

const COVERAGE: &str = "
## What a gate on confidence serves

With `min_confidence` a reconstruction of less confidence is held back, and the query waits for its direct answer. Each cell: the accuracy of
the reconstructions that are served, that of the direct answers to the very same rows, and the confidence from which they are served, if so
large a share of all reconstructions is. *error* is the expected calibration error in points: how far confidences are from the shares of right
answers, over 15 bins. Temperatures are those of the manifests, fitted on the validation images.

| deployment | code | k | r | error | 100 % | 99 % | 95 % | 90 % | 80 % |
|---|---|---|---|---|---|---|---|---|---|
";

const PAPERS: &str = "
## What the papers report

Where they have a ResNet-18, the rows above are of one a quarter as wide.

";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_results_say_where_they_are_from_and_what_is_missing() {
        let page = markdown(&[]);
        for published in &PUBLISHED {
            assert!(page.contains(published.source) && !published.a_d.is_empty());
        }
        assert!(page.contains("not measured: the data is not freely packaged"));
        assert_eq!(page.lines().filter(|line| line.starts_with("| ")).count(), PUBLISHED.len() + 3);
    }
}
