//! From a plan and its parameters to a [`Program`].
//!
//! First the layers become drafts over values that are all different; what can be part of the step before it becomes that. Only then is known how
//! wide the zeros around each value must be, so that steps can be laid out and values that are done with lend their buffers to later ones
//! of the same picture: the zeros around it are still there.

use std::sync::Arc;

use candle_core::{Error, Result};

use super::{Buffer, Packed, Picture, PooledFilters, ProductStep, Program, Step, Walk, pooled::LINE_MIN};
use crate::model::{Bias, Convolution, Layer, Parameters, Plan, Preprocessing, Window, plan::Name, step::EPSILON};

/// Filters at most that [`PooledFilters`] is faster with; with more, panels are well filled.
const POOLED_MAX: usize = 12;

/// Channels at most that lie one below the other for them.
const PLANES_MAX: usize = 4;

/// Number of a value.
type Value = usize;

/// A step that is not laid out yet.
struct Draft {
    work: Work,
    from: Value,
    to: Value,
}

enum Work {
    Convolution {
        filters: Filters,
        window: Window,
        dilation: usize,
        after: After,
    },
    Dense {
        filters: Filters,
        after: After,
    },
    /// A convolution over one channel that takes its pooling with it.
    Pooled {
        filters: Filters,
        window: Window,
        relu: bool,
    },
    MaxPool {
        window: Window,
        relu: bool,
    },
    AveragePool,
    Unflatten,
    Relu,
}

/// What is done with a product before it is written.
#[derive(Clone, Copy, Default)]
struct After {
    added: Option<Value>,
    relu: bool,
}

/// Parameters of a product, as they are stored.
#[derive(Default)]
struct Filters {
    weights: Vec<f32>,
    bias: Vec<f32>,
}

struct Draftsman<'a> {
    parameters: &'a Parameters,
    values: Vec<Picture>,
    drafts: Vec<Draft>,
    /// Channels of the input that lie one below the other instead of innermost.
    planes: usize,
}

/// The program of `plan`.
pub(in crate::model) fn program(plan: &Plan, preprocessing: Preprocessing, parameters: &Parameters) -> Result<Program> {
    let mut draftsman = Draftsman { parameters, values: vec![picture(plan.input())], drafts: Vec::new(), planes: 1 };
    let last = draftsman.all(plan.layers(), 0)?;
    if draftsman.values[last].len() != draftsman.values[last].channels {
        draftsman.draft(Work::Unflatten, last, picture(&[plan.outputs()]));
    }
    let Draftsman { values, drafts, planes, .. } = draftsman;
    Ok(layout(plan, (preprocessing, planes), &values, drafts))
}

/// The picture that a row of this shape is.
fn picture(shape: &[usize]) -> Picture {
    match *shape {
        [channels, height, width] => Picture { height, width, channels, halo: 0 },
        _ => Picture { height: 1, width: 1, channels: shape.iter().product(), halo: 0 },
    }
}

