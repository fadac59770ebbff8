//! Search spaces as data: cell graphs, macro skeletons and genotype grammars, and the networks
//! that are built from them.

mod recipe;
mod spec;

pub use recipe::{Recipe, Site, Step};
pub use spec::{ArchValues, CellSpec, EdgeSpec, Grammar, Skeleton, SpaceSpec};
