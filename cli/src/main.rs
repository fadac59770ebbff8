//! tetlo.
fn main() {}