impl Draftsman<'_> {
    /// Drafts `layers`; tells the value that they make of `from`.
    fn all(&mut self, layers: &[Layer], from: Value) -> Result<Value> {
        // Nothing may become part of what others read, which is all that was drafted before.
        let first = self.drafts.len();
        layers.iter().try_fold(from, |from, layer| self.layer(layer, from, first))
    }

    fn layer(&mut self, layer: &Layer, from: Value, first: usize) -> Result<Value> {
        let read = self.values[from];
        match layer {
            Layer::Convolution(convolution) => self.convolution(convolution, from),
            Layer::BatchNorm { name, channels } => self.batch_norm(name, *channels, from, first),
            Layer::MaxPool(window) => {
                let sides = window.along(read.height, 1).zip(window.along(read.width, 1));
                let (height, width) = sides.ok_or_else(no_plan)?;
                let to = Picture { height, width, ..read };
                Ok(self
                    .pooled(*window, from, to, first)
                    .unwrap_or_else(|| self.draft(Work::MaxPool { window: *window, relu: false }, from, to)))
            }
            Layer::AveragePool => Ok(self.draft(Work::AveragePool, from, picture(&[read.channels]))),
            Layer::Relu => Ok(self.relu(from, first)),
            // Whoever reads it knows in which order the values lie.
            Layer::Flatten => Ok(from),
            Layer::Unflatten(shape) => Ok(self.draft(Work::Unflatten, from, picture(shape))),
            Layer::Dense { name, inputs, outputs, bias } => {
                let filters = self.filters(name, inputs * outputs, *outputs, *bias)?;
                Ok(self.draft(Work::Dense { filters, after: After::default() }, from, picture(&[*outputs])))
            }
            Layer::Residual { body, shortcut } => {
                let short = self.all(shortcut, from)?;
                let long = self.all(body, from)?;
                let last = self.drafts.last_mut().filter(|draft| draft.to == long);
                match last.and_then(|draft| draft.work.after()) {
                    Some(after) => after.added = Some(short),
                    None => return Err(no_plan()),
                }
                Ok(long)
            }
        }
    }

    fn draft(&mut self, work: Work, from: Value, to: Picture) -> Value {
        self.values.push(to);
        self.drafts.push(Draft { work, from, to: self.values.len() - 1 });
        self.values.len() - 1
    }

    fn convolution(&mut self, convolution: &Convolution, from: Value) -> Result<Value> {
        let Convolution { ref name, channels, filters, window, dilation, bias } = *convolution;
        let read = &mut self.values[from];
        read.halo = read.halo.max(window.padding);
        let sides = window.along(read.height, dilation).zip(window.along(read.width, dilation));
        let (height, width) = sides.ok_or_else(no_plan)?;
        let to = Picture { height, width, channels: filters, halo: 0 };
        let filters = self.filters(name, filters * channels * window.kernel * window.kernel, filters, bias)?;
        Ok(self.draft(Work::Convolution { filters, window, dilation, after: After::default() }, from, to))
    }

    /// Becomes part of the convolution before it, where that is one for [`PooledFilters`].
    fn pooled(&mut self, pool: Window, from: Value, to: Picture, first: usize) -> Option<Value> {
        let made = self.values[from];
        let last = self.drafts[first..].last_mut().filter(|draft| draft.to == from)?;
        let read = self.values[last.from];
        let fits = pool == Window::tiles(2)
            && (made.height.is_multiple_of(2) && made.width.is_multiple_of(2) && made.width >= LINE_MIN)
            && (read.channels == 1 || last.from == 0 && first == 0 && read.channels <= PLANES_MAX);
        let Work::Convolution { filters, window, dilation: 1, after: After { added: None, relu: false } } =
            &mut last.work
        else {
            return None;
        };
        if !fits || window.stride != 1 || filters.bias.len() > POOLED_MAX {
            return None;
        }
        let (window, filters) = (*window, std::mem::take(filters));
        last.work = Work::Pooled { filters, window, relu: false };
        if read.channels > 1 {
            // Nobody else reads the input: a network begins with it.
            let height = read.channels * (read.height + 2 * read.halo) - 2 * read.halo;
            self.values[0] = Picture { height, channels: 1, ..read };
            self.planes = read.channels;
        }
        self.values[from] = to;
        Some(from)
    }

    fn filters(&self, name: &Name, weights: usize, outputs: usize, bias: Bias) -> Result<Filters> {
        let bias = match bias {
            Bias::With => self.numbers(name, "bias", outputs)?,
            Bias::Without => vec![0.0; outputs],
        };
        Ok(Filters { weights: self.numbers(name, "weight", weights)?, bias })
    }

    fn numbers(&self, name: &Name, part: &str, count: usize) -> Result<Vec<f32>> {
        let name = format!("{name}.{part}");
        let tensor = self.parameters.get(&name).ok_or_else(|| Error::Msg(format!("tensor `{name}` is missing")))?;
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        if values.len() == count {
            Ok(values)
        } else {
            Err(Error::Msg(format!("tensor `{name}` holds {} numbers, not {count}", values.len())))
        }
    }

    /// Becomes part of the convolution before it.
    fn batch_norm(&mut self, name: &Name, channels: usize, from: Value, first: usize) -> Result<Value> {
        let get = |part| self.numbers(name, part, channels);
        let (weight, bias) = (get("weight")?, get("bias")?);
        let (mean, variance) = (get("running_mean")?, get("running_var")?);
        let last = self.drafts[first..].last_mut().filter(|draft| draft.to == from).map(|draft| &mut draft.work);
        let Some(Work::Convolution { filters, after: After { added: None, relu: false }, .. }) = last else {
            return Err(no_plan());
        };
        let patch = filters.weights.len() / channels;
        for (channel, weights) in filters.weights.chunks_exact_mut(patch).enumerate() {
            #[expect(clippy::cast_possible_truncation, reason = "f32 is the weights' precision")]
            let scale = (f64::from(weight[channel]) / (f64::from(variance[channel]) + EPSILON).sqrt()) as f32;
            for weight in weights {
                *weight *= scale;
            }
            filters.bias[channel] = (filters.bias[channel] - mean[channel]) * scale + bias[channel];
        }
        Ok(from)
    }

    /// Becomes part of what wrote its input, if that is a product or a pooling.
    fn relu(&mut self, from: Value, first: usize) -> Value {
        let last = self.drafts[first..].last_mut().filter(|draft| draft.to == from).map(|draft| &mut draft.work);
        match last {
            Some(Work::Convolution { after, .. } | Work::Dense { after, .. }) => after.relu = true,
            Some(Work::MaxPool { relu, .. } | Work::Pooled { relu, .. }) => *relu = true,
            Some(Work::AveragePool | Work::Unflatten | Work::Relu) | None => {
                return self.draft(Work::Relu, from, Picture { halo: 0, ..self.values[from] });
            }
        }
        from
    }
}

