//! Data sets.

mod cifar;
mod digits;
mod fashion_mnist;
mod files;
mod idx;
mod npz;
#[cfg(test)]
mod real;

pub use cifar::{Cifar10, Cifar100, CifarOptions};
pub use digits::Digits;
pub use fashion_mnist::FashionMnist5k;
pub use idx::{Idx, IdxOptions};
pub use npz::{Npz, NpzOptions};
