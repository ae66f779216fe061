//! A convolution with all that follows it, as one graph of cuDNN's, and the plans that cuDNN has for it.
//!
//! `y = act(conv(x, w) + z + bias)`, where z and the activation may be missing: in this order it is one kernel of cuDNN's (cuDNN developer guide, "Pre-compiled Engines",
//! `ConvBiasAct`), and what is between lies in no memory. Which engines do it on this GPU, the fastest first, is cuDNN's guess (its heuristics of mode A); where those are
//! too few, its fallback ones follow. What an engine's numbers are worth it says in notes, and an engine whose numbers are worth less than the program's is left out.

use cudarc::cudnn::{
    result::CudnnError,
    sys::{
        self, cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
        cudnnBackendDescriptorType_t as Role, cudnnBackendHeurMode_t as Guess, cudnnBackendNumericalNote_t as Note,
        cudnnDataType_t as Kind, cudnnPointwiseMode_t as Pointwise,
    },
};

use super::{
    Convolving, Ends, Handle, Outcome,
    description::kind_of,
    graph::{Draft, Gpu, Part, Place, Target},
    is_refusal,
};
use crate::model::{
    Precision,
    lowered::{Layout, Sides},
};

/// Memory that an engine may take to work in. Several lanes may share a GPU, and some engines would take gigabytes. Which bound is best is not measured.
const WORKSPACE_MAX: usize = 512 << 20;

/// What an engine may take that is there for the case that a faster one does not run, where that one wants less: with three of them, hundreds of megabytes would lie there for nothing.
const WORKSPACE_SPARE: usize = 16 << 20;

/// Engines that are kept until one of them has run: which of its plans cuDNN takes in the end, only trying says. The last one is one that runs anywhere.
const CANDIDATES: usize = 3;

/// What pointers are multiples of; the driver's memory is.
const ALIGNMENT: i64 = 16;

/// Names of what is in memory, by which a plan is told where that is.
const X: i64 = 1;
const FILTERS: i64 = 2;
const ADDED: i64 = 3;
const BIAS: i64 = 4;
const Y: i64 = 5;
/// From here on what is in none.
const VIRTUAL: i64 = 6;

/// A convolution for so many rows at fixed places.
#[derive(Debug)]
pub(super) struct Convolution {
    /// The fastest first, as cuDNN guesses; the one that is used, once [`Convolution::settle`] has tried them.
    plans: Vec<Plan>,
    /// Where everything is, once that has said where the workspace is.
    pack: Option<Part>,
    places: Vec<(i64, Place)>,
    /// What plans are of. After them: dropped last.
    _graph: Graph,
}

/// One engine's way to do it.
#[derive(Debug)]
struct Plan {
    whole: Part,
    /// Which engine's, by cuDNN's number.
    engine: i64,
    /// Bytes that it works in.
    workspace: usize,
    /// What the plan is of. After it: dropped last.
    _config: Part,
}

/// Operations, and the parts that they were told of.
#[derive(Debug)]
struct Graph {
    whole: Part,
    /// After the whole: dropped last.
    _parts: Vec<Part>,
}

impl Convolution {
    pub(super) fn new(gpu: Gpu<'_>, ends: Ends, what: Convolving) -> Outcome<Self> {
        let graph = Graph::new(gpu, ends, what)?;
        let plans = graph.plans(gpu, ends.values)?;
        let mut places = vec![
            (X, Place(ends.from.0)),
            (FILTERS, Place(what.filters)),
            (BIAS, Place(what.bias)),
            (Y, Place(ends.to.0)),
        ];
        places.extend(what.added.map(|added| (ADDED, Place(added))));
        Ok(Convolution { plans, pack: None, places, _graph: graph })
    }

    /// Bytes that any of its plans wants to work in.
    pub(super) fn workspace(&self) -> usize {
        self.plans.iter().map(|plan| plan.workspace).max().unwrap_or(0)
    }

    /// Tells where it works, and keeps the first plan that runs. Of what cuDNN says of all of them, what is no refusal counts.
    ///
    /// # Safety
    /// As of [`super::Call::launch`].
    pub(super) unsafe fn settle(&mut self, handle: &Handle, workspace: Place) -> Outcome<()> {
        self.pack = Some(self.packed(workspace)?);
        let mut other = None;
        loop {
            // SAFETY: as of this function.
            let Err(error) = (unsafe { self.launch(handle) }) else {
                self.plans.truncate(1);
                let engine = self.plans.first().map(|plan| plan.engine);
                tracing::debug!(engine, "cuDNN's engine runs");
                return Ok(());
            };
            if let Some(plan) = self.plans.first() {
                passed_over(plan.engine, error);
            }
            other = other.or_else(|| (!is_refusal(error)).then_some(error));
            if self.plans.len() < 2 {
                return Err(other.unwrap_or(error));
            }
            self.plans.remove(0);
        }
    }

