//! The loop that both trainings share: epochs of shuffled steps, validation, the best weights so far, a checkpoint after each epoch.
//!
//! What is learned is a [`Lesson`]; this module never sees a label or a code. Everything random is drawn from (seed, epoch), so a run is
//! the same each time, and the same whether or not it was interrupted.

use std::path::PathBuf;

use candle_core::{Tensor, Var};
use indicatif::{ProgressBar, ProgressStyle};
use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    Settings, TrainError,
    adam::Adam,
    checkpoint::{self, Checkpoint, Progress},
    init,
    preset::WEIGHT_DECAY,
};
use crate::model::{Device, Net, Parameters, Plan, Preprocessing};

/// What a net is to learn, from which rows.
pub(super) trait Lesson {
    /// How many training rows there are to draw from.
    fn rows(&self) -> usize;

    /// How many of them make one input (k for a stripe).
    fn rows_per_input(&self) -> usize;

    /// The loss of `net` on the inputs that `picked` rows make.
    fn loss(&self, net: &Net, picked: &[usize]) -> candle_core::Result<Tensor>;

    /// How good `net` is on the validation rows, 0..1.
    fn score(&self, net: &Net) -> candle_core::Result<f64>;
}

/// What a finished run hands back.
#[derive(Debug)]
pub(super) struct Fitted {
    pub(super) parameters: Parameters,
    pub(super) best_epoch: usize,
    pub(super) best_score: f64,
}

/// What to fit, and where its checkpoint lies.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) preprocessing: Preprocessing,
    pub(super) settings: &'a Settings,
    /// All that makes this run what it is; a checkpoint of another is refused.
    pub(super) identity: String,
    pub(super) checkpoint: PathBuf,
    pub(super) device: Device,
}

impl Run<'_> {
    /// Runs all epochs that are left.
    pub(super) fn fit(&self, lesson: &impl Lesson) -> Result<Fitted, TrainError> {
        let variables = init::variables(self.plan, self.settings.seed, &self.device)?;
        let net = Net::new(self.plan, self.preprocessing, &parameters(&variables), &self.device)?;
        let mut adam = Adam::new(variables.clone(), WEIGHT_DECAY)?;
        let mut progress = Progress { epochs: 0, steps: 0, best_epoch: 0, best_score: -1.0 };
        let mut best = Parameters::default();
        let identity = self.identity();
        if self.settings.resume
            && let Some(checkpoint) = Checkpoint::read(&self.checkpoint, &identity)?
        {
            adam.restore(checkpoint.progress.steps, |name| checkpoint.tensor(name))?;
            best = checkpoint.best();
            progress = checkpoint.progress;
            tracing::info!(epochs = progress.epochs, "resumed");
        }
        while progress.epochs < self.settings.epochs {
            let loss = self.epoch(lesson, &net, &mut adam, progress.epochs)?;
            progress.epochs += 1;
            progress.steps = adam.steps();
            let score = lesson.score(&net)?;
            if score > progress.best_score {
                (progress.best_epoch, progress.best_score) = (progress.epochs, score);
                best = parameters(&variables).copied()?;
            }
            let (epoch, best_score) = (progress.epochs, progress.best_score);
            tracing::info!(epoch, loss, validation = score, best = best_score, "epoch done");
            checkpoint::write(&self.checkpoint, &identity, &progress, adam.state(), &best)?;
        }
        Ok(Fitted { parameters: best, best_epoch: progress.best_epoch, best_score: progress.best_score })
    }

    /// One pass over the training rows in an order drawn from (seed, epoch); the mean loss.
    fn epoch(&self, lesson: &impl Lesson, net: &Net, adam: &mut Adam, epoch: usize) -> Result<f64, TrainError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        // Stream 0 drew the initial weights.
        rng.set_stream(epoch as u64 + 1);
        let mut order: Vec<usize> = (0..lesson.rows()).collect();
        order.shuffle(&mut rng);
        let whole = order.len() - order.len() % lesson.rows_per_input();
        let picks = order[..whole].chunks(self.settings.batch * lesson.rows_per_input());
        let steps = picks.len();
        let bar = bar(steps, epoch + 1, self.settings.epochs);
        let mut sum = 0.0;
        for (step, picked) in picks.enumerate() {
            let done = (epoch * steps + step) as f64 / (self.settings.epochs * steps) as f64;
            let loss = lesson.loss(net, picked)?;
            adam.step(&loss.backward()?, self.settings.preset.rate(done))?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(TrainError::Diverged { epoch: epoch + 1, step });
            }
            sum += value;
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(sum / steps as f64)
    }

    fn identity(&self) -> String {
        let Settings { preset, seed, batch, epochs, .. } = self.settings;
        let length = if preset.has_schedule() { epochs.to_string() } else { "any".to_owned() };
        format!("{} preset={preset} seed={seed} batch={batch} epochs={length}", self.identity)
    }
}

/// The variables as parameters; tensors are shared with them, so a net made of these follows the training.
fn parameters(variables: &[(String, Var)]) -> Parameters {
    Parameters::new(variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())))
}

fn bar(steps: usize, epoch: usize, epochs: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {bar:32} {pos}/{len} steps, {eta} left in this epoch");
    ProgressBar::new(steps as u64)
        .with_style(style.expect("the template is a literal of this file"))
        .with_prefix(format!("epoch {epoch}/{epochs}"))
}
