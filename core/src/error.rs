//! The one error type of the library crates.

use std::fmt;

/// What the library crates return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong below the command line.
///
/// Messages are lower case, without a final full stop, with values in back-quotes; a `hint` tells
/// what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The user's configuration is wrong. The message already shows file, line and caret where a
    /// place in a file is to blame.
    #[error("{message}")]
    Config {
        /// What is wrong, and where.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// A name that is not registered.
    #[error("unknown {kind} `{name}`")]
    UnknownPlugin {
        /// The kind of plugin, in kebab-case.
        kind: &'static str,
        /// The name that was asked for.
        name: String,
        /// The names that are registered, sorted.
        known: Vec<&'static str>,
    },
    /// Two entries of a kind carry one name.
    #[error("two plugins of kind {kind} are called `{name}`: one in `{first}`, one in `{second}`")]
    DuplicatePlugin {
        /// The kind of plugin.
        kind: &'static str,
        /// The shared name.
        name: &'static str,
        /// The crate of the first.
        first: &'static str,
        /// The crate of the second.
        second: &'static str,
    },
    /// A plugin failed or refused.
    #[error("plugin `{plugin}`: {source}")]
    Plugin {
        /// The plugin's name.
        plugin: String,
        /// Its own error.
        #[source]
        source: Box<Self>,
    },
    /// A plugin was asked for something it cannot do.
    #[error("`{plugin}` does not support {what}")]
    Unsupported {
        /// The plugin's name.
        plugin: String,
        /// What it was asked for.
        what: String,
    },
    /// A value outside its range, or arguments that do not fit together.
    #[error("{0}")]
    Invalid(String),
    /// Loaded code failed: it reported an error, died, took too long or answered nonsense.
    #[error("{0}")]
    Foreign(String),
    /// A genotype that cannot be read, or that its space does not contain.
    #[error("genotype: {0}")]
    Genotype(String),
    /// A data set that cannot be read.
    #[error("data: {0}")]
    Data(String),
    /// A loss or gradient that is not finite: the trial stops here.
    #[error("{what} is not finite at step {step} ({level})")]
    NotFinite {
        /// What was computed, such as `training loss`.
        what: String,
        /// The level (stage) it belongs to.
        level: String,
        /// The search or training step.
        step: usize,
    },
    /// A parameter that the loss does not depend on although its gradient was asked for.
    #[error("the loss gives no gradient to {0}")]
    NoGradient(String),
    /// The file system.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the file's name.
        doing: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The kernels: a network that cannot be built.
    #[error(transparent)]
    Kernels(#[from] tetlo_kernels::Error),
    /// The tensor library.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// A configuration error without a place in a file.
    pub fn config(message: impl Into<String>) -> Self {
        Self::Config { message: message.into(), hint: None }
    }

    /// The same with a hint.
    pub fn config_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Config { message: message.into(), hint: Some(hint.into()) }
    }

    /// Names the plugin in which `self` happened, unless it is named already.
    #[must_use]
    pub fn in_plugin(self, plugin: impl Into<String>) -> Self {
        let name = plugin.into();
        match self {
            Self::Plugin { plugin, source } if plugin == name => Self::Plugin { plugin, source },
            error => Self::Plugin { plugin: name, source: Box::new(error) },
        }
    }

    /// An error of the file system while `doing`.
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { doing: doing.into(), source }
    }

    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config { hint, .. } => hint.clone(),
            Self::UnknownPlugin { kind, name, known } => Some(match nearest(name, known) {
                Some(near) => format!(
                    "did you mean `{near}`? `tetlo plugins list --kind {kind}` shows them all"
                ),
                None => format!("registered are {}", List(known)),
            }),
            Self::Plugin { source, .. } => source.hint(),
            _ => None,
        }
    }

    /// Is it the user's configuration or usage (exit code 2) rather than a failed run (1)?
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Config { .. }
            | Self::UnknownPlugin { .. }
            | Self::DuplicatePlugin { .. }
            | Self::Unsupported { .. }
            | Self::Invalid(_)
            | Self::Genotype(_)
            | Self::Data(_)
            | Self::Kernels(_) => true,
            Self::Plugin { source, .. } => source.is_usage(),
            Self::Foreign(_)
            | Self::NotFinite { .. }
            | Self::NoGradient(_)
            | Self::Io { .. }
            | Self::Tensor(_) => false,
        }
    }
}

/// `` `a`, `b`, `c` ``
struct List<'a>(&'a [&'static str]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, name) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}`{name}`")?;
        }
        Ok(())
    }
}

/// The known name nearest to `name` by edit distance, if it is near enough to be a slip.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (edit_distance(name, k), *k))
        .filter(|(d, k)| *d <= 1 + k.len().max(name.len()) / 4)
        .min()
        .map(|(_, k)| k)
}

/// Levenshtein distance, with one row.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_name() {
        let known = ["darts-1st", "darts-2nd", "random", "tetlo"];
        assert_eq!(nearest("tetol", &known), Some("tetlo"));
        assert_eq!(nearest("darts-2", &known), Some("darts-2nd"));
        assert_eq!(nearest("evolution", &known), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }
}
