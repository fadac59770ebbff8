//! Separable convolutions.

use tetlo_core::Result;
use tetlo_core::kinds::Operation;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{Recipe, Site, Step};

/// The authors' `SepConv`: (relu – depthwise – pointwise – batch norm) twice, stride on the first.
#[derive(Debug)]
struct SepConv<const KERNEL: usize>;

impl<const KERNEL: usize> FromOptions for SepConv<KERNEL> {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl<const KERNEL: usize> Operation for SepConv<KERNEL> {
    fn recipe(&self, site: Site) -> Recipe {
        // Places in the authors' `nn.Sequential`, whose activations are 0 and 4.
        let half = |first: usize, stride: usize| {
            let name = |i: usize| format!("op.{}", first + i);
            [
                Step::Relu,
                Step::Depthwise { name: name(1), kernel: KERNEL, stride, dilation: 1 },
                Step::Pointwise { name: name(2), out: site.channels, stride: 1 },
                Step::BatchNorm { name: name(3), affine: site.affine },
            ]
        };
        Recipe::Chain([half(0, site.stride), half(4, 1)].concat())
    }
}

tetlo_core::register_operation!("sep_conv_3x3", SepConv<3>, "3 × 3 separable convolution, twice");
tetlo_core::register_operation!("sep_conv_5x5", SepConv<5>, "5 × 5 separable convolution, twice");
