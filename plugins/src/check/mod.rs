//! Problems with known hypergradients.

mod smooth;
mod smooth_network;

pub use smooth::{Smooth, SmoothOptions, Target};
