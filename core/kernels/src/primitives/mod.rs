//! The kernels: one image, raw planes `[block][pixel][16]`, strides in floats.
//!
//! Contract of every kernel: the instruction set of its table is available, and all the addresses
//! that its argument describes (rows, columns, blocks and taps) lie inside live allocations,
//! outputs exclusively.
#![expect(
    unsafe_code,
    unsafe_op_in_unsafe_fn,
    clippy::needless_range_loop,
    clippy::inline_always,
    reason = "kernel bodies over raw planes, under the contract above; plain indices unroll predictably"
)]

pub(crate) mod convert;
mod counted;
pub(crate) mod depthwise;
pub(crate) mod mix;
pub(crate) mod moments;
pub(crate) mod packed;
mod peak;
pub(crate) mod pool;
pub(crate) mod stream;
pub(crate) mod winograd;

use std::sync::OnceLock;

use crate::maps::{self, MapBackward, MapForward};

pub(crate) use counted::table_for_network;
pub use counted::{count_kernels, kernel_calls};
pub(crate) use depthwise::{Depthwise, DepthwiseWeight, Tap};
pub(crate) use mix::{Mix, MixWeight};
pub(crate) use moments::{Lanes, Moments, Total};
pub(crate) use packed::{PackedMix, PackedMixWeight};
pub(crate) use peak::{MOST_SUMS, Peak, Read};
pub(crate) use pool::{Pool, PoolBack};
pub(crate) use stream::{Dots, Fill, Lazy, Mask, Rectify, Scaled, Sum};
pub(crate) use winograd::{
    Filters, Gather, TileSize, Winograd, WinogradWeight, room, team, weights_step,
};

