//! A graph as one candle operation.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

use crate::counters::{COUNTERS, count, count_many};
use crate::error;
use crate::gradients;
use crate::graph::Graph;
use crate::plan::{Buffers, Inputs, Plan, Recorded, Targets, Wanted, same_bits};
use crate::primitives::{self, Kernels};

/// Passes whose activations are kept at the same time; older ones are repeated when their gradient
/// is asked for.
const SLOTS: usize = 2;

/// How normalisations get their mean and variance.
#[derive(Debug, Clone, Copy)]
pub enum Mode<'a> {
    /// From the batch; the gradient takes that into account.
    Train,
    /// Given: the layout of [`Outputs::statistics`]. They are constants for the gradient.
    Eval {
        /// Running means and variances.
        running: &'a Tensor,
    },
}

/// What a pass gives.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// One tensor for each export, in order; differentiable.
    pub exports: Vec<Tensor>,
    /// In [`Mode::Train`], for each normalisation at its offset: the batch mean, then the unbiased
    /// batch variance. Detached.
    pub statistics: Option<Tensor>,
}

/// A graph that runs, forward and backward, as one candle operation. Clones share the plan and its
/// buffers.
///
/// The plan is compiled at the first pass, for the largest batch seen so far. Gradients reach the
/// weights and the operation weights, each only if tracked (`detach()` saves their work); images
/// have no gradient, and there are no second derivatives: both are errors.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use tetlo_kernels::{Export, GraphBuilder, Mode, Network, Primitive, Term, Weight};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> { let mut b = GraphBuilder::new(2, 4, 4);
/// let images = b.input(); let term = |chain: Vec<Primitive>, op| Term { input: vec![images],
/// chain, weight: Weight::Shared(op) }; let sum = b.state(vec![term(vec![], 0),
/// term(vec![Primitive::AvgPool { stride: 1 }], 1)])?; b.export(Export::Pooled { states: vec![sum],
/// relu: false }); let network = Network::new(b.finish()?);
///
/// let images = Tensor::ones((4, 2, 4, 4), candle_core::DType::F32, &Device::Cpu)?;
/// let weights = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?;
/// let ops = Var::new(&[0.25f32, 0.5], &Device::Cpu)?;
/// let outputs = network.forward(&images, &weights, &ops, Mode::Train)?;
/// assert_eq!(outputs.exports[0].to_vec2::<f32>()?, [[0.75; 2]; 4]);
/// let gradients = outputs.exports[0].mean_all()?.backward()?;
/// let of_ops = gradients.get(&ops).expect("tracked");
/// assert_eq!(of_ops.to_vec1::<f32>()?, [1.0, 1.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    graph: Graph,
    multiply_adds: u64,
    kernels: &'static Kernels,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    plan: Option<Arc<Plan>>,
    slots: Vec<Slot>,
    /// Number of the last pass.
    passes: u64,
}

/// Buffers and the pass whose activations they hold.
struct Slot {
    plan: Arc<Plan>,
    buffers: Buffers,
    pass: u64,
    owner: Weak<AtomicBool>,
}

impl Slot {
    /// Nobody will ask for the gradient of this pass any more, as far as one can know.
    fn is_free(&self) -> bool {
        self.owner.upgrade().is_none_or(|differentiated| differentiated.load(Relaxed))
    }
}

/// One pass in candle's graph.
struct Op {
    inner: Arc<Inner>,
    pass: u64,
    running: Option<Tensor>,
    wanted: Wanted,
    key: u64,
    /// Whether the gradient has been asked for; dropped with the graph.
    differentiated: Arc<AtomicBool>,
}

impl Network {
    /// A network on the fastest kernels of this machine (or those that `TETLO_SIMD` names).
    pub fn new(graph: Graph) -> Self {
        Self::on(graph, primitives::table_for_network())
    }

    /// A network on the kernels called `simd`, one of [`crate::simd_paths`]; `None` if this machine
    /// lacks them.
    pub fn with_simd(graph: Graph, simd: &str) -> Option<Self> {
        primitives::table(Some(simd)).map(|kernels| Self::on(graph, kernels))
    }

    fn on(graph: Graph, kernels: &'static Kernels) -> Self {
        let multiply_adds = graph.multiply_adds();
        Self(Arc::new(Inner { graph, multiply_adds, kernels, memory: Mutex::default() }))
    }

