//! Learning rates over epochs.

use std::f64::consts::PI;

/// Cosine annealing as `torch.optim.lr_scheduler.CosineAnnealingLR` stepped once an epoch:
/// min + (start − min)·(1 + cos(π·epoch/epochs))/2.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CosineSchedule {
    /// Rate of epoch 0.
    pub start: f64,
    /// Rate that epoch `epochs` would have.
    pub min: f64,
    /// Length.
    pub epochs: usize,
}

impl CosineSchedule {
    /// The rate of an epoch.
    pub fn rate(&self, epoch: usize) -> f64 {
        let progress = epoch as f64 / self.epochs.max(1) as f64;
        self.min + (self.start - self.min) * 0.5 * (1.0 + (PI * progress).cos())
    }
}
