//! The description of a network: states, and the terms that are added up in them.

use crate::chain::Chain;
use crate::error::{Error, Result};
use crate::function::{FunctionId, TensorFunction};
use crate::maps::{Gather, Map};
use std::sync::Arc;

/// (channels, height, width).
pub type Shape = (usize, usize, usize);

/// A materialised activation of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateId(pub(crate) usize);

impl StateId {
    /// Position of the state in its graph; the images are 0.
    pub fn index(self) -> usize {
        self.0
    }
}

/// An output of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExportId(pub(crate) usize);

impl ExportId {
    /// Position of the export in [`crate::Outputs::exports`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// The trainable scale `gamma` and shift `beta` of a normalisation: offsets in the flat weight
/// vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affine {
    /// Offset of the scales.
    pub gamma: usize,
    /// Offset of the shifts.
    pub beta: usize,
}

/// One step of a term. `weight` and the like are offsets in the flat weight vector.
///
/// Spatial sizes: `output = (size - 1) / stride + 1`, unless a [`Map`] says otherwise. Strides are 1 or
/// 2, kernels odd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Primitive {
    /// `max(0, x)`.
    Relu,
    /// One filter a channel, padding `dilation * (kernel - 1) / 2`. A [`Primitive::Pointwise`] of
    /// stride 1 must follow.
    Depthwise {
        /// Side of the kernel.
        kernel: usize,
        /// Step between outputs.
        stride: usize,
        /// Step between taps.
        dilation: usize,
        /// Offset of `[channels, 1, kernel, kernel]`.
        weight: usize,
    },
    /// 1x1 convolution.
    Pointwise {
        /// Output channels.
        out: usize,
        /// Step between outputs.
        stride: usize,
        /// Offset of `[out, channels, 1, 1]`.
        weight: usize,
    },
    /// Convolution with padding `(kernel - 1) / 2`.
    Dense {
        /// Side of the kernel.
        kernel: usize,
        /// Step between outputs.
        stride: usize,
        /// Output channels.
        out: usize,
        /// Offset of `[out, channels, kernel, kernel]`.
        weight: usize,
    },
    /// Two 1x1 convolutions of stride 2 side by side: one reads the pixels at even rows and columns
    /// and gives the first `out / 2` channels, the other reads those at odd rows and columns.
    /// Height and width must be even.
    FactorizedReduce {
        /// Output channels of both.
        out: usize,
        /// Offset of `[out / 2, channels, 1, 1]`.
        even: usize,
        /// Offset of `[out - out / 2, channels, 1, 1]`.
        odd: usize,
    },
    /// Largest of a 3x3 window, padding 1. Among equals the first in scan order has the gradient.
    MaxPool {
        /// Step between outputs.
        stride: usize,
    },
    /// Mean of a 3x3 window without the padding.
    AvgPool {
        /// Step between outputs.
        stride: usize,
    },
    /// A primitive of the folder `maps`. Only a [`Primitive::BatchNorm`] may follow it.
    Map(Map),
    /// Candle tensor code, in the place of a convolution.
    Function {
        /// What [`GraphBuilder::function`] gave.
        function: FunctionId,
        /// Offset of its slice of the weights.
        weight: usize,
    },
    /// `(z - mean) / sqrt(variance + 1e-5)`, then `gamma * y + beta` if affine.
    BatchNorm {
        /// Trainable scale and shift.
        affine: Option<Affine>,
        /// Offset in the statistics vector: `mean[channels]`, then the unbiased
        /// `variance[channels]`.
        statistics: usize,
    },
}

/// The factor of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// No factor.
    One,
    /// `ops[index]` for all images.
    Shared(usize),
    /// `ops[start + image]`.
    PerImage(usize),
}

/// `weight * chain(concatenation of the inputs along the channels)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// Inputs, concatenated along the channels.
    pub input: Vec<StateId>,
    /// The steps, in order; empty: the identity.
    pub chain: Vec<Primitive>,
    /// The factor.
    pub weight: Weight,
}

/// What a network gives out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Export {
    /// Mean over the pixels: `[images, channels]`.
    Pooled {
        /// Concatenated along the channels.
        states: Vec<StateId>,
        /// Rectify before the mean.
        relu: bool,
    },
    /// The activation itself: `[images, channels, height, width]`.
    Map {
        /// Concatenated along the channels.
        states: Vec<StateId>,
        /// Rectify.
        relu: bool,
    },
    /// `x W^T + b` of a pooled export: `[images, out]`. A classifier inside the network keeps its
    /// weights' gradient in the one flat gradient.
    Linear {
        /// A [`Export::Pooled`] before this one.
        of: ExportId,
        /// Number of outputs.
        out: usize,
        /// Offset of `[out, channels]`.
        weight: usize,
        /// Offset of `[out]`.
        bias: usize,
    },
}

impl Export {
    /// The states it reads; none if it reads another export.
    pub(crate) fn states(&self) -> &[StateId] {
        match self {
            Self::Pooled { states, .. } | Self::Map { states, .. } => states,
            Self::Linear { .. } => &[],
        }
    }
    pub(crate) fn relu(&self) -> bool {
        matches!(self, Self::Pooled { relu: true, .. } | Self::Map { relu: true, .. })
    }
}

