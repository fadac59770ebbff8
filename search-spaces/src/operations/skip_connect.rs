//! Skip connection.

use tetlo_core::Result;
use tetlo_core::kinds::Operation;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{Recipe, Site, Step};

/// The identity at stride 1, the authors' `FactorizedReduce` at stride 2.
#[derive(Debug)]
struct SkipConnect;

impl FromOptions for SkipConnect {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Operation for SkipConnect {
    fn recipe(&self, site: Site) -> Recipe {
        if site.stride == 1 {
            return Recipe::Chain(vec![]);
        }
        Recipe::Chain(vec![
            Step::Relu,
            Step::FactorizedReduce {
                even: "conv_1".into(),
                odd: "conv_2".into(),
                out: site.channels,
            },
            Step::BatchNorm { name: "bn".into(), affine: site.affine },
        ])
    }
}

tetlo_core::register_operation!(
    "skip_connect",
    SkipConnect,
    "identity; a factorised reduction at stride 2"
);
