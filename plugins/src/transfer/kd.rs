//! Knowledge distillation.

use super::math::{log_softmax, positive, same_classes};
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tetlo_core::Result;
use tetlo_core::kinds::{Invariances, Needs, TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;

/// Knowledge distillation (Hinton, Vinyals and Dean, 2015): the teacher's softened class probabilities.
///
/// ```text
/// loss = T² · mean_n KL(softmax(main[n] / T) ‖ softmax(aux[n] / T))
/// ```
/// The factor T² keeps the gradient's size. Differentiable in both models: the entropy of the teacher's
/// distribution is part of the value, so that the gradient in `main` is that of the divergence.
/// Unchanged by a constant added to all logits of an image.
/// ```toml
/// transfer-loss = { plugin = "kd", options = { temperature = 2 } }
/// ```
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct KdOptions {
    /// T, which softens both distributions.
    pub temperature: f64,
}

impl Default for KdOptions {
    fn default() -> Self {
        Self { temperature: 4.0 }
    }
}

/// Knowledge distillation: the formula stands at [`KdOptions`].
#[derive(Debug)]
pub struct Kd {
    temperature: f64,
}

impl FromOptions for Kd {
    type Options = KdOptions;

    fn from_options(options: KdOptions) -> Result<Self> {
        Ok(Self { temperature: positive("temperature", options.temperature)? })
    }
}

impl TransferLoss for Kd {
    fn needs(&self) -> Needs {
        // Of one image there are no batch statistics, with which both models run.
        Needs::batch(2).with_logits()
    }

    fn invariances(&self) -> Invariances {
        Invariances { order: true, ..Invariances::default() }
    }

    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        batch.check(self.needs())?;
        let (main, aux) = batch.logits()?;
        same_classes(main, aux)?;
        let (log_p, log_q) =
            (log_softmax(main, self.temperature)?, log_softmax(aux, self.temperature)?);
        let divergence = (log_p.exp()? * (&log_p - &log_q)?)?.sum_all()?;
        Ok((divergence * (self.temperature.powi(2) / batch.len() as f64))?)
    }
}

tetlo_core::register_transfer_loss!(
    "kd",
    Kd,
    "knowledge distillation: KL divergence of softened class probabilities"
);

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use tetlo_core::kinds::Seen;
    use tetlo_core::rng::{Key, Purpose};

    fn loss(temperature: f64, main: &Tensor, aux: &Tensor) -> Result<f64> {
        let kd = Kd::from_options(KdOptions { temperature })?;
        let (main, aux) = (Seen::logits(main.clone()), Seen::logits(aux.clone()));
        let batch = TransferBatch::new(main, aux, Key::new(0, Purpose::Transfer).stream())?;
        Ok(kd.loss(&batch)?.to_scalar()?)
    }

    #[test]
    fn value_by_hand() {
        // T = 2: p = (3/4, 1/4), q = (1/2, 1/2); the second image agrees and adds nothing.
        // 4 · [3/4 ln(3/2) + 1/4 ln(1/2)] / 2.
        let main = Tensor::new(&[[2.0 * 3f64.ln(), 0.0], [5.0, 5.0]], &Device::Cpu).unwrap();
        let aux = Tensor::new(&[[7.0, 7.0], [0.0, 0.0]], &Device::Cpu).unwrap();
        let expected = 2.0 * (0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln());
        assert!((loss(2.0, &main, &aux).unwrap() - expected).abs() < 1e-14);
        assert!(loss(2.0, &main, &main).unwrap().abs() < 1e-15);
        // No overflow.
        let large = (main * 1e6).unwrap();
        assert!(loss(1.0, &large, &aux).unwrap().is_finite());
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let two = Tensor::zeros((2, 2), candle_core::DType::F64, &Device::Cpu).unwrap();
        let three = Tensor::zeros((2, 3), candle_core::DType::F64, &Device::Cpu).unwrap();
        let error = loss(1.0, &two, &three).unwrap_err().to_string();
        assert!(error.contains("got 2 and 3"), "{error}");
        for temperature in [0.0, -1.0, f64::INFINITY] {
            let error = loss(temperature, &two, &two).unwrap_err().to_string();
            assert!(error.contains("`temperature`"), "{error}");
        }
    }
}
