//! Attention transfer.

use super::maps::{Maps, at_one_size};
use super::math::{absolute, unit};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::{Invariances, Needs, TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

/// Attention transfer (Zagoruyko and Komodakis, ICLR 2017): where in the image both models look.
///
/// Of each pair of feature maps A (N × C × H × W):
/// ```text
/// F(A)[n, xy] = Σ_c |A[n, c, x, y]|^p       Q(A)[n] = F(A)[n] / max(‖F(A)[n]‖, 1e-12)
/// loss        = Σ_pairs mean_{n, xy} (Q(A_M) − Q(A_V))²
/// ```
/// with the mean over images and places of the authors' code, which stands for the paper's ½ ‖·‖² up
/// to a factor; F as a mean over channels there is the same after the norm. Of two maps of
/// different sizes the larger is averaged over windows first, as in Tian et al.'s `RepDistiller`;
/// its sides must be multiples of the smaller one's. The numbers of channels may differ. Where |A| = 0
/// the gradient of |A| is taken as 0. Differentiable in both models.
/// ```toml
/// transfer-loss = { plugin = "attention", options = { maps = "last" } }
/// ```
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct AttentionOptions {
    /// p, at least 1.
    pub power: f64,
    /// Which feature maps are compared.
    pub maps: Maps,
}

impl Default for AttentionOptions {
    fn default() -> Self {
        Self { power: 2.0, maps: Maps::All }
    }
}

/// Attention transfer: the formula stands at [`AttentionOptions`].
#[derive(Debug)]
pub struct Attention {
    options: AttentionOptions,
}

impl FromOptions for Attention {
    type Options = AttentionOptions;

    fn from_options(options: AttentionOptions) -> Result<Self> {
        if !options.power.is_finite() || options.power < 1.0 {
            return Err(Error::config(format!(
                "`power` must be a number from 1 upwards, got `{}`",
                options.power
            )));
        }
        Ok(Self { options })
    }
}

impl Attention {
    /// Q, N × HW.
    fn attention(&self, map: &Tensor) -> Result<Tensor> {
        let powers = match self.options.power {
            2.0 => map.sqr()?,
            1.0 => absolute(map)?,
            p => absolute(map)?.powf(p)?,
        };
        unit(&powers.mean(1)?.flatten_from(1)?)
    }
}

impl TransferLoss for Attention {
    fn needs(&self) -> Needs {
        Needs::batch(2).with_maps()
    }

    fn invariances(&self) -> Invariances {
        Invariances { order: true, ..Invariances::default() }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let mut terms = Vec::new();
        for [main, aux] in self.options.maps.pairs(batch)? {
            let [main, aux] = at_one_size(main, aux)?;
            let apart = (self.attention(&main)? - self.attention(&aux)?)?;
            terms.push(apart.sqr()?.mean_all()?);
        }
        Ok(Tensor::stack(&terms, 0)?.sum_all()?)
    }
}

tetlo_core::register_transfer_loss!(
    "attention",
    Attention,
    "attention transfer: where feature maps are large"
);
