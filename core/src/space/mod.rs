//! Search spaces as data: cell graphs, macro skeletons and genotype grammars, and the networks
//! that are built from them.

mod build;
mod grammar;
mod head;
mod lower;
mod mixing;
mod model;
pub mod page;
mod recipe;
mod skeleton;
mod spec;
mod tensor;

pub use build::DerivedSize;
pub use grammar::Grammar;
pub use lower::{NetworkBuilder, Shape};
pub use mixing::Mixing;
pub use model::{KernelNetwork, initial_values};
pub use recipe::{Recipe, Site, Step};
pub use skeleton::{SINGLE_CELL, Skeleton};
pub use spec::{ArchValues, CellSpec, EdgeSpec, SpaceSpec};
pub use tensor::{TensorCode, TensorPass, TensorStep};
