//! Estimators: how adjoints are pulled back through the training of a stage.

mod central_difference;
mod conjugate_gradient;
mod exact;
mod first_order;
mod neumann;
mod penalty;
mod products;
mod richardson;
mod sama;
mod t1_t2;
#[cfg(test)]
mod tests;

pub use central_difference::{CentralDifference, CentralDifferenceOptions};
pub use conjugate_gradient::{ConjugateGradient, ConjugateGradientOptions};
pub use exact::Exact;
pub use first_order::FirstOrder;
pub use neumann::{Neumann, NeumannOptions};
pub use penalty::{Penalty, PenaltyOptions};
pub use products::{ProductOptions, Products};
pub use richardson::{Richardson, RichardsonOptions};
pub use sama::Sama;
pub use t1_t2::T1T2;