impl Work {
    const fn after(&mut self) -> Option<&mut After> {
        match self {
            Work::Convolution { after, .. } | Work::Dense { after, .. } => Some(after),
            Work::Pooled { .. } | Work::MaxPool { .. } | Work::AveragePool | Work::Unflatten | Work::Relu => None,
        }
    }

    const fn added(&self) -> Option<Value> {
        match self {
            Work::Convolution { after, .. } | Work::Dense { after, .. } => after.added,
            Work::Pooled { .. } | Work::MaxPool { .. } | Work::AveragePool | Work::Unflatten | Work::Relu => None,
        }
    }
}

fn no_plan() -> Error {
    Error::Msg("these layers cannot follow each other".to_owned())
}

/// Gives each value a buffer and each draft its step.
fn layout(
    plan: &Plan,
    (preprocessing, planes): (Preprocessing, usize),
    values: &[Picture],
    drafts: Vec<Draft>,
) -> Program {
    let mut last_read = vec![0; values.len()];
    for (step, draft) in drafts.iter().enumerate() {
        for value in std::iter::once(draft.from).chain(draft.work.added()) {
            last_read[value] = step;
        }
    }
    let (mut buffers, mut free, mut place_of) = (Vec::new(), Vec::new(), vec![0; values.len()]);
    let place = |picture: Picture, free: &mut Vec<Buffer>, buffers: &mut Vec<Picture>| -> Buffer {
        if let Some(found) = free.iter().position(|&buffer| buffers[buffer] == picture) {
            free.swap_remove(found)
        } else {
            buffers.push(picture);
            buffers.len() - 1
        }
    };
    place_of[0] = place(values[0], &mut free, &mut buffers);
    let Preprocessing { mean, std, weight } = preprocessing;
    #[expect(clippy::cast_possible_truncation, reason = "f32 is the rows' precision")]
    let (scale, shift) = ((1.0 / std) as f32, (-mean * weight / std) as f32);
    let mut steps = vec![Step::Read { scale, shift, planes, to: place_of[0] }];
    for (number, draft) in drafts.into_iter().enumerate() {
        place_of[draft.to] = place(values[draft.to], &mut free, &mut buffers);
        let read: Vec<Value> = std::iter::once(draft.from).chain(draft.work.added()).collect();
        steps.push(laid_out(draft, values, &place_of));
        free.extend(read.into_iter().filter(|&value| last_read[value] == number).map(|value| place_of[value]));
        free.dedup();
    }
    let work: Vec<f32> = steps.iter().map(|step| step.work(&buffers)).collect();
    let all: f32 = work.iter().sum();
    Program {
        width: plan.input().iter().product(),
        outputs: plan.outputs(),
        steps: Arc::new(steps),
        shares: work.into_iter().map(|work| work / all).collect(),
        buffers,
        scratch: parking_lot::Mutex::default(),
    }
}

