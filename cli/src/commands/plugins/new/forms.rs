//! What is written for which kind in which language.

use super::Name;
use crate::args::{Language, NewArgs, NewKind};
use crate::exit::Usage;
use anyhow::{Context, Result, bail};
use std::path::Path;

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../../../templates/", $path))
    };
}

/// A file: its path in the folder, and its text.
type File = (&'static str, &'static str);

/// Crates that sources use: their name there, the package, and its version.
const CRATES: [(&str, &str, &str); 3] = [
    ("candle_core", "candle-core", "\"0.11.1\""),
    ("schemars", "schemars", "\"1.2\""),
    ("serde", "serde", "{ version = \"1.0\", features = [\"derive\"] }"),
];

/// Those of tetlo: their name in sources, the package, and its folder.
const OWN_CRATES: [(&str, &str, &str); 6] = [
    ("tetlo_cli", "tetlo", "cli"),
    ("tetlo_core", "tetlo-core", "core"),
    ("tetlo_plugin", "tetlo-plugin", "core/plugin"),
    ("tetlo_plugins", "tetlo-plugins", "plugins"),
    ("tetlo_search_spaces", "tetlo-search-spaces", "search-spaces"),
    ("tetlo_test_support", "tetlo-test-support", "tests/support"),
];

const COMPARE: &str = "tetlo compare compare.toml";
const COMMON: [File; 1] = [("compare.toml", template!("common/compare.toml"))];
const RUST_LIBRARY: &str = "target/release/libmy_plugin.so";
const LIBRARY: [File; 4] = [
    ("README.md", template!("rust/README_library.md")),
    ("Cargo.toml", template!("rust/cargo.toml")),
    (".github/workflows/ci.yml", template!("rust/ci_library.yml")),
    (".gitignore", template!("rust/gitignore")),
];
const BINARY: [File; 6] = [
    ("README.md", template!("rust/README_binary.md")),
    ("Cargo.toml", template!("rust/cargo.toml")),
    ("src/main.rs", template!("rust/main.rs")),
    ("tests/conformance.rs", template!("rust/conformance_linked.rs")),
    (".github/workflows/ci.yml", template!("rust/ci_binary.yml")),
    (".gitignore", template!("rust/gitignore")),
];
const C: [File; 7] = [
    ("README.md", template!("c/README.md")),
    ("my_loss.c", template!("c/my_loss.c")),
    ("tetlo_plugin.h", tetlo_plugin::HEADER),
    ("test_my_loss.c", template!("c/test_my_loss.c")),
    ("Makefile", template!("c/Makefile")),
    (".github/workflows/ci.yml", template!("c/ci.yml")),
    (".gitignore", template!("c/gitignore")),
];
const PYTHON: [File; 5] = [
    ("README.md", template!("python/README.md")),
    ("tetlo_plugin.py", tetlo_plugin::PYTHON),
    ("test_my_loss.py", template!("python/test_my_loss.py")),
    (".github/workflows/ci.yml", template!("python/ci.yml")),
    (".gitignore", template!("python/gitignore")),
];
const PAGE: [File; 4] = [
    ("README.md", template!("space/README.md")),
    ("my-plugin.toml", template!("space/my-plugin.toml")),
    (".github/workflows/ci.yml", template!("space/ci.yml")),
    (".gitignore", template!("space/gitignore")),
];

