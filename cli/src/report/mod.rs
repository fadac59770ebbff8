//! What a comparison becomes for a human reader.

mod chart;
mod csv;
mod curves;
mod heat_map;
mod html;
mod latex;
mod load;
mod markdown;
mod notes;
mod strip;
pub mod table;
pub mod text;

#[cfg(test)]
mod tests;

pub use csv::csv;
pub use html::html;
pub use latex::latex;
pub use load::{Report, TrialRecord};
pub use markdown::markdown;
pub use notes::{Note, notes};
pub use table::table;