fn laid_out(draft: Draft, values: &[Picture], place_of: &[Buffer]) -> Step {
    let (read, written) = (values[draft.from], values[draft.to]);
    let (from, to) = (place_of[draft.from], place_of[draft.to]);
    let product = |(weights, runs): (Packed, Vec<usize>), start, after: After, across| {
        let added = after.added.map(|value| (place_of[value], values[value].walk(1, 0)));
        let (relu, end, lines) = (after.relu, written.walk(1, 0), written.height);
        let step = ProductStep { weights, runs, from, start, of_rows: false, added, relu, to, end, lines, across };
        Step::Product(Box::new(step.of_rows_if_single()))
    };
    match draft.work {
        Work::Convolution { filters, window, dilation, after } => {
            let start = read.walk(window.stride, window.padding);
            product(packed_convolution(&filters, &read, window, dilation), start, after, written.width)
        }
        Work::Dense { filters, after } => product(packed_dense(&filters, &read), read.walk(1, 0), after, 1),
        Work::Pooled { filters: Filters { weights, bias }, window, relu } => {
            let filters = PooledFilters::new(&weights, &bias, window);
            Step::Pooled { filters, relu, from, to }
        }
        Work::MaxPool { window, relu } => Step::MaxPool { window, relu, from, to },
        Work::AveragePool => Step::AveragePool { from, to },
        Work::Unflatten => Step::Unflatten { from, to },
        Work::Relu => Step::Relu { from, to },
    }
}

impl ProductStep {
    /// Where a row has one position, rows are the positions.
    fn of_rows_if_single(mut self) -> Self {
        let turned = |walk: Walk| Walk { x: walk.row, ..walk };
        if self.lines * self.across == 1 {
            self.of_rows = true;
            (self.start, self.end) = (turned(self.start), turned(self.end));
            self.added = self.added.map(|(buffer, walk)| (buffer, turned(walk)));
        }
        self
    }
}

/// The filters of a convolution over `read`, and where the runs under one begin.
fn packed_convolution(filters: &Filters, read: &Picture, window: Window, dilation: usize) -> (Packed, Vec<usize>) {
    let (channels, kernel) = (read.channels, window.kernel);
    let patch = channels * kernel * kernel;
    let weight = |filter: usize, place: usize| {
        let (position, channel) = (place / channels, place % channels);
        filters.weights[filter * patch + channel * kernel * kernel + position]
    };
    // Neighbours under a filter are neighbours in memory, unless it is spread.
    let (run, along) = if dilation == 1 { (kernel * channels, 1) } else { (channels, kernel) };
    let begin = |dy: usize| (0..along).map(move |dx| dilation * (dy * read.line() + dx * channels));
    let runs = (0..kernel).flat_map(begin).collect();
    (Packed::new((filters.bias.len(), patch, run), |filter| filters.bias[filter], weight), runs)
}

/// A full matrix over `read`, whose values the weights name channel by channel.
fn packed_dense(filters: &Filters, read: &Picture) -> (Packed, Vec<usize>) {
    let Picture { height, width, channels, halo } = *read;
    let inputs = height * width * channels;
    let weight = |output: usize, place: usize| {
        let (position, channel) = (place / channels, place % channels);
        filters.weights[output * inputs + channel * height * width + position]
    };
    let (run, lines) = if halo == 0 { (inputs, 1) } else { (width * channels, height) };
    let runs = (0..lines).map(|line| line * read.line()).collect();
    (Packed::new((filters.bias.len(), inputs, run), |output| filters.bias[output], weight), runs)
}
