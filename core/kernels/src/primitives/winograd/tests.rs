//! Every instruction set and tile size against plain loops in `f64`.

use super::{Filters, Gather, TileSize, Winograd, WinogradWeight, room, weights_step};
use crate::primitives::{Kernels, available};

const SIZES: [TileSize; 3] = [TileSize::TwoByTwo, TileSize::TwoByFour, TileSize::FourByFour];
/// Zeros around each image.
const PAD: usize = 4;

/// Channels, pixels and how many images.
#[derive(Debug, Clone, Copy)]
struct Case {
    inputs: usize,
    outputs: usize,
    rows: usize,
    cols: usize,
    images: usize,
}

const fn case(inputs: usize, outputs: usize, rows: usize, cols: usize, images: usize) -> Case {
    Case { inputs, outputs, rows, cols, images }
}

const CASES: [Case; 9] = [
    case(16, 16, 4, 4, 1),
    case(12, 12, 8, 8, 5),
    case(17, 30, 7, 6, 2),
    case(16, 16, 13, 11, 3),
    case(40, 20, 6, 9, 1),
    case(16, 64, 8, 34, 2),
    case(64, 64, 8, 8, 4),
    case(70, 33, 5, 5, 3),
    case(16, 16, 32, 32, 1),
];

/// Values in [-1, 1).
struct Random(u64);

impl Random {
    fn values(&mut self, n: usize) -> Vec<f32> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }
}

impl Case {
    fn width(&self) -> usize {
        self.cols + 2 * PAD
    }
    fn plane(&self) -> usize {
        (self.rows + 2 * PAD) * self.width() * 16
    }

    /// Place of a value in padded planes of `channels` channels.
    fn at(
        &self,
        channels: usize,
        (image, channel, row, col): (usize, usize, usize, usize),
    ) -> usize {
        let block = image * channels.div_ceil(16) + channel / 16;
        let pixel = (row + PAD) * self.width() + col + PAD;
        block * self.plane() + pixel * 16 + channel % 16
    }

    /// Random values with zeros around each image.
    fn padded(&self, channels: usize, random: &mut Random) -> Vec<f32> {
        let mut x = vec![0.0; self.images * channels.div_ceil(16) * self.plane()];
        let values = random.values(self.images * channels * self.rows * self.cols);
        for (place, v) in self.places(channels).zip(values) {
            x[self.at(channels, place)] = v;
        }
        x
    }

    /// (image, channel, row, column) of all values.
    fn places(
        &self,
        channels: usize,
    ) -> impl Iterator<Item = (usize, usize, usize, usize)> + use<> {
        let (rows, cols) = (self.rows, self.cols);
        (0..self.images * channels * rows * cols).map(move |i| {
            (i / (rows * cols) / channels, i / (rows * cols) % channels, i / cols % rows, i % cols)
        })
    }

    fn lanes(channels: usize) -> Vec<u32> {
        (0..channels).step_by(16).map(|first| (channels - first).min(16) as u32).collect()
    }

    fn blocks(&self) -> (usize, usize) {
        (self.inputs.div_ceil(16), self.outputs.div_ceil(16))
    }
}

/// `|a - b| / |b|`
fn error(pairs: impl Iterator<Item = (f32, f64)>) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for (a, b) in pairs {
        difference += (f64::from(a) - b).powi(2);
        size += b * b;
    }
    (difference / size).sqrt()
}

/// The convolution, added to what is there if `add`; gives its error and whether the statistics fit.
fn convolve(kernels: &Kernels, tile: TileSize, case: Case, add: bool) -> (f64, f64) {
    let mut random = Random(case.rows as u64 * 100 + case.inputs as u64);
    let (blocks_in, blocks_out) = case.blocks();
    let x = case.padded(case.inputs, &mut random);
    let w = random.values(case.outputs * case.inputs * 9);
    let mut packed = vec![0.0; tile.elements() * weights_step(blocks_in, blocks_out)];
    for block in 0..blocks_out {
        for input in 0..case.inputs {
            let filters = Filters {
                tile,
                w: w[(block * 16 * case.inputs + input) * 9..].as_ptr(),
                w_step: case.inputs * 9,
                count: (case.outputs - block * 16).min(16),
                turned: false,
                out: packed[(block * blocks_in * 16 + input) * 16..].as_mut_ptr(),
                out_step: weights_step(blocks_in, blocks_out),
            };
            // SAFETY: all places are inside the vectors above.
            unsafe { (kernels.filters)(&filters) };
        }
    }
    let before = case.padded(case.outputs, &mut random);
    let mut out = before.clone();
    let mut stats = vec![0.0f32; case.images * 3 * blocks_out * 16];
    let mut scratch = vec![0.0; room(tile, blocks_in, blocks_out)];
    let (first, row) = (case.at(1, (0, 0, 0, 0)), case.width() * 16);
    let lanes = Case::lanes(case.inputs);
    let convolution = Winograd {
        tile,
        images: case.images,
        out_image: blocks_out * case.plane(),
        x_image: blocks_in * case.plane(),
        stats_image: 3 * blocks_out * 16,
        out: out[first..].as_mut_ptr(),
        out_row: row,
        out_block: case.plane(),
        x: x[first..].as_ptr(),
        x_row: row,
        x_block: case.plane(),
        rows: case.rows,
        cols: case.cols,
        blocks_in,
        blocks_out,
        lanes: lanes.as_ptr(),
        w: packed.as_ptr(),
        scratch: scratch.as_mut_ptr(),
        stats: if add { std::ptr::null_mut() } else { stats.as_mut_ptr() },
        ahead: 0,
        add,
    };
    // SAFETY: as above; reads go at most 4 pixels beyond the image.
    unsafe { (kernels.winograd)(&convolution) };
    let exact = |(image, co, row, col)| {
        let mut sum = 0.0;
        for ci in 0..case.inputs {
            for t in 0..9 {
                let at = case.at(case.inputs, (image, ci, row, col));
                // One row and one column before, then the tap.
                let at = at + (t / 3) * case.width() * 16 + (t % 3) * 16 - (case.width() + 1) * 16;
                sum += f64::from(w[(co * case.inputs + ci) * 9 + t]) * f64::from(x[at]);
            }
        }
        sum
    };
    let old = |place| if add { f64::from(before[case.at(case.outputs, place)]) } else { 0.0 };
    let pairs = case
        .places(case.outputs)
        .map(|place| (out[case.at(case.outputs, place)], exact(place) + old(place)));
    let found = error(pairs);
    if add {
        return (found, 0.0);
    }
    // Sum and sum of squares, both of differences to the first pixel.
    let mut sums = Vec::new();
    for image in 0..case.images {
        for co in 0..case.outputs {
            let part = &stats[image * 3 * blocks_out * 16..];
            let at = |q: usize| part[q * blocks_out * 16 + co];
            let k = out[case.at(case.outputs, (image, co, 0, 0))];
            assert_eq!(at(2).to_bits(), k.to_bits(), "{case:?}");
            let all = (0..case.rows * case.cols).map(|p| {
                let place = (image, co, p / case.cols, p % case.cols);
                f64::from(out[case.at(case.outputs, place)]) - f64::from(k)
            });
            sums.push((at(0), all.clone().sum()));
            sums.push((at(1), all.map(|d| d * d).sum()));
        }
    }
    (found, error(sums.into_iter()))
}

