//! The description of a library, checked, and its plugins as entries of the registry.
#![expect(unsafe_code, reason = "reads a description that a library gives")]

use super::call::{CLoss, CPenalty, CSelection, CStopRule};
use super::object::Object;
use crate::foreign::{ForeignLoss, ForeignRegularizer, Looks, Manifest, Named};
use crate::kinds::{Invariances, Needs, Regularizer, Selection, StopRule, TransferLoss};
use crate::registry::{Code, Describe, Entry, Factory, loaded};
use crate::{Error, Result};
use schemars::Schema;
use serde_json::Value;
use std::ffi::c_char;
use tetlo_plugin::{abi, read_text};
use toml::de::ValueDeserializer;

/// Sizes of the structs in the first release: what every library has at least.
const LEAST: [u32; 4] = abi::SIZES;
/// More plugins of a kind than any library has: a wrong number.
const MOST: usize = 10_000;

/// A library's description. It lives as long as the program.
#[derive(Debug, Clone, Copy)]
pub struct Library {
    plugin: &'static abi::Plugin,
}

// SAFETY: the description is immutable.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

fn invalid(what: impl Into<String>) -> Error {
    Error::Invalid(what.into())
}

/// Reads as much of a struct as the library has; the rest is zero, which is what "left out" means.
///
/// # Safety
/// `at` points to `size` readable bytes that begin a `T`, for which zero bytes are a value.
unsafe fn prefix<T: Copy>(at: *const T, size: u32) -> T {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    let bytes = size_of::<T>().min(size as usize);
    // SAFETY: the caller's promise.
    unsafe {
        std::ptr::copy_nonoverlapping(at.cast::<u8>(), value.as_mut_ptr().cast::<u8>(), bytes);
        value.assume_init()
    }
}

/// # Safety
/// `text` is NULL or a text of the library.
unsafe fn text(text: *const c_char, what: &str) -> Result<&'static str> {
    // SAFETY: the caller's promise; libraries are never unloaded.
    let found = unsafe { read_text(text) }.map_err(|e| invalid(format!("its {what}: {e}")))?;
    found.ok_or_else(|| invalid(format!("a plugin has no {what}")))
}

/// What all descriptors have.
struct Common {
    name: *const c_char,
    summary: *const c_char,
    options_schema: *const c_char,
}

/// # Safety
/// The pointers are NULL or texts of the library.
unsafe fn manifest(kind: &str, version: &str, c: &Common) -> Result<Manifest> {
    // SAFETY: the caller's promise.
    let (name, summary, schema) = unsafe {
        let schema = read_text(c.options_schema).map_err(invalid)?;
        (text(c.name, "name")?, text(c.summary, "summary")?, schema)
    };
    let schema = match schema {
        None => Value::Null,
        Some(schema) => serde_json::from_str(schema)
            .map_err(|e| invalid(format!("the options schema of `{name}` is not JSON: {e}")))?,
    };
    Manifest::new(kind, name, version, summary, &schema)
}

impl Library {
    /// Checks what `tetlo_plugin_v1` returned.
    ///
    /// # Errors
    /// NULL, or made for another version of the interface; both sides are named.
    ///
    /// # Safety
    /// `plugin` is NULL or points to a `tetlo_plugin` that lives as long as the program.
    pub unsafe fn new(plugin: *const abi::Plugin) -> Result<Self> {
        // SAFETY: the caller's promise.
        let Some(plugin) = (unsafe { plugin.as_ref() }) else {
            return Err(invalid("`tetlo_plugin_v1` returned NULL"));
        };
        // `abi`, `struct_size` and `sizes` keep their places in every version.
        let least = size_of::<abi::Plugin>() as u32;
        let fits = plugin.abi == abi::ABI
            && plugin.struct_size >= least
            && plugin.sizes[0] == LEAST[0]
            && plugin.sizes.iter().zip(LEAST).all(|(size, least)| *size >= least && *size < 65536);
        if !fits {
            return Err(invalid(format!(
                "made for another version of the plugin interface: it has ABI {} and structs of {} and \
                 {:?} bytes, this tetlo ABI {} and structs of {least} and {LEAST:?}; build it with this \
                 tetlo's `tetlo_plugin.h`",
                plugin.abi,
                plugin.struct_size,
                plugin.sizes,
                abi::ABI,
            )));
        }
        Ok(Self { plugin })
    }

