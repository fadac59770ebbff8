//! Transfer losses in plain Rust, with the gradient by hand.
#![expect(unsafe_code, reason = "makes slices of the host's pointers")]

use crate::abi;
use crate::guard::{guarded, read_text};
use crate::{Stream, leak};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::{c_char, c_void};

/// What a loss looks at, and says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Bits such as [`abi::EMBEDDINGS`].
    pub inputs: u32,
    /// Smallest batch it is defined on.
    pub min_batch: u32,
    /// Bits such as [`abi::DETACHED_MAIN`] and [`abi::INVARIANT_ORDER`].
    pub properties: u32,
}

impl Needs {
    /// Embeddings of batches of at least so many images.
    pub const fn embeddings(min_batch: u32) -> Self {
        Self { inputs: abi::EMBEDDINGS, min_batch, properties: 0 }
    }

    /// Logits.
    pub const fn logits() -> Self {
        Self { inputs: abi::LOGITS, min_batch: 1, properties: 0 }
    }

    /// Feature maps.
    pub const fn maps() -> Self {
        Self { inputs: abi::MAPS, min_batch: 1, properties: 0 }
    }

    /// The same and further inputs, such as [`abi::LABELS`].
    #[must_use]
    pub const fn and(self, inputs: u32) -> Self {
        Self { inputs: self.inputs | inputs, ..self }
    }

    /// The same with properties, such as [`abi::INVARIANT_ORDER`].
    #[must_use]
    pub const fn with(self, properties: u32) -> Self {
        Self { properties: self.properties | properties, ..self }
    }
}

/// A transfer loss whose author writes value and gradient on slices of f64.
///
/// ```
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
/// use tetlo_plugin::{Batch, Gradients, TransferLoss};
///
/// /// Options of `gap`.
/// #[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
/// #[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
/// struct Options {
///     /// Added to the factor 1.
///     more: f64,
/// }
///
/// /// factor · (Σ main − Σ aux)
/// struct Gap(f64);
///
/// impl TransferLoss for Gap {
///     type Options = Options;
///
///     fn new(options: Options) -> Result<Self, String> {
///         Ok(Self(1.0 + options.more))
///     }
///
///     fn loss(&self, batch: &Batch<'_>, gradients: &mut Gradients<'_>) -> Result<f64, String> {
///         let (main, aux) = (batch.main()?, batch.aux()?);
///         if let Some(g) = &mut gradients.main {
///             g.fill(self.0);
///         }
///         if let Some(g) = &mut gradients.aux {
///             g.fill(-self.0);
///         }
///         Ok(self.0 * (main.values.iter().sum::<f64>() - aux.values.iter().sum::<f64>()))
///     }
/// }
///
/// tetlo_plugin::register_transfer_loss!("gap", Gap, "difference of sums");
/// # fn main() {}
/// ```
pub trait TransferLoss: Sized + Send + 'static {
    /// The options: `#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]`, with a doc
    /// comment on each field.
    type Options: DeserializeOwned + Serialize + JsonSchema + Default;

    /// Checks the options and builds the loss.
    ///
    /// # Errors
    /// A value outside its range; the message names the key in back-quotes.
    fn new(options: Self::Options) -> Result<Self, String>;

    /// What it looks at.
    fn needs(&self) -> Needs {
        Needs::embeddings(1)
    }

    /// The loss; its gradients go to those of `gradients` that are wanted (zeroed before).
    ///
    /// # Errors
    /// What is wrong with the batch.
    fn loss(&self, batch: &Batch<'_>, gradients: &mut Gradients<'_>) -> Result<f64, String>;
}

/// Numbers with a shape, row by row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    /// The numbers.
    pub values: &'a [f64],
    /// The shape.
    pub shape: &'a [i64],
}

impl<'a> Array<'a> {
    /// Rows: images.
    pub fn rows(&self) -> usize {
        self.shape.first().map_or(0, |n| *n as usize)
    }

    /// Values a row.
    pub fn columns(&self) -> usize {
        self.values.len() / self.rows().max(1)
    }

    /// A row.
    pub fn row(&self, i: usize) -> &'a [f64] {
        &self.values[i * self.columns()..][..self.columns()]
    }
}

