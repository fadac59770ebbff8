//! The border of tetlo's plugins: the C interface, the Python helper, and what plain Rust needs.

/// `tetlo_plugin.py`: the helper of plugins in Python.
pub const PYTHON: &str = include_str!("../python/tetlo_plugin.py");
