//! The plugins of a library behind the C interface: its registry, described, and candle inside.
#![expect(unsafe_code, reason = "serves the C interface")]

use crate::genotype::Genotype;
use crate::kinds::{
    Needs, Progress, Regularizer, Seen, Selection, Stop, StopRule, Trace, TransferBatch,
    TransferLoss,
};
use crate::registry::{Entry, Factory, Kind, Linked, entries};
use crate::space::{ArchValues, SpaceSpec};
use crate::{Error, Result};
use candle_core::{DType, Device, Storage, Tensor, Var, WithDType};
use std::ffi::{c_char, c_void};
use tetlo_plugin::abi::{self, F32, F64};
use tetlo_plugin::{Parts, guarded, leak, read_text, write_text};

pub use tetlo_plugin::abi::Plugin;

/// Both types of numbers.
const DTYPES: u32 = 1 << F32 | 1 << F64;

/// The description of this library.
pub fn library(version: &str) -> *const Plugin {
    let built_with = concat!("Rust, tetlo-core ", env!("CARGO_PKG_VERSION"), ", candle inside");
    tetlo_plugin::library(version, built_with, || {
        let mut parts = Parts::registered();
        parts.losses.extend(described::<dyn TransferLoss>().map(|d| abi::TransferLoss {
            name: d.name,
            summary: d.summary,
            options_schema: d.schema,
            dtypes: DTYPES,
            devices: 1 << abi::CPU,
            create: Some(d.create),
            destroy: Some(destroy::<dyn TransferLoss>),
            loss: Some(loss),
            needs: 0,
            min_batch: 0,
            properties: 0,
            reserved: 0,
            describe: Some(describe),
        }));
        parts.regularizers.extend(described::<dyn Regularizer>().map(|d| abi::Regularizer {
            struct_size: size_of::<abi::Regularizer>() as u32,
            dtypes: DTYPES,
            name: d.name,
            summary: d.summary,
            options_schema: d.schema,
            create: Some(d.create),
            destroy: Some(destroy::<dyn Regularizer>),
            penalty: Some(penalty),
        }));
        parts.stop_rules.extend(described::<dyn StopRule>().map(|d| abi::StopRule {
            struct_size: size_of::<abi::StopRule>() as u32,
            reserved: 0,
            name: d.name,
            summary: d.summary,
            options_schema: d.schema,
            create: Some(d.create),
            destroy: Some(destroy::<dyn StopRule>),
            stop: Some(stop),
        }));
        parts.selections.extend(described::<dyn Selection>().map(|d| abi::Selection {
            struct_size: size_of::<abi::Selection>() as u32,
            reserved: 0,
            name: d.name,
            summary: d.summary,
            options_schema: d.schema,
            create: Some(d.create),
            destroy: Some(destroy::<dyn Selection>),
            select: Some(select),
        }));
        parts
    })
}

/// What all descriptors have.
struct Described {
    name: *const c_char,
    summary: *const c_char,
    schema: *const c_char,
    create: abi::Create,
}

fn described<T: Kind + ?Sized>() -> impl Iterator<Item = Described> {
    entries::<T>().into_iter().filter_map(|entry: &Entry<T>| {
        let create = entry.factory.exported()?;
        let mut schema = entry.schema().to_value();
        for (key, value) in entry.defaults().as_object().into_iter().flatten() {
            schema["properties"][key]["default"] = value.clone();
        }
        let (name, summary) = (leak(entry.name), leak(entry.summary));
        Some(Described { name, summary, schema: leak(&schema.to_string()), create })
    })
}

/// `create` of a plugin type: the object is a `Box<T>` in a box.
///
/// # Safety
/// The header's contract.
pub unsafe extern "C" fn create<T: ?Sized + 'static, P>(
    options: *const c_char,
    object: *mut *mut c_void,
    err: *mut c_char,
    len: usize,
) -> i32
where
    Linked<P>: Factory<T>,
{
    // SAFETY: the header's contract.
    unsafe {
        guarded(err, len, || {
            let text = read_text(options)?.unwrap_or("{}");
            let options = serde_json::from_str(text).map_err(|e| format!("options: {e}"))?;
            let plugin = Linked::<P>::FACTORY.build(&options).map_err(|e| e.to_string())?;
            *object = Box::into_raw(Box::new(plugin)).cast();
            Ok(())
        })
    }
}

