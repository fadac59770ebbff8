//! Networks: shapes, batch statistics, gradients. And auxiliary models.

use crate::Suite;
use crate::numbers::{draws, finite, gradient, largest, normal, same, values};
use crate::report::{Check, Report, ensure};
use crate::space::spaces;
use candle_core::{DType, Device, Tensor, Var};
use std::ops::Range;
use tetlo_core::kinds::{Auxiliary, AuxiliarySite};
use tetlo_core::layout::Layout;
use tetlo_core::network::{
    ImageShape, Network, Output, Pass, Statistics, update_running_statistics,
};
use tetlo_core::rng::{Key, Purpose};
use tetlo_core::space::initial_values;

const BATCH: usize = 6;

/// A network at its initial values on a batch of random images.
struct Case<'a> {
    network: &'a dyn Network,
    weights: Tensor,
    buffers: Option<Tensor>,
    architecture: Option<Tensor>,
    images: Tensor,
}

impl Suite for dyn Auxiliary {
    fn suite(auxiliary: &Self, report: &mut Report<'_>) {
        for space in spaces() {
            for (channels, side, classes, maps) in [(3, 16, 5, false), (1, 8, 3, true)] {
                let image = ImageShape { channels, height: side, width: side };
                let with = if maps { ", with maps" } else { "" };
                let what =
                    format!("on the space `{}`, {channels} × {side} × {side}{with}", space.name);
                let mut network = None;
                report.check(&what, || {
                    let site = AuxiliarySite::new(image, classes, &space).with_maps(maps);
                    network = Some(auxiliary.network(&site)?);
                    Ok(())
                });
                if let Some(network) = network {
                    check(report, &what, network.as_ref(), image, classes);
                    report.check(&what, || gives_maps(network.as_ref(), image, maps));
                }
            }
        }
    }
}

/// Checks a network that takes `image` and tells `classes` apart.
///
/// The gradient's tolerance is wide: differences of a deep network in f32 are no better.
pub(crate) fn check(
    report: &mut Report<'_>,
    what: &str,
    network: &dyn Network,
    image: ImageShape,
    classes: usize,
) {
    report.check(format_args!("{what}: outputs"), || outputs(&Case::new(network, image)?, classes));
    report.check(format_args!("{what}: gradient"), || {
        let case = Case::new(network, image)?;
        case.gradient_reaches()?;
        let all = 0..network.weights().len();
        case.gradient_is_right(&[all], 0.1)
    });
}

/// Checks that every named weight gets a gradient.
pub(crate) fn check_reach(network: &dyn Network, image: ImageShape) -> Check {
    Case::new(network, image)?.gradient_reaches()
}

/// Checks that a network gives feature maps, from the finest to the coarsest, or that it gives none.
pub(crate) fn gives_maps(network: &dyn Network, image: ImageShape, wanted: bool) -> Check {
    let output = Case::new(network, image)?.forward(Statistics::Batch, 0.0)?;
    ensure!(wanted != output.maps.is_empty(), "{} feature maps", output.maps.len());
    let mut before = (image.height + 1, image.width + 1);
    for map in &output.maps {
        let (n, _, h, w) = map.dims4()?;
        let finer = h < before.0 && w < before.1;
        ensure!(n == BATCH && finer, "a map of shape {:?} after one of {before:?}", map.dims());
        finite("a feature map", map)?;
        before = (h, w);
    }
    Ok(())
}

