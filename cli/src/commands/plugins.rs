//! `plugins list|show|eval`.

use crate::args::{Format, PluginsCommand};
use crate::commands::setup;
use crate::console;
use crate::exit::{Exit, Usage};
use anyhow::{Context, Result, bail};
use candle_core::{DType, Tensor, Var};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use tetlo_core::config::{PRESET_KIND, presets};
use tetlo_core::kinds::{
    SearchSpace, Seen, Selection, StopRule, Trace, TransferBatch, TransferLoss,
};
use tetlo_core::registry::catalog::{self, KindInfo};
use tetlo_core::registry::{self, LINKED};
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::ArchValues;
use tetlo_engine::{npz, store};

/// A plugin in a listing.
#[derive(Debug, Clone, Serialize)]
struct Listed {
    kind: &'static str,
    name: &'static str,
    summary: &'static str,
    tier: &'static str,
    version: &'static str,
    #[serde(skip)]
    origin: &'static str,
    #[serde(skip)]
    defaults: Value,
    #[serde(skip)]
    schema: Value,
}

/// Everything that is registered, by kind and name.
fn all() -> Vec<Listed> {
    let mut list: Vec<Listed> = catalog::KINDS
        .iter()
        .flat_map(KindInfo::plugins)
        .map(|p| Listed {
            kind: p.kind,
            name: p.name,
            summary: p.summary,
            tier: LINKED,
            version: p.origin.1,
            origin: p.origin.0,
            defaults: (p.defaults)(),
            schema: (p.schema)().to_value(),
        })
        .collect();
    list.extend(presets().into_iter().map(|p| Listed {
        kind: PRESET_KIND,
        name: p.name,
        summary: p.summary,
        tier: "data",
        version: p.origin.1,
        origin: p.origin.0,
        defaults: Value::String(p.toml.to_owned()),
        schema: Value::Null,
    }));
    list.sort_by_key(|l| (l.kind, l.name));
    list
}

/// Runs a `plugins` command.
pub(crate) fn run(command: PluginsCommand) -> Result<Exit> {
    match command {
        PluginsCommand::List { kind, format } => list(kind.as_deref(), format.format),
        PluginsCommand::Show { name, format } => show(&name, format.format),
        PluginsCommand::Eval { name, input, output, options, space } => {
            eval(&name, &input, &output, &options, &space)
        }
    }
}

fn list(kind: Option<&str>, format: Format) -> Result<Exit> {
    let mut list = all();
    if let Some(kind) = kind {
        let mut kinds: Vec<&str> = list.iter().map(|l| l.kind).collect();
        kinds.dedup();
        if !kinds.contains(&kind) {
            bail!(Usage(format!("there is no kind `{kind}`; kinds are {}", kinds.join(", "))));
        }
        list.retain(|l| l.kind == kind);
    }
    match format {
        Format::Json => console::out_json(&list)?,
        Format::Text => {
            for l in &list {
                console::out(&format!("{:<20} {:<20} {}", l.kind, l.name, l.summary));
            }
        }
    }
    Ok(Exit::Ok)
}

/// The plugins that NAME or KIND/NAME names.
fn find(name: &str) -> Result<Vec<Listed>> {
    let (kind, bare) = match name.split_once('/') {
        Some((kind, bare)) => (Some(kind), bare),
        None => (None, name),
    };
    let list = all();
    let names: Vec<&str> = list.iter().map(|l| l.name).collect();
    let near = tetlo_core::error::nearest(bare, &names).map(str::to_owned);
    let found: Vec<Listed> =
        list.into_iter().filter(|l| l.name == bare && kind.is_none_or(|k| k == l.kind)).collect();
    if found.is_empty() {
        let hint = near.map_or_else(
            || "`tetlo plugins list` shows all".to_owned(),
            |near| format!("did you mean `{near}`?"),
        );
        bail!(Usage(format!("no plugin is called `{name}`; {hint}")));
    }
    Ok(found)
}

fn show(name: &str, format: Format) -> Result<Exit> {
    let found = find(name)?;
    if format == Format::Json {
        let list: Vec<Value> = found
            .iter()
            .map(|l| {
                json!({
                    "kind": l.kind, "name": l.name, "summary": l.summary, "tier": l.tier,
                    "version": l.version, "crate": l.origin, "defaults": l.defaults,
                    "schema": l.schema,
                })
            })
            .collect();
        if let [one] = list.as_slice() {
            console::out_json(one)?;
        } else {
            console::out_json(&list)?;
        }
        return Ok(Exit::Ok);
    }
    for l in &found {
        console::out(&format!("{} `{}` — {}", l.kind, l.name, l.summary));
        console::out(&format!("tier {}, from {} {}", l.tier, l.origin, l.version));
        match (&l.defaults, l.schema["properties"].as_object()) {
            (Value::String(toml), _) => console::out(&format!("\n{}", toml.trim_end())),
            (defaults, Some(keys)) if !keys.is_empty() => {
                console::out("\noptions (defaults):");
                for (key, about) in keys {
                    match &defaults[key] {
                        Value::Null => console::out(&format!("  {key} (none)")),
                        value => console::out(&format!("  {key} = {value}")),
                    }
                    let choices = choices(&l.schema, about);
                    if !choices.is_empty() {
                        console::out(&format!("      one of {}", choices.join(", ")));
                    }
                    let about = about["description"].as_str().unwrap_or("");
                    for line in about.lines().filter(|line| !line.is_empty()) {
                        console::out(&format!("      {line}"));
                    }
                }
            }
            _ => console::out("\nno options"),
        }
    }
    Ok(Exit::Ok)
}