unsafe extern "C" fn destroy<T: ?Sized>(object: *mut c_void) {
    // SAFETY: made by `create::<T, _>`. A panic while dropping must not unwind into the host.
    let drop = || drop(unsafe { Box::from_raw(object.cast::<Box<T>>()) });
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(drop));
}

unsafe extern "C" fn describe(object: *mut c_void, needs: *mut abi::Needs) {
    // SAFETY: made by `create`; the host gives a struct of the size it says.
    let (loss, out) = unsafe { (&**object.cast::<Box<dyn TransferLoss>>(), &mut *needs) };
    let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| bits(loss)));
    // What the loss cannot say is refused by the host: it looks at nothing.
    (out.needs, out.min_batch, out.properties) = said.unwrap_or((0, 0, 0));
}

fn bits(loss: &dyn TransferLoss) -> (u32, u32, u32) {
    let needs = loss.needs();
    let mut inputs = 0;
    let wanted = [
        (needs.embeddings, abi::EMBEDDINGS),
        (needs.logits, abi::LOGITS),
        (needs.maps, abi::MAPS),
        (needs.labels, abi::LABELS),
        (needs.parameters, abi::PARAMETERS),
    ];
    for (_, bit) in wanted.into_iter().filter(|(is, _)| *is) {
        inputs |= bit;
    }
    let same = loss.invariances();
    let mut properties = 0;
    let said = [
        (!loss.reaches_main(), abi::DETACHED_MAIN),
        (!loss.teacher_is_smooth(), abi::JUMPS),
        (same.order, abi::INVARIANT_ORDER),
        (same.scale, abi::INVARIANT_SCALE),
        (same.rotation, abi::INVARIANT_ROTATION),
        (same.shift, abi::INVARIANT_SHIFT),
    ];
    for (_, bit) in said.into_iter().filter(|(is, _)| *is) {
        properties |= bit;
    }
    (inputs, needs.batch as u32, properties)
}

/// A tensor of a host's array, and the variable in it where a gradient is wanted.
struct Tracked {
    tensor: Tensor,
    gradient: Option<(Var, *mut c_void)>,
}

/// # Safety
/// The array and, unless NULL, the buffer have the shape and type that the array says.
unsafe fn tracked(array: &abi::Tensor, buffer: *mut c_void) -> Result<Option<Tracked>> {
    if array.data.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let shape = unsafe { std::slice::from_raw_parts(array.shape, array.ndim as usize) };
    let shape: Vec<usize> = shape.iter().map(|n| *n as usize).collect();
    // SAFETY: the caller's promise.
    let tensor = unsafe {
        match array.dtype {
            F32 => copied::<f32>(array.data, &shape)?,
            F64 => copied::<f64>(array.data, &shape)?,
            other => return Err(Error::Invalid(format!("the type of numbers {other} is unknown"))),
        }
    };
    if buffer.is_null() {
        return Ok(Some(Tracked { tensor, gradient: None }));
    }
    let var = Var::from_tensor(&tensor)?;
    Ok(Some(Tracked { tensor: var.as_tensor().clone(), gradient: Some((var, buffer)) }))
}

/// # Safety
/// `data` points to as many values as the shape has.
unsafe fn copied<T: WithDType>(data: *mut c_void, shape: &[usize]) -> Result<Tensor> {
    let len = shape.iter().product();
    // SAFETY: the caller's promise.
    let values = unsafe { std::slice::from_raw_parts(data.cast::<T>().cast_const(), len) };
    Ok(Tensor::from_slice(values, shape, &Device::Cpu)?)
}

