//! What the machine can do at best: fused multiply-adds from registers, and reading from memory.

use crate::simd::Simd;

/// `rounds` times `sums` dependent multiply-adds side by side; `sums` is the table's.
pub(crate) struct Peak {
    /// Factor, summand, then the sums: 16 floats each. Overwritten.
    pub values: *mut f32,
    pub rounds: usize,
}

/// The sum of all floats, lane by lane.
pub(crate) struct Read {
    pub x: *const f32,
    /// A multiple of 128.
    pub floats: usize,
    /// 16 floats.
    pub out: *mut f32,
}

/// Most sums of any table; [`Peak::values`] has two vectors more.
pub(crate) const MOST_SUMS: usize = 16;

#[inline(always)]
pub(crate) unsafe fn peak<V: Simd, const K: usize>(a: &Peak) {
    let (factor, summand) = (V::load(a.values), V::load(a.values.add(16)));
    let mut sums = [summand; K];
    for k in 0..K {
        // From memory, so that the compiler cannot know them to be alike.
        sums[k] = V::load(a.values.add((2 + k) * 16));
    }
    for _ in 0..a.rounds {
        for k in 0..K {
            sums[k] = V::fma(sums[k], factor, summand);
        }
    }
    for k in 0..K {
        sums[k].store(a.values.add((2 + k) * 16));
    }
}

#[inline(always)]
pub(crate) unsafe fn read<V: Simd>(a: &Read) {
    let mut sums = [V::splat(0.0); 8];
    let mut at = 0;
    while at < a.floats {
        for k in 0..8 {
            sums[k] = sums[k].add(V::load(a.x.add(at + k * 16)));
        }
        at += 128;
    }
    let mut all = sums[0];
    for k in 1..8 {
        all = all.add(sums[k]);
    }
    all.store(a.out);
}