#[derive(Debug, Clone)]
pub(crate) struct State {
    pub shape: Shape,
    pub terms: Vec<(Term, Chain)>,
}

/// Collects states and exports; [`GraphBuilder::finish`] gives the [`Graph`].
///
/// ```
/// use tetlo_kernels::{Export, GraphBuilder, Primitive, Term, Weight};
///
/// # fn main() -> tetlo_kernels::Result<()> {
/// let mut b = GraphBuilder::new(3, 32, 32);
/// let images = b.input();
/// let conv = Primitive::Dense { kernel: 3, stride: 1, out: 16, weight: 0 };
/// let norm = Primitive::BatchNorm { affine: None, statistics: 0 };
/// let stem = b.state(vec![Term {
///     input: vec![images],
///     chain: vec![conv, norm],
///     weight: Weight::One,
/// }])?;
/// assert_eq!(b.shape(stem), (16, 32, 32));
/// b.export(Export::Pooled { states: vec![stem], relu: true });
/// let graph = b.finish()?;
/// assert_eq!((graph.weights(), graph.statistics()), (16 * 3 * 9, 32));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct GraphBuilder {
    states: Vec<State>,
    exports: Vec<Export>,
    functions: Vec<Arc<dyn TensorFunction>>,
}

/// A checked network, ready to be compiled.
#[derive(Debug, Clone)]
pub struct Graph {
    pub(crate) states: Vec<State>,
    pub(crate) exports: Vec<Export>,
    pub(crate) functions: Vec<Arc<dyn TensorFunction>>,
    weights: usize,
    statistics: usize,
}

/// The same states and exports, to add more.
impl From<&Graph> for GraphBuilder {
    fn from(graph: &Graph) -> Self {
        let Graph { states, exports, functions, .. } = graph.clone();
        Self { states, exports, functions }
    }
}

impl GraphBuilder {
    /// A graph over images of this shape.
    pub fn new(channels: usize, height: usize, width: usize) -> Self {
        let images = State { shape: (channels, height, width), terms: Vec::new() };
        Self { states: vec![images], exports: Vec::new(), functions: Vec::new() }
    }

    /// The images.
    pub fn input(&self) -> StateId {
        StateId(0)
    }

    /// Makes tensor code known, so that chains can name it.
    pub fn function(&mut self, code: Arc<dyn TensorFunction>) -> FunctionId {
        self.functions.push(code);
        FunctionId(self.functions.len() - 1)
    }

    /// Adds the sum of `terms`. There must be at least one, and all must have one shape.
    pub fn state(&mut self, terms: Vec<Term>) -> Result<StateId> {
        let Some(first) = terms.first() else {
            return Err(Error::Empty { what: "a state needs a term or an explicit shape" });
        };
        let (shape, _) = self.check(first)?;
        self.state_with_shape(shape.0, shape.1, shape.2, terms)
    }

    /// Adds the sum of `terms`, which must have this shape; without terms it is zero.
    pub fn state_with_shape(
        &mut self,
        channels: usize,
        height: usize,
        width: usize,
        terms: Vec<Term>,
    ) -> Result<StateId> {
        let expected = (channels, height, width);
        if channels == 0 || height == 0 || width == 0 {
            return Err(Error::ZeroSize);
        }
        let mut parsed = Vec::with_capacity(terms.len());
        for (index, term) in terms.into_iter().enumerate() {
            let (shape, chain) = self.check(&term)?;
            if shape != expected {
                return Err(Error::TermShape { term: index, shape, expected });
            }
            parsed.push((term, chain));
        }
        self.states.push(State { shape: expected, terms: parsed });
        Ok(StateId(self.states.len() - 1))
    }

    /// Adds a state of channels of other states: its channel k is channel `channels[k]` of the
    /// concatenation of `inputs`. No channel may be taken twice.
    pub fn gather(&mut self, inputs: &[StateId], channels: &[usize]) -> Result<StateId> {
        let shapes = self.shapes(inputs)?;
        let counts: Vec<usize> = shapes.iter().map(|s| s.0).collect();
        let gather = Gather::new(&counts, channels)
            .map_err(|reason| Error::Chain { chain: "Gather".into(), reason })?;
        let chain = vec![Primitive::Map(Map::Gather(gather))];
        self.state(vec![Term { input: inputs.to_vec(), chain, weight: Weight::One }])
    }

    /// Shape of a state of this graph.
    ///
    /// # Panics
    /// If `id` belongs to a larger graph.
    pub fn shape(&self, id: StateId) -> Shape {
        self.states[id.0].shape
    }

    /// Adds an output. It is checked by [`GraphBuilder::finish`].
    pub fn export(&mut self, export: Export) -> ExportId {
        self.exports.push(export);
        ExportId(self.exports.len() - 1)
    }

