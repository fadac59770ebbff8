//! The `tetlo` binary: the command line with the built-in plugins linked in.

use std::process::ExitCode;
use tetlo_plugins as _;
use tetlo_search_spaces as _;

fn main() -> ExitCode {
    tetlo_cli::main()
}
