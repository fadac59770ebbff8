//! How long a loss takes.

use super::images::{Images, Shapes};
use super::{evaluate, tracked};
use crate::report::{Check, Failure, accepted};
use candle_core::DType;
use std::time::Instant;
use tetlo_core::foreign::cost;
use tetlo_core::kinds::TransferLoss;

/// Images, and width of the embeddings.
const BATCH: usize = 64;
const WIDTH: usize = 256;

/// Most calls that are timed, and seconds after which there are no more.
const CALLS: usize = 40;
const SECONDS: f64 = 1.5;

/// The time of a loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Speed {
    /// Seconds a call with value and gradients: the median.
    pub seconds: f64,
    /// Of a loss in foreign code: seconds a call that are not its author's, the lower quartile: waiting for
    /// a processor of a busy machine is not what crossing the border costs.
    pub overhead: Option<f64>,
    /// Calls that were timed.
    pub calls: usize,
    /// Images a call.
    pub images: usize,
    /// Does the loss see feature maps?
    pub sees_maps: bool,
    /// What the loss sees of either model, such as `embeddings of 256`.
    pub sees: String,
}

/// Times a loss with its gradients in all it sees, in f32: 64 images (more where it needs more),
/// embeddings of 256, logits of 10 classes, maps of 64 × 8 × 8 and 128 × 4 × 4.
///
/// # Errors
/// The loss refuses them, or panics.
pub fn speed(loss: &dyn TransferLoss) -> Result<Speed, String> {
    timed(loss).map_err(|Failure(message)| message)
}

fn timed(loss: &dyn TransferLoss) -> Check<Speed> {
    let needs = loss.needs();
    let n = needs.batch.max(BATCH);
    let shapes = Shapes { width: WIDTH, classes: 10, maps: vec![[64, 8, 8], [128, 4, 4]] };
    let images = Images::new(loss, n, &[shapes.clone(), shapes])?;
    let images = images.map(|_, t| Ok(t.to_dtype(DType::F32)?))?;
    let (_, images) = tracked(&images)?;
    let call = || -> tetlo_core::Result<(f64, Option<f64>)> {
        cost::take();
        let began = Instant::now();
        let value = evaluate(loss, &images)?;
        if value.track_op() {
            value.backward()?;
        }
        Ok((began.elapsed().as_secs_f64(), cost::take().map(|c| c.overhead())))
    };
    let what = format!("a batch of {n}");
    let once = || accepted(&what, call)?.map_err(Failure);
    once()?;
    let began = Instant::now();
    let mut times = vec![once()?];
    while times.len() < CALLS && began.elapsed().as_secs_f64() < SECONDS {
        times.push(once()?);
    }
    let seconds = median(times.iter().map(|(seconds, _)| *seconds)).unwrap_or_default();
    let overhead = quantile(0.25, times.iter().filter_map(|(_, overhead)| *overhead));
    let seen = [
        (needs.embeddings, format!("embeddings of {WIDTH}")),
        (needs.logits, "logits of 10 classes".to_owned()),
        (needs.maps, "maps of 64 × 8 × 8 and 128 × 4 × 4".to_owned()),
    ];
    let seen: Vec<String> = seen.into_iter().filter_map(|(is, what)| is.then_some(what)).collect();
    Ok(Speed {
        seconds,
        overhead,
        calls: times.len(),
        images: n,
        sees_maps: needs.maps,
        sees: seen.join(", "),
    })
}

/// The median (of an even number of values the upper one); `None` without any.
pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    quantile(0.5, values)
}

fn quantile(part: f64, values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get((values.len() as f64 * part) as usize).copied()
}
