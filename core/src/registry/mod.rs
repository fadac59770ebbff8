//! The registry of plugins: what a plugin submits, and how it is found by name.
//!
//! An entry is a description: `&'static str` names and a factory, submitted through `inventory` by the
//! macro of its kind, or added when code is loaded at run time ([`loaded`]). Listings are sorted, since
//! link order is not stable.

use crate::{Error, Result};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::RwLock;
use toml::de::ValueDeserializer;

pub use loaded::{Code, Tier};

pub mod catalog;
pub mod loaded;
pub(crate) mod macros;

/// A plugin that is made from an options type.
///
/// The options type is the plugin's whole configuration: `#[serde(deny_unknown_fields, default,
/// rename_all = "kebab-case")]`, with a doc comment on each field (they become the reference and
/// the JSON schema).
pub trait FromOptions: Sized {
    /// The options.
    type Options: DeserializeOwned + Serialize + JsonSchema + Default + Debug;

    /// Checks the options and builds the plugin.
    ///
    /// # Errors
    /// A value outside its range; the message names the key.
    fn from_options(options: Self::Options) -> Result<Self>;
}

/// Longest name, summary and version of a plugin, in bytes.
const LONGEST: usize = 200;

/// Is it a plugin's name: lower-case words and digits joined by `joint` (`-`, in names of operations
/// `_`)?
pub fn is_name(name: &str, joint: char) -> bool {
    let word =
        |w: &str| !w.is_empty() && w.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= LONGEST && name.split(joint).all(word)
}

/// Is it a plugin's summary or version: one line of text, not too long for a listing?
pub fn is_line(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= LONGEST && !text.contains(char::is_control)
}

/// Options of a plugin that has none.
#[derive(Debug, Clone, Copy, Default, serde::Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoOptions {}

/// A kind of plugin: implemented by its trait object, such as `dyn TransferLoss`.
pub trait Kind: 'static {
    /// The kind's name in kebab-case.
    const NAME: &'static str;

    /// All entries that are linked into the binary, in link order.
    fn submitted() -> Box<dyn Iterator<Item = &'static Entry<Self>>>;

    /// The entries of code that was loaded at run time.
    fn loaded() -> &'static RwLock<Vec<&'static Entry<Self>>>;
}

/// Reads a plugin's options.
pub trait Describe: Send + Sync {
    /// Reads options with their places in the source and writes all defaults out.
    ///
    /// # Errors
    /// Options that do not fit, with their place where it is known.
    fn resolve(&self, source: ValueDeserializer<'_>) -> Result<Value, toml::de::Error>;

    /// The default options.
    fn defaults(&self) -> Value;

    /// The JSON schema of the options.
    fn schema(&self) -> Schema;

    /// Builds the plugin from resolved options and drops it.
    ///
    /// # Errors
    /// As [`Factory::build`].
    fn check(&self, options: &Value) -> Result<()>;
}

/// Makes plugins of a kind from options.
pub trait Factory<T: ?Sized>: Describe {
    /// Builds the plugin from resolved options (all defaults may be missing).
    ///
    /// # Errors
    /// Options that do not fit.
    fn build(&self, options: &Value) -> Result<Box<T>>;

    /// How the C interface makes one, for a library that exports it; `None`: it cannot.
    fn exported(&self) -> Option<tetlo_plugin::abi::Create> {
        None
    }
}

/// What a plugin submits.
pub struct Entry<T: ?Sized + 'static> {
    /// Name in the config, kebab-case.
    pub name: &'static str,
    /// One line for listings.
    pub summary: &'static str,
    /// Where it comes from: the crate that submits it, or the loaded file; and its version.
    pub origin: (&'static str, &'static str),
    /// The loaded code it comes from; `None`: linked into the binary.
    pub code: Option<&'static Code>,
    /// Makes it.
    pub factory: &'static dyn Factory<T>,
}

