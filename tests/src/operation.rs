//! An operation with a step of candle tensor code, and a space that offers it, both defined outside
//! the built-in plugins.

use candle_core::{D, Tensor};
use candle_nn::ops::sigmoid;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::{Operation, SearchSpace};
use tetlo_core::layout::Init;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{
    CellSpec, Grammar, Mixing, Recipe, Site, Skeleton, SpaceSpec, Step, TensorCode, TensorPass,
    TensorStep,
};
use tetlo_core::{Error, Result};

/// A dense 3 × 3 convolution whose channels are then gated by the mean of their image: the
/// squeeze-and-excitation block (Hu, Shen and Sun, CVPR 2018, eq. 2–4) with reduction 4.
#[derive(Debug)]
struct SqueezeExcitation;

impl FromOptions for SqueezeExcitation {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Operation for SqueezeExcitation {
    fn recipe(&self, site: Site) -> Recipe {
        let Site { channels, stride, affine } = site;
        let narrow = channels.div_ceil(4);
        let gate = TensorStep::new(Gate)
            .parameter("se.1.weight", &[narrow, channels], Init::fan_in(channels))
            .parameter("se.1.bias", &[narrow], Init::fan_in(channels))
            .parameter("se.3.weight", &[channels, narrow], Init::fan_in(narrow))
            .parameter("se.3.bias", &[channels], Init::fan_in(narrow));
        Recipe::Chain(vec![
            Step::Relu,
            Step::Dense { name: "op.1".into(), out: channels, kernel: 3, stride },
            Step::BatchNorm { name: "op.2".into(), affine },
            Step::Tensor(gate),
        ])
    }
}

/// x · σ(W₂ · silu(W₁ · mean(x) + b₁) + b₂), the mean over the pixels; silu for the paper's relu.
#[derive(Debug)]
struct Gate;

impl TensorCode for Gate {
    fn forward(&self, x: &Tensor, parameters: &[Tensor], _: &TensorPass) -> Result<Tensor> {
        let (n, c, _, _) = x.dims4()?;
        let mut gate = x.flatten_from(2)?.mean(D::Minus1)?;
        for (layer, w) in parameters.chunks_exact(2).enumerate() {
            gate = gate.matmul(&w[0].t()?)?.broadcast_add(&w[1])?;
            gate = if layer == 0 { gate.silu()? } else { sigmoid(&gate)? };
        }
        Ok(x.broadcast_mul(&gate.reshape((n, c, 1, 1))?)?)
    }
}

tetlo_core::register_operation!(
    "se_conv_3x3",
    SqueezeExcitation,
    "3 × 3 convolution with squeeze and excitation"
);

/// Options of the space `gated`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct GatedOptions {
    /// Initial channels.
    #[schemars(range(min = 1))]
    channels: usize,
    /// Cells.
    #[schemars(range(min = 1))]
    cells: usize,
}

impl Default for GatedOptions {
    fn default() -> Self {
        Self { channels: 4, cells: 3 }
    }
}

/// Two nodes a cell, four operations an edge.
#[derive(Debug)]
struct Gated(GatedOptions);

impl FromOptions for Gated {
    type Options = GatedOptions;

    fn from_options(options: GatedOptions) -> Result<Self> {
        for (key, value) in [("channels", options.channels), ("cells", options.cells)] {
            if value == 0 {
                return Err(Error::config(format!("`{key}` must be at least 1")));
            }
        }
        Ok(Self(options))
    }
}

impl SearchSpace for Gated {
    fn spec(&self) -> SpaceSpec {
        let operations = ["none", "skip_connect", "sep_conv_3x3", "se_conv_3x3"];
        let GatedOptions { channels, cells } = self.0;
        SpaceSpec {
            mixing: Mixing::default(),
            name: "gated".into(),
            cells: ["normal", "reduce"].map(|c| CellSpec::complete(c, 2, &operations)).to_vec(),
            skeleton: Skeleton::TwoInputs { channels, cells, stem_multiplier: 3 },
            grammar: Grammar::TwoInputsANode,
            operation_options: std::collections::BTreeMap::new(),
        }
    }
}

tetlo_core::register_search_space!("gated", Gated, "two nodes, with squeeze and excitation");
