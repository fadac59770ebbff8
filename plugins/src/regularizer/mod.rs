//! Penalties on the architecture parameters.

mod beta_decay;

pub use beta_decay::{BetaDecay, BetaDecayOptions};
