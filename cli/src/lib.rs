//! tetlo's command line as a library, so that a binary with further plugins is three lines:
//!
//! ```no_run
//! use std::process::ExitCode;
//! // use tetlo_plugins as _; use tetlo_search_spaces as _; use my_plugins as _;
//! fn main() -> ExitCode {
//!     tetlo_cli::main()
//! }
//! ```
//!
//! Standard output is data, standard error is progress and messages.

mod args;
mod commands;
mod console;
pub mod draw;
mod exit;
pub mod report;

use clap::Parser;
use exit::Exit;
use std::process::ExitCode;

/// Stack of the thread that runs a command: candle's backward pass recurses.
const STACK_BYTES: usize = 256 << 20;

/// Parses the command line, runs the command, prints errors; the whole of a `main`.
pub fn main() -> ExitCode {
    tetlo_kernels::keep_freed_memory();
    tetlo_loader::exit::guard();
    let arguments = match args::Cli::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            tetlo_loader::exit::done();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let run =
        std::thread::Builder::new().name("tetlo".into()).stack_size(STACK_BYTES).spawn(move || {
            match commands::run(arguments) {
                Ok(exit) => exit,
                Err(error) => {
                    console::print_error(&error);
                    exit::of_error(&error)
                }
            }
        });
    let exit = match run.map(std::thread::JoinHandle::join) {
        Ok(Ok(exit)) => exit,
        Ok(Err(_)) => Exit::Failed, // the panic has printed its message
        Err(error) => {
            console::print_error(&anyhow::Error::new(error).context("cannot start a thread"));
            Exit::Failed
        }
    };
    tetlo_loader::exit::done();
    exit.into()
}
