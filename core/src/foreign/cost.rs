//! What calls of loaded code cost: all of it, and the part inside the author's own code.

use std::sync::{Mutex, PoisonError};

/// Calls and their time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cost {
    /// Calls.
    pub calls: usize,
    /// Seconds from the arrays of the host to its gradients, in all.
    pub total: f64,
    /// Seconds of these inside the author's code, as far as it tells them.
    pub inside: f64,
}

impl Cost {
    /// Seconds a call that are not the author's; 0 without calls.
    pub fn overhead(&self) -> f64 {
        if self.calls == 0 { 0.0 } else { (self.total - self.inside) / self.calls as f64 }
    }
}

static SUM: Mutex<Cost> = Mutex::new(Cost { calls: 0, total: 0.0, inside: 0.0 });

/// Counts one call that took `total` seconds, `inside` of them in the author's code.
pub fn record(total: f64, inside: f64) {
    let mut sum = SUM.lock().unwrap_or_else(PoisonError::into_inner);
    sum.calls += 1;
    sum.total += total;
    sum.inside += inside;
}

/// The calls of this process since the last `take`.
pub fn take() -> Cost {
    std::mem::take(&mut SUM.lock().unwrap_or_else(PoisonError::into_inner))
}
