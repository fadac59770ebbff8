//! `tetlo_plugin.h` in Rust: the same structs, field by field. The header documents them.
#![expect(missing_docs, reason = "the header, shipped beside this file, documents every field")]

use crate::Stream;
use std::ffi::{c_char, c_void};

pub const ABI: u32 = 1;
/// Bytes of the symbol that a library exports, with the final NUL.
pub const SYMBOL: &[u8] = b"tetlo_plugin_v1\0";

pub const F32: i32 = 0;
pub const F64: i32 = 1;
pub const CPU: i32 = 1;

pub const OK: i32 = 0;
pub const ERROR: i32 = 1;
pub const PANIC: i32 = 2;
pub const UNSUPPORTED: i32 = 3;

pub const EMBEDDINGS: u32 = 1;
pub const LOGITS: u32 = 2;
pub const MAPS: u32 = 4;
pub const LABELS: u32 = 8;
pub const PARAMETERS: u32 = 16;

pub const DETACHED_MAIN: u32 = 1;
pub const JUMPS: u32 = 2;
pub const INVARIANT_ORDER: u32 = 16;
pub const INVARIANT_SCALE: u32 = 32;
pub const INVARIANT_ROTATION: u32 = 64;
pub const INVARIANT_SHIFT: u32 = 128;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Tensor {
    pub data: *mut c_void,
    pub device_type: i32,
    pub device_id: i32,
    pub dtype: i32,
    pub ndim: i32,
    pub shape: *const i64,
    pub strides: *const i64,
}

impl Tensor {
    pub const ABSENT: Self = Self {
        data: std::ptr::null_mut(),
        device_type: CPU,
        device_id: 0,
        dtype: F64,
        ndim: 0,
        shape: std::ptr::null(),
        strides: std::ptr::null(),
    };
}

#[repr(C)]
#[derive(Debug)]
pub struct Batch {
    pub struct_size: u32,
    pub flags: u32,
    pub seed: u64,
    pub n: i64,
    pub main: Tensor,
    pub aux: Tensor,
    pub main_logits: Tensor,
    pub aux_logits: Tensor,
    pub labels: *const i64,
    pub n_main_maps: i64,
    pub n_aux_maps: i64,
    pub main_maps: *const Tensor,
    pub aux_maps: *const Tensor,
    pub draws: Stream,
}

#[repr(C)]
#[derive(Debug)]
pub struct Gradients {
    pub struct_size: u32,
    pub flags: u32,
    pub loss: f64,
    pub main: *mut c_void,
    pub aux: *mut c_void,
    pub main_logits: *mut c_void,
    pub aux_logits: *mut c_void,
    pub main_maps: *const *mut c_void,
    pub aux_maps: *const *mut c_void,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    pub struct_size: u32,
    pub needs: u32,
    pub min_batch: u32,
    pub properties: u32,
}

pub type Create = unsafe extern "C" fn(*const c_char, *mut *mut c_void, *mut c_char, usize) -> i32;
pub type Destroy = unsafe extern "C" fn(*mut c_void);
pub type Loss =
    unsafe extern "C" fn(*mut c_void, *const Batch, *mut Gradients, *mut c_char, usize) -> i32;
pub type Describe = unsafe extern "C" fn(*mut c_void, *mut Needs);

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct TransferLoss {
    pub name: *const c_char,
    pub summary: *const c_char,
    pub options_schema: *const c_char,
    pub dtypes: u32,
    pub devices: u32,
    pub create: Option<Create>,
    pub destroy: Option<Destroy>,
    pub loss: Option<Loss>,
    pub needs: u32,
    pub min_batch: u32,
    pub properties: u32,
    pub reserved: u32,
    pub describe: Option<Describe>,
}

#[repr(C)]
#[derive(Debug)]
pub struct Alphas {
    pub struct_size: u32,
    pub flags: u32,
    pub epoch: i64,
    pub epochs: i64,
    pub step: i64,
    pub n: i64,
    pub names: *const *const c_char,
    pub alphas: *const Tensor,
}

pub type Penalty = unsafe extern "C" fn(
    *mut c_void,
    *const Alphas,
    *mut f64,
    *const *mut c_void,
    *mut c_char,
    usize,
) -> i32;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Regularizer {
    pub struct_size: u32,
    pub dtypes: u32,
    pub name: *const c_char,
    pub summary: *const c_char,
    pub options_schema: *const c_char,
    pub create: Option<Create>,
    pub destroy: Option<Destroy>,
    pub penalty: Option<Penalty>,
}

#[repr(C)]
#[derive(Debug)]
pub struct Trace {
    pub struct_size: u32,
    pub flags: u32,
    pub n: i64,
    pub epochs: i64,
    pub genotypes: *const *const c_char,
    pub skip_counts: *const i64,
    pub n_lambda: i64,
    pub lambda_epochs: *const i64,
    pub lambda_max: *const f64,
}

pub type Stop =
    unsafe extern "C" fn(*mut c_void, *const Trace, *mut i64, *mut i64, *mut c_char, usize) -> i32;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct StopRule {
    pub struct_size: u32,
    pub reserved: u32,
    pub name: *const c_char,
    pub summary: *const c_char,
    pub options_schema: *const c_char,
    pub create: Option<Create>,
    pub destroy: Option<Destroy>,
    pub stop: Option<Stop>,
}

pub type Select = unsafe extern "C" fn(
    *mut c_void,
    *const c_char,
    *const Alphas,
    *mut c_char,
    usize,
    *mut c_char,
    usize,
) -> i32;

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Selection {
    pub struct_size: u32,
    pub reserved: u32,
    pub name: *const c_char,
    pub summary: *const c_char,
    pub options_schema: *const c_char,
    pub create: Option<Create>,
    pub destroy: Option<Destroy>,
    pub select: Option<Select>,
}

#[repr(C)]
#[derive(Debug)]
pub struct Plugin {
    pub abi: u32,
    pub struct_size: u32,
    pub sizes: [u32; 4],
    pub built_with: *const c_char,
    pub n_transfer_losses: usize,
    pub transfer_losses: *const TransferLoss,
    pub version: *const c_char,
    pub n_regularizers: usize,
    pub regularizers: *const *const Regularizer,
    pub n_stop_rules: usize,
    pub stop_rules: *const *const StopRule,
    pub n_selections: usize,
    pub selections: *const *const Selection,
}

/// What [`Plugin::sizes`] holds for this version of the interface.
pub const SIZES: [u32; 4] = [
    size_of::<Tensor>() as u32,
    size_of::<Batch>() as u32,
    size_of::<Gradients>() as u32,
    size_of::<TransferLoss>() as u32,
];
