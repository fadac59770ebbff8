//! tetlo's engine: search and retrain loops, plans, trials, records and statistics. The only crate
//! that writes files ([`store`]).

pub mod accuracy;
pub mod black_box;
pub mod check;
pub mod comparison;
pub mod estimate;
pub mod loader;
pub mod memory;
pub mod method;
pub mod npz;
pub mod plan;
pub mod provenance;
pub mod record;
pub mod retrain;
pub mod search;
pub mod statistics;
pub mod store;
pub mod summary;
pub mod trace;
pub mod training;
pub mod trial;