/// What a folder holds.
#[derive(Debug)]
pub(super) struct Form {
    /// The kind of plugin.
    pub(super) kind: &'static str,
    /// The commands that come next.
    pub(super) next: Vec<&'static str>,
    files: Vec<File>,
    /// What replaces which mark in the files.
    marks: Vec<(&'static str, String)>,
}

impl Form {
    /// The form that the arguments ask for.
    pub(super) fn of(arguments: &NewArgs) -> Result<Self> {
        let NewArgs { kind, lang, torch, candle, .. } = *arguments;
        let lang = match (kind, lang) {
            (NewKind::SearchSpace, Some(_)) => {
                bail!(Usage("a search space is a page of TOML: leave `--lang` out".into()))
            }
            (NewKind::TransferLoss, Some(language)) => language,
            (_, None | Some(Language::Rust)) => Language::Rust,
            _ => bail!(Usage(
                "a plugin of this kind is written in rust; c and python are for a transfer-loss"
                    .into()
            )),
        };
        if torch && lang != Language::Python {
            bail!(Usage("`--torch` goes with `--lang python`".into()));
        }
        if candle && (kind != NewKind::TransferLoss || lang != Language::Rust) {
            bail!(Usage("`--candle` goes with a transfer-loss in rust".into()));
        }
        Ok(match kind {
            NewKind::TransferLoss => Self::loss(lang, torch, candle),
            NewKind::Regularizer => Self::library("regularizer", template!("kinds/regularizer.rs"))
                .method("regularizers", "darts-1st"),
            NewKind::StopRule => Self::library("stop-rule", template!("kinds/stop_rule.rs"))
                .method("stop-rule", "darts-1st"),
            NewKind::Selection => Self::library("selection", template!("kinds/selection.rs"))
                .method("selection", "darts-1st"),
            NewKind::Optimizer => {
                Self::binary("multilevel-optimizer", template!("kinds/optimizer.rs"))
                    .method("optimizer", "darts-1st")
            }
            NewKind::Dataset => {
                let form = Self::binary("dataset", template!("kinds/dataset.rs"));
                form.mark("@DATASET@", "@PLUGIN@")
                    .mark("@KEY@", "dataset = { plugin = \"@PLUGIN@\" }")
            }
            NewKind::Operation => {
                let form = Self::binary("operation", template!("kinds/operation.rs"));
                let space = "plugin = \"with-my-plugin\", library = \"space.toml\"";
                form.with(&[("space.toml", template!("space/operation.toml"))])
                    .mark("@SPACE@", space)
                    .mark("@KEY@", &format!("search-space = {{ {space} }}"))
            }
            NewKind::SearchSpace => Self::new("search-space")
                .with(&PAGE)
                .mark("@SPACE@", "plugin = \"my-plugin\", library = \"my-plugin.toml\"")
                .then(&["tetlo plugins check my-plugin.toml", COMPARE]),
        })
    }

    fn new(kind: &'static str) -> Self {
        let (next, files, marks) = (vec![], COMMON.to_vec(), vec![("@KIND@", kind.to_owned())]);
        Self { kind, next, files, marks }
    }

    fn with(mut self, files: &[File]) -> Self {
        self.files.extend(files);
        self
    }

    /// The first to replace a mark counts.
    fn mark(mut self, mark: &'static str, by: &str) -> Self {
        self.marks.push((mark, by.to_owned()));
        self
    }

