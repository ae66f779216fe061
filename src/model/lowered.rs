//! Layers lowered to few stages, each of which a library of convolutions does in one call.
//!
//! Batch norms are in the filters by then (`step`); here what follows a convolution goes into it, too: its bias, the other way of a residual sum, and
//! `ReLU`, also where a maximum stands between (the larger of two, rectified, is the larger of two that were). A full matrix is a convolution of a picture
//! of one position. `ReLU` stays alone where it has to let NaN through: what overflows in half precision must be found in the outputs, and a convolution
//! makes zeros of NaN. What a stage writes lies in a slot, and slots are used again: a network needs three or four, however deep it is.
//!
//! Pictures lie in memory channel by channel, as rows come, or position by position, which tensor cores read as it is: then they are put in that order where they come in,
//! and back where they are read as a mere list.
//!
//! Pure data, so that any machine tests it; `gpu` makes calls of it. A network that has another layer than these is not lowered, and runs step by step.

use candle_core::{Result, Tensor};

use super::{Window, step::Step};

/// Number of a place for what one stage writes.
pub(super) type Slot = usize;

/// Channels, height and width of a picture; of anything else, its values and two ones.
pub(super) type Sides = [usize; 3];

/// In which order the values of a picture lie in memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Layout {
    /// Channel by channel: `NCHW`, of filters `KCRS`.
    ChannelsFirst,
    /// Position by position: `NHWC`, of filters `KRSC`.
    ChannelsLast,
}

impl Layout {
    pub(super) const fn other(self) -> Self {
        match self {
            Layout::ChannelsFirst => Layout::ChannelsLast,
            Layout::ChannelsLast => Layout::ChannelsFirst,
        }
    }
}

/// A network as stages. The rows that it reads are in slot 0, and those that it writes in the last one, channel by channel.
#[derive(Debug)]
pub(super) struct Lowered {
    /// Of all pictures that stages read and write, but for those that are reordered.
    pub(super) layout: Layout,
    pub(super) stages: Vec<Stage>,
    /// Values that each slot holds of a row.
    pub(super) slots: Vec<usize>,
    /// Multiply-adds of a row.
    pub(super) work: usize,
}

/// What one call does.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) kind: Kind,
    pub(super) from: (Slot, Sides),
    pub(super) to: (Slot, Sides),
    /// Multiply-adds of a row.
    pub(super) work: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    Convolution {
        /// `[outputs, inputs, height, width]`, wherever they lie.
        filters: Tensor,
        bias: Option<Tensor>,
        window: Window,
        dilation: usize,
        /// What is added to it, of the same sides.
        added: Option<Slot>,
        /// Whether what is below zero, when all is added, becomes zero.
        rectified: bool,
    },
    MaxPool(Window),
    /// The mean of each channel.
    AveragePool,
    /// What is below zero becomes zero; NaN stays.
    Relu,
    /// The same, written in this order and read in the other.
    Reorder(Layout),
}

/// What has been made so far, and where it is.
#[derive(Clone, Copy)]
struct Value {
    slot: Slot,
    sides: Sides,
    layout: Layout,
    /// Whether `ReLU` may go into what made it: that is a convolution, and nobody else reads it as it is.
    is_open: bool,
}

struct Lowering {
    layout: Layout,
    keeps_nan: bool,
    stages: Vec<Stage>,
    slots: Vec<usize>,
    /// How many still read what is in each slot.
    readers: Vec<usize>,
}

impl Lowered {
    /// Of rows of shape `input`; none if there is a layer that no stage does. Where it `keeps_nan`, no `ReLU` goes into a convolution.
    ///
    /// Fails when a parameter cannot be reshaped.
    pub(super) fn new(input: &[usize], steps: &[Step], keeps_nan: bool, layout: Layout) -> Result<Option<Self>> {
        let sides = sides_of(input);
        let (stages, slots, readers) = Default::default();
        let mut lowering = Lowering { layout, keeps_nan, stages, slots, readers };
        let slot = lowering.taken(sides);
        let rows = Value { slot, sides, layout: Layout::ChannelsFirst, is_open: false };
        let Some(made) = lowering.all(steps, rows, None)? else { return Ok(None) };
        lowering.ordered(made, Layout::ChannelsFirst);
        let Lowering { stages, slots, .. } = lowering;
        let work = stages.iter().map(|stage| stage.work).sum();
        Ok((!stages.is_empty()).then_some(Lowered { layout, stages, slots, work }))
    }

    /// Whether it convolves pictures for which the order makes a difference.
    pub(super) fn has_orders(&self) -> bool {
        let has_orders = |stage: &Stage| has_orders(stage.from.1) || has_orders(stage.to.1);
        self.stages.iter().any(|stage| matches!(stage.kind, Kind::Convolution { .. }) && has_orders(stage))
    }

    /// The slot that holds the outputs in the end, and their values of a row.
    pub(super) fn outputs(&self) -> (Slot, usize) {
        let (slot, sides) = self.stages.last().expect("there is a stage").to;
        (slot, sides.iter().product())
    }
}

impl Lowering {
    /// `added` is added to what the last of `steps` makes, which has to be a convolution then.
    fn all(&mut self, steps: &[Step], from: Value, added: Option<Slot>) -> Result<Option<Value>> {
        let mut value = from;
        for (number, step) in steps.iter().enumerate() {
            let added = added.filter(|_| number + 1 == steps.len());
            let Some(next) = self.one(step, value, added)? else { return Ok(None) };
            value = next;
        }
        Ok(Some(value))
    }

