//! PC-DARTS's partial channel connections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::SupernetTransform;
use tetlo_core::registry::FromOptions;
use tetlo_core::space::{Mixing, SpaceSpec};
use tetlo_core::{Error, Result};

/// Options of `partial-channels`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct PartialChannelsOptions {
    /// K: an edge's operations see one channel in K. It must divide the space's `channels`; 1: all of
    /// them, as in DARTS.
    #[schemars(range(min = 1))]
    pub factor: usize,
    /// Weigh the edges into a node by the softmax of parameters β of their own.
    pub edge_normalization: bool,
}

impl Default for PartialChannelsOptions {
    fn default() -> Self {
        Self { factor: 4, edge_normalization: true }
    }
}

/// Partial channel connections (Xu et al., ICLR 2020, §3.2 and §3.3): on each edge the first 1/K of the
/// channels go through the mixed operations, the others past them (through a 2 × 2 maximum at stride
/// 2); both are joined and shuffled in K groups. With edge normalisation node j is
/// `Σ_i softmax_i(β_ij) · edge_ij`, so that the edges left out of the sampling do not decide which
/// edge is kept.
///
/// Adds `betas_<cell>` (edges) to the architecture parameters; derived networks do not change.
#[derive(Debug)]
pub struct PartialChannels {
    mixing: Mixing,
}

impl FromOptions for PartialChannels {
    type Options = PartialChannelsOptions;

    fn from_options(options: PartialChannelsOptions) -> Result<Self> {
        let PartialChannelsOptions { factor, edge_normalization } = options;
        if factor == 0 {
            return Err(Error::config("`factor` must be at least 1"));
        }
        Ok(Self { mixing: Mixing { factor, edge_normalization } })
    }
}

impl SupernetTransform for PartialChannels {
    fn transform(&self, space: SpaceSpec) -> Result<SpaceSpec> {
        if space.mixing != Mixing::default() {
            return Err(Error::config("a method takes one transform `partial-channels`"));
        }
        let (factor, channels) = (self.mixing.factor, space.skeleton.channels());
        if !channels.is_multiple_of(factor) {
            return Err(Error::config_hint(
                format!(
                    "`factor = {factor}` does not divide the {channels} channels of the space `{}`",
                    space.name
                ),
                "set the space's option `channels` to a multiple of `factor`",
            ));
        }
        SpaceSpec { mixing: self.mixing, ..space }.validated()
    }
}

tetlo_core::register_supernet_transform!(
    "partial-channels",
    PartialChannels,
    "operations see one channel in K, edges have weights of their own (PC-DARTS)"
);

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::space::{CellSpec, Grammar, Skeleton};

    fn transformed(factor: usize, edge_normalization: bool) -> Result<SpaceSpec> {
        let cell = |name| CellSpec::complete(name, 2, &["none", "skip_connect", "sep_conv_3x3"]);
        let space = SpaceSpec {
            name: "test".into(),
            cells: vec![cell("normal"), cell("reduce")],
            skeleton: Skeleton::TwoInputs { channels: 12, cells: 3, stem_multiplier: 3 },
            grammar: Grammar::TwoInputsANode,
            operation_options: std::collections::BTreeMap::new(),
            mixing: Mixing::default(),
        };
        let options = PartialChannelsOptions { factor, edge_normalization };
        PartialChannels::from_options(options)?.transform(space)
    }

    #[test]
    fn betas_stand_after_the_alphas() {
        let names = |space: SpaceSpec| {
            let layout = space.architecture();
            let name = |e: &tetlo_core::layout::Entry| (e.name.clone(), e.shape.clone());
            layout.entries().iter().map(name).collect::<Vec<_>>()
        };
        let both = names(transformed(4, true).unwrap());
        let expected = [
            ("alphas_normal", vec![5, 3]),
            ("alphas_reduce", vec![5, 3]),
            ("betas_normal", vec![5]),
            ("betas_reduce", vec![5]),
        ];
        assert_eq!(both, expected.map(|(n, s)| (n.to_owned(), s)));
        assert_eq!(names(transformed(4, false).unwrap()), both[..2]);
    }

    #[test]
    fn a_factor_that_does_not_fit_is_refused() {
        for (factor, part) in [(5, "12 channels"), (0, "at least 1")] {
            let error = transformed(factor, true).unwrap_err().to_string();
            assert!(error.contains("`factor") && error.contains(part), "{error}");
        }
    }
}
