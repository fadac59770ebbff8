//! How a supernet mixes the operations of its edges: over all channels or some of them, with or
//! without weights of the edges (PC-DARTS, Xu et al., ICLR 2020).

use super::lower::NetworkBuilder;
use super::spec::{CellSpec, SpaceSpec};
use crate::kinds::Relaxation;
use crate::layout::Layout;
use crate::rng::Stream;
use crate::{Error, Result};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tetlo_kernels::{Map, MaxPool2x2, Primitive, StateId, Term, Weight};

/// How a supernet mixes. The default is that of DARTS: `Σ_edges Σ_o w_eo · o(x_e)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Mixing {
    /// K: the first 1/K of an edge's channels go through its operations, the others past them (through
    /// a 2 × 2 maximum on edges of stride 2); both are joined, and their channels shuffled in K
    /// groups.
    pub factor: usize,
    /// Edges have weights of their own: the softmax of β over the edges into a node.
    pub edge_normalization: bool,
}

impl Default for Mixing {
    fn default() -> Self {
        Self { factor: 1, edge_normalization: false }
    }
}

impl Mixing {
    /// Checks that the factor fits the channels.
    pub(super) fn check(self, channels: usize) -> std::result::Result<(), String> {
        if self.factor == 0 || !channels.is_multiple_of(self.factor) {
            return Err(format!(
                "`channels` must be a multiple of the partial-channel factor, but {channels} is not \
                 one of {}",
                self.factor
            ));
        }
        Ok(())
    }
}

/// Which operation weight is where in the flat vector: of each kind of cell, edges × operations; then,
/// if other channels pass by weighted edges, the weights of the edges of each kind of cell.
#[derive(Debug)]
pub(super) struct Places {
    operations: BTreeMap<String, (usize, usize)>,
    edges: BTreeMap<String, usize>,
}

impl Places {
    pub(super) fn new(space: &SpaceSpec) -> Self {
        let (mut at, mut operations, mut edges) = (0, BTreeMap::new(), BTreeMap::new());
        for cell in &space.cells {
            operations.insert(cell.name.clone(), (at, cell.columns()));
            at += cell.edges.len() * cell.columns();
        }
        if space.mixing.factor > 1 && space.mixing.edge_normalization {
            for cell in &space.cells {
                edges.insert(cell.name.clone(), at);
                at += cell.edges.len();
            }
        }
        Self { operations, edges }
    }

    /// Of an operation of an edge.
    pub(super) fn operation(&self, cell: &CellSpec, edge: usize, column: usize) -> Weight {
        let (start, columns) = self.operations[&cell.name];
        Weight::Shared(start + edge * columns + column)
    }

    /// Of the channels that pass by an edge's operations.
    pub(super) fn edge(&self, cell: &CellSpec, edge: usize) -> Weight {
        self.edges.get(&cell.name).map_or(Weight::One, |start| Weight::Shared(start + edge))
    }
}

/// The states of a cell under construction, as its mixed edges read them.
#[derive(Debug)]
pub(super) struct Mixed {
    factor: usize,
    channels: usize,
    /// The part of each state that goes through the operations, once it is needed.
    active: Vec<Option<StateId>>,
}

impl Mixed {
    pub(super) fn new(mixing: Mixing, channels: usize) -> Self {
        Self { factor: mixing.factor, channels, active: Vec::new() }
    }

    /// Channels that go through the operations.
    pub(super) fn channels(&self) -> usize {
        self.channels / self.factor
    }

    /// What the operations on an edge out of `states[from]` read.
    pub(super) fn input(
        &mut self,
        builder: &mut NetworkBuilder,
        states: &[StateId],
        from: usize,
    ) -> Result<StateId> {
        if self.factor == 1 {
            return Ok(states[from]);
        }
        self.active.resize(states.len().max(self.active.len()), None);
        if let Some(known) = self.active[from] {
            return Ok(known);
        }
        let first: Vec<usize> = (0..self.channels()).collect();
        let part = builder.graph.gather(&[states[from]], &first)?;
        self.active[from] = Some(part);
        Ok(part)
    }

    /// The node: `mixed`, the weighted sum of the operations, joined with the channels that pass by
    /// the edges (each with source, stride and weight), and shuffled.
    ///
    /// The authors join and shuffle every edge; the sum of shuffles is the shuffle of the sum.
    pub(super) fn node(
        &self,
        builder: &mut NetworkBuilder,
        mixed: StateId,
        edges: &[(StateId, usize, Weight)],
    ) -> Result<StateId> {
        if self.factor == 1 {
            return Ok(mixed);
        }
        let past = |(source, stride, weight): &(StateId, usize, Weight)| {
            let pool = Primitive::Map(Map::MaxPool2x2(MaxPool2x2));
            let chain = if *stride == 2 { vec![pool] } else { vec![] };
            Term { input: vec![*source], chain, weight: *weight }
        };
        let (_, height, width) = builder.graph.shape(mixed);
        let terms = edges.iter().map(past).collect();
        let past = builder.graph.state_with_shape(self.channels, height, width, terms);
        let past = past.map_err(|e| {
            Error::config_hint(
                format!("partial channels need even sides at reductions: {e}"),
                "use images whose sides are a multiple of 4",
            )
        })?;
        // In the concatenation of both, the bypass's own first channels are left out.
        let (active, groups) = (self.channels(), self.factor);
        let joined = |k: usize| if k < active { k } else { k + active };
        let shuffled = (0..self.channels).map(|k| joined(k % groups * active + k / groups));
        Ok(builder.graph.gather(&[mixed, past], &shuffled.collect::<Vec<_>>())?)
    }
}