    fn one(&mut self, step: &Step, from: Value, added: Option<Slot>) -> Result<Option<Value>> {
        let sides @ [channels, height, width] = from.sides;
        let flat = [channels * height * width, 1, 1];
        Ok(match step {
            Step::Convolution { filters, bias, window, dilation } => {
                let along = |side| window.along(side, *dilation);
                let (Some(height), Some(width)) = (along(height), along(width)) else { return Ok(None) };
                let (window, dilation) = (*window, *dilation);
                let (to, parameters) = ([filters.dim(0)?, height, width], filters.elem_count());
                let (filters, bias) = (filters.clone(), bias.clone());
                let kind = Kind::Convolution { filters, bias, window, dilation, added, rectified: false };
                Some(self.convolution(kind, from, to, parameters))
            }
            Step::Dense(linear) if sides == flat => {
                let filters = linear.weight().contiguous()?.unsqueeze(2)?.unsqueeze(3)?;
                let (to, parameters) = ([filters.dim(0)?, 1, 1], filters.elem_count());
                let (window, bias) = (Window::tiles(1), linear.bias().cloned());
                let kind = Kind::Convolution { filters, bias, window, dilation: 1, added, rectified: false };
                Some(self.convolution(kind, from, to, parameters))
            }
            // Whatever else ends a way is not what another way is added to.
            _ if added.is_some() => None,
            Step::MaxPool(window) => {
                let (Some(height), Some(width)) = (window.along(height, 1), window.along(width, 1)) else {
                    return Ok(None);
                };
                let pooled = self.stage(Kind::MaxPool(*window), from, [channels, height, width], 0);
                Some(Value { is_open: from.is_open, ..pooled })
            }
            Step::AveragePool => Some(self.stage(Kind::AveragePool, from, [channels, 1, 1], 0)),
            Step::Relu if !self.keeps_nan && from.is_open && self.rectify(from.slot) => Some(from),
            Step::Relu => Some(self.stage(Kind::Relu, from, sides, 0)),
            Step::Flatten => Some(Value { sides: flat, ..self.ordered(from, Layout::ChannelsFirst) }),
            Step::Unflatten(shape) => Some(Value { sides: sides_of(shape), layout: Layout::ChannelsFirst, ..from }),
            Step::Residual { body, shortcut } => {
                // The short way first: its end is added where the long one ends. Each of the two reads the row.
                let shared = Value { is_open: false, ..self.ordered(from, self.layout) };
                self.readers[shared.slot] += 1;
                let Some(short) = self.all(shortcut, shared, None)? else { return Ok(None) };
                let short = self.ordered(short, self.layout);
                let Some(long) = self.all(body, shared, Some(short.slot))? else { return Ok(None) };
                // An empty way has no convolution to be added to.
                (!body.is_empty() && short.sides == long.sides).then_some(long)
            }
            Step::Dense(_) | Step::BatchNorm(_) => None,
        })
    }

    /// One with so many values in its filters.
    fn convolution(&mut self, kind: Kind, from: Value, to: Sides, parameters: usize) -> Value {
        let added = if let Kind::Convolution { added, .. } = kind { added } else { None };
        let value = self.stage(kind, from, to, parameters * to[1] * to[2]);
        if let Some(slot) = added {
            self.read(slot);
        }
        Value { is_open: true, ..value }
    }

    /// The same in `layout`.
    fn ordered(&mut self, from: Value, layout: Layout) -> Value {
        if from.layout == layout || !has_orders(from.sides) {
            return Value { layout, ..from };
        }
        let reordered = self.stage(Kind::Reorder(layout), from, from.sides, 0);
        Value { layout, is_open: from.is_open, ..reordered }
    }

    /// What it writes goes to a slot that nobody reads from then.
    fn stage(&mut self, kind: Kind, from: Value, sides: Sides, work: usize) -> Value {
        // What works on pictures reads them as all are.
        let from = match kind {
            Kind::Convolution { .. } | Kind::MaxPool(_) | Kind::AveragePool => self.ordered(from, self.layout),
            Kind::Relu | Kind::Reorder(_) => from,
        };
        let slot = self.taken(sides);
        self.read(from.slot);
        self.stages.push(Stage { kind, from: (from.slot, from.sides), to: (slot, sides), work });
        Value { slot, sides, layout: from.layout, is_open: false }
    }

    /// Has the convolution that made what is in `slot` rectify it; whether there is one.
    fn rectify(&mut self, mut slot: Slot) -> bool {
        for stage in self.stages.iter_mut().rev() {
            if stage.to.0 != slot {
                return false;
            }
            match &mut stage.kind {
                Kind::Convolution { rectified, .. } => {
                    *rectified = true;
                    return true;
                }
                Kind::MaxPool(_) | Kind::Reorder(_) => slot = stage.from.0,
                Kind::AveragePool | Kind::Relu => return false,
            }
        }
        false
    }

    /// A slot for values of these sides, with one who will read them.
    fn taken(&mut self, sides: Sides) -> Slot {
        let values = sides.iter().product();
        if let Some(slot) = self.readers.iter().position(|&readers| readers == 0) {
            self.readers[slot] = 1;
            self.slots[slot] = self.slots[slot].max(values);
            return slot;
        }
        self.slots.push(values);
        self.readers.push(1);
        self.slots.len() - 1
    }

    fn read(&mut self, slot: Slot) {
        self.readers[slot] -= 1;
    }
}

/// Whether these are several channels of several positions.
fn has_orders([channels, height, width]: Sides) -> bool {
    channels > 1 && height * width > 1
}

/// Of a row of this shape.
fn sides_of(shape: &[usize]) -> Sides {
    <Sides>::try_from(shape).unwrap_or([shape.iter().product(), 1, 1])
}

#[cfg(test)]
mod tests;
