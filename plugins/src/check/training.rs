//! The inner optimisers of check problems that stand at the solutions of their inner problems.

use candle_core::Tensor;
use tetlo_core::optim::{Adam, Inner, InnerRule, InnerState, Sgd, at_least};
use tetlo_core::{Error, Result};

/// The options that such problems share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Training {
    pub(super) learning_rate: Option<f64>,
    pub(super) weight_decay: f64,
    pub(super) momentum: f64,
    pub(super) optimizer: InnerRule,
}

impl Training {
    /// Steps that Adam's memory has seen.
    const STEPS: u32 = 10;
    const BETAS: (f64, f64) = (0.9, 0.999);

    pub(super) fn check(self) -> Result<()> {
        if let Some(rate) = self.learning_rate
            && !(rate.is_finite() && rate > 0.0)
        {
            return Err(Error::config(format!("`learning-rate` must be above 0, got {rate}")));
        }
        at_least("weight-decay", self.weight_decay, 0.0)?;
        at_least("momentum", self.momentum, 0.0)?;
        if self.momentum >= 1.0 {
            return Err(Error::config("`momentum` must be below 1"));
        }
        if self.optimizer == InnerRule::Adam && self.momentum != 0.0 {
            return Err(Error::config("`momentum` is read by `optimizer = \"sgd\"` only"));
        }
        Ok(())
    }

    /// The optimiser of a stage whose Hessian (weight decay included) has its eigenvalues below
    /// `largest`. Without a learning rate: one at which gradient descent converges.
    pub(super) fn inner(self, largest: f64) -> Inner {
        let learning_rate = self.learning_rate.unwrap_or(1.0 / largest);
        let (weight_decay, momentum) = (self.weight_decay, self.momentum);
        match self.optimizer {
            InnerRule::Sgd => Inner::Sgd(Sgd { learning_rate, momentum, weight_decay }),
            InnerRule::Adam => Inner::Adam(Adam {
                learning_rate,
                beta1: Self::BETAS.0,
                beta2: Self::BETAS.1,
                weight_decay,
            }),
        }
    }

    /// Its memory at the solution, where gradients vanish: empty for SGD; for Adam a first moment of 0
    /// and this second moment, after ten steps. (At a second moment of 0 its step has no derivative.)
    pub(super) fn memory(self, second: impl FnOnce() -> Result<Tensor>) -> Result<InnerState> {
        if self.optimizer == InnerRule::Sgd {
            return Ok(InnerState::default());
        }
        let second = second()?;
        if second.to_vec1::<f64>()?.iter().any(|v| *v <= 0.0) {
            return Err(Error::Invalid("Adam's second moments must be above 0".into()));
        }
        let first = Some(second.zeros_like()?);
        Ok(InnerState { first, second: Some(second), steps: Self::STEPS })
    }
}
