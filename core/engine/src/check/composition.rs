//! The estimators on a user's own composition: its stages, losses, optimisers and data, at tiny width
//! and in f64.
//!
//! On the smooth variant of the networks (x·σ(x) for rectifiers, average pools for max pools)
//! derivatives are what differences converge to, and estimators must keep their bounds near their limit:
//! on networks so deep the usual perturbations are too long for that. On the networks
//! as they are the exact derivative is that of double backward (it exists almost everywhere), and how
//! far estimators are from it is a finding about the composition, not a fault.

use super::candidate::{Candidate, Held, candidates};
use super::reference::{DoubleBackward, Extrapolated};
use super::report::{CheckReport, against};
use crate::loader::Augmentation;
use crate::method::{Checked, Method, SearchState};
use crate::search::Splits;
use serde_json::Value;
use tetlo_core::config::MethodConfig;
use tetlo_core::data::{Data, Images, Pixels};
use tetlo_core::kinds::{Hypergradient, Progress};
use tetlo_core::multilevel::{Batch, Batches};
use tetlo_core::network::ImageShape;
use tetlo_core::space::SpaceSpec;
use tetlo_core::{Error, Result};

/// What is varied.
#[derive(Debug, Clone, PartialEq)]
pub struct Axes {
    /// Images a batch.
    pub batch_sizes: Vec<usize>,
    /// Lengths of perturbations, for estimators with an option `epsilon`; none: their own.
    pub epsilons: Vec<f64>,
    /// The registered estimators; none: all.
    pub estimators: Vec<String>,
}

/// Most channels of the first layers.
const CHANNELS: usize = 4;
/// Most positions of cells in a network, where the space can have so few.
const POSITIONS: usize = 3;
/// Side of the images, where they are not smaller.
const SIDE: usize = 8;
/// The largest move of the architecture: normalisation over few images is strongly curved.
const LARGEST: f64 = 0.02;
/// Steps of all weights before the check, so that they are no longer a draw, and momentum is there.
const STEPS: usize = 8;
/// Images a batch in these.
const BATCH: usize = 16;

