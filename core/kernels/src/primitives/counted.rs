//! The kernels of this process behind a counter each, for tests of how much work a pass makes.

use super::{
    Depthwise, DepthwiseWeight, Dots, Fill, Filters, Gather, Kernels, Lazy, MapBackward,
    MapForward, Mask, Mix, MixWeight, Moments, PackedMix, PackedMixWeight, Peak, Pool, PoolBack,
    Read, Rectify, Sum, Total, Winograd, WinogradWeight, default_table,
};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

static COUNTING: AtomicBool = AtomicBool::new(false);

macro_rules! counted {
    ($($f:ident($T:ty))*) => {
        /// Calls so far, by kernel.
        struct Calls {
            $($f: AtomicU64,)*
        }

        static CALLS: Calls = Calls { $($f: AtomicU64::new(0),)* };

        $(
            unsafe fn $f(a: &$T) {
                CALLS.$f.fetch_add(1, Relaxed);
                (default_table().$f)(a);
            }
        )*

        static TABLE: Kernels = Kernels { name: "counted", sums: 1, $($f,)* };

        /// How often each kernel was called by networks that were built after [`count_kernels`].
        pub fn kernel_calls() -> Vec<(&'static str, u64)> {
            vec![$((stringify!($f), CALLS.$f.load(Relaxed)),)*]
        }
    };
}

counted! {
    depthwise(Depthwise)
    depthwise_weight(DepthwiseWeight)
    mix(Mix)
    mix_weight(MixWeight)
    winograd(Winograd)
    winograd_weight(WinogradWeight)
    filters(Filters)
    gather(Gather)
    sum(Sum)
    dots(Dots)
    fill(Fill)
    lazy(Lazy)
    mask(Mask)
    rectify(Rectify)
    pool(Pool)
    pool_back(PoolBack)
    packed_mix(PackedMix)
    packed_mix_weight(PackedMixWeight)
    map(MapForward<'_>)
    map_back(MapBackward<'_>)
    total(Total)
    moments(Moments)
    peak(Peak)
    read(Read)
}

/// Networks built from now on count the calls of their kernels (see [`kernel_calls`]).
pub fn count_kernels() {
    COUNTING.store(true, Relaxed);
}

/// The table for a new network of this process.
pub(crate) fn table_for_network() -> &'static Kernels {
    if COUNTING.load(Relaxed) { &TABLE } else { default_table() }
}
