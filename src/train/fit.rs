//! The loop that both trainings share: epochs of shuffled steps, validation, the best weights so far, a checkpoint after each epoch.
//!
//! What is learned is a [`Lesson`]; this module never sees a label or a code. Everything random is drawn from (seed, epoch), so a run is
//! the same each time, and the same whether or not it was interrupted.

use std::path::PathBuf;

use candle_core::{Tensor, Var, backprop::GradStore};
use indicatif::{ProgressBar, ProgressStyle};
use rand::seq::SliceRandom;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rayon::prelude::*;

use super::{
    Backend, Settings, TrainError,
    adam::Adam,
    checkpoint::{self, Checkpoint, Progress},
    init, norm,
    preset::WEIGHT_DECAY,
};
use crate::{
    model::{Device, Parameters, Pass, Seen},
    weights::remove_left_behind,
};

/// Streams of the generator that belong to steps; those of epochs are small numbers.
const OF_STEPS: u64 = 1 << 63;

/// What a net is to learn, from which rows.
pub(super) trait Lesson: Sync {
    /// What learns.
    type Model: Sync;

    /// Names and shapes of the parameters that are learned.
    fn shapes(&self) -> Vec<(String, Vec<usize>)>;

    /// How full matrices begin.
    fn dense(&self) -> init::Dense;

    /// The model that reads `parameters`, and goes on reading them while they change.
    fn model(&self, parameters: &Parameters) -> candle_core::Result<Self::Model>;

    /// How many training rows there are to draw from.
    fn rows(&self) -> usize;

    /// How many of them make one input (k for a stripe).
    fn rows_per_input(&self) -> usize;

    /// The loss of `model` on the inputs that `picked` rows make; what is random about it is drawn from `rng`.
    fn loss<'a>(&self, model: &'a Self::Model, picked: &[usize], rng: &mut ChaCha8Rng)
    -> candle_core::Result<Loss<'a>>;

    /// How good what is served with `parameters` is on the validation rows, 0..1.
    fn score(&self, parameters: &Parameters) -> candle_core::Result<f64>;
}

/// A loss, and the pass whose outputs it is made of.
pub(super) struct Loss<'a> {
    pub(super) value: Tensor,
    pub(super) pass: Pass<'a>,
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
    pub(super) settings: &'a Settings,
    /// All that makes this run what it is; a checkpoint of another is refused.
    pub(super) identity: String,
    pub(super) checkpoint: PathBuf,
}

/// All that changes during a run.
struct State<M> {
    model: M,
    variables: Vec<(String, Var)>,
    adam: Adam,
    progress: Progress,
    best: Parameters,
    average: Option<Average>,
}

/// The weights' running average.
struct Average {
    variables: Vec<(String, Var)>,
}

/// What the parts of a batch give, each with its share of the batch.
#[derive(Default)]
struct Parts {
    gradients: Vec<(GradStore, f64)>,
    seen: Vec<(Vec<Seen>, f64)>,
}

impl Average {
    /// Moves it towards the weights after `steps` steps: over all of them at first, over about the last thousand later.
    fn follow(&self, weights: &[(String, Var)], steps: i32) -> candle_core::Result<()> {
        let steps = f64::from(steps);
        let kept = ((1.0 + steps) / (10.0 + steps)).min(1.0 - 1e-3);
        for ((_, average), (_, weight)) in self.variables.iter().zip(weights) {
            norm::mix(average, &weight.detach(), 1.0 - kept)?;
        }
        Ok(())
    }
}

impl<M> State<M> {
    /// What is judged and kept.
    fn kept(&self) -> &[(String, Var)] {
        self.average.as_ref().map_or(&self.variables, |average| &average.variables)
    }

    /// All tensors that a checkpoint needs.
    fn tensors(&self) -> impl Iterator<Item = (String, Tensor)> + '_ {
        let average = self.average.iter().flat_map(|average| &average.variables);
        self.adam.state().chain(average.map(|(name, variable)| (format!("average/{name}"), variable.detach())))
    }
}

