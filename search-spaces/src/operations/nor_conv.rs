//! Plain convolutions.

use tetlo_core::Result;
use tetlo_core::kinds::Operation;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{Recipe, Site, Step};

/// The `ReLUConvBN` of NAS-Bench-201: relu – convolution – batch norm.
///
/// The convolution has no bias. Later versions of the authors' code give it one where the batch norm
/// has no shift (in the supernet); the batch norm takes it out again, so that it changes nothing but
/// running means.
#[derive(Debug)]
struct NorConv<const KERNEL: usize>;

impl<const KERNEL: usize> FromOptions for NorConv<KERNEL> {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl<const KERNEL: usize> Operation for NorConv<KERNEL> {
    fn recipe(&self, site: Site) -> Recipe {
        let Site { channels: out, stride, affine } = site;
        let name = || "op.1".into();
        Recipe::Chain(vec![
            Step::Relu,
            if KERNEL == 1 {
                Step::Pointwise { name: name(), out, stride }
            } else {
                Step::Dense { name: name(), out, kernel: KERNEL, stride }
            },
            Step::BatchNorm { name: "op.2".into(), affine },
        ])
    }
}

tetlo_core::register_operation!("nor_conv_1x1", NorConv<1>, "1 × 1 convolution");
tetlo_core::register_operation!("nor_conv_3x3", NorConv<3>, "3 × 3 convolution");