    /// Where everything is.
    fn packed(&self, workspace: Place) -> Outcome<Part> {
        let (names, places): (Vec<_>, Vec<_>) = self.places.iter().copied().unzip();
        let mut pack = Draft::new(Role::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        pack.tell(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &names)?;
        pack.tell(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &places)?;
        pack.tell(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[workspace])?;
        pack.finish()
    }

    /// Hands it to the stream.
    ///
    /// # Safety
    /// As of [`super::Call::launch`].
    pub(super) unsafe fn launch(&self, handle: &Handle) -> Outcome<()> {
        let (Some(plan), Some(pack)) = (self.plans.first(), &self.pack) else {
            return Err(CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED));
        };
        // SAFETY: as of this function.
        unsafe { plan.whole.execute(handle, pack) }
    }
}

impl Graph {
    fn new(gpu: Gpu<'_>, ends: Ends, what: Convolving) -> Outcome<Self> {
        let (values, layout, rows) = (kind_of(ends.values), ends.layout, ends.rows);
        let (read, written, window) = (ends.from.1, ends.to.1, what.window);
        let there = |name, rows, sides| tensor(name, values, rows, sides, layout);
        let x = there(X, rows, read)?;
        let filters = there(FILTERS, written[0], [read[0], window.kernel, window.kernel])?;
        let bias = there(BIAS, 1, [written[0], 1, 1])?;
        let y = there(Y, rows, written)?;
        let added = what.added.map(|_| there(ADDED, rows, written)).transpose()?;

        let mut names = VIRTUAL..;
        // In registers, and of single precision.
        let mut between = || {
            let name = names.next().expect("there is no last one");
            tensor(name, Kind::CUDNN_DATA_FLOAT, rows, written, layout)
        };
        let mut parts = Vec::new();
        let (way, mut last) = (way_of(what)?, between()?);
        let mut operations = vec![convolve(&way, &x, &filters, &last)?];
        if let Some(added) = &added {
            let (adding, sum) = (pointwise(Pointwise::CUDNN_POINTWISE_ADD)?, between()?);
            operations.push(apply(&adding, &last, Some(added), &sum)?);
            parts.extend([adding, last]);
            last = sum;
        }
        let adding = pointwise(Pointwise::CUDNN_POINTWISE_ADD)?;
        if what.rectified {
            let (rectifying, sum) = (pointwise(Pointwise::CUDNN_POINTWISE_RELU_FWD)?, between()?);
            operations.push(apply(&adding, &last, Some(&bias), &sum)?);
            operations.push(apply(&rectifying, &sum, None, &y)?);
            parts.extend([rectifying, sum]);
        } else {
            operations.push(apply(&adding, &last, Some(&bias), &y)?);
        }
        parts.extend([adding, last, way, x, filters, bias, y]);
        parts.extend(added);

        let mut whole = Draft::new(Role::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        whole.aim(Target::Graph(gpu))?;
        whole.link(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &operations.iter().collect::<Vec<_>>())?;
        let whole = whole.finish()?;
        operations.extend(parts);
        Ok(Graph { whole, _parts: operations })
    }

    /// Plans of different engines, the fastest first as cuDNN guesses; none where it has none.
    fn plans(&self, gpu: Gpu<'_>, values: Precision) -> Outcome<Vec<Plan>> {
        let mut plans: Vec<Plan> = Vec::new();
        // Better one that takes much memory than none.
        let (mut least, mut failed) = (None::<Plan>, None);
        for (guess, most) in [(Guess::CUDNN_HEUR_MODE_A, CANDIDATES - 1), (Guess::CUDNN_HEUR_MODE_FALLBACK, CANDIDATES)]
        {
            for config in unless_refused(self.guessed(gpu, guess))?.unwrap_or_default() {
                if plans.len() == most {
                    break;
                }
                let engine = config.part(Name::CUDNN_ATTR_ENGINECFG_ENGINE, Role::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
                let number = engine.number(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX)?;
                if plans.iter().any(|plan| plan.engine == number) || !is_exact_enough(&engine, values)? {
                    continue;
                }
                let room = plans.first().map_or(WORKSPACE_MAX, |first| first.workspace.max(WORKSPACE_SPARE));
                match Plan::new(gpu, config, number) {
                    Ok(plan) if plan.workspace <= room => plans.push(plan),
                    Ok(plan) => least = least.into_iter().chain([plan]).min_by_key(|plan| plan.workspace),
                    Err(error) => {
                        passed_over(number, error);
                        failed = failed.or_else(|| (!is_refusal(error)).then_some(error));
                    }
                }
            }
        }
        if plans.is_empty() {
            plans.extend(least);
        }
        match failed {
            Some(error) if plans.is_empty() => Err(error),
            Some(_) | None => Ok(plans),
        }
    }

    /// Engines with their settings, as cuDNN guesses.
    fn guessed(&self, gpu: Gpu<'_>, guess: Guess) -> Outcome<Vec<Part>> {
        let mut heuristics = Draft::new(Role::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
        heuristics.link(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[&self.whole])?;
        heuristics.tell(Name::CUDNN_ATTR_ENGINEHEUR_MODE, &[guess])?;
        heuristics.aim(Target::Guess(gpu))?;
        let heuristics = heuristics.finish()?;
        heuristics.parts(Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Role::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)
    }
}

impl Plan {
    fn new(gpu: Gpu<'_>, config: Part, engine: i64) -> Outcome<Self> {
        let mut plan = Draft::new(Role::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        plan.aim(Target::Plan(gpu))?;
        plan.link(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[&config])?;
        let plan = plan.finish()?;
        let bytes = plan.number(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
        Ok(Plan { whole: plan, engine, workspace: usize::try_from(bytes).unwrap_or(usize::MAX), _config: config })
    }
}

/// An engine that cuDNN offers and does not run, by its number.
fn passed_over(engine: i64, error: CudnnError) {
    tracing::debug!(engine, %error, "cuDNN's engine is passed over");
}

/// None where cuDNN has nothing for it.
fn unless_refused<T>(outcome: Outcome<T>) -> Outcome<Option<T>> {
    match outcome {
        Ok(made) => Ok(Some(made)),
        Err(error) if is_refusal(error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an engine's numbers are worth what the program's are, and the same each time.
fn is_exact_enough(engine: &Part, values: Precision) -> Outcome<bool> {
    let notes = engine.notes::<16>(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, Type::CUDNN_TYPE_NUMERICAL_NOTE)?;
    let never = [
        Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS,
        Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
        Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
    ];
    // Tensor cores multiply the first eleven bits, and single precision is more.
    let tensor_cores = (values == Precision::Single).then_some(Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
    Ok(!never.into_iter().chain(tensor_cores).any(|note| notes.contains(&(note as u32))))
}

/// Numbers that lie in this order; the sides are told in one and the same, whatever it is. From the name [`VIRTUAL`] on they lie in no memory.
fn tensor(name: i64, values: Kind, rows: usize, [channels, height, width]: Sides, layout: Layout) -> Outcome<Part> {
    let strides = match layout {
        Layout::ChannelsFirst => [channels * height * width, height * width, width, 1],
        Layout::ChannelsLast => [channels * height * width, 1, width * channels, channels],
    };
    let mut tensor = Draft::new(Role::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
    tensor.tell(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[name])?;
    tensor.tell(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, &[values])?;
    tensor.tell(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[rows, channels, height, width].map(long))?;
    tensor.tell(Name::CUDNN_ATTR_TENSOR_STRIDES, &strides.map(long))?;
    tensor.tell(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT])?;
    tensor.tell(Name::CUDNN_ATTR_TENSOR_IS_VIRTUAL, &[name >= VIRTUAL])?;
    tensor.finish()
}

fn long(value: usize) -> i64 {
    i64::try_from(value).expect("sides of pictures and counts of rows are small")
}

/// How filters go over pictures. Sums are of single precision, whatever they are made of.
fn way_of(what: Convolving) -> Outcome<Part> {
    let [padding, stride, dilation] =
        [what.window.padding, what.window.stride, what.dilation].map(|one| [long(one); 2]);
    let mut way = Draft::new(Role::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
    way.tell(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, &[Kind::CUDNN_DATA_FLOAT])?;
    way.tell(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, &[sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION])?;
    way.tell(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2_i64])?;
    way.tell(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &padding)?;
    way.tell(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &padding)?;
    way.tell(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &stride)?;
    way.tell(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &dilation)?;
    way.finish()
}

fn convolve(way: &Part, x: &Part, filters: &Part, y: &Part) -> Outcome<Part> {
    let mut operation = Draft::new(Role::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR)?;
    operation.link(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, &[way])?;
    operation.link(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, &[x])?;
    operation.link(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, &[filters])?;
    operation.link(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y, &[y])?;
    operation.tell(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, &[1.0_f32])?;
    operation.tell(Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, &[0.0_f32])?;
    operation.finish()
}

/// Something done to each number, in single precision.
fn pointwise(what: Pointwise) -> Outcome<Part> {
    let mut pointwise = Draft::new(Role::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?;
    pointwise.tell(Name::CUDNN_ATTR_POINTWISE_MODE, &[what])?;
    pointwise.tell(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, &[Kind::CUDNN_DATA_FLOAT])?;
    pointwise.finish()
}

/// That, done to `x`, and to `b` if it takes two.
fn apply(pointwise: &Part, x: &Part, b: Option<&Part>, y: &Part) -> Outcome<Part> {
    let mut operation = Draft::new(Role::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?;
    operation.link(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &[pointwise])?;
    operation.link(Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &[x])?;
    if let Some(b) = b {
        operation.link(Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, &[b])?;
    }
    operation.link(Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC, &[y])?;
    operation.finish()
}

#[cfg(test)]
mod tests;
