//! 3 × 3 pools.

use tetlo_core::Result;
use tetlo_core::kinds::Operation;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::space::{Recipe, Site, Step};

/// `MaxPool2d(3, padding=1)`.
#[derive(Debug)]
struct MaxPool;

/// `AvgPool2d(3, padding=1, count_include_pad=False)`.
#[derive(Debug)]
struct AvgPool;

impl FromOptions for MaxPool {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl FromOptions for AvgPool {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Operation for MaxPool {
    fn recipe(&self, site: Site) -> Recipe {
        normalised_in_search(Step::MaxPool { stride: site.stride }, site)
    }
}

impl Operation for AvgPool {
    fn recipe(&self, site: Site) -> Recipe {
        normalised_in_search(Step::AvgPool { stride: site.stride }, site)
    }
}

/// The supernet wraps a pool in `nn.Sequential(pool, BatchNorm2d(C, affine=False))`, so that the
/// mixed operations are of one scale; the derived network has the bare pool.
fn normalised_in_search(pool: Step, site: Site) -> Recipe {
    let mut steps = vec![pool];
    if !site.affine {
        steps.push(Step::BatchNorm { name: "1".into(), affine: false });
    }
    Recipe::Chain(steps)
}

tetlo_core::register_operation!("max_pool_3x3", MaxPool, "3 × 3 maximum, padding 1");
tetlo_core::register_operation!("avg_pool_3x3", AvgPool, "3 × 3 average without the padding");
