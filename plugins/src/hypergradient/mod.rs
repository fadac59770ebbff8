//! Estimators of the mixed second derivatives.

mod central_difference;
mod exact;
mod first_order;

pub use central_difference::{CentralDifference, CentralDifferenceOptions};
pub use exact::Exact;
pub use first_order::FirstOrder;
