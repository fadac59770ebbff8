//! A graph compiled to fixed places in memory.
//!
//! Activations are `[image][block][pixel][16 channels]`; states of few channels may be packed, several
//! images to a register (see `packing`). A normalisation is never applied in
//! memory: the raw output `z` of a convolution or pool is kept, and whoever reads it uses `s * z +
//! t`; the gradient through it is `a * g + b * z + c`. The terms of a state are bundled by their
//! input, and run bundle by bundle, so that raw outputs are added while they are in the cache.

mod backward;
mod compile;
mod convolution_back;
mod exec;
mod export;
mod forward;
mod function;
mod maps;
mod norm;
mod pack;
mod packing;

use crate::chain;
use crate::function::TensorFunction;
use crate::graph::{Graph, Shape, Weight};
use crate::maps::Map;
use crate::primitives::{Tap, TileSize, weights_step};
pub(crate) use exec::{Buffers, Inputs, Recorded, Targets, Wanted, same_bits};
use export::Output;
use packing::Packing;
pub use packing::packs;
use std::sync::Arc;

/// Weight gradients are summed over this many fixed parts of the batch, so that results do not
/// depend on the number of threads.
const CHUNKS: usize = 4;
const EPS: f64 = 1e-5;
/// Pixels times input blocks that are mixed while they are in the first cache level; with many blocks
/// the second must do, because sums over few pixels have little work for each load and store.
const BAND: usize = 256;
const LEAST_BAND: usize = 64;

/// A graph compiled for a largest number of images: where everything lies, and how much memory a
/// run needs.
///
/// Fewer images than that give the same bytes as a plan compiled for fewer.
#[derive(Debug)]
pub struct Plan {
    max_batch: usize,
    /// Border of every tile.
    pad: usize,
    /// Images of the largest item.
    group: usize,
    states: Vec<State>,
    convs: Vec<Conv>,
    norms: Vec<Norm>,
    maps: Vec<MapNode>,
    geometries: Vec<Geometry>,
    outputs: Vec<Output>,
    /// Tensor functions in it, and the floats of an image that they exchange with the plan.
    functions: usize,
    function_floats: usize,
    /// Two parameters of the graph overlap: gradients must be added one after the other.
    shared_weights: bool,
    /// Intermediate gradients of a bundle's chains: places, and floats of an image (of the largest
    /// stage, because a stage overwrites the gradient it has read).
    inner_gradients: Vec<usize>,
    inner_floats: usize,
    sizes: Sizes,
    scratch: Scratch,
}

/// Floats of each arena.
#[derive(Debug, Default, Clone, Copy)]
struct Sizes {
    activations: usize,
    small: usize,
    packed: usize,
    /// Of one chunk.
    partial: usize,
    /// Of one thread.
    scratch: usize,
}

/// Dense planes in a thread's scratch memory.
#[derive(Debug, Default, Clone, Copy)]
struct Scratch {
    depthwise: usize,
    lazy: usize,
    inner: usize,
    input: usize,
    /// Transformed tiles of a band.
    winograd: usize,
}

/// A size of image, and its padded tiles in a thread's scratch memory.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    height: usize,
    width: usize,
    /// Floats of a padded row and of a padded block.
    row: usize,
    block: usize,
    /// From the start of a block to its first inner pixel.
    origin: usize,
    /// Blocks needed, then place: activations, gradients.
    tile_blocks: usize,
    tile: usize,
    grad_blocks: usize,
    grad: usize,
    /// Images whose tiles lie side by side.
    team: usize,
}

/// A raw output: where it is kept for the gradient, and where it only passes through. The step of
/// the latter is that of the largest, because bundles take turns and are added while the next one
/// already runs.
#[derive(Debug, Clone, Copy)]
struct Raw {
    kept: usize,
    floats: usize,
    passing: usize,
    passing_step: usize,
}

impl Raw {
    /// Kept in any case.
    fn kept(at: usize, floats: usize) -> Self {
        Self { kept: at, floats, passing: at, passing_step: floats }
    }
}

