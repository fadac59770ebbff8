//! Sums over images of what the other kernels summed over an image, in f64: compiled with the wide
//! registers of a table, because they run on one thread between two passes over the images.

/// 16 channels.
pub(crate) type Lanes = [f64; 16];

/// `out = sum over images of from[image * step ..][..16]`, in order.
pub(crate) struct Total {
    pub from: *const f32,
    pub step: usize,
    pub images: usize,
    pub out: *mut Lanes,
}

/// Exact combination of the images' means and squared deviations, in order; their layout is that of
/// [`super::Mix`]'s statistics, `step` floats an image, sum, square and shift `padded` apart.
pub(crate) struct Moments {
    pub part: *const f32,
    pub step: usize,
    pub padded: usize,
    pub images: usize,
    pub pixels: f64,
    pub mean: *mut Lanes,
    /// Biased.
    pub variance: *mut Lanes,
}

#[inline(always)]
unsafe fn lanes(at: *const f32) -> Lanes {
    let (from, mut out) = (at.cast::<[f32; 16]>().read_unaligned(), [0.0; 16]);
    for l in 0..16 {
        out[l] = f64::from(from[l]);
    }
    out
}

#[inline(always)]
pub(crate) unsafe fn total(a: &Total) {
    let mut sum = [0.0; 16];
    for image in 0..a.images {
        let x = lanes(a.from.add(image * a.step));
        for l in 0..16 {
            sum[l] += x[l];
        }
    }
    *a.out = sum;
}

#[inline(always)]
pub(crate) unsafe fn moments(a: &Moments) {
    let (each, count) = (1.0 / a.pixels, a.images as f64 * a.pixels);
    let part = |image: usize, q: usize| lanes(a.part.add(image * a.step + q * a.padded));
    let (mut mean, mut variance) = ([0.0; 16], [0.0; 16]);
    for image in 0..a.images {
        let (sum, shift) = (part(image, 0), part(image, 2));
        for l in 0..16 {
            mean[l] += shift[l] + sum[l] * each;
        }
    }
    for l in 0..16 {
        mean[l] /= a.images as f64;
    }
    for image in 0..a.images {
        let (sum, square, shift) = (part(image, 0), part(image, 1), part(image, 2));
        for l in 0..16 {
            let own = sum[l] * each;
            let d = shift[l] + own - mean[l];
            variance[l] += square[l] - sum[l] * own + a.pixels * d * d;
        }
    }
    for l in 0..16 {
        variance[l] = (variance[l] / count).max(0.0);
    }
    *a.mean = mean;
    *a.variance = variance;
}
