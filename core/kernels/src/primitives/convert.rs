//! Between planes `[block][pixel][16]` and `[channel][pixel]`, for one image.

/// Pixels converted while their lines are in the first cache level.
const TILE: usize = 16;

/// Writes `value(channel, x)` for all channels of `out`.
pub(crate) fn to_channels(
    planes: &[f32],
    pixels: usize,
    out: &mut [f32],
    value: impl Fn(usize, f32) -> f32,
) {
    let channels = out.len() / pixels;
    for (b, block) in planes.chunks_exact(pixels * 16).enumerate() {
        let lanes = channels.saturating_sub(b * 16).min(16);
        for first in (0..pixels).step_by(TILE) {
            let n = TILE.min(pixels - first);
            for l in 0..lanes {
                let channel = b * 16 + l;
                let to = &mut out[channel * pixels + first..][..n];
                for (q, v) in to.iter_mut().enumerate() {
                    *v = value(channel, block[(first + q) * 16 + l]);
                }
            }
        }
    }
}

/// The inverse; unused lanes become zero. Says whether all values are finite.
pub(crate) fn to_planes(channels: &[f32], pixels: usize, planes: &mut [f32]) -> bool {
    let count = channels.len() / pixels;
    let mut finite = true;
    for (b, block) in planes.chunks_exact_mut(pixels * 16).enumerate() {
        let lanes = count.saturating_sub(b * 16).min(16);
        if lanes < 16 {
            block.fill(0.0);
        }
        for first in (0..pixels).step_by(TILE) {
            let n = TILE.min(pixels - first);
            for l in 0..lanes {
                let from = &channels[(b * 16 + l) * pixels + first..][..n];
                for (q, v) in from.iter().enumerate() {
                    finite &= v.is_finite();
                    block[(first + q) * 16 + l] = *v;
                }
            }
        }
    }
    finite
}

/// Statistics of planes as in [`super::mix::Mix`]: `[sum, square, k][padded]`, `k` being the first
/// pixel.
pub(crate) fn moments(planes: &[f32], pixels: usize, statistics: &mut [f32]) {
    let padded = planes.len() / pixels;
    for (b, block) in planes.chunks_exact(pixels * 16).enumerate() {
        let (mut sum, mut square) = ([0.0f64; 16], [0.0f64; 16]);
        for pixel in block.chunks_exact(16) {
            for l in 0..16 {
                let d = f64::from(pixel[l] - block[l]);
                sum[l] += d;
                square[l] += d * d;
            }
        }
        for l in 0..16 {
            let at = b * 16 + l;
            statistics[at] = sum[l] as f32;
            statistics[padded + at] = square[l] as f32;
            statistics[2 * padded + at] = block[l];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (channels, pixels) in [(1usize, 1usize), (3, 5), (16, 16), (20, 35), (33, 17)] {
            let image: Vec<f32> = (0..channels * pixels).map(|i| i as f32 - 7.5).collect();
            let mut planes = vec![f32::NAN; channels.next_multiple_of(16) * pixels];
            assert!(to_planes(&image, pixels, &mut planes));
            // Channel 0 of pixel 0, and the last channel of the last pixel.
            let last = channels - 1;
            let place = (last / 16 * pixels + pixels - 1) * 16 + last % 16;
            assert_eq!((planes[0], planes[place]), (image[0], image[image.len() - 1]));
            let zeros = planes.iter().filter(|v| **v == 0.0).count();
            assert_eq!(zeros, planes.len() - image.len());
            let mut back = vec![0.0; image.len()];
            to_channels(&planes, pixels, &mut back, |channel, v| v * 2.0 + channel as f32);
            for (i, v) in back.iter().enumerate() {
                assert!((v - (image[i] * 2.0 + (i / pixels) as f32)).abs() < 1e-6);
            }
        }
        let mut planes = vec![0.0; 32];
        assert!(!to_planes(&[1.0, f32::NAN], 2, &mut planes));
    }

    #[test]
    fn moments_by_hand() {
        // Lane 0: 3, 5, 4: from the first 0, 2, 1.
        let mut planes = vec![0.0; 48];
        (planes[0], planes[16], planes[32]) = (3.0, 5.0, 4.0);
        let mut statistics = vec![9.0; 48];
        moments(&planes, 3, &mut statistics);
        assert_eq!((statistics[0], statistics[16], statistics[32]), (3.0, 5.0, 3.0));
        assert_eq!((statistics[1], statistics[17], statistics[33]), (0.0, 0.0, 0.0));
    }
}