/// Statistics and scale of a raw output. Without a normalisation the scale is 1.
#[derive(Debug)]
struct Norm {
    batch: Option<chain::Norm>,
    packing: Packing,
    channels: usize,
    padded: usize,
    pixels: usize,
    /// `[image][sum, square, shift][padded]`, filled by the kernels.
    part: usize,
    /// `[mean, r, s, t][padded]`.
    values: usize,
}

/// The lazy gradient `a * g + b * z + c`: `a` at `a + image * a_stride`, then `b` and `c` of all
/// images. In packed states each is followed by that of the last item, zero for missing images.
#[derive(Debug, Clone, Copy)]
struct Coefficients {
    a: usize,
    a_stride: usize,
    b: usize,
    c: usize,
}

/// Neighbouring input channels and the lanes they lie in.
#[derive(Debug, Clone, Copy)]
struct Run {
    channel: usize,
    lane: usize,
    len: usize,
}

/// Output pixels `row % stride, col % stride` of an input gradient, and the taps that reach them.
#[derive(Debug)]
struct Parity {
    row: usize,
    col: usize,
    rows: usize,
    cols: usize,
    taps: Vec<Tap>,
}

#[derive(Debug)]
struct Depthwise {
    kernel: usize,
    dilation: usize,
    weight: usize,
    packed: usize,
    taps: Vec<Tap>,
    parities: Vec<Parity>,
}

/// Where an output channel and a tap have their weights in the flat vector.
#[derive(Debug, Clone, Copy)]
enum MixWeights {
    /// `[out, in, taps]`.
    Dense(usize),
    /// Tap 0 has the first `half` output channels, tap 1 the others.
    Factorized { even: usize, odd: usize, half: usize },
}

/// Tensor code in the place of a convolution.
#[derive(Debug)]
struct Function {
    code: Arc<dyn TensorFunction>,
    /// Which slot of the buffers is its.
    slot: usize,
    weight: usize,
    len: usize,
}

#[derive(Debug)]
struct Conv {
    packing: Packing,
    /// Then there are no taps.
    function: Option<Function>,
    relu: bool,
    stride: usize,
    depthwise: Option<Depthwise>,
    weights: MixWeights,
    /// Taps of the channel mix: on the tile, or on the depthwise result.
    taps: Vec<Tap>,
    /// Of the channel mix; empty after a depthwise part.
    parities: Vec<Parity>,
    /// The channel mix goes through Winograd's transform: elements instead of 9 taps.
    winograd: Option<chain::Winograd>,
    inputs: usize,
    outputs: usize,
    runs: Vec<Run>,
    lanes_in: Vec<u32>,
    lanes_out: Vec<u32>,
    /// `[tap][out block][in lane][16 out]` and `[tap][in block][out lane][16 in]`; elements instead of
    /// taps with Winograd's transform.
    packed: usize,
    packed_back: usize,
    geometry_in: usize,
    geometry_out: usize,
    raw: Raw,
    norm: usize,
    /// Place in a chunk of partial gradients: depthwise, then `[tap][out lane][in lane]` (or element).
    partial: usize,
    partial_mix: usize,
    /// If another stage follows: `[image][sum, dot][padded]` and the lazy gradient.
    sums: usize,
    coefficients: Coefficients,
}

impl Conv {
    /// Floats of the weights of the channel mix.
    fn mix_floats(&self) -> usize {
        self.planes(self.winograd.map(|w| w.forward))
    }

    /// The same for the gradient of its input, and the gradient of the weights.
    fn back_floats(&self) -> usize {
        self.planes(self.winograd.map(|w| w.back))
    }

    fn planes(&self, winograd: Option<TileSize>) -> usize {
        let (blocks_in, blocks_out) = (self.lanes_in.len(), self.lanes_out.len());
        match winograd {
            Some(tile) => tile.elements() * weights_step(blocks_in, blocks_out),
            None => self.taps.len() * blocks_in * blocks_out * 256,
        }
    }

    /// Images that are worked on together.
    fn team(&self) -> usize {
        self.winograd.map_or(1, |w| w.team)
    }

    /// Output pixels read the input at the same place and nothing else.
    fn is_pointwise(&self) -> bool {
        self.depthwise.is_none() && self.stride == 1 && self.taps.len() == 1
    }

