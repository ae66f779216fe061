//! Whether the files of a folder are what its manifest says, and belong together. Collects faults; never stops at the first.

use std::{
    fs,
    path::{Component, Path},
    sync::Arc,
};

use super::{Checked, Fault, MANIFEST_FILE, Manifest, Normalisation, Parity, manifest::has_an_end, sha256, unread};
use crate::{
    code::{Code, Reading, RunsOn},
    model::{Architecture, Encoder, NoFit, Parameters, Plan, Preprocessing, decoder_plan},
};

const RETRAIN: &str = "train it again with `parityd train parity`";
pub(super) const RESTORE: &str = "restore the file, or train it again";
const EDITED: &str = "let `parityd train` write the manifest";

/// Checks the base model. `None` when it cannot be used; the reasons are in `faults`.
pub(super) fn base(dir: &Path, manifest: &Manifest, faults: &mut Vec<Fault>) -> Option<Checked> {
    let file = dir.join(MANIFEST_FILE);
    let mut fault = |rule: String| faults.push(Fault::new(&file, rule, EDITED));
    let [low, high] = manifest.input.range;
    if !(low.is_finite() && high.is_finite() && low < high) {
        fault(format!("`input.range` is [{low}, {high}], which is no range"));
    }
    if !normalises(manifest.preprocessing) {
        fault("`preprocessing` needs a finite mean and a finite std above 0".to_owned());
    }
    let outputs = manifest.output.shape.iter().product::<usize>();
    let labels = manifest.output.labels.len();
    if labels != 0 && labels != outputs {
        fault(format!("`output.labels` has {labels} names for {outputs} values"));
    }
    let base = &manifest.base;
    let plan = base.architecture.plan(&manifest.input.shape, outputs);
    let plan = plan.map(|plan| ParityPlan { stored: plan.parameters(), plan });
    let model = Model {
        plan,
        behind: None,
        file: &base.file,
        sha256: &base.sha256,
        canary: &base.canary,
        outputs,
        weight: 1.0,
    };
    model.check(dir, manifest, faults)
}

/// A parity model's layers, and which parameters its file holds.
#[derive(Clone, Debug)]
pub struct ParityPlan {
    /// All layers, those of a base model behind an encoder included.
    pub plan: Plan,
    /// Names and shapes of the parameters in its file: those of the layers; or those of encoder and decoder, the rest being the base model's.
    pub stored: Vec<(String, Vec<usize>)>,
}

/// The layers of a parity model of `code` beside the base model `base`.
pub fn parity_plan(
    architecture: Architecture,
    encoder: Option<Encoder>,
    code: &dyn Code,
    base: &Plan,
) -> Result<ParityPlan, NoFit> {
    let (k, outputs, input) = (code.k(), base.outputs(), base.input());
    let whole = |plan: Plan| ParityPlan { stored: plan.parameters(), plan };
    match code.reading() {
        Reading::Row | Reading::Rows => architecture.plan(input, outputs).map(whole),
        Reading::Channels => {
            let channels = k * input.first().copied().unwrap_or(1);
            let stacked: Vec<usize> = std::iter::once(channels).chain(input.iter().copied().skip(1)).collect();
            architecture.plan(&stacked, k * outputs).map(whole)
        }
        Reading::Encoded => {
            let encoder = encoder.ok_or_else(|| NoFit::new(architecture, input, outputs, "no encoder is named"))?;
            encoded_plan(encoder, k, base).ok_or_else(|| NoFit::new(architecture, input, outputs, ENCODER_RULE))
        }
    }
}

const ENCODER_RULE: &str = "its encoder needs [channels, height, width]";

/// The layers of `encoder` with the base model `base` behind them, for a code of k rows; `None` if it cannot read such rows.
pub fn encoded_plan(encoder: Encoder, k: usize, base: &Plan) -> Option<ParityPlan> {
    let plan = encoder.plan(k, base.input())?;
    let decoder = decoder_plan(k, 1, base.outputs());
    let stored = plan.parameters().into_iter().chain(decoder.parameters()).collect();
    Some(ParityPlan { plan: plan.before(base), stored })
}

/// Checks the parity models of `code`; all of them, or reasons in `faults`. None for a code that runs on the base model.
pub(super) fn parities(
    (dir, manifest): (&Path, &Manifest),
    base: Option<&Checked>,
    code: &dyn Code,
    faults: &mut Vec<Fault>,
) -> Vec<Checked> {
    let file = dir.join(MANIFEST_FILE);
    let (kind, k, r) = (code.kind(), code.k(), code.r());
    let rows = manifest.rows_of(kind, k, r);
    let mut checked = Vec::new();
    let models = if code.runs_on() == RunsOn::ParityModel { r } else { 0 };
    for row in 0..models {
        let mut of_row = rows.iter().filter(|parity| parity.row == row);
        match (of_row.next(), of_row.next()) {
            (None, _) => {
                let rule = format!("has no parity model for kind = \"{kind}\", k = {k}, r = {r}, row = {row}");
                faults.push(Fault::new(&file, rule, "configure a code that it has, or run `parityd train parity`"));
            }
            (Some(_), Some(_)) => {
                let rule = format!("has two parity models for kind = \"{kind}\", k = {k}, r = {r}, row = {row}");
                faults.push(Fault::new(&file, rule, EDITED));
            }
            (Some(parity), None) => checked.extend(parity_row((dir, manifest), base, parity, code, faults)),
        }
    }
    checked
}

