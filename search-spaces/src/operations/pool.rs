//! 3 × 3 pools.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::Operation;
use tetlo_core::registry::FromOptions;
use tetlo_core::space::{Recipe, Site, Step};

/// Options of the pools.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct PoolOptions {
    /// Batch normalisation without scale and shift after the pool in the supernet, as in DARTS;
    /// NAS-Bench-201 has none. Derived networks never have it.
    pub(super) normalise: bool,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self { normalise: true }
    }
}

/// `MaxPool2d(3, padding=1)`.
#[derive(Debug)]
struct MaxPool(PoolOptions);

/// `AvgPool2d(3, padding=1, count_include_pad=False)`.
#[derive(Debug)]
struct AvgPool(PoolOptions);

impl FromOptions for MaxPool {
    type Options = PoolOptions;

    fn from_options(options: PoolOptions) -> Result<Self> {
        Ok(Self(options))
    }
}

impl FromOptions for AvgPool {
    type Options = PoolOptions;

    fn from_options(options: PoolOptions) -> Result<Self> {
        Ok(Self(options))
    }
}

impl Operation for MaxPool {
    fn recipe(&self, site: Site) -> Recipe {
        self.0.chain(Step::MaxPool { stride: site.stride }, site)
    }
}

impl Operation for AvgPool {
    fn recipe(&self, site: Site) -> Recipe {
        self.0.chain(Step::AvgPool { stride: site.stride }, site)
    }
}

impl PoolOptions {
    /// DARTS's supernet wraps a pool in `nn.Sequential(pool, BatchNorm2d(C, affine=False))`, so that
    /// the mixed operations are of one scale; the derived network has the bare pool.
    fn chain(&self, pool: Step, site: Site) -> Recipe {
        let mut steps = vec![pool];
        if self.normalise && !site.affine {
            steps.push(Step::BatchNorm { name: "1".into(), affine: false });
        }
        Recipe::Chain(steps)
    }
}

tetlo_core::register_operation!("max_pool_3x3", MaxPool, "3 × 3 maximum, padding 1");
tetlo_core::register_operation!("avg_pool_3x3", AvgPool, "3 × 3 average without the padding");
