//! Calls across the C interface.
#![expect(unsafe_code, reason = "calls functions of the C interface with pointers to live arrays")]

use super::object::Object;
use crate::foreign::{
    Input, Looks, LossCall, LossCode, PenaltyCall, PenaltyCode, Role, ValueAndGradients, Values,
    checked_genotype, checked_stop, cost,
};
use crate::genotype::Genotype;
use crate::kinds::{Progress, Selection, Stop, StopRule, Trace};
use crate::space::{ArchValues, SpaceSpec};
use crate::{Error, Result};
use candle_core::DType;
use std::ffi::{CStr, CString, c_char, c_void};
use std::time::Instant;
use tetlo_plugin::abi;

/// Bytes that a selection may write.
const GENOTYPE: usize = 1 << 20;

fn code(dtype: DType) -> i32 {
    if dtype == DType::F32 { abi::F32 } else { abi::F64 }
}

/// The type of numbers that a plugin takes: the tensors' own, where it can; by default f64.
fn taken(mask: u32, of: DType) -> DType {
    let mask = if mask == 0 { 1 << abi::F64 } else { mask };
    let has = |dtype: DType| mask & (1 << code(dtype)) != 0;
    let own = if of == DType::F32 { DType::F32 } else { DType::F64 };
    match own {
        own if has(own) => own,
        DType::F32 => DType::F64,
        _ => DType::F32,
    }
}

/// Shape and strides of an array, as the interface has them.
struct Place {
    shape: Vec<i64>,
    strides: Vec<i64>,
}

impl Place {
    fn of(shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i] * shape[i] as i64;
        }
        Self { shape: shape.iter().map(|n| *n as i64).collect(), strides }
    }

    fn tensor(&self, values: &Values) -> abi::Tensor {
        let data: *const c_void = match values {
            Values::F32(v) => v.as_ptr().cast(),
            Values::F64(v) => v.as_ptr().cast(),
        };
        abi::Tensor {
            data: data.cast_mut(),
            dtype: code(values.dtype()),
            ndim: self.shape.len() as i32,
            shape: self.shape.as_ptr(),
            strides: self.strides.as_ptr(),
            ..abi::Tensor::ABSENT
        }
    }
}

/// Arrays and buffers for their gradients, for the length of a call.
struct Arrays {
    /// Shapes and strides, to which the tensors point.
    _places: Vec<Place>,
    tensors: Vec<abi::Tensor>,
    gradients: Vec<Option<Values>>,
    buffers: Vec<*mut c_void>,
}

impl Arrays {
    fn new(inputs: &[Input]) -> Self {
        let places: Vec<Place> = inputs.iter().map(|i| Place::of(&i.shape)).collect();
        let tensors = places.iter().zip(inputs).map(|(p, i)| p.tensor(&i.values)).collect();
        let zeros = |i: &Input| match &i.values {
            Values::F32(v) => Values::F32(fenced(v.len(), 0.0, f32::from_bits(FENCE as u32))),
            Values::F64(v) => Values::F64(fenced(v.len(), 0.0, f64::from_bits(FENCE))),
        };
        let mut gradients: Vec<Option<Values>> =
            inputs.iter().map(|i| i.wanted.then(|| zeros(i))).collect();
        let buffer = |g: &mut Option<Values>| match g {
            Some(Values::F32(v)) => v.as_mut_ptr().cast(),
            Some(Values::F64(v)) => v.as_mut_ptr().cast(),
            None => std::ptr::null_mut(),
        };
        let buffers = gradients.iter_mut().map(buffer).collect();
        Self { _places: places, tensors, gradients, buffers }
    }

    /// The gradients, if the plugin has left alone what lies behind them.
    ///
    /// # Errors
    /// It has written past the end of a gradient: other memory may be spoilt as well.
    fn gradients(self, inputs: &[Input]) -> Result<Vec<Option<Values>>> {
        let mut gradients = self.gradients;
        for (gradient, input) in gradients.iter_mut().zip(inputs) {
            let n = input.values.len();
            let whole = match gradient {
                None => true,
                Some(Values::F32(v)) => v.drain(n..).all(|fence| fence.to_bits() == FENCE as u32),
                Some(Values::F64(v)) => v.drain(n..).all(|fence| fence.to_bits() == FENCE),
            };
            if !whole {
                return Err(Error::Foreign(format!(
                    "it wrote past the end of its gradient in `{}`",
                    input.role
                )));
            }
        }
        Ok(gradients)
    }
}

/// Bits that no result has, behind each gradient.
const FENCE: u64 = 0x7ff4_dead_7fa4_dead;
const FENCE_LENGTH: usize = 8;

/// `n` values and a fence behind them.
fn fenced<T: Copy>(n: usize, value: T, fence: T) -> Vec<T> {
    let mut list = vec![fence; n + FENCE_LENGTH];
    list[..n].fill(value);
    list
}

/// A transfer loss of a library.
#[derive(Debug)]
pub(super) struct CLoss {
    object: Object,
    descriptor: abi::TransferLoss,
    looks: Looks,
}