/// The weight gradient, of which all but the last image are added in a call of their own.
fn weight_gradient(kernels: &Kernels, tile: TileSize, case: Case) -> f64 {
    let mut random = Random(case.cols as u64 * 100 + case.outputs as u64);
    let (blocks_in, blocks_out) = case.blocks();
    let x = case.padded(case.inputs, &mut random);
    let g = case.padded(case.outputs, &mut random);
    let step = weights_step(blocks_in, blocks_out);
    let mut dw = vec![f32::NAN; tile.elements() * step];
    let mut scratch = vec![0.0; room(tile, blocks_in, blocks_out)];
    let lanes = Case::lanes(case.outputs);
    let (first, row) = (case.at(1, (0, 0, 0, 0)), case.width() * 16);
    let last = case.images - 1;
    for (image, images) in [(0, last), (last, 1)].into_iter().filter(|(_, images)| *images > 0) {
        let gradient = WinogradWeight {
            tile,
            images,
            g_image: blocks_out * case.plane(),
            x_image: blocks_in * case.plane(),
            dw: dw.as_mut_ptr(),
            g: g[first + image * blocks_out * case.plane()..].as_ptr(),
            g_row: row,
            g_block: case.plane(),
            x: x[first + image * blocks_in * case.plane()..].as_ptr(),
            x_row: row,
            x_block: case.plane(),
            rows: case.rows,
            cols: case.cols,
            blocks_out,
            blocks_in,
            lanes: lanes.as_ptr(),
            scratch: scratch.as_mut_ptr(),
            add: image > 0,
        };
        // SAFETY: all places are inside the vectors above; reads go at most 4 pixels beyond the image.
        unsafe { (kernels.winograd_weight)(&gradient) };
    }
    let mut found = vec![0.0; case.outputs * case.inputs * 9];
    for co in 0..case.outputs {
        for first in (0..case.inputs).step_by(16) {
            let gather = Gather {
                tile,
                dw: dw[co * blocks_in * 16 + first..].as_ptr(),
                dw_step: step,
                chunks: 1,
                chunk_step: 0,
                out: found[(co * case.inputs + first) * 9..].as_mut_ptr(),
                count: (case.inputs - first).min(16),
            };
            // SAFETY: as above.
            unsafe { (kernels.gather)(&gather) };
        }
    }
    let exact = |co: usize, ci: usize, tap: usize| {
        let mut sum = 0.0;
        for (image, _, row, col) in case.places(1) {
            let at = case.at(case.inputs, (image, ci, row, col));
            let at = at + (tap / 3) * case.width() * 16 + (tap % 3) * 16 - (case.width() + 1) * 16;
            sum += f64::from(g[case.at(case.outputs, (image, co, row, col))]) * f64::from(x[at]);
        }
        sum
    };
    error(
        found
            .iter()
            .enumerate()
            .map(|(i, v)| (*v, exact(i / 9 / case.inputs, i / 9 % case.inputs, i % 9))),
    )
}

/// Largest relative error: plain `f32` loops have 1e-7 to 3e-7 here, `F(4x4)` with points ±1, ±2 has
/// more than this.
const BOUND: f64 = 1e-6;

#[test]
fn every_tile_and_instruction_set() {
    for kernels in available() {
        for tile in SIZES {
            for case in CASES {
                let (plain, statistics) = convolve(kernels, tile, case, false);
                let (added, _) = convolve(kernels, tile, case, true);
                let weights = weight_gradient(kernels, tile, case);
                let what = format!("{} {tile:?} {case:?}", kernels.name);
                assert!(plain < BOUND && added < BOUND, "{what}: {plain:e} {added:e}");
                assert!(statistics < BOUND, "{what}: statistics {statistics:e}");
                assert!(weights < BOUND, "{what}: weights {weights:e}");
            }
        }
    }
}