impl Run<'_> {
    /// Runs all epochs that are left.
    pub(super) fn fit(&self, lesson: &impl Lesson) -> Result<Fitted, TrainError> {
        let identity = self.identity();
        // A run that was killed while it wrote left all of a checkpoint.
        self.checkpoint.parent().into_iter().for_each(remove_left_behind);
        let mut state = self.start(lesson, &identity)?;
        let bar = self.bar(lesson, state.progress.epochs);
        while state.progress.epochs < self.settings.epochs && !self.gives_up(&state.progress) {
            state.progress.patience = state.progress.patience.max(state.progress.patience_to_go_on());
            let loss = self.epoch(lesson, &mut state, &bar)?;
            let score = lesson.score(&parameters(state.kept()))?;
            state.progress.epochs += 1;
            state.progress.steps = state.adam.steps();
            if score > state.progress.best_score {
                (state.progress.best_epoch, state.progress.best_score) = (state.progress.epochs, score);
                state.best = parameters(state.kept()).copied()?;
            }
            let (epoch, best) = (state.progress.epochs, state.progress.best_score);
            bar.suspend(|| tracing::info!(epoch, loss, validation = score, best, "epoch done"));
            checkpoint::write(&self.checkpoint, &identity, &state.progress, state.tensors(), &state.best)?;
        }
        if self.gives_up(&state.progress) {
            let Progress { epochs, best_epoch, .. } = state.progress;
            tracing::info!(epochs, best_epoch, "no better for as long as --patience allows");
        }
        bar.finish_and_clear();
        let Progress { best_epoch, best_score, .. } = state.progress;
        Ok(Fitted { parameters: state.best, best_epoch, best_score })
    }

    /// Whether it has been no better for so long that it ends early.
    fn gives_up(&self, progress: &Progress) -> bool {
        self.settings.patience.is_some_and(|patience| patience < progress.patience_to_go_on())
    }

    /// What is wrong with going on from there, if this run would have ended before: its manifest would not tell how the weights were made.
    fn outrun_by(&self, progress: &Progress) -> Option<String> {
        let Settings { epochs, patience, .. } = *self.settings;
        let Progress { epochs: done, patience: had, .. } = *progress;
        if done > epochs {
            return Some(format!("is of a longer run: {done} epochs are done, and --epochs is {epochs}"));
        }
        let patience = patience.filter(|&patience| patience < had)?;
        Some(format!("is of a longer run: it took a patience of {had}, and --patience is {patience}"))
    }

    /// Initial weights, or those of the last checkpoint.
    fn start<L: Lesson>(&self, lesson: &L, identity: &str) -> Result<State<L::Model>, TrainError> {
        let variables = init::variables(&lesson.shapes(), lesson.dense(), self.settings.seed, &self.device())?;
        let model = lesson.model(&parameters(&variables))?;
        let mut adam = Adam::new(variables.clone(), WEIGHT_DECAY)?;
        let mut progress = Progress { epochs: 0, steps: 0, best_epoch: 0, best_score: -1.0, patience: 0 };
        let mut best = Parameters::default();
        let average = self.settings.preset.averages().then(|| Self::average(&variables)).transpose()?;
        if self.settings.resume
            && let Some(checkpoint) = Checkpoint::read(&self.checkpoint, identity)?
        {
            if let Some(rule) = self.outrun_by(&checkpoint.progress) {
                return Err(TrainError::Checkpoint { file: self.checkpoint.clone(), rule });
            }
            adam.restore(checkpoint.progress.steps, |name| checkpoint.tensor(name))?;
            for (name, variable) in average.iter().flat_map(|average| &average.variables) {
                variable.set(&checkpoint.tensor(&format!("average/{name}"))?.to_device(&self.device())?)?;
            }
            best = checkpoint.best();
            progress = checkpoint.progress;
            tracing::info!(epochs = progress.epochs, "resumed");
        }
        Ok(State { model, variables, adam, progress, best, average })
    }

    /// An average that has seen nothing but the initial weights.
    fn average(weights: &[(String, Var)]) -> Result<Average, TrainError> {
        let copy = |(name, variable): &(String, Var)| {
            Ok::<_, TrainError>((name.clone(), Var::from_tensor(&variable.detach().copy()?)?))
        };
        let variables = weights.iter().map(copy).collect::<Result<Vec<_>, _>>()?;
        Ok(Average { variables })
    }

    /// One pass over the training rows in an order drawn from (seed, epoch); the mean loss.
    fn epoch<L: Lesson>(&self, lesson: &L, state: &mut State<L::Model>, bar: &ProgressBar) -> Result<f64, TrainError> {
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
            let (parts, value) = self.gradients(lesson, &state.model, picked, (epoch, step))?;
            state.adam.step(&parts.gradients, self.settings.preset.rate(done))?;
            norm::follow(&state.variables, &parts.seen)?;
            if let Some(average) = &state.average {
                average.follow(&state.variables, state.adam.steps())?;
            }
            if !value.is_finite() {
                return Err(TrainError::Diverged { epoch: epoch + 1, step });
            }
            sum += value;
            bar.inc(1);
        }
        Ok(sum / steps as f64)
    }

    /// The gradients of a batch, in parts that all cores share, each with its weight; and the loss. The parts are the same however many cores
    /// there are, and so is the outcome.
    fn gradients<L: Lesson>(
        &self,
        lesson: &L,
        model: &L::Model,
        picked: &[usize],
        (epoch, step): (usize, usize),
    ) -> Result<(Parts, f64), TrainError> {
        let inputs = picked.len() / lesson.rows_per_input();
        let rows_per_part = inputs.div_ceil(self.settings.backend.parts()) * lesson.rows_per_input();
        let part = |(part, picked_part): (usize, &[usize])| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.settings.seed);
            rng.set_stream(OF_STEPS | (epoch as u64) << 40 | (step as u64) << 8 | part as u64);
            let Loss { value, pass } = lesson.loss(model, picked_part, &mut rng)?;
            let share = picked_part.len() as f64 / picked.len() as f64;
            let mut gradients = value.backward()?;
            pass.backward(&mut gradients)?;
            let value = f64::from(value.to_scalar::<f32>()?) * share;
            Ok::<_, TrainError>((gradients, pass.seen()?, share, value))
        };
        let parts: Vec<_> = picked.par_chunks(rows_per_part).enumerate().map(part).collect::<Result<_, _>>()?;
        let (mut of_batch, mut loss) = (Parts::default(), 0.0);
        for (gradients, seen, share, value) in parts {
            of_batch.gradients.push((gradients, share));
            of_batch.seen.push((seen, share));
            loss += value;
        }
        Ok((of_batch, loss))
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
        // One that began elsewhere would go on to other weights than it began for.
        let elsewhere = match &self.settings.backend {
            Backend::Programs => "",
            Backend::Tensors(_) => " on tensors",
        };
        format!("{} preset={preset} seed={seed} batch={batch} epochs={length}{elsewhere}", self.identity)
    }

    fn device(&self) -> Device {
        self.settings.backend.device()
    }
}

/// The variables as parameters; tensors are shared with them, so a net made of these follows the training.
fn parameters(variables: &[(String, Var)]) -> Parameters {
    Parameters::new(variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())))
}