fn parity_row(
    (dir, manifest): (&Path, &Manifest),
    base: Option<&Checked>,
    parity: &Parity,
    code: &dyn Code,
    faults: &mut Vec<Fault>,
) -> Option<Checked> {
    let file = dir.join(&parity.file);
    let coefficients = code.coefficients(parity.row);
    if !same(&parity.coefficients, coefficients) {
        let rule =
            format!("was trained with coefficients {:?}, and the code has {coefficients:?}", parity.coefficients);
        faults.push(Fault::new(
            &file,
            rule,
            "configure those coefficients, or train it again with `parityd train parity`",
        ));
    }
    if parity.base_sha256 != manifest.base.sha256 {
        let rule = format!("was trained on base {}, and the base is {}", parity.base_sha256, manifest.base.sha256);
        faults.push(Fault::new(&file, rule, RETRAIN));
    }
    if parity.preprocessing != manifest.preprocessing {
        let rule =
            format!("was trained with {:?}, and the base has {:?}", parity.preprocessing, manifest.preprocessing);
        faults.push(Fault::new(&file, rule, RETRAIN));
    }
    let outputs = manifest.output.shape.iter().product();
    // What is wrong with the base model has been told.
    let base_plan = manifest.base.architecture.plan(&manifest.input.shape, outputs).ok()?;
    let model = Model {
        plan: parity_plan(parity.architecture, parity.encoder, code, &base_plan),
        behind: base.filter(|_| code.reading() == Reading::Encoded).map(|base| &base.parameters),
        file: &parity.file,
        sha256: &parity.sha256,
        canary: &parity.canary,
        outputs: code.output_width(outputs),
        weight: code.weight(parity.row),
    };
    model.check(dir, manifest, faults)
}

/// What base and parity models have in common.
struct Model<'a> {
    plan: Result<ParityPlan, NoFit>,
    /// The parameters of a base model that stands behind what the file holds.
    behind: Option<&'a Parameters>,
    file: &'a str,
    sha256: &'a str,
    canary: &'a [f32],
    /// Values that the canary must have.
    outputs: usize,
    weight: f64,
}

impl Model<'_> {
    fn check(&self, dir: &Path, manifest: &Manifest, faults: &mut Vec<Fault>) -> Option<Checked> {
        let (file, outputs) = (dir.join(self.file), self.outputs);
        let ParityPlan { plan, stored } = match &self.plan {
            Ok(plan) => plan.clone(),
            Err(no_fit) => {
                faults.push(Fault::new(&dir.join(MANIFEST_FILE), no_fit.to_string(), EDITED));
                return None;
            }
        };
        if self.canary.len() != outputs || !self.canary.iter().all(|value| value.is_finite()) {
            let rule = format!("`canary` of {} needs {outputs} finite values", self.file);
            faults.push(Fault::new(&dir.join(MANIFEST_FILE), rule, EDITED));
        }
        let parameters = parameters(dir, self.file, self.sha256).map_err(|fault| faults.push(fault)).ok()?;
        let misfits = parameters.faults_against(&stored);
        let fits = misfits.is_empty();
        faults.extend(misfits.into_iter().map(|misfit| Fault::new(&file, misfit, RESTORE)));
        let Normalisation { mean, std } = manifest.preprocessing;
        let preprocessing = Preprocessing { mean, std, weight: self.weight };
        let parameters = match self.behind {
            Some(base) => parameters.with(base),
            None => parameters,
        };
        fits.then(|| Checked { plan, parameters, preprocessing, canary: self.canary.to_vec(), on_cpu: Arc::default() })
    }
}

/// Reads the file once, checks its hash, and parses those very bytes.
pub(super) fn parameters(dir: &Path, file: &str, hash: &str) -> Result<Parameters, Fault> {
    let stays_inside = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
    if !stays_inside || file.is_empty() {
        let rule = format!("`file` is \"{file}\", which is not within the folder");
        return Err(Fault::new(&dir.join(MANIFEST_FILE), rule, EDITED));
    }
    let file = dir.join(file);
    let read = has_an_end(&file).and_then(|()| fs::read(&file));
    let bytes = read.map_err(|error| unread(&file, &error, RESTORE))?;
    let found = sha256(&bytes);
    if found != hash {
        return Err(Fault::new(&file, format!("has SHA-256 {found}, and the manifest says {hash}"), RESTORE));
    }
    Parameters::from_safetensors(&bytes)
        .map_err(|error| Fault::new(&file, format!("is no safetensors file: {error}"), RESTORE))
}

fn normalises(normalisation: Normalisation) -> bool {
    let Normalisation { mean, std } = normalisation;
    mean.is_finite() && std.is_finite() && std > 0.0
}

/// Coefficients are written and read, never computed, so only the very same ones will do.
fn same(left: &[f32], right: &[f32]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| left.to_bits() == right.to_bits())
}