// SAFETY: the pointers are to functions and texts of a library that is never unloaded; the object
// guards itself.
unsafe impl Send for CLoss {}
// SAFETY: as above.
unsafe impl Sync for CLoss {}

impl CLoss {
    pub(super) fn new(object: Object, descriptor: abi::TransferLoss, looks: Looks) -> Self {
        Self { object, descriptor, looks }
    }
}

impl LossCode for CLoss {
    fn looks(&self) -> Looks {
        self.looks
    }

    fn dtype(&self, of: DType) -> DType {
        taken(self.descriptor.dtypes, of)
    }

    fn call(&self, call: &LossCall<'_>) -> Result<ValueAndGradients> {
        let Some(loss) = self.descriptor.loss else {
            return Err(Error::Foreign("it has no function `loss`".into()));
        };
        let labels: Option<Vec<i64>> =
            call.labels.map(|l| l.iter().map(|l| i64::from(*l)).collect());
        let arrays = Arrays::new(call.inputs);
        let at = |role: Role| call.inputs.iter().position(|i| i.role == role);
        let tensor = |role| at(role).map_or(abi::Tensor::ABSENT, |i| arrays.tensors[i]);
        let buffer = |role| at(role).map_or(std::ptr::null_mut(), |i| arrays.buffers[i]);
        let maps = |main: bool| -> (Vec<abi::Tensor>, Vec<*mut c_void>) {
            let role = |i| if main { Role::MainMap(i) } else { Role::AuxMap(i) };
            (0..).map_while(|i| at(role(i))).map(|i| (arrays.tensors[i], arrays.buffers[i])).unzip()
        };
        let (main_maps, main_buffers) = maps(true);
        let (aux_maps, aux_buffers) = maps(false);
        let list = |buffers: &[*mut c_void]| {
            let wanted = buffers.iter().any(|b| !b.is_null());
            if wanted { buffers.as_ptr() } else { std::ptr::null() }
        };
        let batch = abi::Batch {
            struct_size: size_of::<abi::Batch>() as u32,
            flags: 0,
            seed: call.draws.clone().next_u64(),
            n: call.images as i64,
            main: tensor(Role::Main),
            aux: tensor(Role::Aux),
            main_logits: tensor(Role::MainLogits),
            aux_logits: tensor(Role::AuxLogits),
            labels: labels.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
            n_main_maps: main_maps.len() as i64,
            n_aux_maps: aux_maps.len() as i64,
            main_maps: main_maps.as_ptr(),
            aux_maps: aux_maps.as_ptr(),
            draws: call.draws.clone(),
        };
        let mut out = abi::Gradients {
            struct_size: size_of::<abi::Gradients>() as u32,
            flags: 0,
            loss: f64::NAN,
            main: buffer(Role::Main),
            aux: buffer(Role::Aux),
            main_logits: buffer(Role::MainLogits),
            aux_logits: buffer(Role::AuxLogits),
            main_maps: list(&main_buffers),
            aux_maps: list(&aux_buffers),
        };
        let began = Instant::now();
        // SAFETY: every array, shape and buffer lives through the call and has the size it says.
        self.object.call(|object, err, len| unsafe {
            loss(object, &raw const batch, &raw mut out, err, len)
        })?;
        cost::inside(began.elapsed().as_secs_f64());
        Ok(ValueAndGradients { value: out.loss, gradients: arrays.gradients(call.inputs)? })
    }
}

/// A regulariser of a library.
#[derive(Debug)]
pub(super) struct CPenalty {
    object: Object,
    descriptor: abi::Regularizer,
}

// SAFETY: as for `CLoss`.
unsafe impl Send for CPenalty {}
// SAFETY: as above.
unsafe impl Sync for CPenalty {}

impl CPenalty {
    pub(super) fn new(object: Object, descriptor: abi::Regularizer) -> Self {
        Self { object, descriptor }
    }
}

fn alphas(
    tensors: &[abi::Tensor],
    names: *const *const c_char,
    progress: Option<Progress>,
) -> abi::Alphas {
    let progress = progress.unwrap_or(Progress { epoch: 0, epochs: 0, step: 0 });
    abi::Alphas {
        struct_size: size_of::<abi::Alphas>() as u32,
        flags: 0,
        epoch: progress.epoch as i64,
        epochs: progress.epochs as i64,
        step: progress.step as i64,
        n: tensors.len() as i64,
        names,
        alphas: tensors.as_ptr(),
    }
}

impl PenaltyCode for CPenalty {
    fn dtype(&self, of: DType) -> DType {
        taken(self.descriptor.dtypes, of)
    }