/// The kernels of one instruction set.
pub(crate) struct Kernels {
    pub name: &'static str,
    /// Sums side by side in [`Peak`].
    pub sums: usize,
    pub depthwise: unsafe fn(&Depthwise),
    pub depthwise_weight: unsafe fn(&DepthwiseWeight),
    pub mix: unsafe fn(&Mix),
    pub mix_weight: unsafe fn(&MixWeight),
    pub packed_mix: unsafe fn(&PackedMix),
    pub packed_mix_weight: unsafe fn(&PackedMixWeight),
    pub winograd: unsafe fn(&Winograd),
    pub winograd_weight: unsafe fn(&WinogradWeight),
    pub filters: unsafe fn(&Filters),
    pub gather: unsafe fn(&Gather),
    pub sum: unsafe fn(&Sum),
    pub dots: unsafe fn(&Dots),
    pub fill: unsafe fn(&Fill),
    pub lazy: unsafe fn(&Lazy),
    pub mask: unsafe fn(&Mask),
    pub rectify: unsafe fn(&Rectify),
    pub pool: unsafe fn(&Pool),
    pub pool_back: unsafe fn(&PoolBack),
    pub map: unsafe fn(&MapForward<'_>),
    pub map_back: unsafe fn(&MapBackward<'_>),
    pub total: unsafe fn(&Total),
    pub moments: unsafe fn(&Moments),
    pub peak: unsafe fn(&Peak),
    pub read: unsafe fn(&Read),
}

/// Tile sizes: a depthwise tile has `rows x pixels`, a mixing tile `pixels x blocks` of output, its
/// weight gradient `out x in`; `k3` and `k5` are the kernel rows of one pass of the depthwise
/// weight gradient; `sums` fill the registers of the peak kernel; `wide` turns on the sliding depthwise kernel, which needs 32 wide registers.
macro_rules! table {
    ($name:ident, $V:ty, rows $R:literal, pixels $P:literal, wide $W:literal, blocks $Q:literal,
     out $M:literal, in $N:literal, k3 $R3:literal, k5 $R5:literal, sums $K:literal, $(#[$feature:meta])*) => {
        mod $name {
            use super::*;
            use crate::simd;

            table!(@wrap [$(#[$feature])*]
                depthwise(Depthwise) depthwise::depthwise::<$V, $R, $P, $W>;
                depthwise_weight(DepthwiseWeight) depthwise::depthwise_weight::<$V, $R3, $R5>;
                mix(Mix) mix::mix::<$V, $P, $Q>;
                mix_weight(MixWeight) mix::mix_weight::<$V, $M, $N>;
                packed_mix(PackedMix) packed::packed_mix::<$V, $P>;
                packed_mix_weight(PackedMixWeight) packed::packed_mix_weight::<$V>;
                winograd(Winograd) winograd::winograd::<$V, $P, $Q>;
                winograd_weight(WinogradWeight) winograd::winograd_weight::<$V, $M, $N>;
                filters(Filters) winograd::filters::<$V>;
                gather(Gather) winograd::gather::<$V>;
                sum(Sum) stream::sum::<$V, $P>;
                dots(Dots) stream::dots::<$V>;
                fill(Fill) stream::fill::<$V>;
                lazy(Lazy) stream::lazy::<$V>;
                mask(Mask) stream::mask::<$V>;
                rectify(Rectify) stream::rectify::<$V>;
                pool(Pool) pool::pool::<$V>;
                pool_back(PoolBack) pool::pool_back::<$V>;
                map(MapForward<'_>) maps::map::<$V>;
                map_back(MapBackward<'_>) maps::map_back::<$V>;
                total(Total) moments::total;
                moments(Moments) moments::moments;
                peak(Peak) peak::peak::<$V, $K>;
                read(Read) peak::read::<$V>;
            );
            pub(super) static TABLE: Kernels = Kernels {
                name: stringify!($name),
                sums: $K,
                depthwise,
                depthwise_weight,
                mix,
                mix_weight,
                packed_mix,
                packed_mix_weight,
                winograd,
                winograd_weight,
                filters,
                gather,
                sum,
                dots,
                fill,
                lazy,
                mask,
                rectify,
                pool,
                pool_back,
                map,
                map_back,
                total,
                moments,
                peak,
                read,
            };
        }
    };
    (@wrap $features:tt $($f:ident($T:ty) $body:expr;)*) => {
        $(table!(@one $features $f $T, $body);)*
    };
    (@one [$(#[$feature:meta])*] $f:ident $T:ty, $body:expr) => {
        $(#[$feature])*
        unsafe fn $f(a: &$T) {
            $body(a)
        }
    };
}

#[cfg(target_arch = "x86_64")]
table!(avx512, simd::Avx512, rows 2, pixels 8, wide true, blocks 2, out 8, in 2, k3 3, k5 5, sums 16,
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")]);
#[cfg(target_arch = "x86_64")]
table!(avx2, simd::Avx2, rows 1, pixels 4, wide false, blocks 1, out 4, in 1, k3 1, k5 1, sums 5,
    #[target_feature(enable = "avx2,fma")]);
#[cfg(target_arch = "aarch64")]
table!(neon, simd::Neon, rows 1, pixels 4, wide false, blocks 1, out 4, in 1, k3 1, k5 1, sums 4,
    #[target_feature(enable = "neon")]);
table!(portable, simd::Array, rows 1, pixels 2, wide false, blocks 1, out 4, in 1, k3 1, k5 1, sums 2,);

/// The table called `name` if this machine can run it; without a name, the fastest one.
pub(crate) fn table(name: Option<&str>) -> Option<&'static Kernels> {
    let available = available();
    match name {
        None => available.first().copied(),
        Some(name) => available.into_iter().find(|k| k.name == name),
    }
}

/// What this machine can run, fastest first.
pub(crate) fn available() -> Vec<&'static Kernels> {
    let mut tables: Vec<&'static Kernels> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq") {
            tables.push(&avx512::TABLE);
        }
        if has!("avx2") && has!("fma") {
            tables.push(&avx2::TABLE);
        }
    }
    #[cfg(target_arch = "aarch64")]
    tables.push(&neon::TABLE);
    tables.push(&portable::TABLE);
    tables
}

/// What `TETLO_SIMD` says.
pub(crate) fn wanted_table() -> Option<String> {
    std::env::var("TETLO_SIMD").ok().map(|name| name.to_lowercase())
}

/// The table of this process: the one `TETLO_SIMD` names if this machine has it, else the fastest.
pub(crate) fn default_table() -> &'static Kernels {
    static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        table(wanted_table().as_deref()).or_else(|| table(None)).unwrap_or(&portable::TABLE)
    })
}
