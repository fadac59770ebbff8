//! Dilated separable convolutions.

use tetlo_core::Result;
use tetlo_core::kinds::Operation;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{Recipe, Site, Step};

/// The authors' `DilConv`: relu – depthwise of dilation 2 – pointwise – batch norm, once.
#[derive(Debug)]
struct DilConv<const KERNEL: usize>;

impl<const KERNEL: usize> FromOptions for DilConv<KERNEL> {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl<const KERNEL: usize> Operation for DilConv<KERNEL> {
    fn recipe(&self, site: Site) -> Recipe {
        let Site { channels, stride, affine } = site;
        Recipe::Chain(vec![
            Step::Relu,
            Step::Depthwise { name: "op.1".into(), kernel: KERNEL, stride, dilation: 2 },
            Step::Pointwise { name: "op.2".into(), out: channels, stride: 1 },
            Step::BatchNorm { name: "op.3".into(), affine },
        ])
    }
}

tetlo_core::register_operation!("dil_conv_3x3", DilConv<3>, "3 × 3 convolution of dilation 2");
tetlo_core::register_operation!("dil_conv_5x5", DilConv<5>, "5 × 5 convolution of dilation 2");
