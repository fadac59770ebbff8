//! Counting correct answers.

use crate::loader::{Loader, prefetched};
use candle_core::Tensor;
use tetlo_core::Result;
use tetlo_core::network::{Network, Pass};
use tetlo_core::rng::{Key, Purpose};

/// Number of rows whose largest logit is the label's (the first of equals).
pub fn correct(logits: &Tensor, labels: &[u32]) -> Result<usize> {
    let rows = logits.detach().to_vec2::<f32>()?;
    let hits = rows.iter().zip(labels).filter(|(row, label)| {
        let mut best = 0;
        for (i, v) in row.iter().enumerate() {
            if *v > row[best] {
                best = i;
            }
        }
        best as u32 == **label
    });
    Ok(hits.count())
}

/// Accuracy of a network with running statistics on all images of a loader.
pub fn accuracy(
    network: &dyn Network,
    weights: &Tensor,
    buffers: Option<&Tensor>,
    architecture: Option<&Tensor>,
    loader: &Loader<'_>,
) -> Result<f64> {
    let draw = Key::new(0, Purpose::Relaxation);
    let pass = match buffers {
        Some(buffers) => Pass::evaluate(buffers, draw),
        None => Pass::train(draw),
    };
    let epoch = loader.in_order();
    let mut hits = 0;
    prefetched(
        epoch.len(),
        |i| epoch.batch(i),
        |_, batch| {
            let output = network.forward(weights, architecture, &batch.images, &pass)?;
            hits += correct(&output.logits, &batch.labels)?;
            Ok(())
        },
    )?;
    Ok(hits as f64 / loader.len().max(1) as f64)
}
