//! `eval`: how often direct and reconstructed answers are right, measured on the test images.
//!
//! `A_a` is the accuracy of direct answers, `A_d` that of reconstructed ones, `A_o(f) = (1 - f) A_a + f A_d` for a fraction f lost. The
//! test set is permuted with each seed, cut into stripes of k (a rest is left out), and every set of data slots that the code can recover is
//! lost in turn, with all parity slots at hand. Nets, encoder and decoder are the daemon's. Nothing here is estimated from training.

mod change;
mod cost;
mod coverage;
mod distance;
mod error;
mod markdown;
mod papers;
mod plot;
mod report;
mod stripes;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use crate::{
    code::{Calibration, Code, Kind, Reading, RunsOn, SlotSet, Spec},
    data::{self, Images},
    model::{Device, Net, TensorError},
    weights::{Bundle, Fault, MANIFEST_FILE, Manifest, Measured, WeightsError, try_write},
};
pub use change::{Change, changes, changes_table};
pub use cost::Cost;
pub use coverage::Coverage;
use coverage::Judged;
use distance::Distances;
pub use error::EvalError;
pub use markdown::markdown;
pub use plot::{may_plot, plot};
pub use report::{Row, json, leave_out_repeats, table};
pub use stripes::{Stripes, class, encode};

/// What a code's `kind` is called when there is none.
const NO_CODE: &str = "none";

/// Every folder of weights `<root>/<deployment>/<version>`, in order.
pub fn shipped(root: &Path) -> Result<Vec<PathBuf>, EvalError> {
    let mut found = Vec::new();
    for deployment in folders(root)? {
        let versions = folders(&deployment)?;
        found.extend(versions.into_iter().filter(|version| version.join(MANIFEST_FILE).is_file()));
    }
    if found.is_empty() { Err(EvalError::NoWeights { dir: root.to_path_buf() }) } else { Ok(found) }
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>, EvalError> {
    let fault = |error| EvalError::Unread { dir: dir.to_path_buf(), error };
    let entries = fs::read_dir(dir).map_err(fault)?.collect::<Result<Vec<_>, _>>().map_err(fault)?;
    let mut folders: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

/// Whether the weights of `dir`, and of every code that it has parity models of, can be used: to be found out before anything is measured.
pub fn may_measure(dir: &Path) -> Result<(), EvalError> {
    let manifest = Manifest::read(dir).map_err(WeightsError::from)?;
    Bundle::of(dir, manifest.clone(), None)?;
    let codes = manifest.codes(dir).map_err(WeightsError::from)?;
    codes.iter().try_for_each(|code| Ok(Bundle::of(dir, manifest.clone(), Some(&**code)).map(drop)?))
}

/// Whether these are images of the kind that the weights of `dir` are for.
pub fn check_fit(dir: &Path, bundle: &Bundle, images: &Images) -> Result<(), EvalError> {
    let (width, label) = (images.width(), images.labels.iter().copied().max().unwrap_or(0));
    let signature = bundle.signature();
    if width == signature.input.width() && usize::from(label) < signature.output.width() {
        return Ok(());
    }
    Err(EvalError::OtherData { dir: dir.to_path_buf(), width, label })
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct MeasureOptions<'a> {
    /// Those of the permutations by which test images make stripes.
    pub seeds: &'a [u64],
    /// Where the models run.
    pub device: Device,
    /// Whether to measure how long parity jobs take on the CPU, too, which takes longer than all the rest.
    pub timed: bool,
}

/// Measures every code that the folder of weights has parity models of (the base model alone if it has none), and those that need none.
pub fn measure(dir: &Path, data: &Path, options: &MeasureOptions<'_>) -> Result<Vec<Row>, EvalError> {
    let images = data::test(data)?;
    let manifest = Manifest::read(dir).map_err(WeightsError::from)?;
    let bundle = Bundle::of(dir, manifest.clone(), None)?;
    check_fit(dir, &bundle, &images)?;
    let base = bundle.base(&options.device)?.predict(&images.pixels)?;
    let direct = Direct { images: &images, outputs: &base, options };
    let trained = manifest.codes(dir).map_err(WeightsError::from)?;
    let input = &manifest.input.shape;
    let untrained =
        UNTRAINED.into_iter().map(|spec| spec.build(input, None).expect("their sizes are within the limits"));
    let codes: Vec<Arc<dyn Code>> = trained.into_iter().chain(untrained).collect();
    let measure_code = |code: &Arc<dyn Code>| {
        let bundle = Bundle::of(dir, manifest.clone(), Some(&**code))?;
        Ok(direct.row(&bundle, Some((&**code, direct.reconstructed(&bundle, &**code)?)))?)
    };
    let alone = if manifest.parities.is_empty() { Some(direct.row(&bundle, None)) } else { None };
    alone.into_iter().map(|row| Ok(row?)).chain(codes.iter().map(measure_code)).collect()
}

/// The test images with the base model's outputs for them.
struct Direct<'a> {
    images: &'a Images,
    outputs: &'a [f32],
    options: &'a MeasureOptions<'a>,
}

/// What was measured of one code's reconstructions.
struct Reconstructed {
    seeds: Vec<u64>,
    /// For each seed, its accuracy over all patterns.
    a_d: Vec<f64>,
    /// For each pattern of lost data slots, its accuracy over all seeds.
    by_pattern: Vec<(SlotSet, f64)>,
    agreement: f64,
    /// Every reconstruction with its confidence; none if the code is not calibrated.
    judged: Vec<Judged>,
    /// Percentiles of the distances from the direct answers.
    distances: Vec<f32>,
}

/// Right answers, agreements with the direct answer, and how many there were.
#[derive(Clone, Copy, Default)]
struct Tally {
    right: usize,
    agree: usize,
    all: usize,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.right += other.right;
        self.agree += other.agree;
        self.all += other.all;
    }

    fn accuracy(self) -> f64 {
        self.right as f64 / self.all.max(1) as f64
    }
}