/// From architecture parameters to the operation weights of a pass.
#[derive(Debug)]
pub(super) struct OperationWeights {
    relaxation: Arc<dyn Relaxation>,
    cells: Vec<CellWeights>,
    /// Append the weights of the edges?
    append: bool,
}

#[derive(Debug)]
struct CellWeights {
    alphas: String,
    betas: Option<Betas>,
}

/// The node that each edge leads to.
#[derive(Debug)]
struct Betas {
    name: String,
    to: Vec<usize>,
}

impl OperationWeights {
    pub(super) fn new(space: &SpaceSpec, relaxation: Arc<dyn Relaxation>) -> Self {
        let normalised = space.mixing.edge_normalization;
        let weights = |cell: &CellSpec| CellWeights {
            alphas: cell.alphas(),
            betas: normalised.then(|| Betas {
                name: cell.betas(),
                to: cell.edges.iter().map(|e| e.to).collect(),
            }),
        };
        Self {
            relaxation,
            cells: space.cells.iter().map(weights).collect(),
            append: normalised && space.mixing.factor > 1,
        }
    }

    /// One flat tensor, in the order of [`Places`]; differentiable.
    pub(super) fn flat(
        &self,
        layout: &Layout,
        architecture: &Tensor,
        draws: &mut Stream,
    ) -> Result<Tensor> {
        let (mut parts, mut of_edges) = (Vec::new(), Vec::new());
        for cell in &self.cells {
            let alpha = layout.view(architecture, &cell.alphas)?;
            let mut weights = self.relaxation.weights(&alpha, draws)?;
            if let Some(betas) = &cell.betas {
                let edges = betas.weights(&layout.view(architecture, &betas.name)?)?;
                weights = weights.broadcast_mul(&edges.unsqueeze(1)?)?;
                of_edges.push(edges);
            }
            parts.push(weights.flatten_all()?);
        }
        if self.append {
            parts.append(&mut of_edges);
        }
        Ok(Tensor::cat(&parts, 0)?)
    }
}

impl Betas {
    /// Softmax of β over the edges into each node.
    fn weights(&self, beta: &Tensor) -> Result<Tensor> {
        let values: Vec<f64> = beta.to_dtype(candle_core::DType::F64)?.to_vec1()?;
        let n = self.to.len();
        let same = |a: usize, b: usize| self.to[a] == self.to[b];
        let largest =
            |a| (0..n).filter(|b| same(a, *b)).map(|b| values[b]).fold(f64::MIN, f64::max);
        let tensor = |values: Vec<f64>, shape: &[usize]| {
            Tensor::from_vec(values, shape, beta.device())?.to_dtype(beta.dtype())
        };
        let shift = tensor((0..n).map(largest).collect(), &[n])?;
        let mates = (0..n * n).map(|i| f64::from(u8::from(same(i / n, i % n)))).collect();
        let exponentials = (beta - shift)?.exp()?.unsqueeze(1)?;
        let sums = tensor(mates, &[n, n])?.matmul(&exponentials)?;
        Ok((exponentials / sums)?.squeeze(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn edge_weights_and_gradient_by_hand() {
        // Edges 0 and 2 lead to one node, 1 to another; rows need not be in the order of the nodes.
        let betas = Betas { name: "betas_normal".into(), to: vec![2, 3, 2] };
        let beta = Var::new(&[1000.0 + 3f64.ln(), 5.0, 1000.0], &Device::Cpu).unwrap();
        let weights = betas.weights(&beta).unwrap();
        let close = |got: Vec<f64>, want: [f64; 3]| {
            got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12)
        };
        assert!(close(weights.to_vec1().unwrap(), [0.75, 1.0, 0.25]));
        let first = weights.narrow(0, 0, 1).unwrap().sum_all().unwrap();
        let gradient = first.backward().unwrap().get(&beta).unwrap().to_vec1().unwrap();
        assert!(close(gradient, [0.1875, 0.0, -0.1875]), "w (1 - w) and - w w'");
    }

    #[test]
    fn the_factor_must_divide_the_channels() {
        let mixing = |factor| Mixing { factor, edge_normalization: true };
        assert!(mixing(4).check(16).is_ok());
        for (factor, channels) in [(4, 10), (0, 16)] {
            let error = mixing(factor).check(channels).unwrap_err();
            assert!(error.contains("`channels`") && error.contains(&factor.to_string()), "{error}");
        }
    }
}