    /// Passes whose activations are kept at the same time, each in a set of buffers of its own.
    pub const MOST_PASSES: usize = SLOTS;

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.0.graph
    }

    /// The kernels in use.
    pub fn simd(&self) -> &'static str {
        self.0.kernels.name
    }

    /// Images `[n, c, h, w]`, weights `[w]`, operation weights `[k]` (one unused element if the
    /// graph has none), all `f32` on the CPU.
    pub fn forward(
        &self,
        images: &Tensor,
        weights: &Tensor,
        ops: &Tensor,
        mode: Mode<'_>,
    ) -> Result<Outputs> {
        self.forward_with_key(images, weights, ops, mode, 0)
    }

    /// The same, with a name for the random draws of tensor functions
    /// ([`crate::FunctionPass::key`]).
    pub fn forward_with_key(
        &self,
        images: &Tensor,
        weights: &Tensor,
        ops: &Tensor,
        mode: Mode<'_>,
        key: u64,
    ) -> Result<Outputs> {
        if images.track_op() {
            bail!("a compiled network has no gradient for its images: detach them");
        }
        let graph = &self.0.graph;
        let batch = check(graph, images, weights, ops, mode)?;
        let running = match mode {
            Mode::Train => None,
            Mode::Eval { running } => Some(running.detach().contiguous()?),
        };
        let wanted = Wanted { weights: weights.track_op(), ops: ops.track_op() };
        let pass = {
            let mut memory = self.0.lock();
            memory.passes += 1;
            memory.passes
        };
        let training = running.is_none();
        let differentiated = Arc::new(AtomicBool::new(false));
        let op = Op { inner: Arc::clone(&self.0), pass, running, wanted, key, differentiated };
        let (images, weights, ops) =
            (images.contiguous()?, weights.contiguous()?, ops.contiguous()?);
        let flat = if wanted.any() {
            images.apply_op3(&weights, &ops, op)?
        } else {
            images.apply_op3_no_bwd(&weights, &ops, &op)?
        };
        outputs(graph, &flat, batch, training)
    }
}

/// Checks the shapes of a pass's inputs; gives the number of images.
pub(crate) fn check(
    graph: &Graph,
    images: &Tensor,
    weights: &Tensor,
    ops: &Tensor,
    mode: Mode<'_>,
) -> Result<usize> {
    let (batch, c, h, w) = images.dims4()?;
    if (c, h, w) != graph.input_shape() {
        let expected = graph.input_shape();
        bail!("the network is compiled for images of shape {expected:?}, not {:?}", (c, h, w));
    }
    if batch == 0 {
        bail!("no images");
    }
    let long_enough = |what: &str, tensor: &Tensor, needed: usize| -> Result<()> {
        let found = tensor.dims1()?;
        if found < needed {
            bail!("the network reads {needed} {what}, but there are {found}");
        }
        Ok(())
    };
    long_enough("weights", weights, graph.weights())?;
    long_enough("operation weights", ops, graph.ops(batch))?;
    if let Mode::Eval { running } = mode {
        long_enough("running statistics", running, graph.statistics())?;
    }
    Ok(batch)
}

/// The exports and statistics that lie one after the other in `flat`.
pub(crate) fn outputs(
    graph: &Graph,
    flat: &Tensor,
    batch: usize,
    training: bool,
) -> Result<Outputs> {
    let mut exports = Vec::with_capacity(graph.exports().len());
    let mut at = 0;
    for export in graph.exports() {
        let shape = graph.export_shape(export, batch);
        let len = shape.iter().product();
        exports.push(flat.narrow(0, at, len)?.reshape(shape)?);
        at += len;
    }
    let statistics =
        if training { Some(flat.detach().narrow(0, at, graph.statistics())?) } else { None };
    Ok(Outputs { exports, statistics })
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let states = self.0.graph.states.len();
        f.debug_struct("Network")
            .field("states", &states)
            .field("simd", &self.simd())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_work(&self, images: usize, times: u64) {
        count_many(&COUNTERS.multiply_adds, images as u64 * times * self.multiply_adds);
    }
}

impl Memory {
    /// The slot that the next pass may overwrite, with a plan for `batch` images.
    fn slot(&mut self, graph: &Graph, batch: usize) -> error::Result<&mut Slot> {
        let plan = match &self.plan {
            Some(plan) if plan.max_batch() >= batch => Arc::clone(plan),
            _ => {
                let plan = Arc::new(Plan::compile(graph, batch));
                count(&COUNTERS.plans);
                self.plan = Some(Arc::clone(&plan));
                // Smaller buffers that nobody waits for would only take up memory.
                self.slots.retain(|slot| !slot.is_free());
                plan
            }
        };
        let free = self.slots.iter().position(Slot::is_free);
        let index = match free {
            Some(index) => index,
            None if self.slots.len() < SLOTS => {
                let buffers = Buffers::new(&plan, graph.statistics())?;
                count(&COUNTERS.allocations);
                let plan = Arc::clone(&plan);
                self.slots.push(Slot { plan, buffers, pass: 0, owner: Weak::new() });
                self.slots.len() - 1
            }
            None => {
                let oldest = self.slots.iter().enumerate().min_by_key(|(_, slot)| slot.pass);
                oldest.map_or(0, |(index, _)| index)
            }
        };
        let slot = &mut self.slots[index];
        if !Arc::ptr_eq(&slot.plan, &plan) {
            slot.buffers = Buffers::new(&plan, graph.statistics())?;
            count(&COUNTERS.allocations);
            slot.plan = plan;
        }
        Ok(slot)
    }
}

