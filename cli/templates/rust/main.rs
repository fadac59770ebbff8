//! `tetlo` with the plugins of this crate, which are found because they are linked in.

use my_plugin as _;
use std::process::ExitCode;
use tetlo_plugins as _;
use tetlo_search_spaces as _;

fn main() -> ExitCode {
    tetlo_cli::main()
}