    /// Checks the exports and the sizes.
    pub fn finish(self) -> Result<Graph> {
        let (c, h, w) = self.states[0].shape;
        if c == 0 || h == 0 || w == 0 {
            return Err(Error::ZeroSize);
        }
        if self.exports.is_empty() {
            return Err(Error::Empty { what: "a graph needs an export" });
        }
        let (mut weights, mut statistics) = (0, 0);
        for (index, export) in self.exports.iter().enumerate() {
            if let Export::Linear { of, out, weight, bias } = export {
                let channels = self.linear_input(index, *of)?;
                if *out == 0 {
                    return Err(Error::ZeroSize);
                }
                weights = weights.max(weight + out * channels).max(bias + out);
            } else {
                self.concatenated(export.states(), "an export needs a state")?;
            }
        }
        for (_, chain) in self.states.iter().flat_map(|s| &s.terms) {
            weights = weights.max(chain.weights_end());
            statistics = statistics.max(chain.statistics_end());
        }
        let Self { states, exports, functions } = self;
        Ok(Graph { states, exports, functions, weights, statistics })
    }

    /// Channels of the pooled export that the linear export `index` reads.
    fn linear_input(&self, index: usize, of: ExportId) -> Result<usize> {
        match self.exports[..index].get(of.0) {
            Some(Export::Pooled { states, .. }) => {
                Ok(self.concatenated(states, "an export needs a state")?.0)
            }
            _ => Err(Error::LinearInput { export: index, of: of.0 }),
        }
    }

    fn shapes(&self, states: &[StateId]) -> Result<Vec<Shape>> {
        let shape = |id: &StateId| {
            let state = self.states.get(id.0).ok_or(Error::UnknownState { state: id.0 })?;
            Ok(state.shape)
        };
        states.iter().map(shape).collect()
    }

    fn concatenated(&self, states: &[StateId], empty: &'static str) -> Result<Shape> {
        let shapes = self.shapes(states)?;
        let Some(&first) = shapes.first() else { return Err(Error::Empty { what: empty }) };
        if let Some(&other) = shapes.iter().find(|s| (s.1, s.2) != (first.1, first.2)) {
            return Err(Error::InputSize { first, other });
        }
        Ok((shapes.iter().map(|s| s.0).sum(), first.1, first.2))
    }

    fn check(&self, term: &Term) -> Result<(Shape, Chain)> {
        let input = self.concatenated(&term.input, "a term needs an input")?;
        let chain = Chain::parse(&term.chain, input, &self.shapes(&term.input)?, &self.functions)?;
        Ok((chain.output(input), chain))
    }
}

impl Graph {
    /// Length that the weight vector must have at least: the end of the last parameter.
    pub fn weights(&self) -> usize {
        self.weights
    }

    /// Multiply-adds of an image in the convolutions of a forward pass.
    pub fn multiply_adds(&self) -> u64 {
        let terms = self.states.iter().flat_map(|s| &s.terms);
        terms.map(|(_, chain)| chain.multiply_adds() as u64).sum()
    }

    /// Length of the statistics vector.
    pub fn statistics(&self) -> usize {
        self.statistics
    }

    /// Length that the vector of operation weights must have at least for this many images.
    pub fn ops(&self, images: usize) -> usize {
        let terms = self.states.iter().flat_map(|s| &s.terms);
        terms.map(|(term, _)| term.weight.end(images)).max().unwrap_or(0)
    }

    /// Shape of the images.
    pub fn input_shape(&self) -> Shape {
        self.states[0].shape
    }

    /// Shape of a state.
    ///
    /// # Panics
    /// If `id` belongs to a larger graph.
    pub fn shape(&self, id: StateId) -> Shape {
        self.states[id.0].shape
    }

    /// The exports, in order.
    pub fn exports(&self) -> &[Export] {
        &self.exports
    }

    /// Shape of an export for this many images.
    pub fn export_shape(&self, export: &Export, images: usize) -> Vec<usize> {
        let channels = export.states().iter().map(|s| self.shape(*s).0).sum();
        match export {
            Export::Pooled { .. } => vec![images, channels],
            Export::Map { states, .. } => {
                let (_, h, w) = self.shape(states[0]);
                vec![images, channels, h, w]
            }
            Export::Linear { out, .. } => vec![images, *out],
        }
    }

    /// Floats of all exports for this many images.
    pub(crate) fn export_floats(&self, images: usize) -> usize {
        self.exports.iter().map(|e| self.export_shape(e, images).iter().product::<usize>()).sum()
    }

    /// The tensor functions that its chains may name.
    pub fn functions(&self) -> impl Iterator<Item = &dyn TensorFunction> {
        self.functions.iter().map(|f| &**f)
    }

    /// States with terms, as (position, state).
    pub(crate) fn computed(&self) -> impl DoubleEndedIterator<Item = (usize, &State)> {
        self.states.iter().enumerate().skip(1)
    }
}

impl Weight {
    fn end(self, images: usize) -> usize {
        match self {
            Self::One => 0,
            Self::Shared(index) => index + 1,
            Self::PerImage(start) => start + images,
        }
    }
    pub(crate) fn is_one(self) -> bool {
        self == Self::One
    }
}
