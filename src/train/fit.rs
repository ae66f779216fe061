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

/// All that changes during a run.
struct State {
    net: Net,
    variables: Vec<(String, Var)>,
    adam: Adam,
    progress: Progress,
    best: Parameters,
}

impl Run<'_> {
    /// Runs all epochs that are left.
    pub(super) fn fit(&self, lesson: &impl Lesson) -> Result<Fitted, TrainError> {
        let identity = self.identity();
        let mut state = self.start(&identity)?;
        let bar = self.bar(lesson, state.progress.epochs);
        while state.progress.epochs < self.settings.epochs {
            let loss = self.epoch(lesson, &mut state, &bar)?;
            let score = lesson.score(&state.net)?;
            let progress = &mut state.progress;
            progress.epochs += 1;
            progress.steps = state.adam.steps();
            if score > progress.best_score {
                (progress.best_epoch, progress.best_score) = (progress.epochs, score);
                state.best = parameters(&state.variables).copied()?;
            }
            let (epoch, best) = (progress.epochs, progress.best_score);
            bar.suspend(|| tracing::info!(epoch, loss, validation = score, best, "epoch done"));
            checkpoint::write(&self.checkpoint, &identity, &state.progress, state.adam.state(), &state.best)?;
        }
        bar.finish_and_clear();
        let Progress { best_epoch, best_score, .. } = state.progress;
        Ok(Fitted { parameters: state.best, best_epoch, best_score })
    }

    /// Initial weights, or those of the last checkpoint.
    fn start(&self, identity: &str) -> Result<State, TrainError> {
        let variables = init::variables(self.plan, self.settings.seed, &self.device)?;
        let net = Net::new(self.plan, self.preprocessing, &parameters(&variables), &self.device)?;
        let mut adam = Adam::new(variables.clone(), WEIGHT_DECAY)?;
        let mut progress = Progress { epochs: 0, steps: 0, best_epoch: 0, best_score: -1.0 };
        let mut best = Parameters::default();
        if self.settings.resume
            && let Some(checkpoint) = Checkpoint::read(&self.checkpoint, identity)?
        {
            adam.restore(checkpoint.progress.steps, |name| checkpoint.tensor(name))?;
            best = checkpoint.best();
            progress = checkpoint.progress;
            tracing::info!(epochs = progress.epochs, "resumed");
        }
        Ok(State { net, variables, adam, progress, best })
    }

    /// One pass over the training rows in an order drawn from (seed, epoch); the mean loss.
    fn epoch(&self, lesson: &impl Lesson, state: &mut State, bar: &ProgressBar) -> Result<f64, TrainError> {
        let epoch = state.progress.epochs;
        let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
        // Stream 0 drew the initial weights.
        rng.set_stream(epoch as u64 + 1);
        let mut order: Vec<usize> = (0..lesson.rows()).collect();
        order.shuffle(&mut rng);
        let whole = order.len() - order.len() % lesson.rows_per_input();
        let steps = self.steps(lesson);
        let mut sum = 0.0;
        for (step, picked) in order[..whole].chunks(self.settings.batch * lesson.rows_per_input()).enumerate() {
            let done = (epoch * steps + step) as f64 / (self.settings.epochs * steps) as f64;
            let loss = lesson.loss(&state.net, picked)?;
            state.adam.step(&loss.backward()?, self.settings.preset.rate(done))?;
            let value = f64::from(loss.to_scalar::<f32>()?);
            if !value.is_finite() {
                return Err(TrainError::Diverged { epoch: epoch + 1, step });
            }
            sum += value;
            bar.inc(1);
        }
        Ok(sum / steps as f64)
    }

    /// Steps of one epoch; the last may be short.
    fn steps(&self, lesson: &impl Lesson) -> usize {
        (lesson.rows() / lesson.rows_per_input()).div_ceil(self.settings.batch)
    }

    fn bar(&self, lesson: &impl Lesson, epochs_done: usize) -> ProgressBar {
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} steps, {eta} left");
        let steps = (self.settings.epochs.saturating_sub(epochs_done) * self.steps(lesson)) as u64;
        ProgressBar::new(steps).with_style(style.expect("the template is a literal of this file"))
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