fn outputs(case: &Case<'_>, classes: usize) -> Check {
    let output = case.forward(Statistics::Batch, 0.0)?;
    let rows = |what: &str, t: &Tensor, columns: Option<usize>| {
        let good = matches!(t.dims(), [n, d] if *n == BATCH && columns.is_none_or(|c| c == *d));
        ensure!(good, "{what} of {BATCH} images and {classes} classes: shape {:?}", t.dims());
        finite(what, t)
    };
    rows("logits", &output.logits, Some(classes))?;
    rows("embedding", &output.embedding, None)?;
    if let Some(logits) = &output.auxiliary_logits {
        rows("logits of the auxiliary head", logits, Some(classes))?;
    }
    let buffers = case.network.buffers().len();
    if let Some(batch) = &output.statistics {
        ensure!(batch.dims() == [buffers], "{:?} statistics of {buffers}", batch.dims());
        ensure!(!batch.track_op(), "the batch statistics are part of the graph");
        finite("the batch statistics", batch)?;
    } else {
        ensure!(buffers == 0, "no batch statistics for {buffers} running ones");
    }
    for (statistics, drop_path) in
        [(Statistics::Batch, 0.0), (Statistics::Batch, 0.3), (Statistics::Running, 0.0)]
    {
        let logits = || finite("logits", &case.forward(statistics, drop_path)?.logits);
        same(&format!("logits ({statistics:?}, drop-path {drop_path})"), &logits()?, &logits()?)?;
    }
    Ok(())
}

impl<'a> Case<'a> {
    fn new(network: &'a dyn Network, image: ImageShape) -> Check<Self> {
        let (weights, buffers, architecture) =
            initial_values(network, Key::new(1, Purpose::Weights))?;
        let ImageShape { channels, height, width } = image;
        let images = normal(&[BATCH, channels, height, width], 2)?.to_dtype(DType::F32)?;
        Ok(Self { network, weights, buffers, architecture, images })
    }

    fn forward(&self, statistics: Statistics, drop_path: f64) -> Check<Output> {
        let run = |pass: &Pass<'_>| {
            self.network.forward(&self.weights, self.architecture.as_ref(), &self.images, pass)
        };
        let train = run(&train_pass().with_drop_path(drop_path))?;
        let (Statistics::Running, Some(buffers)) = (statistics, &self.buffers) else {
            return Ok(train);
        };
        let running = update_running_statistics(buffers, train.statistics.as_ref())?;
        Ok(run(&Pass::evaluate(&running, train_pass().draw))?)
    }

    /// Some function of everything the network gives: a random linear one, in f64.
    fn function(&self, weights: &Tensor, architecture: Option<&Tensor>) -> Check<Tensor> {
        let output = self.network.forward(weights, architecture, &self.images, &train_pass())?;
        let parts = [Some(output.logits), Some(output.embedding), output.auxiliary_logits];
        let parts = parts.into_iter().flatten().chain(output.maps);
        let mut sum = Tensor::zeros((), DType::F64, &Device::Cpu)?;
        for (part, seed) in parts.zip(20..) {
            let factors = normal(part.dims(), seed)?;
            sum = (sum + (part.to_dtype(DType::F64)? * factors)?.sum_all()?)?;
        }
        Ok(sum)
    }

    /// Gradients in weights and architecture parameters.
    fn gradients(&self) -> Check<(Vec<f64>, Vec<f64>)> {
        let weights = Var::from_tensor(&self.weights)?;
        let architecture = self.architecture.as_ref().map(Var::from_tensor).transpose()?;
        let tracked = architecture.as_ref().map(Var::as_tensor);
        let value = self.function(weights.as_tensor(), tracked)?;
        let vars: Vec<&Var> =
            [Some(&weights), architecture.as_ref()].into_iter().flatten().collect();
        let mut gradients = gradient(&value, &vars)?.into_iter();
        Ok((gradients.next().unwrap_or_default(), gradients.next().unwrap_or_default()))
    }

    /// Every named weight and architecture parameter gets a gradient.
    fn gradient_reaches(&self) -> Check {
        let (of_weights, of_architecture) = self.gradients()?;
        let layouts = [self.network.weights(), self.network.architecture()];
        for (layout, gradient) in layouts.into_iter().zip([of_weights, of_architecture]) {
            let missed = layout.entries().iter().find(|e| {
                let part = &gradient[e.offset..e.offset + e.len()];
                // Written so that NaN is missed too.
                !(largest(part) > 0.0 && part.iter().all(|v| v.is_finite()))
            });
            if let Some(entry) = missed {
                ensure!(false, "`{}` gets no finite gradient", entry.name);
            }
        }
        Ok(())
    }

    /// The gradient in each range of the weights, and in the architecture parameters, against central
    /// differences along random directions.
    fn gradient_is_right(&self, ranges: &[Range<usize>], tolerance: f64) -> Check {
        const DIRECTIONS: u64 = 3;
        let (of_weights, of_architecture) = self.gradients()?;
        let judge = |what: &str, error: f64| {
            ensure!(
                error <= tolerance,
                "the gradient of {what} is off central differences by {error:.3} of its size"
            );
            Ok(())
        };
        let at = values(&self.weights)?;
        let steps = steps(self.network.weights(), &at);
        for range in ranges {
            let inside: Vec<f64> = steps
                .iter()
                .enumerate()
                .map(|(i, step)| if range.contains(&i) { *step } else { 0.0 })
                .collect();
            let entries = self.network.weights().entries();
            let part = entries.iter().find(|e| e.offset == range.start && e.len() == range.len());
            let what = part.map_or("the weights".to_owned(), |e| format!("`{}`", e.name));
            for seed in 0..DIRECTIONS {
                let function = |w: &Tensor| self.function(w, self.architecture.as_ref());
                judge(&what, along(&at, &inside, &of_weights, seed, tolerance, function)?)?;
            }
        }
        if let Some(architecture) = &self.architecture {
            let at = values(architecture)?;
            let steps = vec![1e-2; at.len()];
            for seed in 0..DIRECTIONS {
                let function = |a: &Tensor| self.function(&self.weights, Some(a));
                judge("α", along(&at, &steps, &of_architecture, seed, tolerance, function)?)?;
            }
        }
        Ok(())
    }
}

