//! `plugins eval`: a plugin on arrays, or on a trace.

use super::{find, transfer};
use crate::commands::setup;
use crate::exit::{Exit, Usage};
use anyhow::{Context, Result, bail};
use candle_core::DType;
use serde_json::{Value, json};
use std::path::Path;
use tetlo_core::kinds::{SearchSpace, Selection, StopRule, Trace, TransferLoss};
use tetlo_core::registry;
use tetlo_core::space::ArchValues;
use tetlo_engine::{npz, store};

/// What is read and written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Files<'a> {
    pub(super) input: &'a Path,
    pub(super) output: &'a Path,
}

/// Runs it.
pub(super) fn eval(
    name: &str,
    files: Files<'_>,
    options: &str,
    space: &str,
    library: Option<&Path>,
) -> Result<Exit> {
    let (kind, bare) = match name.split_once('/') {
        Some((kind, bare)) => (Some(kind), bare),
        None => (None, name),
    };
    let found = find(name, library)?;
    let is = |k: &str| kind.is_none_or(|kind| kind == k) && found.iter().any(|l| l.kind == k);
    let code = found[0].code;
    if is("transfer-loss") {
        let loss = setup::plugin::<dyn TransferLoss>(bare, options, code)?.build()?;
        return transfer::eval(bare, &*loss, files);
    }
    if is("selection") {
        let selection = setup::plugin::<dyn Selection>(bare, options, code)?.build()?;
        return eval_selection(bare, &*selection, files, space);
    }
    if is("stop-rule") {
        let rule = setup::plugin::<dyn StopRule>(bare, options, code)?.build()?;
        return eval_stop(bare, &*rule, files);
    }
    bail!(Usage(format!(
        "a {} cannot be evaluated on arrays; transfer losses, selections and stop rules can",
        found[0].kind
    )))
}

fn eval_selection(
    name: &str,
    selection: &dyn Selection,
    Files { input, output }: Files<'_>,
    space: &str,
) -> Result<Exit> {
    let spec = registry::build::<dyn SearchSpace>(space, &Value::Null)?.spec().validated()?;
    let arrays = npz::read(input)?;
    let mut rows = None;
    for (name, tensor) in &arrays {
        let n = tensor.dims().first().copied().unwrap_or(0);
        if tensor.rank() < 2 || rows.is_some_and(|r| r != n) {
            bail!(Usage(format!(
                "{}: `{name}` must have one row a genotype, as the other arrays",
                input.display()
            )));
        }
        rows = Some(n);
    }
    let mut lines = String::new();
    for i in 0..rows.unwrap_or(0) {
        let mut values = ArchValues::default();
        for (name, tensor) in &arrays {
            let row = tensor.get(i)?.to_dtype(DType::F64)?;
            let row = if row.rank() == 1 { row.unsqueeze(1)? } else { row };
            values = values.with(name, row.to_vec2()?);
        }
        let genotype = selection.select(&spec, &values).map_err(|e| e.in_plugin(name))?;
        lines.push_str(&genotype.to_json().to_string());
        lines.push('\n');
    }
    setup::write(output, lines.as_bytes())?;
    Ok(Exit::Ok)
}

fn eval_stop(name: &str, rule: &dyn StopRule, Files { input, output }: Files<'_>) -> Result<Exit> {
    let mut lines = String::new();
    for (n, line) in store::read_text(input)?.lines().enumerate() {
        let place = || format!("{}:{}", input.display(), n + 1);
        let value: Value = serde_json::from_str(line).with_context(place)?;
        let trace = tetlo_engine::trace::from_json(&value).with_context(place)?;
        let mut found = None;
        for epochs in 1..=trace.genotypes.len() {
            let so_far = Trace {
                genotypes: trace.genotypes[..epochs].to_vec(),
                lambda_max: trace.lambda_max.iter().copied().filter(|l| l.0 < epochs).collect(),
                epochs: trace.epochs,
            };
            found = rule.stop(&so_far).map_err(|e| e.in_plugin(name))?;
            if found.is_some() {
                break;
            }
        }
        let answer = match found {
            Some(stop) => serde_json::to_value(stop)?,
            None => json!({"stop_epoch": null, "return_epoch": null}),
        };
        lines.push_str(&answer.to_string());
        lines.push('\n');
    }
    setup::write(output, lines.as_bytes())?;
    Ok(Exit::Ok)
}
