//! The `tetlo` that the integration tests run: a researcher's own binary, with the built-in plugins
//! and plugins of its own.

use std::process::ExitCode;
use tetlo_plugins as _;
use tetlo_search_spaces as _;
use tetlo_tests as _;

fn main() -> ExitCode {
    tetlo_cli::main()
}