fn train_pass() -> Pass<'static> {
    Pass::train(Key::new(4, Purpose::Relaxation))
}

/// Lengths of the longest steps that differences take, from weight to weight.
fn steps(layout: &Layout, weights: &[f64]) -> Vec<f64> {
    let mut steps = Vec::with_capacity(weights.len());
    for e in layout.entries() {
        let part = &weights[e.offset..e.offset + e.len()];
        let square = part.iter().map(|w| w * w).sum::<f64>() / part.len() as f64;
        let size = if square > 0.0 { square.sqrt() } else { 1.0 };
        steps.extend(std::iter::repeat_n(1e-3 * size, part.len()));
    }
    steps
}

/// Compares g·d with half of f(x + d) − f(x − d) for random signs of d: their difference, in units of
/// √Σ(g_i d_i)², the usual size of g·d. A wrong gradient is off at every length of d; a right one only
/// where rectifiers and maxima switch (long d) or f32 rounds (short d), so the best of three counts;
/// `enough` ends the search.
fn along(
    at: &[f64],
    steps: &[f64],
    gradient: &[f64],
    seed: u64,
    enough: f64,
    function: impl Fn(&Tensor) -> Check<Tensor>,
) -> Check<f64> {
    let mut draws = draws(seed);
    let signs: Vec<f64> =
        steps.iter().map(|step| if draws.below(2) == 0 { *step } else { -step }).collect();
    let value = |x: &[f32]| -> Check<f64> {
        Ok(function(&Tensor::from_slice(x, x.len(), &Device::Cpu)?)?.to_scalar()?)
    };
    let mut best = f64::INFINITY;
    for shorter in [1.0, 0.25, 0.0625] {
        let moved = |scale: f64| -> Vec<f32> {
            at.iter().zip(&signs).map(|(x, d)| (x + scale * d) as f32).collect()
        };
        let (up, down) = (moved(shorter), moved(-shorter));
        let (mut expected, mut square) = (0.0, 0.0);
        for ((u, d), g) in up.iter().zip(&down).zip(gradient) {
            let term = g * f64::from(u - d) / 2.0;
            expected += term;
            square += term * term;
        }
        let difference = (value(&up)? - value(&down)?) / 2.0;
        best = best.min((difference - expected).abs() / square.sqrt());
        if best <= enough {
            break;
        }
    }
    Ok(best)
}
