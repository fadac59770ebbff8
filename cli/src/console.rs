//! What is printed: data to standard output, progress and messages to standard error.
//!
//! The only module that prints.
#![expect(clippy::print_stderr, reason = "this is the module that prints")]

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use tetlo_engine::record::Observer;
use tetlo_engine::summary::Event;

/// Prints text and a line end to standard output. A closed pipe is no error.
pub(crate) fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}");
}

/// Prints bytes to standard output.
pub(crate) fn out_bytes(bytes: &[u8]) {
    let _ = std::io::stdout().lock().write_all(bytes);
}

/// Prints one JSON document on one line.
pub(crate) fn out_json(value: &impl Serialize) -> anyhow::Result<()> {
    out(&serde_json::to_string(value)?);
    Ok(())
}

/// Prints a message to standard error.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Prints `error: …`, its causes and a hint.
pub(crate) fn print_error(error: &anyhow::Error) {
    let mut text = format!("error: {error}");
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Messages of the libraries often hold their cause already.
        if !said.contains(&cause) {
            text.push_str("\n  caused by: ");
            text.push_str(&cause);
        }
        said = cause;
    }
    let hint = error
        .chain()
        .find_map(|c| c.downcast_ref::<tetlo_core::Error>())
        .and_then(tetlo_core::Error::hint);
    if let Some(hint) = hint {
        text.push_str("\n\nhint: ");
        text.push_str(&hint);
    }
    eprintln!("{text}");
}

/// Shows a trial's progress: a bar on a terminal, else a line an epoch.
#[derive(Debug)]
pub(crate) struct Progress {
    prefix: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Progress of what `prefix` names.
    pub(crate) fn new(prefix: impl Into<String>, bars: bool) -> Self {
        let bar = (bars && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{prefix} {msg} [{bar:30}] {pos}/{len} {eta}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { prefix: prefix.into(), bar }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Progress {
    fn event(&mut self, _event: Event) {}

    fn phase(&mut self, name: &str, steps: usize) {
        if let Some(bar) = &self.bar {
            bar.reset();
            bar.set_length(steps as u64);
            bar.set_prefix(self.prefix.clone());
            bar.set_message(name.to_owned());
        }
    }

    fn step(&mut self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    fn line(&mut self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None => eprintln!("{} {text}", self.prefix),
        }
    }
}