/// Compares every registered estimator, `others` and the method's own with exact hypergradients of the method at
/// tiny width: on smooth networks, where a missed bound is a failure, and on the networks as they are.
///
/// All batch sizes are checked at the same weights. On smooth networks the smallest batch is held
/// against extrapolated differences, which are themselves proven by differences through the whole
/// update, larger ones against double backward.
///
/// # Errors
/// The method cannot be built on the space and images at any width, or there are too few images.
pub fn composition(
    config: &MethodConfig,
    space: &SpaceSpec,
    data: &Data,
    seed: u64,
    axes: &Axes,
    others: &[(&str, &dyn Hypergradient)],
) -> Result<CheckReport> {
    let data = tiny_data(data);
    let tiny = Tiny::new(config, space, &data, seed)?;
    let at = Progress { epoch: 0, epochs: config.search.epochs, step: STEPS };
    let mut report = CheckReport::default();
    let state = match tiny.trained() {
        Ok(state) => state,
        Err(Error::Unsupported { plugin, what }) => {
            let name = &config.name;
            report.note(format!("{name}: nothing is checked: `{plugin}` does not support {what}"));
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    let mut batch_sizes = axes.batch_sizes.clone();
    batch_sizes.sort_unstable();
    batch_sizes.dedup();
    for (i, size) in batch_sizes.into_iter().enumerate() {
        let batches = tiny.batches(size)?;
        for smooth in [true, false] {
            let kind = if smooth { "smooth" } else { "as it is" };
            let problem = format!("{} ({kind})", config.name);
            let checked = tiny.method()?.into_check(&state, &batches, at, smooth)?;
            let found = compare(&problem, &checked, axes, others, (smooth, i == 0))?;
            report.take(found, size);
        }
    }
    Ok(report)
}

/// A method and data of tiny size.
struct Tiny<'a> {
    config: &'a MethodConfig,
    space: SpaceSpec,
    data: &'a Data,
    seed: u64,
}

impl<'a> Tiny<'a> {
    /// The fewest channels with which the method can be built.
    fn new(config: &'a MethodConfig, space: &SpaceSpec, data: &'a Data, seed: u64) -> Result<Self> {
        let skeleton = space.skeleton;
        let own = skeleton.channels();
        let few = |cells: &usize| skeleton.resized(own, *cells).positions() <= POSITIONS;
        let cells = (1..=skeleton.cells()).rev().find(few).unwrap_or(1);
        let mut channels = own.min(CHANNELS);
        loop {
            let mut space = space.clone();
            space.skeleton = skeleton.resized(channels, cells);
            let tiny = Self { config, space, data, seed };
            match tiny.method() {
                Ok(_) => return Ok(tiny),
                Err(error) if channels == own => return Err(error),
                Err(_) => channels = (2 * channels).min(own),
            }
        }
    }

    fn method(&self) -> Result<Method> {
        let (image, classes) = (self.data.train.shape, self.data.classes);
        let space = self.space.clone();
        Method::with_auxiliaries_of(CHANNELS, self.config, space, image, classes, self.seed)
    }

    /// Batch `i` of the search's splits, of the images as they are.
    fn batch(&self, size: usize, epoch: usize, i: usize) -> Result<Batches> {
        let mut method = self.method()?;
        method.settings.batch_size = size;
        let plain = Augmentation::default();
        Splits::new(&method, self.data, plain)?.epoch(epoch).batches(i)
    }

    /// The batches of the check.
    fn batches(&self, size: usize) -> Result<Batches> {
        let batches = self.batch(size, 1, 0)?;
        let of = |b: &Batch| b.labels.len();
        let least = of(&batches.train).min(of(&batches.valid));
        let least = least.min(batches.transfer.as_ref().map_or(size, of));
        if least < size {
            return Err(Error::config(format!(
                "batches of {size} images: a split of the data has {least}"
            )));
        }
        Ok(batches)
    }

    /// The weights after a few steps, on the networks as they are.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where a network has no reference.
    fn trained(&self) -> Result<SearchState> {
        let mut method = self.method()?;
        // Compiled networks have no gradients in a process with second derivatives.
        method.networks = method.references(false)?;
        let mut state = method.initial_state()?;
        for step in 0..STEPS {
            let batches = self.batch(BATCH, 0, step)?;
            let at = Progress { epoch: 0, epochs: self.config.search.epochs, step };
            for stage in 0..method.networks.len() {
                method.weight_step(&mut state, stage, &batches, at)?;
            }
        }
        Ok(state)
    }
}

/// Compares what is known of one case: the smallest batch against differences.
fn compare(
    problem: &str,
    checked: &Checked,
    axes: &Axes,
    others: &[(&str, &dyn Hypergradient)],
    (smooth, smallest): (bool, bool),
) -> Result<CheckReport> {
    let Checked { case, estimators } = checked;
    let built = candidates(&axes.estimators, &axes.epsilons, smooth)?;
    let mut list: Vec<Candidate<'_>> = built.iter().map(|c| c.candidate(case)).collect();
    list.extend(others.iter().map(|(name, e)| Candidate::of(case, name, *e)));
    let names = (0..estimators.len()).map(|i| case.graph.estimator(i).plugin.as_str());
    let mut names: Vec<&str> = names.collect();
    names.dedup();
    let epsilon = |i| case.graph.estimator(i).options.get("epsilon").and_then(Value::as_f64);
    list.push(Candidate {
        name: format!("own: {}", names.join(", ")),
        stages: estimators.iter().map(AsRef::as_ref).collect(),
        claims: (0..estimators.len()).all(|i| epsilon(i).is_none()),
        own: true,
        epsilon: epsilon(0),
    });
    let level = case.graph.stages.len() + 1;
    let proven = Held { reference: &Extrapolated, proven: Some(LARGEST), claims: true };
    if smooth && smallest {
        return against(problem, level, case, &list, proven);
    }
    let exact = Held { reference: &DoubleBackward, proven: None, claims: smooth };
    match against(problem, level, case, &list, exact) {
        Err(Error::Unsupported { plugin, what }) if smooth => {
            let differences = Held { reference: &Extrapolated, proven: None, claims: true };
            let mut found = against(problem, level, case, &list, differences)?;
            found.note(format!("{problem}: held against differences: {plugin}: no {what}"));
            Ok(found)
        }
        Err(Error::Unsupported { plugin, what }) => {
            let mut none = CheckReport::default();
            none.note(format!(
                "{problem}: left out, since the exact derivative is not known: `{plugin}` does \
                 not support {what}"
            ));
            Ok(none)
        }
        found => found,
    }
}

/// The training images of a data set with small sides; none for tests.
fn tiny_data(data: &Data) -> Data {
    let ImageShape { height, width, .. } = data.train.shape;
    let train = cropped(&averaged(&data.train, (height.min(width) / SIDE).max(1)));
    let (mean, std) = Data::channel_statistics(&train);
    let test = Images { shape: train.shape, pixels: Pixels::F32(vec![]), labels: vec![] };
    Data {
        name: data.name.clone(),
        notice: data.notice.clone(),
        synthetic: data.synthetic,
        classes: data.classes,
        train,
        test,
        mean,
        std,
    }
}

/// Images of another shape: `pixel` gives the value at channel, row, column of an old image.
fn mapped(
    images: &Images,
    shape: ImageShape,
    pixel: impl Fn(&[f32], (usize, usize, usize)) -> f32,
) -> Images {
    let mut old = vec![0f32; images.image_len()];
    let mut pixels = Vec::with_capacity(images.len() * shape.channels * shape.height * shape.width);
    for i in 0..images.len() {
        images.read(i, &mut old);
        for c in 0..shape.channels {
            for y in 0..shape.height {
                pixels.extend((0..shape.width).map(|x| pixel(&old, (c, y, x))));
            }
        }
    }
    Images { shape, pixels: Pixels::F32(pixels), labels: images.labels.clone() }
}

/// Means of `factor` × `factor` pixels.
fn averaged(images: &Images, factor: usize) -> Images {
    let ImageShape { channels, height, width } = images.shape;
    let shape = ImageShape { channels, height: height / factor, width: width / factor };
    mapped(images, shape, |old, (c, y, x)| {
        let mut sum = 0.0;
        for dy in 0..factor {
            let row = (c * height + factor * y + dy) * width + factor * x;
            sum += old[row..row + factor].iter().sum::<f32>();
        }
        sum / (factor * factor) as f32
    })
}

/// The middle: [`SIDE`] pixels, or as many as can be halved twice.
fn cropped(images: &Images) -> Images {
    let ImageShape { channels, height, width } = images.shape;
    let side = |n: usize| if n < 4 { n } else { (n - n % 4).min(SIDE) };
    let shape = ImageShape { channels, height: side(height), width: side(width) };
    let (top, left) = ((height - shape.height) / 2, (width - shape.width) / 2);
    mapped(images, shape, |old, (c, y, x)| old[(c * height + y + top) * width + x + left])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_averaged_and_cropped() {
        // 18 × 21: the value of a pixel is 100·row + column.
        let shape = ImageShape { channels: 1, height: 18, width: 21 };
        let value = |i: usize| (100 * (i / 21) + i % 21) as f32;
        let pixels = (0..18 * 21).map(value).collect();
        let images = Images { shape, pixels: Pixels::F32(pixels), labels: vec![3] };
        let small = averaged(&images, 2);
        assert_eq!((small.shape.height, small.shape.width), (9, 10));
        let mut out = vec![0f32; 90];
        small.read(0, &mut out);
        // Rows 2 and 3, columns 4 and 5.
        assert!((out[12] - 254.5).abs() < 1e-4);
        let middle = cropped(&small);
        assert_eq!((middle.shape.height, middle.shape.width), (8, 8));
        let mut inner = vec![0f32; 64];
        middle.read(0, &mut inner);
        assert!((inner[0] - out[1]).abs() < 1e-6);
    }
}