    /// What it says it was built with, and its version.
    ///
    /// # Errors
    /// Not UTF-8.
    pub fn origin(&self) -> Result<(&'static str, &'static str)> {
        // SAFETY: texts of the library, or NULL.
        unsafe {
            let built_with = read_text(self.plugin.built_with).map_err(invalid)?;
            let version = read_text(self.plugin.version).map_err(invalid)?;
            Ok((built_with.unwrap_or(""), version.unwrap_or("0")))
        }
    }

    fn losses(&self) -> Result<Vec<abi::TransferLoss>> {
        let (n, list) = (self.plugin.n_transfer_losses, self.plugin.transfer_losses);
        if n > MOST || (n > 0 && list.is_null()) {
            return Err(invalid(format!("it says that it has {n} transfer losses")));
        }
        let stride = self.plugin.sizes[3];
        // SAFETY: the library says that there are n of this size.
        let one = |i| unsafe { prefix(list.byte_add(i * stride as usize), stride) };
        Ok((0..n).map(one).collect())
    }

    /// Descriptors that a library lists by pointers, each of which begins with its size.
    fn others<T: Copy>(n: usize, list: *const *const T, least: usize) -> Result<Vec<T>> {
        if n > MOST || (n > 0 && list.is_null()) {
            return Err(invalid(format!("it says that it has {n} plugins of a kind")));
        }
        let one = |i| {
            // SAFETY: the library says that there are n pointers, to structs that begin with a size.
            unsafe {
                let at: *const T = *list.add(i);
                let Some(size) = at.cast::<u32>().as_ref().copied() else {
                    return Err(invalid("a plugin's descriptor is NULL"));
                };
                if (size as usize) < least {
                    return Err(invalid(format!(
                        "a plugin's descriptor has {size} bytes, {least} are needed (is its \
                         `struct_size` set?)"
                    )));
                }
                Ok(prefix(at, size))
            }
        };
        (0..n).map(one).collect()
    }

    /// Its plugins.
    ///
    /// # Errors
    /// A description that does not hold together, none at all, or a name that stands in it twice.
    pub fn plugins(&self) -> Result<Vec<CPlugin>> {
        let (_, version) = self.origin()?;
        let p = self.plugin;
        let mut list = Vec::new();
        macro_rules! all {
            ($kind:literal, $descriptors:expr, $descriptor:ident, $function:ident) => {
                for d in $descriptors {
                    let common = Common {
                        name: d.name,
                        summary: d.summary,
                        options_schema: d.options_schema,
                    };
                    // SAFETY: texts of the library.
                    let manifest = unsafe { manifest($kind, version, &common)? };
                    if d.$function.is_none() {
                        return Err(invalid(format!(
                            "`{}` has no function `{}`",
                            manifest.name,
                            stringify!($function)
                        )));
                    }
                    list.push(CPlugin { manifest, descriptor: Descriptor::$descriptor(d) });
                }
            };
        }
        let size = size_of::<abi::Regularizer>();
        all!("transfer-loss", self.losses()?, Loss, loss);
        let found = Self::others(p.n_regularizers, p.regularizers, size)?;
        all!("regularizer", found, Regularizer, penalty);
        let found = Self::others(p.n_stop_rules, p.stop_rules, size_of::<abi::StopRule>())?;
        all!("stop-rule", found, StopRule, stop);
        let found = Self::others(p.n_selections, p.selections, size_of::<abi::Selection>())?;
        all!("selection", found, Selection, select);
        Manifest::check_distinct(&list.iter().map(|p| p.manifest.clone()).collect::<Vec<_>>())?;
        Ok(list)
    }
}

