//! What calls of foreign code cost: the whole of them, and the part inside the author's function.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static CALLS: AtomicU64 = AtomicU64::new(0);
static TOTAL: AtomicU64 = AtomicU64::new(0);
static INSIDE: AtomicU64 = AtomicU64::new(0);

/// The cost of some calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// How many.
    pub calls: u64,
    /// Seconds in all, conversions and transport included.
    pub total_seconds: f64,
    /// Seconds inside the authors' functions.
    pub inside_seconds: f64,
}

impl Cost {
    /// Seconds of transport and conversion a call.
    pub fn overhead(&self) -> f64 {
        (self.total_seconds - self.inside_seconds).max(0.0) / self.calls.max(1) as f64
    }
}

/// Counts a call that took so long with everything (the adapters do it).
pub(super) fn call(total: Duration) {
    CALLS.fetch_add(1, Ordering::Relaxed);
    TOTAL.fetch_add(total.as_nanos() as u64, Ordering::Relaxed);
}

/// Adds seconds inside an author's function (what carries the call does it).
pub fn inside(seconds: f64) {
    INSIDE.fetch_add((seconds * 1e9) as u64, Ordering::Relaxed);
}

/// The cost of all calls since the last time this was asked; `None`: there were none.
pub fn take() -> Option<Cost> {
    let swap = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
    let (calls, total, inside) = (swap(&CALLS), swap(&TOTAL), swap(&INSIDE));
    (calls > 0).then_some(Cost {
        calls,
        total_seconds: total as f64 * 1e-9,
        inside_seconds: inside as f64 * 1e-9,
    })
}