    fn call(&self, call: &PenaltyCall<'_>) -> Result<ValueAndGradients> {
        let Some(penalty) = self.descriptor.penalty else {
            return Err(Error::Foreign("it has no function `penalty`".into()));
        };
        let arrays = Arrays::new(call.inputs);
        let given = alphas(&arrays.tensors, std::ptr::null(), Some(call.progress));
        let mut value = f64::NAN;
        let began = Instant::now();
        // SAFETY: as for a loss.
        self.object.call(|object, err, len| unsafe {
            penalty(object, &raw const given, &raw mut value, arrays.buffers.as_ptr(), err, len)
        })?;
        cost::inside(began.elapsed().as_secs_f64());
        Ok(ValueAndGradients { value, gradients: arrays.gradients(call.inputs)? })
    }
}

/// A stopping rule of a library.
#[derive(Debug)]
pub(super) struct CStopRule {
    object: Object,
    descriptor: abi::StopRule,
}

// SAFETY: as for `CLoss`.
unsafe impl Send for CStopRule {}
// SAFETY: as above.
unsafe impl Sync for CStopRule {}

impl CStopRule {
    pub(super) fn new(object: Object, descriptor: abi::StopRule) -> Self {
        Self { object, descriptor }
    }
}

fn texts(list: impl Iterator<Item = String>) -> Result<Vec<CString>> {
    let nul = |_| Error::Foreign("a text has a character with code 0".into());
    list.map(|text| CString::new(text).map_err(nul)).collect()
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|t| t.as_ptr()).collect()
}

impl StopRule for CStopRule {
    fn stop(&self, trace: &Trace) -> Result<Option<Stop>> {
        let Some(stop) = self.descriptor.stop else {
            return Err(Error::Foreign("it has no function `stop`".into()));
        };
        let genotypes = texts(trace.genotypes.iter().map(|g| g.to_json().to_string()))?;
        let genotypes = (pointers(&genotypes), genotypes);
        let skips: Vec<i64> = trace.genotypes.iter().map(|g| g.skip_count() as i64).collect();
        let (at, lambda): (Vec<i64>, Vec<f64>) =
            trace.lambda_max.iter().map(|(epoch, value)| (*epoch as i64, *value)).unzip();
        let given = abi::Trace {
            struct_size: size_of::<abi::Trace>() as u32,
            flags: 0,
            n: trace.genotypes.len() as i64,
            epochs: trace.epochs as i64,
            genotypes: genotypes.0.as_ptr(),
            skip_counts: skips.as_ptr(),
            n_lambda: at.len() as i64,
            lambda_epochs: at.as_ptr(),
            lambda_max: lambda.as_ptr(),
        };
        let (mut end, mut back) = (-1_i64, -1_i64);
        // SAFETY: every array lives through the call and has the length it says.
        self.object.call(|object, err, len| unsafe {
            stop(object, &raw const given, &raw mut end, &raw mut back, err, len)
        })?;
        if end == -1 {
            return Ok(None);
        }
        // Negative epochs have not been, as those after the end.
        let epoch = |e: i64| usize::try_from(e).unwrap_or(usize::MAX);
        let stop = Stop { stop_epoch: epoch(end), return_epoch: epoch(back) };
        checked_stop(trace, stop).map(Some)
    }
}

/// A selection of a library.
#[derive(Debug)]
pub(super) struct CSelection {
    object: Object,
    descriptor: abi::Selection,
}

// SAFETY: as for `CLoss`.
unsafe impl Send for CSelection {}
// SAFETY: as above.
unsafe impl Sync for CSelection {}

impl CSelection {
    pub(super) fn new(object: Object, descriptor: abi::Selection) -> Self {
        Self { object, descriptor }
    }
}

impl Selection for CSelection {
    fn select(&self, space: &SpaceSpec, values: &ArchValues) -> Result<Genotype> {
        let Some(select) = self.descriptor.select else {
            return Err(Error::Foreign("it has no function `select`".into()));
        };
        let text = serde_json::to_string(space).map_err(|e| Error::Foreign(e.to_string()))?;
        let text = texts(std::iter::once(text))?;
        let mut inputs = Vec::new();
        for (i, (_, rows)) in values.iter().enumerate() {
            let shape = vec![rows.len(), rows.first().map_or(0, Vec::len)];
            let values = Values::F64(rows.concat());
            inputs.push(Input { role: Role::Alpha(i), shape, values, wanted: false });
        }
        let names = texts(values.iter().map(|(name, _)| name.to_owned()))?;
        let names = (pointers(&names), names);
        let arrays = Arrays::new(&inputs);
        let given = alphas(&arrays.tensors, names.0.as_ptr(), None);
        let mut answer = vec![0_u8; GENOTYPE];
        // SAFETY: every array and text lives through the call and has the length it says.
        self.object.call(|object, err, len| unsafe {
            let out = answer.as_mut_ptr().cast();
            select(object, text[0].as_ptr(), &raw const given, out, GENOTYPE, err, len)
        })?;
        let answer = CStr::from_bytes_until_nul(&answer)
            .map_err(|_| Error::Foreign("its genotype has no final NUL".into()))?;
        let answer = serde_json::from_slice(answer.to_bytes())
            .map_err(|e| Error::Foreign(format!("its genotype is not JSON: {e}")))?;
        checked_genotype(space, &answer)
    }
}