/// The functions of a plugin.
#[derive(Debug, Clone, Copy)]
enum Descriptor {
    Loss(abi::TransferLoss),
    Regularizer(abi::Regularizer),
    StopRule(abi::StopRule),
    Selection(abi::Selection),
}

/// A plugin of a library.
#[derive(Debug, Clone)]
pub struct CPlugin {
    /// What it says of itself.
    pub manifest: Manifest,
    descriptor: Descriptor,
}

// SAFETY: the pointers in it are to functions and texts of a library that is never unloaded.
unsafe impl Send for CPlugin {}
// SAFETY: as above.
unsafe impl Sync for CPlugin {}

impl CPlugin {
    /// Adds it to the registry.
    pub fn add(self, code: &'static Code) {
        let (name, summary) = (leaked(&self.manifest.name), leaked(&self.manifest.summary));
        let origin = (leaked(&code.path.display().to_string()), leaked(&self.manifest.version));
        let factory: &'static Self = Box::leak(Box::new(self));
        let code = Some(code);
        match factory.descriptor {
            Descriptor::Loss(_) => {
                loaded::add(Entry::<dyn TransferLoss> { name, summary, origin, code, factory });
            }
            Descriptor::Regularizer(_) => {
                loaded::add(Entry::<dyn Regularizer> { name, summary, origin, code, factory });
            }
            Descriptor::StopRule(_) => {
                loaded::add(Entry::<dyn StopRule> { name, summary, origin, code, factory });
            }
            Descriptor::Selection(_) => {
                loaded::add(Entry::<dyn Selection> { name, summary, origin, code, factory });
            }
        }
    }

    /// Makes an object.
    fn object(
        &self,
        create: Option<abi::Create>,
        destroy: Option<abi::Destroy>,
        options: &Value,
    ) -> Result<Object> {
        let options = self.manifest.options.complete(options)?;
        // SAFETY: functions of the library, which promises to fulfil the header.
        unsafe { Object::new(create, destroy, &options) }
    }

    fn wrong<T>(&self) -> Result<T> {
        Err(invalid(format!("`{}` is a {}", self.manifest.name, self.manifest.kind)))
    }
}