/// The value of a scalar, and its gradients to where they go.
///
/// # Safety
/// Buffers have the type and shape of their tensors.
unsafe fn back(value: &Tensor, parts: &[Tracked]) -> Result<f64> {
    if value.elem_count() != 1 {
        return Err(Error::Invalid(format!(
            "it gave {:?} values, one number is expected",
            value.dims()
        )));
    }
    let value = value.reshape(())?;
    let number = value.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    if value.track_op() {
        let gradients = value.backward()?;
        for (var, to) in parts.iter().filter_map(|p| p.gradient.as_ref()) {
            let Some(gradient) = gradients.get(var) else { continue }; // zero, as the buffer is
            let gradient = gradient.contiguous()?;
            let (storage, layout) = gradient.storage_and_layout();
            let Storage::Cpu(storage) = &*storage else {
                return Err(Error::Invalid("a gradient is not in the CPU's memory".into()));
            };
            let (start, len) = (layout.start_offset(), gradient.elem_count());
            // SAFETY: the caller's promise.
            unsafe {
                match gradient.dtype() {
                    DType::F32 => write(&storage.as_slice::<f32>()?[start..][..len], *to),
                    _ => write(&storage.as_slice::<f64>()?[start..][..len], *to),
                }
            }
        }
    }
    Ok(number)
}

/// # Safety
/// `to` has room for the values.
unsafe fn write<T: Copy>(values: &[T], to: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to.cast::<T>(), values.len()) }
}

unsafe extern "C" fn loss(
    object: *mut c_void,
    batch: *const abi::Batch,
    out: *mut abi::Gradients,
    err: *mut c_char,
    len: usize,
) -> i32 {
    // SAFETY: the header's contract.
    unsafe {
        guarded(err, len, || {
            let loss = &**object.cast::<Box<dyn TransferLoss>>();
            transfer(loss, &*batch, &mut *out).map_err(|e| e.to_string())
        })
    }
}

/// # Safety
/// The header's contract.
unsafe fn transfer(
    loss: &dyn TransferLoss,
    given: &abi::Batch,
    out: &mut abi::Gradients,
) -> Result<()> {
    let needs: Needs = loss.needs();
    let mut parts: Vec<Tracked> = Vec::new();
    let mut take = |found: Option<Tracked>| {
        found.map(|part| {
            let tensor = part.tensor.clone();
            parts.push(part);
            tensor
        })
    };
    // SAFETY: the header's contract.
    let (main, aux, labels) = unsafe {
        let mut maps = |n: i64, arrays: *const abi::Tensor, to: *const *mut c_void| {
            let of = |i: usize| {
                let to = if to.is_null() { std::ptr::null_mut() } else { *to.add(i) };
                tracked(&*arrays.add(i), to)
            };
            let list = (0..n as usize).map(of).collect::<Result<Vec<_>>>()?;
            Ok::<_, Error>(list.into_iter().filter_map(&mut take).collect::<Vec<_>>())
        };
        let main_maps = maps(given.n_main_maps, given.main_maps, out.main_maps)?;
        let aux_maps = maps(given.n_aux_maps, given.aux_maps, out.aux_maps)?;
        let mut main = Seen::maps(main_maps);
        main.embedding = take(tracked(&given.main, out.main)?);
        main.logits = take(tracked(&given.main_logits, out.main_logits)?);
        let mut aux = Seen::maps(aux_maps);
        aux.embedding = take(tracked(&given.aux, out.aux)?);
        aux.logits = take(tracked(&given.aux_logits, out.aux_logits)?);
        let labels = (!given.labels.is_null())
            .then(|| std::slice::from_raw_parts(given.labels, given.n as usize));
        (main, aux, labels)
    };
    let label = |l: &i64| {
        u32::try_from(*l).map_err(|_| Error::Invalid(format!("the label {l} is no class")))
    };
    let labels: Option<Vec<u32>> =
        labels.map(|l| l.iter().map(label).collect::<Result<_>>()).transpose()?;
    let batch = TransferBatch::new(main, aux, given.draws.clone())?
        .with_labels(labels.as_deref().filter(|_| needs.labels));
    let value = loss.loss(&batch)?;
    // SAFETY: the host's buffers.
    out.loss = unsafe { back(&value, &parts)? };
    Ok(())
}

/// The arrays of architecture parameters.
///
/// # Safety
/// The header's contract.
unsafe fn arrays(given: &abi::Alphas, gradients: *const *mut c_void) -> Result<Vec<Tracked>> {
    // SAFETY: the header's contract.
    let one = |i: usize| unsafe {
        let to = if gradients.is_null() { std::ptr::null_mut() } else { *gradients.add(i) };
        tracked(&*given.alphas.add(i), to)
    };
    (0..given.n as usize)
        .map(|i| one(i)?.ok_or_else(|| Error::Invalid(format!("array {i} is missing"))))
        .collect()
}

