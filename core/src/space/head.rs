//! The auxiliary head of derived networks (deep supervision during retraining).

use super::lower::{Shape, push_affine, push_statistics};
use crate::layout::{Init, Layout};
use crate::{Error, Result};
use candle_core::Tensor;

/// ReLU – average pool to 2 × 2 – 1 × 1 convolution to 128 – BN – ReLU – 2 × 2 convolution to 768 –
/// BN – ReLU – linear, as in the authors' code for 8 × 8 maps (pool 5 × 5, stride 3).
///
/// \[D\] For other sides s ≥ 4 the window is s − 3, so that the pooled map stays 2 × 2; at s = 8 that
/// is the authors' 5.
///
/// Plain tensor code: it reads one small map a step.
#[derive(Debug)]
pub(super) struct AuxiliaryHead {
    pool: Vec<f64>,
    plane: usize,
    channels: usize,
    buffers_at: usize,
}

const NAME: &str = "auxiliary_head";
const NARROW: usize = 128;
const WIDE: usize = 768;

impl AuxiliaryHead {
    /// Appends the head's parameters to the layouts.
    ///
    /// # Errors
    /// The map is smaller than 4 × 4.
    pub(super) fn new(
        shape: Shape,
        classes: usize,
        weights: &mut Layout,
        buffers: &mut Layout,
    ) -> Result<Self> {
        let (channels, height, width) = shape;
        if height < 4 || width < 4 {
            return Err(Error::config_hint(
                format!("the auxiliary head needs maps of at least 4 × 4, here {height} × {width}"),
                "set `auxiliary-weight = 0` in the evaluator's options, or use larger images",
            ));
        }
        let buffers_at = buffers.len();
        let conv = |weights: &mut Layout, name: &str, shape: [usize; 4]| {
            let fan_in = Init::fan_in(shape[1] * shape[2] * shape[3]);
            weights.push(format!("{NAME}.features.{name}.weight"), &shape, fan_in);
        };
        conv(weights, "2", [NARROW, channels, 1, 1]);
        push_affine(weights, &format!("{NAME}.features.3"), NARROW);
        conv(weights, "5", [WIDE, NARROW, 2, 2]);
        push_affine(weights, &format!("{NAME}.features.6"), WIDE);
        push_statistics(buffers, &format!("{NAME}.features.3"), NARROW);
        push_statistics(buffers, &format!("{NAME}.features.6"), WIDE);
        let init = Init::fan_in(WIDE);
        weights.push(format!("{NAME}.classifier.weight"), &[classes, WIDE], init);
        weights.push(format!("{NAME}.classifier.bias"), &[classes], init);
        Ok(Self {
            pool: pooling_matrix(height, width),
            plane: height * width,
            channels,
            buffers_at,
        })
    }

    /// Where the head's running statistics start.
    pub(super) fn buffers_at(&self) -> usize {
        self.buffers_at
    }

    /// Logits of a rectified map (N × C × H × W) and the batch statistics of the head; `smooth`: with
    /// x·σ(x) for its rectifiers.
    pub(super) fn forward(
        &self,
        layout: &Layout,
        weights: &Tensor,
        map: &Tensor,
        smooth: bool,
    ) -> Result<(Tensor, Tensor)> {
        let n = map.dims4()?.0;
        let view = |name: &str| layout.view(weights, &format!("{NAME}.{name}"));
        let pool = Tensor::from_slice(&self.pool, (self.plane, 4), map.device())?;
        let pool = pool.to_dtype(map.dtype())?;
        let pooled = map.reshape((n * self.channels, self.plane))?.matmul(&pool)?;
        // [N, C, 4] → [N·4, C]: the 1 × 1 convolution is a matrix product.
        let rows = pooled.reshape((n, self.channels, 4))?.transpose(1, 2)?.contiguous()?;
        let rows = rows.reshape((n * 4, self.channels))?;
        let narrow = view("features.2.weight")?.reshape((NARROW, self.channels))?;
        let x = rows.matmul(&narrow.t()?)?;
        let (x, first) = batch_norm(&x, &view("features.3.weight")?, &view("features.3.bias")?)?;
        let x = relu(&x, smooth)?.reshape((n, 4, NARROW))?.transpose(1, 2)?.contiguous()?;
        let wide = view("features.5.weight")?.reshape((WIDE, NARROW * 4))?;
        let x = x.reshape((n, NARROW * 4))?.matmul(&wide.t()?)?;
        let (x, second) = batch_norm(&x, &view("features.6.weight")?, &view("features.6.bias")?)?;
        let logits =
            linear(&relu(&x, smooth)?, &view("classifier.weight")?, &view("classifier.bias")?)?;
        Ok((logits, Tensor::cat(&[first, second], 0)?))
    }
}

/// (H·W) × 4: averages of the four windows of side s − 3 at stride 3.
fn pooling_matrix(height: usize, width: usize) -> Vec<f64> {
    let (rows, columns) = (height - 3, width - 3);
    let mut matrix = vec![0.0; height * width * 4];
    for window in 0..4 {
        let (top, left) = (window / 2 * 3, window % 2 * 3);
        for y in top..top + rows {
            for x in left..left + columns {
                matrix[(y * width + x) * 4 + window] = 1.0 / (rows * columns) as f64;
            }
        }
    }
    matrix
}

/// max(0, x) with gradient 0 at 0 (candle's own gives 1 there), or x·σ(x).
fn relu(x: &Tensor, smooth: bool) -> Result<Tensor> {
    if smooth {
        return Ok(x.silu()?);
    }
    let positive = x.detach().gt(0.0)?.to_dtype(x.dtype())?;
    Ok((x * positive)?)
}

/// Batch normalisation of rows (N × C) with batch statistics; also mean and unbiased variance, one
/// after the other, detached.
fn batch_norm(x: &Tensor, gamma: &Tensor, beta: &Tensor) -> Result<(Tensor, Tensor)> {
    let rows = x.dims2()?.0;
    let mean = x.mean_keepdim(0)?;
    let centred = x.broadcast_sub(&mean)?;
    let variance = centred.sqr()?.mean_keepdim(0)?;
    let inverse = (&variance + 1e-5)?.sqrt()?.recip()?;
    let normal = centred.broadcast_mul(&inverse)?;
    let y = normal.broadcast_mul(gamma)?.broadcast_add(beta)?;
    let unbias = rows as f64 / (rows as f64 - 1.0).max(1.0);
    let unbiased = (variance.detach() * unbias)?;
    let statistics = Tensor::cat(&[mean.detach().flatten_all()?, unbiased.flatten_all()?], 0)?;
    Ok((y, statistics))
}

/// x·Wᵀ + b.
fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    Ok(x.matmul(&weight.t()?)?.broadcast_add(bias)?)
}
