//! `plugins check`: the conformance suite on one plugin, in a child process.
//!
//! The child makes the checks and tells of each before and after it; this process prints them, and
//! says which one the child hung or died in.

mod child;
mod example;
mod speed;
mod target;
mod watch;
mod wire;

use crate::args::{Format, PluginCheckArgs};
use crate::console;
use crate::exit::{Exit, Usage};
use anyhow::{Result, bail};
use std::time::Duration;
use watch::End;
use wire::{Line, Message};

/// Runs it.
pub(super) fn check(arguments: &PluginCheckArgs) -> Result<Exit> {
    if arguments.child {
        return child::run(arguments);
    }
    let limit = arguments.time_limit;
    if !(limit.is_finite() && (0.001..1e6).contains(&limit)) {
        bail!(Usage(format!(
            "`--time-limit` must be from 0.001 to 1000000 seconds, got `{limit}`"
        )));
    }
    let mut table = Table::new(arguments.format.format);
    let limit = Duration::from_secs_f64(limit);
    let end = watch::watch(&arguments.plugin, limit, &mut |message| table.take(message))?;
    if let End::Usage = end {
        return Ok(Exit::Usage); // the child has said why
    }
    table.finish(matches!(end, End::Broken))
}

/// Widest name of a check that stands in line.
const WIDTH: usize = 44;

/// What is printed, and what failed.
struct Table {
    format: Format,
    lines: Vec<Line>,
}

impl Table {
    fn new(format: Format) -> Self {
        Self { format, lines: vec![] }
    }

    fn take(&mut self, message: Message) {
        let text = self.format == Format::Text;
        match message {
            Message::Begin(_) => {}
            Message::Plugin { kind, name, about } => {
                if text {
                    console::out(&format!("{kind} `{name}`: {about}"));
                    console::out(&row("check", "outcome", "ms", "detail"));
                }
            }
            Message::Row(line) => {
                if text {
                    let time = format!("{:.1}", line.milliseconds);
                    console::out(&row(&line.check, &line.outcome, &time, &line.detail));
                }
                self.lines.push(line);
            }
        }
    }

    fn finish(self, broken: bool) -> Result<Exit> {
        let count = |outcome| self.lines.iter().filter(|l| l.outcome == outcome).count();
        let failed = count(wire::FAILED);
        match self.format {
            Format::Json => console::out_json(&self.lines)?,
            Format::Text => console::out(&format!(
                "{} checks: {} ok, {failed} failed, {} skipped{}",
                self.lines.len(),
                count(wire::OK),
                count(wire::SKIPPED),
                if broken { "; the rest did not run" } else { "" }
            )),
        }
        for line in self.lines.iter().filter(|l| l.outcome == wire::FAILED) {
            let Line { kind, name, check, detail, .. } = line;
            let whose = if kind.is_empty() { name.clone() } else { format!("{kind} `{name}`") };
            console::note(&format!("error: {whose}: {check}: {detail}"));
        }
        Ok(if failed > 0 { Exit::Failed } else { Exit::Ok })
    }
}

fn row(check: &str, outcome: &str, time: &str, detail: &str) -> String {
    let line = format!("  {check:<WIDTH$} {outcome:<8} {time:>9}  {detail}");
    line.trim_end().to_owned()
}