unsafe extern "C" fn penalty(
    object: *mut c_void,
    alphas: *const abi::Alphas,
    penalty: *mut f64,
    gradients: *const *mut c_void,
    err: *mut c_char,
    len: usize,
) -> i32 {
    // SAFETY: the header's contract.
    unsafe {
        guarded(err, len, || {
            let regularizer = &**object.cast::<Box<dyn Regularizer>>();
            let given = &*alphas;
            let run = || {
                let parts = arrays(given, gradients)?;
                let tensors: Vec<Tensor> = parts.iter().map(|p| p.tensor.clone()).collect();
                let progress = Progress {
                    epoch: given.epoch as usize,
                    epochs: given.epochs as usize,
                    step: given.step as usize,
                };
                back(&regularizer.penalty(&tensors, progress)?, &parts)
            };
            *penalty = run().map_err(|e: Error| e.to_string())?;
            Ok(())
        })
    }
}

/// Texts at an array of pointers.
///
/// # Safety
/// `list` points to `n` texts.
unsafe fn texts<'a>(list: *const *const c_char, n: i64) -> Result<Vec<&'a str>> {
    // SAFETY: the caller's promise.
    let one = |i: usize| unsafe { read_text(*list.add(i)) }.map_err(Error::Invalid);
    (0..n as usize)
        .map(|i| one(i)?.ok_or_else(|| Error::Invalid("a text is NULL".into())))
        .collect()
}

unsafe extern "C" fn stop(
    object: *mut c_void,
    trace: *const abi::Trace,
    stop_epoch: *mut i64,
    return_epoch: *mut i64,
    err: *mut c_char,
    len: usize,
) -> i32 {
    // SAFETY: the header's contract.
    unsafe {
        guarded(err, len, || {
            let rule = &**object.cast::<Box<dyn StopRule>>();
            let given = &*trace;
            let run = || {
                let genotypes = texts(given.genotypes, given.n)?;
                let n = given.n_lambda as usize;
                let lambda = |i| (*given.lambda_epochs.add(i) as usize, *given.lambda_max.add(i));
                rule.stop(&Trace {
                    genotypes: genotypes.into_iter().map(Genotype::parse).collect::<Result<_>>()?,
                    lambda_max: (0..n).map(lambda).collect(),
                    epochs: given.epochs as usize,
                })
            };
            if let Some(Stop { stop_epoch: end, return_epoch: back }) =
                run().map_err(|e: Error| e.to_string())?
            {
                (*stop_epoch, *return_epoch) = (end as i64, back as i64);
            }
            Ok(())
        })
    }
}

unsafe extern "C" fn select(
    object: *mut c_void,
    space_json: *const c_char,
    alphas: *const abi::Alphas,
    genotype_json: *mut c_char,
    capacity: usize,
    err: *mut c_char,
    len: usize,
) -> i32 {
    // SAFETY: the header's contract.
    unsafe {
        guarded(err, len, || {
            let selection = &**object.cast::<Box<dyn Selection>>();
            let given = &*alphas;
            let run = || {
                let text = read_text(space_json).map_err(Error::Invalid)?.unwrap_or_default();
                let space: SpaceSpec = serde_json::from_str(text)
                    .map_err(|e| Error::Invalid(format!("the space cannot be read: {e}")))?;
                let names = texts(given.names, given.n)?;
                let mut values = ArchValues::default();
                for (name, part) in names.into_iter().zip(arrays(given, std::ptr::null())?) {
                    values = values.with(name, part.tensor.to_dtype(DType::F64)?.to_vec2()?);
                }
                Ok(selection.select(&space, &values)?.to_json().to_string())
            };
            let json = run().map_err(|e: Error| e.to_string())?;
            if json.len() >= capacity {
                return Err(format!("the genotype has {} bytes", json.len()));
            }
            write_text(genotype_json, capacity, &json);
            Ok(())
        })
    }
}