fn leaked(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// A loss in plain Rust that is linked in: name, summary and factory.
pub(super) fn linked(
    descriptor: abi::TransferLoss,
) -> Result<(&'static str, &'static str, &'static CPlugin)> {
    let d = &descriptor;
    let common = Common { name: d.name, summary: d.summary, options_schema: d.options_schema };
    // SAFETY: made by this program.
    let manifest = unsafe { manifest("transfer-loss", "0", &common)? };
    let plugin = CPlugin { manifest, descriptor: Descriptor::Loss(descriptor) };
    let plugin: &'static CPlugin = Box::leak(Box::new(plugin));
    Ok((&plugin.manifest.name, &plugin.manifest.summary, plugin))
}

impl Describe for CPlugin {
    fn resolve(&self, source: ValueDeserializer<'_>) -> Result<Value, toml::de::Error> {
        use serde::de::Error as _;
        let options = self.manifest.options.resolve(source)?;
        // Checked by the plugin too, so that its own errors are reported at their place.
        self.check(&options).map_err(toml::de::Error::custom)?;
        Ok(options)
    }

    fn defaults(&self) -> Value {
        self.manifest.options.defaults()
    }

    fn schema(&self) -> Schema {
        self.manifest.options.schema()
    }

    fn check(&self, options: &Value) -> Result<()> {
        let (create, destroy) = match self.descriptor {
            Descriptor::Loss(d) => (d.create, d.destroy),
            Descriptor::Regularizer(d) => (d.create, d.destroy),
            Descriptor::StopRule(d) => (d.create, d.destroy),
            Descriptor::Selection(d) => (d.create, d.destroy),
        };
        self.object(create, destroy, options).map(drop)
    }
}

impl Factory<dyn TransferLoss> for CPlugin {
    fn build(&self, options: &Value) -> Result<Box<dyn TransferLoss>> {
        let Descriptor::Loss(d) = self.descriptor else { return self.wrong() };
        let object = self.object(d.create, d.destroy, options)?;
        let looks = looks(&self.manifest.name, &d, &object)?;
        Ok(Box::new(ForeignLoss::new(&self.manifest.name, CLoss::new(object, d, looks))))
    }
}

impl Factory<dyn Regularizer> for CPlugin {
    fn build(&self, options: &Value) -> Result<Box<dyn Regularizer>> {
        let Descriptor::Regularizer(d) = self.descriptor else { return self.wrong() };
        let object = self.object(d.create, d.destroy, options)?;
        Ok(Box::new(ForeignRegularizer::new(&self.manifest.name, CPenalty::new(object, d))))
    }
}

impl Factory<dyn StopRule> for CPlugin {
    fn build(&self, options: &Value) -> Result<Box<dyn StopRule>> {
        let Descriptor::StopRule(d) = self.descriptor else { return self.wrong() };
        let rule = CStopRule::new(self.object(d.create, d.destroy, options)?, d);
        Ok(Box::new(Named::new(&self.manifest.name, rule)))
    }
}

impl Factory<dyn Selection> for CPlugin {
    fn build(&self, options: &Value) -> Result<Box<dyn Selection>> {
        let Descriptor::Selection(d) = self.descriptor else { return self.wrong() };
        let selection = CSelection::new(self.object(d.create, d.destroy, options)?, d);
        Ok(Box::new(Named::new(&self.manifest.name, selection)))
    }
}

/// What a loss looks at: its descriptor's word, or the object's.
fn looks(name: &str, d: &abi::TransferLoss, object: &Object) -> Result<Looks> {
    let mut said = abi::Needs {
        struct_size: size_of::<abi::Needs>() as u32,
        needs: if d.needs == 0 { abi::EMBEDDINGS } else { d.needs },
        min_batch: d.min_batch.max(1),
        properties: d.properties,
    };
    if let Some(describe) = d.describe {
        // SAFETY: the plugin's own object, a struct of the size it says.
        object.with(|pointer| unsafe { describe(pointer, &raw mut said) });
    }
    if said.needs & abi::PARAMETERS != 0 {
        return Err(Error::Unsupported {
            plugin: name.to_owned(),
            what: "being loaded: it has parameters of its own, which do not cross the interface; link it \
                   into a binary"
                .into(),
        });
    }
    let known = abi::EMBEDDINGS | abi::LOGITS | abi::MAPS | abi::LABELS;
    if said.needs & !known != 0 {
        return Err(invalid(format!(
            "it needs inputs that this tetlo does not know (bits {:#x})",
            said.needs & !known
        )));
    }
    let has = |bit: u32| said.needs & bit != 0;
    if !(has(abi::EMBEDDINGS) || has(abi::LOGITS) || has(abi::MAPS)) {
        return Err(invalid("it says that it looks at neither model"));
    }
    let is = |bit: u32| said.properties & bit != 0;
    let mut needs = Needs::batch(said.min_batch.max(1) as usize);
    needs.embeddings = has(abi::EMBEDDINGS);
    needs.logits = has(abi::LOGITS);
    needs.maps = has(abi::MAPS);
    needs.labels = has(abi::LABELS);
    Ok(Looks {
        needs,
        reaches_main: !is(abi::DETACHED_MAIN),
        teacher_is_smooth: !is(abi::JUMPS),
        invariances: Invariances {
            order: is(abi::INVARIANT_ORDER),
            scale: is(abi::INVARIANT_SCALE),
            rotation: is(abi::INVARIANT_ROTATION),
            shift: is(abi::INVARIANT_SHIFT),
        },
    })
}
