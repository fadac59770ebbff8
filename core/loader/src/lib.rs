//! Loads plugins at run time: shared libraries, processes, pages of data.

pub mod process;