    fn then(self, next: &[&'static str]) -> Self {
        Self { next: next.to_vec(), ..self }
    }

    /// A method of the example has the plugin under this key, one beside it has the preset's.
    fn method(self, key: &'static str, preset: &str) -> Self {
        let loaded = self.marks.iter().find(|(mark, _)| *mark == "@LIBRARY@");
        let library =
            loaded.map_or_else(String::new, |(_, file)| format!(", library = \"{file}\""));
        let plugin = format!("{{ plugin = \"@PLUGIN@\"{library} }}");
        let plugin = if key == "regularizers" { format!("[{plugin}]") } else { plugin };
        self.mark("@METHODS@", template!("common/with_and_without.toml"))
            .mark("@KEY@", &format!("{key} = {plugin}"))
            .mark("@PRESET@", preset)
    }

    fn loss(language: Language, torch: bool, candle: bool) -> Self {
        let kind = "transfer-loss";
        let form = match language {
            Language::C => Self::new(kind).with(&C).mark("@LIBRARY@", "libmy_loss.so").then(&[
                "make && make test",
                "tetlo plugins check ./libmy_loss.so",
                COMPARE,
            ]),
            Language::Python => {
                let own = if torch {
                    [
                        ("my_loss.py", template!("python/my_loss_torch.py")),
                        ("requirements.txt", template!("python/requirements_torch.txt")),
                    ]
                } else {
                    [
                        ("my_loss.py", template!("python/my_loss.py")),
                        ("requirements.txt", template!("python/requirements.txt")),
                    ]
                };
                Self::new(kind).with(&PYTHON).with(&own).mark("@LIBRARY@", "my_loss.py").then(&[
                    "python3 test_my_loss.py",
                    "tetlo plugins check my_loss.py",
                    COMPARE,
                ])
            }
            Language::Rust if candle => Self::rust_library(kind).with(&[
                ("src/lib.rs", template!("loss/candle_lib.rs")),
                ("src/my_loss.rs", template!("loss/candle.rs")),
                ("tests/conformance.rs", template!("rust/conformance.rs")),
            ]),
            Language::Rust => Self::rust_library(kind).mark("@TEST@", "tests/gradient.rs").with(&[
                ("src/lib.rs", template!("loss/plain_lib.rs")),
                ("src/my_loss.rs", template!("loss/plain.rs")),
                ("tests/gradient.rs", template!("loss/plain_test.rs")),
            ]),
        };
        form.mark("@SOURCE@", "src/my_plugin.rs")
            .mark("@METHODS@", template!("loss/beside_qrs.toml"))
            .method(kind, "tetlo")
    }

    /// A Rust crate that is loaded; all but its sources.
    fn rust_library(kind: &'static str) -> Self {
        Self::new(kind)
            .with(&LIBRARY)
            .mark("@TARGETS@", "[lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n")
            .mark("@LIBRARY@", RUST_LIBRARY)
            .then(&[
                "cargo test",
                "cargo build --release",
                "tetlo plugins check target/release/libmy_plugin.so",
                COMPARE,
            ])
    }

    /// A Rust crate of one source that is loaded.
    fn library(kind: &'static str, source: &'static str) -> Self {
        Self::rust_library(kind).with(&[
            ("src/lib.rs", source),
            ("tests/conformance.rs", template!("rust/conformance.rs")),
        ])
    }

    /// A Rust crate of one source with a tetlo of its own.
    fn binary(kind: &'static str, source: &'static str) -> Self {
        let target = "[[bin]]\nname = \"my-plugin-tetlo\"\npath = \"src/main.rs\"\n";
        Self::new(kind)
            .with(&BINARY)
            .with(&[("src/lib.rs", source)])
            .mark("@TARGETS@", target)
            .then(&[
                "cargo test",
                "cargo run --release -- plugins show @KIND@/@PLUGIN@",
                "cargo run --release -- compare compare.toml",
            ])
    }

    /// A text of a template with everything filled in.
    pub(super) fn fill(&self, name: &Name, text: &str) -> String {
        let suite = self.kind.replace('-', "_");
        let others = [
            ("@METHODS@", template!("common/two_methods.toml")),
            ("@SPACE@", "plugin = \"darts\""),
            ("@DATASET@", "digits"),
            ("@SUITE@", &suite),
            ("@SOURCE@", "src/lib.rs"),
            ("@TEST@", "tests/conformance.rs"),
        ];
        let marks = self.marks.iter().map(|(mark, by)| (*mark, by.as_str())).chain(others);
        name.fill(&marks.fold(text.to_owned(), |text, (mark, by)| text.replace(mark, by)))
    }

    /// The files, by path; a crate depends on the source of tetlo in this folder, or on its version.
    pub(super) fn files(
        &self,
        name: &Name,
        source: Option<&Path>,
    ) -> Result<Vec<(String, String)>> {
        let crates = self.dependencies(source)?;
        let fill = |(path, text): &File| {
            let text = text.replace("@DEPENDENCIES@", &crates.0).replace("@DEV@", &crates.1);
            (self.fill(name, path), self.fill(name, &text))
        };
        let mut files: Vec<_> = self.files.iter().map(fill).collect();
        files.sort();
        Ok(files)
    }

    /// The lines of `Cargo.toml` for what the sources use, and the section for what the tests use beyond
    /// that.
    fn dependencies(&self, source: Option<&Path>) -> Result<(String, String)> {
        let own = |package: &str, folder: &str| -> Result<String> {
            let Some(source) = source else {
                let version =
                    concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));
                return Ok(format!("{package} = \"{version}\""));
            };
            let path = source.join(folder);
            let path = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
            Ok(format!("{package} = {{ path = {} }}", toml::Value::from(path)))
        };
        let mut lines: Vec<(&str, String)> = vec![];
        for (name, package, version) in CRATES {
            lines.push((name, format!("{package} = {version}")));
        }
        for (name, package, folder) in OWN_CRATES {
            lines.push((name, own(package, folder)?));
        }
        let (mut normal, mut dev) = (vec![], vec![]);
        for (name, line) in lines {
            let used = |folder: &str| {
                let mut files = self.files.iter().filter(|(path, _)| path.starts_with(folder));
                files.any(|(_, text)| uses(text, name))
            };
            if used("src/") {
                normal.push(line);
            } else if used("tests/") {
                dev.push(line);
            }
        }
        let dev = match dev.join("\n") {
            none if none.is_empty() => none,
            lines => format!("\n\n[dev-dependencies]\n{lines}"),
        };
        Ok((normal.join("\n"), dev))
    }
}

/// Does a source name this crate?
fn uses(text: &str, name: &str) -> bool {
    let whole = |after: &str| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    text.match_indices(name).any(|(at, _)| whole(&text[at + name.len()..]))
}