impl<T: ?Sized> Entry<T> {
    /// Builds the plugin from resolved options (all defaults may be missing).
    ///
    /// # Errors
    /// Options that do not fit.
    pub fn build(&self, options: &Value) -> Result<Box<T>> {
        self.factory.build(options)
    }

    /// Reads options with their places in the source and writes all defaults out.
    ///
    /// # Errors
    /// Options that do not fit.
    pub fn resolve(&self, source: ValueDeserializer<'_>) -> Result<Value, toml::de::Error> {
        self.factory.resolve(source)
    }

    /// The default options.
    pub fn defaults(&self) -> Value {
        self.factory.defaults()
    }

    /// The JSON schema of the options.
    pub fn schema(&self) -> Schema {
        self.factory.schema()
    }
}

impl<T: ?Sized> Debug for Entry<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("name", &self.name)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// The factory of a plugin type that is linked into the binary.
pub struct Linked<P>(PhantomData<fn() -> P>);

impl<P> Linked<P> {
    /// The one value.
    pub const FACTORY: Self = Self(PhantomData);
}

impl<P> Debug for Linked<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Linked")
    }
}

impl<P: FromOptions> Linked<P> {
    /// Builds the plugin from resolved options (`null` or an object).
    ///
    /// # Errors
    /// Options that do not fit.
    pub fn plugin(options: &Value) -> Result<P> {
        let options = match options {
            Value::Null => P::Options::default(),
            value => serde_json::from_value(value.clone())
                .map_err(|e| Error::config(format!("options: {e}")))?,
        };
        P::from_options(options)
    }
}

impl<P: FromOptions> Describe for Linked<P> {
    fn resolve(&self, source: ValueDeserializer<'_>) -> Result<Value, toml::de::Error> {
        use serde::de::Error as _;
        let options = <P::Options as serde::Deserialize>::deserialize(source)?;
        let value = serde_json::to_value(&options).map_err(toml::de::Error::custom)?;
        // Checked again here so that an out-of-range value is reported at its place.
        P::from_options(options).map_err(toml::de::Error::custom)?;
        Ok(value)
    }

    fn defaults(&self) -> Value {
        serde_json::to_value(P::Options::default()).unwrap_or(Value::Null)
    }

    fn schema(&self) -> Schema {
        schema_for!(P::Options)
    }

    fn check(&self, options: &Value) -> Result<()> {
        Self::plugin(options).map(drop)
    }
}

/// The entries of a kind, sorted by name.
///
/// Loaded code is among them where it was loaded to be found by name ([`Code::is_named`]).
pub fn entries<T: Kind + ?Sized>() -> Vec<&'static Entry<T>> {
    let mut list: Vec<_> = T::submitted().collect();
    list.extend(loaded::named::<T>());
    list.sort_by_key(|e| (e.name, e.origin));
    list
}

/// The entry of this name.
///
/// # Errors
/// Unknown, or submitted twice.
pub fn find<T: Kind + ?Sized>(name: &str) -> Result<&'static Entry<T>> {
    let list = entries::<T>();
    let mut found = list.iter().filter(|e| e.name == name);
    let Some(first) = found.next() else {
        let known = list.iter().map(|e| e.name).collect();
        return Err(Error::UnknownPlugin { kind: T::NAME, name: name.to_owned(), known });
    };
    match found.next() {
        None => Ok(first),
        Some(second) => Err(Error::DuplicatePlugin {
            kind: T::NAME,
            name: first.name,
            first: first.origin.0,
            second: second.origin.0,
        }),
    }
}

/// Builds the plugin of this name from resolved options (`null` or an object).
///
/// # Errors
/// Unknown name, or options that do not fit; the message names the plugin.
pub fn build<T: Kind + ?Sized>(name: &str, options: &Value) -> Result<Box<T>> {
    find::<T>(name)?.build(options).map_err(|e| e.in_plugin(name))
}
