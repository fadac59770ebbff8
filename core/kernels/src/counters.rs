//! What the kernels of this process have done so far.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// Counts since the start of the process, of all networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Forward passes asked for.
    pub forwards: u64,
    /// Backward passes.
    pub backwards: u64,
    /// Forward passes repeated for a gradient, because a later pass had overwritten their
    /// activations.
    pub recomputed: u64,
    /// Plans compiled.
    pub plans: u64,
    /// Sets of buffers allocated.
    pub allocations: u64,
    /// Times that weights were brought into kernel layout.
    pub packings: u64,
    /// Multiply-adds of the passes asked for: those of the graph's convolutions for each image
    /// forward, as many for the gradients of activations, as many for those of weights if wanted.
    /// What is recomputed or added up beside them is not counted.
    pub multiply_adds: u64,
    /// Bytes of all buffers alive now.
    pub arena_bytes: u64,
}

pub(crate) struct Atomics {
    pub forwards: AtomicU64,
    pub backwards: AtomicU64,
    pub recomputed: AtomicU64,
    pub plans: AtomicU64,
    pub allocations: AtomicU64,
    pub packings: AtomicU64,
    pub multiply_adds: AtomicU64,
    pub arena_bytes: AtomicU64,
}

pub(crate) static COUNTERS: Atomics = Atomics {
    forwards: AtomicU64::new(0),
    backwards: AtomicU64::new(0),
    recomputed: AtomicU64::new(0),
    plans: AtomicU64::new(0),
    allocations: AtomicU64::new(0),
    packings: AtomicU64::new(0),
    multiply_adds: AtomicU64::new(0),
    arena_bytes: AtomicU64::new(0),
};

pub(crate) fn count(counter: &AtomicU64) {
    count_many(counter, 1);
}

pub(crate) fn count_many(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Relaxed);
}

/// The counts so far.
pub fn counters() -> Counters {
    let c = &COUNTERS;
    Counters {
        forwards: c.forwards.load(Relaxed),
        backwards: c.backwards.load(Relaxed),
        recomputed: c.recomputed.load(Relaxed),
        plans: c.plans.load(Relaxed),
        allocations: c.allocations.load(Relaxed),
        packings: c.packings.load(Relaxed),
        multiply_adds: c.multiply_adds.load(Relaxed),
        arena_bytes: c.arena_bytes.load(Relaxed),
    }
}