/// A batch as a loss sees it: what its [`Needs`] name.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// Images.
    pub images: usize,
    /// The random numbers of this step: clone it, then draw.
    pub draws: Stream,
    pub(crate) main: Option<Array<'a>>,
    pub(crate) aux: Option<Array<'a>>,
    pub(crate) main_logits: Option<Array<'a>>,
    pub(crate) aux_logits: Option<Array<'a>>,
    pub(crate) main_maps: Vec<Array<'a>>,
    pub(crate) aux_maps: Vec<Array<'a>>,
    pub(crate) labels: Option<&'a [i64]>,
}

fn there<T>(part: Option<T>, what: &str) -> Result<T, String> {
    part.ok_or_else(|| format!("this batch has no {what}"))
}

impl<'a> Batch<'a> {
    /// A batch of two embeddings, images × features (for an author's own tests).
    pub fn of_embeddings(main: Array<'a>, aux: Array<'a>, draws: Stream) -> Self {
        Self {
            images: main.rows(),
            draws,
            main: Some(main),
            aux: Some(aux),
            main_logits: None,
            aux_logits: None,
            main_maps: vec![],
            aux_maps: vec![],
            labels: None,
        }
    }

    /// The main model's embedding.
    ///
    /// # Errors
    /// The loss did not ask for it.
    pub fn main(&self) -> Result<Array<'a>, String> {
        there(self.main, "embeddings")
    }

    /// The auxiliary model's embedding.
    ///
    /// # Errors
    /// The loss did not ask for it.
    pub fn aux(&self) -> Result<Array<'a>, String> {
        there(self.aux, "embeddings")
    }

    /// The main model's logits.
    ///
    /// # Errors
    /// The loss did not ask for them.
    pub fn main_logits(&self) -> Result<Array<'a>, String> {
        there(self.main_logits, "logits")
    }

    /// The auxiliary model's logits.
    ///
    /// # Errors
    /// The loss did not ask for them.
    pub fn aux_logits(&self) -> Result<Array<'a>, String> {
        there(self.aux_logits, "logits")
    }

    /// The main model's feature maps, from the finest resolution.
    pub fn main_maps(&self) -> &[Array<'a>] {
        &self.main_maps
    }

    /// The auxiliary model's feature maps, from the finest resolution.
    pub fn aux_maps(&self) -> &[Array<'a>] {
        &self.aux_maps
    }

    /// The labels.
    ///
    /// # Errors
    /// The loss did not ask for them.
    pub fn labels(&self) -> Result<&'a [i64], String> {
        there(self.labels, "labels")
    }
}

/// Where gradients go; `None`: not wanted.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// In the main model's embedding.
    pub main: Option<&'a mut [f64]>,
    /// In the auxiliary model's embedding.
    pub aux: Option<&'a mut [f64]>,
    /// In the main model's logits.
    pub main_logits: Option<&'a mut [f64]>,
    /// In the auxiliary model's logits.
    pub aux_logits: Option<&'a mut [f64]>,
    /// In the main model's feature maps.
    pub main_maps: Vec<Option<&'a mut [f64]>>,
    /// In the auxiliary model's feature maps.
    pub aux_maps: Vec<Option<&'a mut [f64]>>,
}

/// # Safety
/// As the header says: shape has `ndim` values, data the product of them.
unsafe fn array<'a>(tensor: &abi::Tensor) -> Result<Option<Array<'a>>, String> {
    if tensor.data.is_null() {
        return Ok(None);
    }
    if tensor.dtype != abi::F64 {
        return Err("this loss takes f64, the host gives another type".into());
    }
    // SAFETY: the caller's promise.
    unsafe {
        let shape = std::slice::from_raw_parts(tensor.shape, tensor.ndim as usize);
        let len = shape.iter().product::<i64>() as usize;
        Ok(Some(Array {
            values: std::slice::from_raw_parts(tensor.data.cast::<f64>().cast_const(), len),
            shape,
        }))
    }
}

/// # Safety
/// `to` is NULL or points to as many f64 as `of` has.
unsafe fn buffer<'a>(to: *mut c_void, of: Option<&Array<'_>>) -> Option<&'a mut [f64]> {
    let of = of.filter(|_| !to.is_null())?;
    // SAFETY: the caller's promise.
    Some(unsafe { std::slice::from_raw_parts_mut(to.cast::<f64>(), of.values.len()) })
}

/// # Safety
/// `list` points to `n` tensors (or n is 0).
unsafe fn maps<'a>(list: *const abi::Tensor, n: i64) -> Result<Vec<Array<'a>>, String> {
    // SAFETY: the caller's promise.
    let of = |i| unsafe { array(&*list.add(i)) };
    (0..n as usize).map(|i| there(of(i)?, "feature map")).collect()
}

