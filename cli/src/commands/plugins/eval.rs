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

/// Runs it.
pub(super) fn eval(
    name: &str,
    input: &Path,
    output: &Path,
    options: &str,
    space: &str,
) -> Result<Exit> {
    let (kind, bare) = match name.split_once('/') {
        Some((kind, bare)) => (Some(kind), bare),
        None => (None, name),
    };
    let is = |k: &str, known: bool| kind == Some(k) || (kind.is_none() && known);
    if is("transfer-loss", registry::find::<dyn TransferLoss>(bare).is_ok()) {
        return transfer::eval(bare, input, output, options);
    }
    if is("selection", registry::find::<dyn Selection>(bare).is_ok()) {
        return eval_selection(bare, input, output, options, space);
    }
    if is("stop-rule", registry::find::<dyn StopRule>(bare).is_ok()) {
        return eval_stop(bare, input, output, options);
    }
    let found = find(name)?;
    bail!(Usage(format!(
        "a {} cannot be evaluated on arrays; transfer losses, selections and stop rules can",
        found[0].kind
    )))
}

fn eval_selection(
    name: &str,
    input: &Path,
    output: &Path,
    options: &str,
    space: &str,
) -> Result<Exit> {
    let options = setup::options::<dyn Selection>(name, options)?;
    let selection = registry::build::<dyn Selection>(name, &options)?;
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

fn eval_stop(name: &str, input: &Path, output: &Path, options: &str) -> Result<Exit> {
    let options = setup::options::<dyn StopRule>(name, options)?;
    let rule = registry::build::<dyn StopRule>(name, &options)?;
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