    /// Rows of `geometry` that are mixed while they are in the cache.
    fn band(&self, geometry: &Geometry) -> usize {
        let pixels = (BAND / self.lanes_in.len()).max(LEAST_BAND);
        (pixels / geometry.width).clamp(1, geometry.height)
    }
}

#[derive(Debug)]
struct Term {
    raw: Raw,
    norm: usize,
    weight: Weight,
    /// Factors of the raw output: `weight * s`, for each image `scale_stride` apart (or 0).
    scale: usize,
    scale_stride: usize,
    coefficients: Coefficients,
    /// `[image][padded]`: sums of gradient * raw output.
    dot: usize,
}

/// The terms of a state with one input.
#[derive(Debug)]
struct Bundle {
    sources: Vec<usize>,
    /// In [`State::terms`].
    terms: std::ops::Range<usize>,
    /// Convolutions of each chain, with the position of its term.
    chains: Vec<(usize, Vec<usize>)>,
    /// The same by their depth in the chains.
    stages: Vec<Vec<usize>>,
    depth: usize,
    bias: usize,
    bias_stride: usize,
}

/// A pool of a state, or a map, shared by all terms that read it.
#[derive(Debug)]
struct Pooled {
    raw: Raw,
    part: usize,
    /// `[b, c]` of all its consumers.
    gradient: usize,
    /// (state, term).
    consumers: Vec<(usize, usize)>,
    /// Some consumer normalises it, so that `b` or `c` may not be zero.
    normalised: bool,
}

/// A map of some states.
#[derive(Debug)]
struct MapNode {
    map: Map,
    sources: Vec<usize>,
    /// Of the output.
    packing: Packing,
    shape: Shape,
    output: Pooled,
    /// The state that is this map: its output is the state's own place.
    target: Option<usize>,
}

#[derive(Debug)]
struct Pools {
    stride: usize,
    max: Option<Pooled>,
    average: Option<Pooled>,
    index: usize,
    pixels: usize,
}

#[derive(Debug)]
struct State {
    packing: Packing,
    /// Images that the maps which wait for this state need together.
    group: usize,
    channels: usize,
    blocks: usize,
    height: usize,
    width: usize,
    /// Floats of an image.
    floats: usize,
    x: usize,
    dx: usize,
    terms: Vec<Term>,
    bundles: Vec<Bundle>,
    pools: Vec<Pools>,
    /// Maps that can run once this state is there, in order.
    maps: Vec<usize>,
    /// If this state is a map, and so without terms: the state that it is finished together with.
    follows: Option<usize>,
    /// Terms that are this state itself.
    identities: Vec<(usize, usize)>,
    rectified: Option<Raw>,
    rectified_consumers: Vec<(usize, usize)>,
    /// `[image][padded]`: sum of the gradient.
    gradient_sum: usize,
    /// Trainable weights, or operation weights, at or below this state.
    has_weights: bool,
    has_ops: bool,
}

impl State {
    fn pixels(&self) -> usize {
        self.height * self.width
    }
    fn shape(&self) -> Shape {
        (self.channels, self.height, self.width)
    }
    fn padded(&self) -> usize {
        self.blocks * 16
    }
}

impl Plan {
    /// Compiles `graph` for up to `max_batch` images.
    pub fn compile(graph: &Graph, max_batch: usize) -> Self {
        compile::compile(graph, max_batch.max(1))
    }

    /// Bytes that running `graph` with this many images takes, at the present number of threads.
    pub fn estimate_bytes(graph: &Graph, max_batch: usize) -> usize {
        Self::compile(graph, max_batch).arena_bytes()
    }

    /// Bytes of all buffers of a run with gradients, at the present number of threads; without what
    /// tensor functions take inside.
    pub fn arena_bytes(&self) -> usize {
        let s = &self.sizes;
        let scratch = s.scratch * crate::threads::threads();
        let functions = self.function_floats * self.max_batch;
        (s.activations + s.small + s.packed + s.partial * CHUNKS + scratch + functions)
            * size_of::<f32>()
    }

    /// The largest number of images.
    pub fn max_batch(&self) -> usize {
        self.max_batch
    }
}
