//! Relaxations: architecture parameters to operation weights.

mod softmax;

pub use softmax::Softmax;
