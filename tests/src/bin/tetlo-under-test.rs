//! The `tetlo` that the integration tests run: a researcher's own binary, with the built-in plugins
//! and plugins of its own; one of these misbehaves where it is told to.

use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::process::{Command, ExitCode};
use std::time::Duration;
use tetlo_core::Result;
use tetlo_core::kinds::{TransferBatch, TransferLoss};
use tetlo_core::registry::FromOptions;
use tetlo_plugins as _;
use tetlo_search_spaces as _;
use tetlo_tests as _;

/// How a loss misbehaves when it is called.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// Not at all.
    #[default]
    Well,
    /// A signal 11.
    Segfault,
    /// A signal 6.
    Abort,
    /// It ends the process as if all were well.
    Exit,
    /// It does not come back.
    Hang,
    /// It panics.
    Panic,
    /// Its gradient is wrong.
    Wrong,
    /// It prints, without a line end.
    Print,
}

/// Options of the loss.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct MisbehavesOptions {
    /// How it misbehaves.
    how: How,
}

/// A loss that ends, stops or fails its process.
#[derive(Debug)]
struct Misbehaves(How);

impl FromOptions for Misbehaves {
    type Options = MisbehavesOptions;

    fn from_options(options: MisbehavesOptions) -> Result<Self> {
        Ok(Self(options.how))
    }
}

impl TransferLoss for Misbehaves {
    #[expect(clippy::print_stdout, reason = "it misbehaves on purpose")]
    fn loss(&self, batch: &TransferBatch<'_>) -> Result<Tensor> {
        let (main, aux) = batch.embeddings()?;
        match self.0 {
            How::Well | How::Wrong => {}
            How::Segfault => {
                let own = std::process::id().to_string();
                Command::new("kill").args(["-SEGV", &own]).status().expect("a signal is sent");
            }
            How::Abort => std::process::abort(),
            How::Exit => std::process::exit(0),
            How::Hang => std::thread::sleep(Duration::from_hours(1)),
            How::Panic => panic!("as asked"),
            How::Print => print!("a loss that talks"),
        }
        let apart = (main.sqr()?.mean(1)? - aux.sqr()?.mean(1)?)?;
        let other = if matches!(self.0, How::Wrong) { apart.detach() } else { apart.clone() };
        Ok((apart * other)?.mean_all()?)
    }
}

tetlo_core::register_transfer_loss!("misbehaves", Misbehaves, "a loss that can end its process");

fn main() -> ExitCode {
    tetlo_cli::main()
}