/// The values of a contiguous tensor.
fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("expected a contiguous tensor"),
    }
}

fn with_floats<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(floats(storage, layout)?),
        _ => bail!("a compiled network runs on the CPU"),
    }
}

impl Op {
    /// Runs forward in some slot, and gives its output.
    fn run(
        &self,
        memory: &mut Memory,
        images: &[f32],
        weights: &[f32],
        ops: &[f32],
    ) -> Result<Vec<f32>> {
        let graph = &self.inner.graph;
        let (c, h, w) = graph.input_shape();
        let batch = images.len() / (c * h * w);
        let statistics = if self.running.is_none() { graph.statistics() } else { 0 };
        let mut out = vec![0.0; graph.export_floats(batch) + statistics];
        let slot = memory.slot(graph, batch)?;
        (slot.pass, slot.owner) = (0, Weak::new());
        let mut go = |running: Option<&[f32]>| {
            let (wanted, key) = (self.wanted, self.key);
            let inputs = Inputs { images, weights, ops, running, batch, wanted, key };
            slot.buffers.forward(&slot.plan, self.inner.kernels, inputs, &mut out)
        };
        match &self.running {
            None => go(None)?,
            Some(running) => with_floats(running, |running| Ok(go(Some(running))?))?,
        }
        if self.wanted.any() {
            (slot.pass, slot.owner) = (self.pass, Arc::downgrade(&self.differentiated));
        }
        Ok(out)
    }

    /// Repeats the forward pass, whose activations were overwritten by a later one.
    fn repeat(
        &self,
        memory: &mut Memory,
        [images, weights, ops]: [&Tensor; 3],
        result: &Tensor,
    ) -> Result<()> {
        count(&COUNTERS.recomputed);
        let out = with_floats(images, |images| {
            with_floats(weights, |weights| {
                with_floats(ops, |ops| self.run(memory, images, weights, ops))
            })
        })?;
        let same = with_floats(result, |result| Ok(same_bits(result, &out)))?;
        if !same {
            bail!(
                "the inputs of a compiled network were changed in place before its gradient was taken; \
                 its activations are gone, so the gradient of the old values cannot be computed"
            );
        }
        Ok(())
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "compiled-network"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut memory = self.inner.lock();
        count(&COUNTERS.forwards);
        self.inner.count_work(l1.dims()[0], 1);
        let out = self.run(&mut memory, floats(s1, l1)?, floats(s2, l2)?, floats(s3, l3)?)?;
        let shape = Shape::from(out.len());
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        images: &Tensor,
        weights: &Tensor,
        ops: &Tensor,
        result: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if gradient.track_op() {
            bail!("a compiled network has no second derivatives");
        }
        let mut memory = self.inner.lock();
        count(&COUNTERS.backwards);
        self.inner.count_work(images.dim(0)?, 1 + u64::from(weights.track_op()));
        if !memory.slots.iter().any(|slot| slot.pass == self.pass) {
            self.repeat(&mut memory, [images, weights, ops], result)?;
        }
        let Some(slot) = memory.slots.iter_mut().find(|slot| slot.pass == self.pass) else {
            bail!("the activations of a compiled network are gone");
        };
        let mut of_weights = None;
        let mut collecting = false;
        if weights.track_op() {
            let (values, collected) = gradients::take(weights);
            (of_weights, collecting) = (Some(values), collected);
        }
        let mut of_ops = ops.track_op().then(|| vec![0.0; ops.elem_count()]);
        with_floats(&gradient.contiguous()?, |gradient| {
            let recorded = Recorded { batch: images.dim(0)?, evaluation: self.running.is_some() };
            let targets =
                Targets { weights: of_weights.as_deref_mut(), ops: of_ops.as_deref_mut() };
            let (plan, buffers) = (&slot.plan, &mut slot.buffers);
            Ok(buffers.backward(plan, self.inner.kernels, recorded, gradient, targets)?)
        })?;
        self.differentiated.store(true, Relaxed);
        let tensor = |values: Option<Vec<f32>>, like: &Tensor| {
            values.map(|v| Tensor::from_vec(v, like.shape(), like.device())).transpose()
        };
        if collecting && let Some(values) = of_weights.take() {
            gradients::give(weights, values);
        }
        Ok((None, tensor(of_weights, weights)?, tensor(of_ops, ops)?))
    }
}
