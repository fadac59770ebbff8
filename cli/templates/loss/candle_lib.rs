//! A transfer loss for tetlo. As a dependency of a binary it is linked in; as a shared library it is
//! loaded by any tetlo.

mod my_loss;

pub use my_loss::MyLoss;

tetlo_core::export_plugins!();