/// # Safety
/// `list` is NULL or points to a pointer (or NULL) to a buffer for each of `of`.
unsafe fn buffers<'a>(list: *const *mut c_void, of: &[Array<'_>]) -> Vec<Option<&'a mut [f64]>> {
    let one = |(i, array)| {
        // SAFETY: the caller's promise.
        (!list.is_null()).then(|| unsafe { buffer(*list.add(i), Some(array)) }).flatten()
    };
    of.iter().enumerate().map(one).collect()
}

unsafe extern "C" fn create<T: TransferLoss>(
    options: *const c_char,
    object: *mut *mut c_void,
    err: *mut c_char,
    len: usize,
) -> i32 {
    // SAFETY: the host gives a text, a place for the object and a buffer of `len` bytes.
    unsafe {
        guarded(err, len, || {
            let text = read_text(options)?.unwrap_or("{}");
            let options: T::Options =
                serde_json::from_str(text).map_err(|e| format!("options: {e}"))?;
            *object = Box::into_raw(Box::new(T::new(options)?)).cast();
            Ok(())
        })
    }
}

unsafe extern "C" fn destroy<T: TransferLoss>(object: *mut c_void) {
    // SAFETY: made by `create::<T>`. A panic while dropping must not unwind into the host.
    let drop = || drop(unsafe { Box::from_raw(object.cast::<T>()) });
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(drop));
}

unsafe extern "C" fn describe<T: TransferLoss>(object: *mut c_void, needs: *mut abi::Needs) {
    // SAFETY: made by `create::<T>`; the host gives a struct of the size it says.
    let (this, out) = unsafe { (&*object.cast::<T>(), &mut *needs) };
    let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| this.needs()));
    // What the loss cannot say is refused by the host: it needs nothing.
    let said = said.unwrap_or(Needs { inputs: 0, min_batch: 0, properties: 0 });
    (out.needs, out.min_batch, out.properties) = (said.inputs, said.min_batch, said.properties);
}

unsafe extern "C" fn loss<T: TransferLoss>(
    object: *mut c_void,
    batch: *const abi::Batch,
    out: *mut abi::Gradients,
    err: *mut c_char,
    len: usize,
) -> i32 {
    // SAFETY: the header's contract.
    unsafe {
        guarded(err, len, || {
            let (this, given, out) = (&*object.cast::<T>(), &*batch, &mut *out);
            let batch = Batch {
                images: given.n as usize,
                draws: given.draws.clone(),
                main: array(&given.main)?,
                aux: array(&given.aux)?,
                main_logits: array(&given.main_logits)?,
                aux_logits: array(&given.aux_logits)?,
                main_maps: maps(given.main_maps, given.n_main_maps)?,
                aux_maps: maps(given.aux_maps, given.n_aux_maps)?,
                labels: (!given.labels.is_null())
                    .then(|| std::slice::from_raw_parts(given.labels, given.n as usize)),
            };
            let mut gradients = Gradients {
                main: buffer(out.main, batch.main.as_ref()),
                aux: buffer(out.aux, batch.aux.as_ref()),
                main_logits: buffer(out.main_logits, batch.main_logits.as_ref()),
                aux_logits: buffer(out.aux_logits, batch.aux_logits.as_ref()),
                main_maps: buffers(out.main_maps, &batch.main_maps),
                aux_maps: buffers(out.aux_maps, &batch.aux_maps),
            };
            out.loss = this.loss(&batch, &mut gradients)?;
            Ok(())
        })
    }
}

/// The descriptor of a loss; its texts live as long as the program.
pub fn descriptor<T: TransferLoss>(name: &str, summary: &str) -> abi::TransferLoss {
    let mut schema = schemars::schema_for!(T::Options).to_value();
    // Only what has a default is optional for the host.
    let defaults = serde_json::to_value(T::Options::default()).unwrap_or_default();
    for (key, value) in defaults.as_object().into_iter().flatten() {
        schema["properties"][key]["default"] = value.clone();
    }
    abi::TransferLoss {
        name: leak(name),
        summary: leak(summary),
        options_schema: leak(&schema.to_string()),
        dtypes: 1 << abi::F64,
        devices: 1 << abi::CPU,
        create: Some(create::<T>),
        destroy: Some(destroy::<T>),
        loss: Some(loss::<T>),
        needs: 0,
        min_batch: 0,
        properties: 0,
        reserved: 0,
        describe: Some(describe::<T>),
    }
}
