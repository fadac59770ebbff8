//! The frames that tetlo and a process exchange, and the protocol they make (version [`PROTOCOL`]).
//!
//! A frame is the length of what follows (8 bytes, little-endian, at most [`LARGEST`]), then the bytes of
//! a safetensors file. Its `__metadata__` holds texts, its tensors are arrays. tetlo sends a frame a call
//! on the child's standard input, with the texts `call` and `id`, and reads one frame with the same `id`
//! from its standard output. Each child serves one plugin instance; the end of its input is its end. In
//! place of what a call asks for, an answer may hold `error`, a text.
//!
//! | call | request | answer |
//! |---|---|---|
//! | `hello` | `protocol`, `tetlo` (version) | `protocol`, `built_with`, `manifest`: JSON list of `kind`, `name`, `version`, `summary`, `schema` |
//! | `create` | `kind`, `name`, `options` (JSON) | `looks`: JSON of `dtypes` (`f32`, `f64`, the best first) and, of a loss, `needs`, `min_batch`, `reaches_main`, `teacher_is_smooth`, `invariances` |
//! | `loss` | `images`, `draws` (JSON, [`Stream::state`](tetlo_core::rng::Stream::state)), `wanted` (JSON list of names); tensors `main`, `aux`, `main_logits`, `aux_logits`, `main_maps_0` …, `aux_maps_0` …, `labels` (I64) | tensor `loss` (F64, no dimension), and `grad_NAME` for each wanted name, of its type and shape |
//! | `penalty` | `epoch`, `epochs`, `step`, `wanted`; tensors `alphas_0` … | tensor `penalty`, and gradients likewise |
//! | `stop` | `trace` ([`trace_to_json`](tetlo_core::foreign::trace_to_json)) | `stop`: JSON, `null` or `[stop_epoch, return_epoch]` |
//! | `select` | `space` (JSON of [`SpaceSpec`](tetlo_core::space::SpaceSpec)); tensors by name (F64) | `genotype`: JSON |
//!
//! Answers to the last four may carry `seconds`, the time inside the author's code.

use safetensors::{Dtype, SafeTensors, View};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read, Write};
use tetlo_core::foreign::Values;

/// The version of the protocol; both sides must have the same.
pub const PROTOCOL: &str = "1";

/// Bytes after the length, at most: 1 GiB.
pub const LARGEST: u64 = 1 << 30;

/// An array that is sent.
#[derive(Debug)]
pub(super) struct Sent<'a> {
    pub(super) name: String,
    pub(super) shape: &'a [usize],
    pub(super) data: Data<'a>,
}

/// The numbers of an array that is sent.
#[derive(Debug)]
pub(super) enum Data<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    I64(&'a [i64]),
}

impl<'a> From<&'a Values> for Data<'a> {
    fn from(values: &'a Values) -> Self {
        match values {
            Values::F32(v) => Self::F32(v),
            Values::F64(v) => Self::F64(v),
        }
    }
}

impl View for &Sent<'_> {
    fn dtype(&self) -> Dtype {
        match self.data {
            Data::F32(_) => Dtype::F32,
            Data::F64(_) => Dtype::F64,
            Data::I64(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.data {
            Data::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::F64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::I64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        match self.data {
            Data::F32(v) => size_of_val(v),
            Data::F64(v) => size_of_val(v),
            Data::I64(v) => size_of_val(v),
        }
    }
}

/// The payload of a frame.
///
/// # Errors
/// It would be larger than [`LARGEST`].
pub(super) fn encode(
    texts: HashMap<String, String>,
    arrays: &[Sent<'_>],
) -> Result<Vec<u8>, String> {
    let size: usize = arrays.iter().map(|a| a.data_len()).sum();
    if size as u64 > LARGEST / 2 {
        return Err(format!("the arrays of a call have {size} bytes, too many for a process"));
    }
    let named = arrays.iter().map(|a| (a.name.as_str(), a));
    safetensors::serialize(named, Some(texts)).map_err(|e| e.to_string())
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) texts: HashMap<String, String>,
    pub(super) arrays: BTreeMap<String, (Vec<usize>, Values)>,
}

impl Answer {
    /// Reads the payload of a frame.
    ///
    /// # Errors
    /// It is not a safetensors file, or an array is neither F32 nor F64.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, String> {
        let wrong = |e| format!("its answer is not a safetensors file: {e}");
        let (_, header) = SafeTensors::read_metadata(payload).map_err(wrong)?;
        let texts = header.metadata().clone().unwrap_or_default();
        let file = SafeTensors::deserialize(payload).map_err(wrong)?;
        let mut arrays = BTreeMap::new();
        for (name, view) in file.iter() {
            let values = match view.dtype() {
                Dtype::F32 => Values::F32(numbers(view.data(), f32::from_le_bytes)),
                Dtype::F64 => Values::F64(numbers(view.data(), f64::from_le_bytes)),
                other => {
                    return Err(format!(
                        "the tensor `{name}` of its answer is {other:?}; F32 or F64 is expected"
                    ));
                }
            };
            arrays.insert(name.to_owned(), (view.shape().to_vec(), values));
        }
        Ok(Self { texts, arrays })
    }
}

fn numbers<T, const N: usize>(bytes: &[u8], of: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, _) = bytes.as_chunks::<N>();
    chunks.iter().map(|chunk| of(*chunk)).collect()
}

/// Why there was no frame.
#[derive(Debug)]
pub(super) enum Broken {
    /// The end of the stream, before a frame.
    Ended,
    /// The end of the stream, within one.
    Cut,
    /// These bytes stand where the length should, and would make it larger than [`LARGEST`].
    Length([u8; 8]),
    /// The pipe failed.
    Pipe(std::io::Error),
}

/// Sends a payload as a frame.
///
/// # Errors
/// Those of the pipe.
pub(super) fn write(to: &mut impl Write, payload: &[u8]) -> Result<(), Broken> {
    let length = (payload.len() as u64).to_le_bytes();
    let sent = to.write_all(&length).and_then(|()| to.write_all(payload)).and_then(|()| to.flush());
    sent.map_err(
        |e| if e.kind() == ErrorKind::BrokenPipe { Broken::Ended } else { Broken::Pipe(e) },
    )
}

/// Receives the payload of a frame. Memory grows with what arrives, not with what is announced.
///
/// # Errors
/// The stream ends or fails, or the length is not one.
pub(super) fn read(from: &mut impl Read) -> Result<Vec<u8>, Broken> {
    let mut length = Vec::with_capacity(8);
    from.by_ref().take(8).read_to_end(&mut length).map_err(Broken::Pipe)?;
    let length: [u8; 8] = match length.len() {
        0 => return Err(Broken::Ended),
        _ => length.try_into().map_err(|_| Broken::Cut)?,
    };
    let announced = u64::from_le_bytes(length);
    if announced > LARGEST {
        return Err(Broken::Length(length));
    }
    let mut payload = Vec::with_capacity((announced as usize).min(1 << 20));
    from.by_ref().take(announced).read_to_end(&mut payload).map_err(Broken::Pipe)?;
    if (payload.len() as u64) < announced { Err(Broken::Cut) } else { Ok(payload) }
}
