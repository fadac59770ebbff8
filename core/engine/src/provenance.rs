//! Where and with what a trial ran: for people, never for results.

use crate::plan::Trial;
use serde_json::{Value, json};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use tetlo_core::config::PluginConfig;
use tetlo_core::data::Data;
use tetlo_core::registry::catalog;

/// The provenance record of a trial.
pub fn provenance(trial: &Trial, data: &Data, device: &str, threads: usize) -> Value {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    json!({
        "schema": "tetlo.provenance/1",
        "trial_id": trial.id,
        // Reports name the data's origin, and say where they are synthetic.
        "dataset": {"name": data.name, "notice": data.notice, "synthetic": data.synthetic},
        "version": env!("CARGO_PKG_VERSION"),
        "command": std::env::args().collect::<Vec<_>>(),
        "git_commit": git(&["rev-parse", "HEAD"]),
        "git_dirty": git(&["status", "--porcelain"]).map(|s| !s.is_empty()),
        "started_unix_seconds": started,
        "host": std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|s| s.trim().to_owned()),
        "os": std::env::consts::OS,
        "architecture": std::env::consts::ARCH,
        "cpu": cpu_model(),
        "simd": tetlo_kernels::simd_name(),
        "plugins": trial.loaded().map(loaded).collect::<Vec<_>>(),
        "device": device,
        "threads": threads,
        "debug_build": cfg!(debug_assertions),
    })
}

/// A plugin that is not linked in: where its code is from.
fn loaded(plugin: &PluginConfig) -> Value {
    let code = plugin.code.as_ref();
    let found = code.and_then(|c| catalog::kind(plugin.kind)?.loaded(c.code()?, &plugin.plugin));
    json!({
        "kind": plugin.kind,
        "name": plugin.plugin,
        "version": found.map(|p| p.origin.1),
        "tier": found.map(|p| p.tier()),
        "library": code.map(|c| c.file.clone()),
        "sha256": code.and_then(|c| c.sha256.clone()),
        "command": found.and_then(|p| p.code).map(|c| c.command.clone()),
        "built_with": found.and_then(|p| p.code).map(|c| c.built_with.clone()),
    })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The processor's name, where the system tells.
pub fn cpu_model() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
