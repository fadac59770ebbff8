//! Residual networks for small images (He et al., CVPR 2016).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tetlo_core::kinds::{Auxiliary, AuxiliarySite};
use tetlo_core::network::Network;
use tetlo_core::registry::FromOptions;
use tetlo_core::space::{KernelNetwork, NetworkBuilder, Recipe, Step};
use tetlo_core::{Error, Result};
use tetlo_kernels::{StateId, Weight};

/// Options of `resnet`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct ResNetOptions {
    /// 8 or 20 (three stages of 1 or 3 blocks, 16 channels) or 18 (four stages of 2 blocks, 64).
    pub depth: usize,
    /// Channels of the first stage; 0: the depth's usual number.
    pub width: usize,
}

impl Default for ResNetOptions {
    fn default() -> Self {
        Self { depth: 18, width: 0 }
    }
}

/// A residual network with basic blocks, a 3 × 3 stem without pooling, and 1 × 1 projections where
/// the shape changes. Parameter names are torchvision's (`layer1.0.conv1.weight`).
#[derive(Debug)]
struct ResNet {
    width: usize,
    /// Blocks a stage.
    blocks: usize,
    stages: usize,
}

impl FromOptions for ResNet {
    type Options = ResNetOptions;

    fn from_options(options: ResNetOptions) -> Result<Self> {
        let (stages, blocks, width) = match options.depth {
            8 => (3, 1, 16),
            20 => (3, 3, 16),
            18 => (4, 2, 64),
            other => {
                return Err(Error::config(format!("`depth` must be 8, 18 or 20, got {other}")));
            }
        };
        Ok(Self { width: if options.width == 0 { width } else { options.width }, blocks, stages })
    }
}

fn conv(name: &str, out: usize, kernel: usize, stride: usize) -> Step {
    if kernel == 1 {
        Step::Pointwise { name: name.into(), out, stride }
    } else {
        Step::Dense { name: name.into(), out, kernel, stride }
    }
}

fn norm(name: &str) -> Step {
    Step::BatchNorm { name: name.into(), affine: true }
}

/// One basic block. States hold sums before their rectifier; readers rectify.
fn block(
    builder: &mut NetworkBuilder,
    name: &str,
    input: StateId,
    out: usize,
    stride: usize,
) -> Result<StateId> {
    let body = Recipe::Chain(vec![
        Step::Relu,
        conv("conv1", out, 3, stride),
        norm("bn1"),
        Step::Relu,
        conv("conv2", out, 3, 1),
        norm("bn2"),
    ]);
    let same = stride == 1 && builder.graph.shape(input).0 == out;
    let shortcut = if same {
        vec![Step::Relu]
    } else {
        vec![Step::Relu, conv("downsample.0", out, 1, stride), norm("downsample.1")]
    };
    let mut terms = Vec::with_capacity(2);
    for recipe in [body, Recipe::Chain(shortcut)] {
        terms.extend(builder.term(name, &recipe, &[input], Weight::One)?);
    }
    Ok(builder.graph.state(terms)?)
}

impl Auxiliary for ResNet {
    fn network(&self, site: &AuxiliarySite<'_>) -> Result<Arc<dyn Network>> {
        let image = site.image;
        let mut builder = NetworkBuilder::new((image.channels, image.height, image.width));
        let input = builder.graph.input();
        let width = self.width.min(site.most_channels);
        let stem = vec![conv("conv1", width, 3, 1), norm("bn1")];
        let mut state = builder.chain("", stem, &[input])?;
        let mut stages = Vec::with_capacity(self.stages);
        for stage in 0..self.stages {
            let out = width << stage;
            for i in 0..self.blocks {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let name = format!("layer{}.{i}", stage + 1);
                state = block(&mut builder, &name, state, out, stride)?;
            }
            stages.push(state);
        }
        let network = KernelNetwork::classifier(builder, state, true, site.classes, "fc")?;
        let network = network.with_resolutions(&stages);
        Ok(Arc::new(if site.maps { network.with_maps()? } else { network }))
    }
}

tetlo_core::register_auxiliary!("resnet", ResNet, "residual network of depth 8, 18 or 20");

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::network::ImageShape;
    use tetlo_core::space::{Grammar, Mixing, Skeleton, SpaceSpec};

    fn parameters(depth: usize) -> Result<usize> {
        let space = SpaceSpec {
            name: "none".into(),
            cells: vec![],
            skeleton: Skeleton::TwoInputs { channels: 1, cells: 1, stem_multiplier: 1 },
            grammar: Grammar::TwoInputsANode,
            mixing: Mixing::default(),
            operation_options: std::collections::BTreeMap::new(),
        };
        let image = ImageShape { channels: 3, height: 32, width: 32 };
        let net = ResNet::from_options(ResNetOptions { depth, width: 0 })?;
        Ok(net.network(&AuxiliarySite::new(image, 10, &space))?.weights().len())
    }

    #[test]
    fn parameter_counts() -> Result<()> {
        // torchvision's resnet18 with a 3 × 3 stem and 10 classes: 11,173,962.
        assert_eq!(parameters(18)?, 11_173_962);
        // Stem 432 + 32; stage 1: 2·2304 + 64; stage 2: 4608 + 9216 + 128 + 512 + 64;
        // stage 3: 18432 + 36864 + 256 + 2048 + 128; classifier 650.
        assert_eq!(parameters(8)?, 464 + 4672 + 14_528 + 57_728 + 650);
        // ResNet-20 has 269,722 with parameter-free shortcuts; two projections add 2,752.
        assert_eq!(parameters(20)?, 269_722 + 512 + 64 + 2048 + 128);
        Ok(())
    }

    #[test]
    fn other_depths_are_refused() {
        let error = ResNet::from_options(ResNetOptions { depth: 9, width: 0 }).unwrap_err();
        assert_eq!(error.to_string(), "`depth` must be 8, 18 or 20, got 9");
    }
}