/// The values an option can have, where they are a list: through references and optional values.
fn choices(root: &Value, schema: &Value) -> Vec<String> {
    if let Some(inner) = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')) {
        return root.pointer(inner).map_or_else(Vec::new, |s| choices(root, s));
    }
    let text = |v: &Value| v.as_str().map(|s| format!("`{s}`"));
    let mut list: Vec<String> = text(&schema["const"]).into_iter().collect();
    list.extend(schema["enum"].as_array().into_iter().flatten().filter_map(text));
    for key in ["oneOf", "anyOf"] {
        let parts = schema[key].as_array().into_iter().flatten();
        list.extend(parts.flat_map(|s| choices(root, s)));
    }
    list
}

fn eval(name: &str, input: &Path, output: &Path, options: &str, space: &str) -> Result<Exit> {
    let (kind, bare) = match name.split_once('/') {
        Some((kind, bare)) => (Some(kind), bare),
        None => (None, name),
    };
    let is = |k: &str, known: bool| kind == Some(k) || (kind.is_none() && known);
    if is("transfer-loss", registry::find::<dyn TransferLoss>(bare).is_ok()) {
        return eval_transfer(bare, input, output, options);
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

/// The array of this name.
pub(crate) fn array<'a>(arrays: &'a npz::Arrays, file: &Path, name: &str) -> Result<&'a Tensor> {
    arrays.get(name).ok_or_else(|| {
        let known: Vec<&str> = arrays.keys().map(String::as_str).collect();
        let text = format!(
            "{}: the array `{name}` is missing (found: {})",
            file.display(),
            known.join(", ")
        );
        Usage(text).into()
    })
}

/// Labels as the library takes them.
pub(crate) fn labels(tensor: &Tensor, name: &str) -> Result<Vec<u32>> {
    let list = tensor.flatten_all()?.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    list.iter()
        .map(|l| u32::try_from(*l).map_err(|_| Usage(format!("`{name}` has the label {l}")).into()))
        .collect()
}

fn eval_transfer(name: &str, input: &Path, output: &Path, options: &str) -> Result<Exit> {
    let options = setup::options::<dyn TransferLoss>(name, options)?;
    let loss = registry::build::<dyn TransferLoss>(name, &options)?;
    let arrays = npz::read(input)?;
    let var = |name: &str| -> Result<Var> {
        Ok(Var::from_tensor(&array(&arrays, input, name)?.to_dtype(DType::F64)?)?)
    };
    let (main, aux) = (var("main")?, var("aux")?);
    let labels = arrays.get("labels").map(|l| labels(l, "labels")).transpose()?;
    let needs = loss.needs();
    let draws = Key::new(0, Purpose::Transfer).stream();
    let seen = |t: &Var| match needs {
        needs if needs.logits => Seen::logits(t.as_tensor().clone()),
        _ => Seen::embedding(t.as_tensor().clone()),
    };
    let batch = TransferBatch::new(seen(&main), seen(&aux), draws)?.with_labels(labels.as_deref());
    batch.check(needs).map_err(|e| e.in_plugin(name))?;
    let value = loss.loss(&batch).map_err(|e| e.in_plugin(name))?;
    if value.elem_count() != 1 {
        bail!("`{name}` gave {:?} values, a loss is one number", value.dims());
    }
    let value = value.reshape(())?;
    let gradients = if value.track_op() { Some(value.backward()?) } else { None };
    // A loss that does not reach an input has gradient zero there.
    let gradient = |var: &Var| -> Result<Tensor> {
        let found = gradients.as_ref().and_then(|g| g.get(var)).map(Tensor::detach);
        Ok(found.map_or_else(|| var.zeros_like(), Ok)?)
    };
    let result = [
        ("loss".to_owned(), value.detach()),
        ("grad_main".to_owned(), gradient(&main)?),
        ("grad_aux".to_owned(), gradient(&aux)?),
    ];
    setup::write(output, &npz::to_bytes(&result)?)?;
    Ok(Exit::Ok)
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