impl Direct<'_> {
    fn output(&self, row: usize) -> &[f32] {
        let outputs = self.outputs.len() / self.images.count();
        &self.outputs[row * outputs..(row + 1) * outputs]
    }

    fn is_right(&self, row: usize, output: &[f32]) -> bool {
        class(output) == usize::from(self.images.labels[row])
    }

    fn accuracy(&self) -> f64 {
        let right = (0..self.images.count()).filter(|&row| self.is_right(row, self.output(row))).count();
        right as f64 / self.images.count().max(1) as f64
    }

    /// How often the most frequent class is right.
    fn most_frequent(&self) -> f64 {
        let mut counts = [0_usize; u8::MAX as usize + 1];
        self.images.labels.iter().for_each(|&label| counts[usize::from(label)] += 1);
        counts.into_iter().max().unwrap_or(0) as f64 / self.images.count().max(1) as f64
    }

    /// `None` where the images do not make one stripe.
    fn reconstructed(&self, bundle: &Bundle, code: &dyn Code) -> Result<Option<Reconstructed>, TensorError> {
        if self.images.count() < code.k() {
            return Ok(None);
        }
        let MeasureOptions { seeds, device, .. } = self.options;
        let nets = (0..code.r()).map(|row| bundle.parity(row, device)).collect::<Result<Vec<Net>, _>>()?;
        let nets: Vec<Option<&Net>> = nets.iter().map(Some).collect();
        let patterns = patterns(code);
        let mut by_pattern = vec![Tally::default(); patterns.len()];
        let (mut by_seed, mut judged, mut distances) = (Vec::new(), Vec::new(), Distances::default());
        for &seed in *seeds {
            let mut order: Vec<usize> = (0..self.images.count()).collect();
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
            let stripes = Stripes::run(code, self.images, &order, self.outputs, &nets)?;
            let mut of_seed = Tally::default();
            for (pattern, sum) in patterns.iter().zip(&mut by_pattern) {
                let tally = self.tally(&stripes, *pattern, bundle.calibration(), (&mut judged, &mut distances));
                sum.add(tally);
                of_seed.add(tally);
            }
            by_seed.push(of_seed);
        }
        let all = by_seed.iter().fold(Tally::default(), |mut all, tally| {
            all.add(*tally);
            all
        });
        Ok(Some(Reconstructed {
            seeds: seeds.to_vec(),
            a_d: by_seed.into_iter().map(Tally::accuracy).collect(),
            by_pattern: patterns.into_iter().zip(by_pattern.into_iter().map(Tally::accuracy)).collect(),
            agreement: all.agree as f64 / all.all.max(1) as f64,
            judged,
            distances: distances.percentiles(),
        }))
    }

    /// Counts the reconstructions of `lost`, and judges each.
    fn tally(
        &self,
        stripes: &Stripes<'_>,
        lost: SlotSet,
        calibration: Option<Calibration>,
        (judged, distances): (&mut Vec<Judged>, &mut Distances),
    ) -> Tally {
        let mut tally = Tally::default();
        stripes.reconstruct(lost, |row, decoded| {
            let right = self.is_right(row, decoded);
            judged.extend(calibration.map(|calibration| Judged {
                confidence: calibration.temperature.confidence(decoded),
                right,
                direct_right: self.is_right(row, self.output(row)),
            }));
            tally.right += usize::from(right);
            tally.agree += usize::from(class(decoded) == class(self.output(row)));
            tally.all += 1;
            distances.add(decoded, self.output(row));
        });
        tally
    }

    fn row(&self, bundle: &Bundle, measured: Option<(&dyn Code, Option<Reconstructed>)>) -> Result<Row, TensorError> {
        let manifest = bundle.manifest();
        let (code, measured) = measured.unzip();
        let measured = measured.flatten();
        let cost = code.map(|code| Cost::of(bundle, code, self.options.timed)).transpose()?;
        let redundancy = |code: &dyn Code| if code.is_systematic() { code.r() } else { code.r() - code.k() };
        let (kind, k, r) = code.map_or((None, 1, 0), |code| (Some(code.kind()), code.k(), redundancy(code)));
        let base_flops = cost::flops(bundle.base_plan().multiply_adds());
        let trained = kind.map_or_else(Vec::new, |kind| manifest.rows_of(kind, k, r));
        let training = trained.first().map(|row| &row.training);
        let (mean, sd) = measured.as_ref().map(|measured| mean_and_sd(&measured.a_d)).unzip();
        let judged = measured.as_ref().map(|measured| &measured.judged).filter(|judged| !judged.is_empty());
        Ok(Row {
            deployment: manifest.deployment.name.clone(),
            dataset: manifest.dataset.name.clone(),
            architecture: manifest.base.architecture.to_string(),
            code: kind.map_or(NO_CODE, Kind::as_str),
            encoder: trained.first().and_then(|row| row.encoder),
            k,
            r,
            preset: match code.map(Code::runs_on) {
                Some(RunsOn::Base) => UNTRAINED_PRESET.to_owned(),
                Some(RunsOn::ParityModel) | None => training.unwrap_or(&manifest.base.training).preset.clone(),
            },
            a_a: self.accuracy(),
            a_default: self.most_frequent(),
            a_d: mean,
            a_d_sd: sd,
            a_d_by_pattern: measured.iter().flat_map(|measured| &measured.by_pattern).map(named).collect(),
            agreement: measured.as_ref().map(|measured| measured.agreement),
            coverage: judged.map_or_else(Vec::new, |judged| coverage::coverage(judged.clone())),
            calibration_error: judged.map(|judged| coverage::calibration_error(judged)),
            distances: measured.as_ref().map_or_else(Vec::new, |measured| measured.distances.clone()),
            parity_flops: code.map(|code| cost::parity_flops(bundle, code)),
            base_flops,
            cost,
            rows: self.images.count(),
            seeds: measured.map_or_else(Vec::new, |measured| measured.seeds),
            weights_sha256: kind.map_or_else(|| vec![bundle.base_sha256().to_owned()], |kind| bundle.sha256(kind)),
        })
    }
}

