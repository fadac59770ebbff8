//! The operation `@PLUGIN@`, and with `src/main.rs` a tetlo that knows it.

use tetlo_core::Result;
use tetlo_core::kinds::Operation;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{Recipe, Site, Step};

/// A depthwise-separable 3 × 3 convolution: relu, depthwise, pointwise, batch normalisation.
#[derive(Debug)]
pub struct MyPlugin;

impl FromOptions for MyPlugin {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Operation for MyPlugin {
    /// The operation as a chain of primitives, which the kernels fuse. What they lack is candle tensor
    /// code, a `Step::Tensor` anywhere in the chain.
    fn recipe(&self, site: Site) -> Recipe {
        let Site {
            channels,
            stride,
            affine,
        } = site;
        Recipe::Chain(vec![
            Step::Relu,
            Step::Depthwise {
                name: "op.1".into(),
                kernel: 3,
                stride,
                dilation: 1,
            },
            Step::Pointwise {
                name: "op.2".into(),
                out: channels,
                stride: 1,
            },
            Step::BatchNorm {
                name: "op.3".into(),
                affine,
            },
        ])
    }
}

tetlo_core::register_operation!(
    "@PLUGIN@",
    MyPlugin,
    "depthwise-separable 3 × 3 convolution"
);
