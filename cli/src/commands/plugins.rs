//! `plugins list|show|new|check|eval`.

mod check;
mod eval;
mod new;
mod transfer;

use crate::args::{Format, PluginsCommand};
use crate::commands::code;
use crate::console;
use crate::exit::{Exit, Usage};
use anyhow::{Result, bail};
use candle_core::{DType, Tensor};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use tetlo_core::config::{PRESET_KIND, presets};
use tetlo_core::registry::catalog::{self, KindInfo};
use tetlo_core::registry::{Code, Tier};
use tetlo_engine::npz;

/// A plugin in a listing.
#[derive(Debug, Clone, Serialize)]
struct Listed {
    kind: &'static str,
    name: &'static str,
    summary: &'static str,
    tier: String,
    version: &'static str,
    #[serde(skip)]
    origin: &'static str,
    #[serde(skip)]
    code: Option<&'static Code>,
    #[serde(skip)]
    defaults: Value,
    #[serde(skip)]
    schema: Value,
}

impl From<catalog::Plugin> for Listed {
    fn from(p: catalog::Plugin) -> Self {
        Self {
            kind: p.kind,
            name: p.name,
            summary: p.summary,
            tier: p.tier().to_string(),
            version: p.origin.1,
            origin: p.origin.0,
            code: p.code,
            defaults: p.describe.defaults(),
            schema: p.describe.schema().to_value(),
        }
    }
}

/// Everything that is registered, or everything of a file, by kind and name.
fn all(library: Option<&Path>) -> Result<Vec<Listed>> {
    if let Some(library) = library {
        let plugins = tetlo_loader::path::plugins(code::load_file(library)?);
        return Ok(plugins.into_iter().map(Listed::from).collect());
    }
    code::load_environment()?;
    let plugins = catalog::KINDS.iter().flat_map(KindInfo::plugins);
    let mut list: Vec<Listed> = plugins.map(Listed::from).collect();
    list.extend(presets().into_iter().map(|p| Listed {
        kind: PRESET_KIND,
        name: p.name,
        summary: p.summary,
        tier: Tier::Data.to_string(),
        version: p.origin.1,
        origin: p.origin.0,
        code: None,
        defaults: Value::String(p.toml.to_owned()),
        schema: Value::Null,
    }));
    list.sort_by_key(|l| (l.kind, l.name));
    Ok(list)
}

/// Runs a `plugins` command.
pub(crate) fn run(command: PluginsCommand) -> Result<Exit> {
    match command {
        PluginsCommand::List { kind, library, format } => {
            list(kind.as_deref(), library.as_deref(), format.format)
        }
        PluginsCommand::Show { name, library, format } => {
            show(&name, library.as_deref(), format.format)
        }
        PluginsCommand::Check(arguments) => check::check(&arguments),
        PluginsCommand::New(arguments) => new::new(&arguments),
        PluginsCommand::Eval { name, input, output, options, space, library } => {
            let files = eval::Files { input: &input, output: &output };
            eval::eval(&name, files, &options, &space, library.as_deref())
        }
    }
}

fn list(kind: Option<&str>, library: Option<&Path>, format: Format) -> Result<Exit> {
    let mut list = all(library)?;
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
fn find(name: &str, library: Option<&Path>) -> Result<Vec<Listed>> {
    let (kind, bare) = match name.split_once('/') {
        Some((kind, bare)) => (Some(kind), bare),
        None => (None, name),
    };
    let list = all(library)?;
    let names: Vec<&str> = list.iter().map(|l| l.name).collect();
    let near = tetlo_core::error::nearest(bare, &names).map(str::to_owned);
    let all_names = library.map(|file| format!("{} has {}", file.display(), names.join(", ")));
    let found: Vec<Listed> =
        list.into_iter().filter(|l| l.name == bare && kind.is_none_or(|k| k == l.kind)).collect();
    if found.is_empty() {
        let hint = near.map_or_else(
            || all_names.unwrap_or_else(|| "`tetlo plugins list` shows all".to_owned()),
            |near| format!("did you mean `{near}`?"),
        );
        bail!(Usage(format!("no plugin is called `{name}`; {hint}")));
    }
    Ok(found)
}

fn show(name: &str, library: Option<&Path>, format: Format) -> Result<Exit> {
    let found = find(name, library)?;
    if format == Format::Json {
        let list: Vec<Value> = found
            .iter()
            .map(|l| {
                json!({
                    "kind": l.kind, "name": l.name, "summary": l.summary, "tier": l.tier,
                    "version": l.version, "crate": l.origin, "sha256": l.code.map(|c| &c.sha256),
                    "built_with": l.code.map(|c| &c.built_with), "defaults": l.defaults,
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
        if let Some(code) = l.code {
            console::out(&format!("SHA-256 {}", code.sha256));
            if !code.built_with.is_empty() {
                console::out(&format!("built with {}", code.built_with));
            }
        }
        // One line is no more than the title of the options.
        if let Some(about) = l.schema["description"].as_str().filter(|a| a.contains('\n')) {
            console::out(&format!("\n{}", plain(about)));
        }
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

/// A doc comment as plain text: blocks of code indented, without their marks.
fn plain(about: &str) -> String {
    let (mut lines, mut code) = (Vec::new(), false);
    for line in about.lines() {
        if line.starts_with("```") {
            code = !code;
            if lines.last().is_some_and(|l: &String| !l.is_empty()) {
                lines.push(String::new());
            }
        } else if code {
            lines.push(format!("    {line}"));
        } else {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n").trim_end().to_owned()
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
    let list = tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let label = |l: &f64| {
        if l.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(l) {
            Ok(*l as u32)
        } else {
            Err(Usage(format!("`{name}` has the label {l}")).into())
        }
    };
    list.iter().map(label).collect()
}