/// Whether [`record`] can write into a folder of weights: to be found out before anything is measured.
pub fn may_record(dir: &Path) -> Result<(), EvalError> {
    // One that is not there is not made: whoever reads it tells.
    if !dir.is_dir() {
        return Ok(());
    }
    try_write(dir).map_err(|error| EvalError::Unrecorded { file: dir.to_path_buf(), error })
}

/// Writes measured rows of one folder of weights into its manifest as it is *now*: another model may have been trained meanwhile.
pub fn record(dir: &Path, rows: &[Row]) -> Result<(), EvalError> {
    let measured: Vec<Measured> = rows.iter().map(Measured::from).collect();
    Ok(Manifest::change(dir, |manifest| {
        let manifest = manifest?;
        if measured.iter().all(|row| row.fits(&manifest)) {
            return Ok(Manifest { measured, ..manifest });
        }
        let rule = "names other weights than those that were measured";
        Err(Fault::new(&dir.join(MANIFEST_FILE), rule, "run `parityd eval --record` again"))
    })?)
}

/// The preset of a code that is not trained.
const UNTRAINED_PRESET: &str = "none";

/// Codes that need no parity model, which are measured for every base model: interpolation with one straggler.
const UNTRAINED: [Spec; 3] = [Spec::of(Kind::Berrut, 2, 1), Spec::of(Kind::Berrut, 4, 1), Spec::of(Kind::Berrut, 8, 1)];

/// Every set of lost slots that is tried in turn: each set of data slots that the code recovers when all else is at hand; or, of a code
/// that is not systematic, all data slots with each set of as many parity slots as it survives.
fn patterns(code: &dyn Code) -> Vec<SlotSet> {
    let (data, all) = (SlotSet::below(code.k()), SlotSet::below(code.k() + code.r()));
    let mut patterns: Vec<SlotSet> = if code.is_systematic() {
        let lost = (1..=data.bits()).map(SlotSet::from_bits);
        lost.filter(|&lost| code.recoverable(all.without(lost)) == lost).collect()
    } else {
        let late = (0..=SlotSet::below(code.r()).bits()).map(SlotSet::from_bits);
        let late = late.filter(|late| late.count() == code.losses_max());
        late.map(|late| data.with(SlotSet::from_bits(late.bits() << code.k()))).collect()
    };
    if matches!(code.reading(), Reading::Channels | Reading::Rows) {
        // Its answers do not depend on what else is lost.
        patterns.retain(|pattern| pattern.count() == 1);
    }
    patterns.sort_by_key(|pattern| (pattern.count(), pattern.bits()));
    patterns
}

/// A pattern's name in JSON: its lost slots, joined by commas.
fn named((pattern, accuracy): &(SlotSet, f64)) -> (String, f64) {
    let slots: Vec<String> = pattern.iter().map(|slot| slot.to_string()).collect();
    (slots.join(","), *accuracy)
}

/// Mean, and standard deviation of a sample (0 for one value).
fn mean_and_sd(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}

#[cfg(test)]
mod tests;
