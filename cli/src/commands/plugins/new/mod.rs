//! `plugins new`: writes a folder to start a plugin from.

mod forms;

use crate::args::NewArgs;
use crate::console;
use crate::exit::{Exit, Usage};
use anyhow::{Result, bail};
use forms::Form;
use std::path::{Path, PathBuf};
use tetlo_core::registry::{catalog, is_name};
use tetlo_engine::store;

/// Names that a language, a module or a crate has already.
const TAKEN: [&str; 66] = [
    "abstract",
    "alloc",
    "and",
    "as",
    "assert",
    "async",
    "await",
    "become",
    "bool",
    "box",
    "break",
    "candle-core",
    "candle-nn",
    "case",
    "char",
    "class",
    "const",
    "continue",
    "core",
    "crate",
    "def",
    "default",
    "del",
    "do",
    "double",
    "else",
    "enum",
    "extern",
    "false",
    "float",
    "fn",
    "for",
    "from",
    "if",
    "import",
    "in",
    "int",
    "json",
    "lambda",
    "let",
    "loop",
    "match",
    "mod",
    "move",
    "numpy",
    "pass",
    "proc-macro",
    "pub",
    "random",
    "return",
    "schemars",
    "self",
    "serde",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "tests",
    "torch",
    "trait",
    "true",
    "try",
    "type",
    "use",
    "while",
];

/// Writes the folder and says what to do next.
pub(crate) fn new(arguments: &NewArgs) -> Result<Exit> {
    let form = Form::of(arguments)?;
    let name = Name::new(&arguments.name, &form)?;
    let folder = Path::new(&arguments.name);
    if folder.symlink_metadata().is_ok() {
        bail!(Usage(format!(
            "`{}` is here already; take another name, or remove it",
            folder.display()
        )));
    }
    let files = form.files(&name, source(arguments.tetlo.as_deref())?.as_deref())?;
    for (path, text) in &files {
        let path = folder.join(path);
        store::make_directory(path.parent().unwrap_or(folder))?;
        store::write(&path, text.as_bytes())?;
    }
    console::out(&format!("wrote the {} `{}`:", form.kind, name.plugin));
    for (path, _) in &files {
        console::out(&format!("  {}", folder.join(path).display()));
    }
    console::out("next (README.md says more):");
    console::out(&format!("  cd {}", folder.display()));
    for command in &form.next {
        console::out(&format!("  {}", form.fill(&name, command)));
    }
    Ok(Exit::Ok)
}

/// A plugin's name as different places write it.
#[derive(Debug)]
struct Name {
    /// In a config.
    plugin: String,
    /// `my-loss`
    kebab: String,
    /// `my_loss`
    snake: String,
    /// `MyLoss`
    camel: String,
}

impl Name {
    fn new(name: &str, form: &Form) -> Result<Self> {
        let joint = if form.kind == "operation" { '_' } else { '-' };
        // The folder of an operation may be called as its crate is.
        let good = is_name(name, joint) || is_name(name, '-');
        let words: Vec<&str> = name.split(['-', '_']).collect();
        if !good || name.starts_with(|c: char| c.is_ascii_digit()) {
            bail!(Usage(format!(
                "the name `{name}` is not lower-case words and digits joined by `{joint}`, the first \
                 of them a word"
            )));
        }
        let kebab = words.join("-");
        if TAKEN.contains(&kebab.as_str()) || words[0] == "tetlo" {
            bail!(Usage(format!(
                "`{name}` means something to a compiler or is a library's name; take two words"
            )));
        }
        let plugin = words.join(&joint.to_string());
        let there = catalog::kind(form.kind).and_then(|kind| catalog::find(kind, &plugin).ok());
        if let Some(there) = there {
            bail!(Usage(format!(
                "`{plugin}` is taken by {} ({}); take another name",
                there.origin.0, form.kind
            )));
        }
        let capital = |word: &&str| word[..1].to_uppercase() + &word[1..];
        let camel = words.iter().map(capital).collect();
        Ok(Self { plugin, kebab, snake: words.join("_"), camel })
    }

    /// A template's text, in which the plugin is called `my-loss` or `my-plugin`. In one pass, since the
    /// name may be one of these.
    fn fill(&self, text: &str) -> String {
        let stems = [
            ("@PLUGIN@", &self.plugin),
            ("my-plugin", &self.kebab),
            ("my-loss", &self.kebab),
            ("my_plugin", &self.snake),
            ("my_loss", &self.snake),
            ("MyPlugin", &self.camel),
            ("MyLoss", &self.camel),
        ];
        let (mut filled, mut rest) = (String::new(), text);
        while let Some((at, stem, by)) =
            stems.iter().filter_map(|(stem, by)| Some((rest.find(stem)?, stem, by))).min()
        {
            filled.push_str(&rest[..at]);
            filled.push_str(by);
            rest = &rest[at + stem.len()..];
        }
        filled + rest
    }
}

/// The folder with tetlo's source: the given one, else that which this program was built from, if it
/// is still there.
fn source(given: Option<&Path>) -> Result<Option<PathBuf>> {
    let has_source = |folder: &Path| folder.join("core/Cargo.toml").is_file();
    match given {
        Some(folder) if !has_source(folder) => {
            bail!(Usage(format!("`{}` does not hold tetlo's source", folder.display())))
        }
        Some(folder) => Ok(Some(std::path::absolute(folder)?)),
        None => {
            let built = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
            Ok(built.filter(|folder| has_source(folder)).map(Path::to_path_buf))
        }
    }
}
