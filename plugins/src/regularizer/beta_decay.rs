//! β-DARTS's decay.

use candle_core::{D, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::kinds::{Progress, Regularizer};
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

/// Options of `beta-decay`.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct BetaDecayOptions {
    /// Weight of the penalty in the last epoch.
    pub weight: f64,
    /// Let the weight grow linearly from 0 in the first epoch; `false`: constant.
    pub ramp: bool,
}

impl Default for BetaDecayOptions {
    fn default() -> Self {
        Self { weight: 50.0, ramp: true }
    }
}

/// `λ · mean over all edges of log Σ_o exp(α_eo)` (Ye et al. 2022, β-DARTS): pulls the softmax weights
/// together by holding back the large α. λ grows linearly to `weight` unless `ramp` is off.
///
/// `alphas`: edges × operations for each kind of cell; the mean is over the edges of all of them.
#[derive(Debug)]
pub struct BetaDecay {
    options: BetaDecayOptions,
}

impl FromOptions for BetaDecay {
    type Options = BetaDecayOptions;

    fn from_options(options: BetaDecayOptions) -> Result<Self> {
        if !options.weight.is_finite() || options.weight < 0.0 {
            return Err(Error::config(format!(
                "`weight` must be a number from 0 upwards, got `{}`",
                options.weight
            )));
        }
        Ok(Self { options })
    }
}

impl Regularizer for BetaDecay {
    fn penalty(&self, alphas: &[Tensor], progress: Progress) -> Result<Tensor> {
        let grown = if self.options.ramp { progress.fraction() } else { 1.0 };
        let mut rows = 0;
        let mut sums = Vec::with_capacity(alphas.len());
        for alpha in alphas {
            rows += alpha.dim(0)?;
            sums.push(alpha.log_sum_exp(D::Minus1)?.sum_all()?);
        }
        if rows == 0 {
            return Err(Error::Invalid("there are no architecture parameters to penalise".into()));
        }
        let sum = Tensor::stack(&sums, 0)?.sum_all()?;
        // As a tensor: candle takes a factor 0.0 for a constant and cuts the graph.
        let weight = self.options.weight * grown / rows as f64;
        let weight = Tensor::new(weight, sum.device())?.to_dtype(sum.dtype())?;
        Ok((sum * weight)?)
    }
}

tetlo_core::register_regularizer!(
    "beta-decay",
    BetaDecay,
    "mean over edges of the log-sum-exp of α (β-DARTS)"
);

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn penalty(options: BetaDecayOptions, epoch: usize) -> (f64, Vec<Vec<f64>>) {
        let regularizer = BetaDecay::from_options(options).unwrap();
        // logsumexp: ln(1 + 3) = ln 4; ln(2 + 2) = ln 4; ln 1 with one operation: 0.
        let normal = Var::new(&[[0.0, 3f64.ln()], [2f64.ln(), 2f64.ln()]], &Device::Cpu).unwrap();
        let reduce = Tensor::new(&[[0f64]], &Device::Cpu).unwrap();
        let alphas = [normal.as_tensor().clone(), reduce];
        let progress = Progress { epoch, epochs: 5, step: 0 };
        let value = regularizer.penalty(&alphas, progress).unwrap();
        let gradient = value.backward().unwrap().get(&normal).unwrap().to_vec2().unwrap();
        (value.to_scalar().unwrap(), gradient)
    }

    #[test]
    fn value_and_gradient_by_hand() {
        let (value, gradient) = penalty(BetaDecayOptions { weight: 6.0, ramp: false }, 0);
        assert!((value - 6.0 * 2.0 * 4f64.ln() / 3.0).abs() < 1e-12);
        // weight / rows · softmax.
        let expected = [[0.5, 1.5], [1.0, 1.0]];
        for (g, e) in gradient.iter().flatten().zip(expected.iter().flatten()) {
            assert!((g - e).abs() < 1e-12);
        }
    }

    #[test]
    fn the_weight_grows_to_the_last_epoch() {
        let options = || BetaDecayOptions { weight: 6.0, ramp: true };
        let at = |epoch| penalty(options(), epoch).0;
        assert!(at(0).abs() < 1e-12);
        assert!((at(2) - at(4) / 2.0).abs() < 1e-12);
        assert!((at(4) - 4.0 * 4f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn a_negative_weight_is_refused() {
        let options = BetaDecayOptions { weight: -1.0, ramp: true };
        assert!(BetaDecay::from_options(options).unwrap_err().to_string().contains("`weight`"));
    }
}
