//! The quadruples of a batch.

use candle_core::Tensor;
use tetlo_core::rng::Stream;
use tetlo_core::{Error, Result};

/// Most quadruples that `all` enumerates (a batch of 128): a step with more takes many gigabytes.
const MOST: usize = 1 << 25;

/// Quadruples (i, j, k, l) as places i·B + j and k·B + l in a flat B × B matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::transfer) struct Quadruples {
    pub(in crate::transfer) first: Vec<u32>,
    pub(in crate::transfer) second: Vec<u32>,
}

/// The unordered pairs of B images, as places i·B + j with i < j.
fn pairs(images: usize) -> Vec<u32> {
    let row = |i: usize| (i + 1..images).map(move |j| (i * images + j) as u32);
    (0..images).flat_map(row).collect()
}

impl Quadruples {
    fn none() -> Self {
        Self { first: vec![], second: vec![] }
    }

    fn push(&mut self, first: u32, second: u32) {
        self.first.push(first);
        self.second.push(second);
    }

    /// How many.
    pub(in crate::transfer) fn len(&self) -> usize {
        self.first.len()
    }

    /// Every unordered pair of different unordered pairs: P(P − 1)/2 with P = B(B − 1)/2.
    ///
    /// # Errors
    /// The batch is too large for that.
    pub(in crate::transfer) fn all(images: usize) -> Result<Self> {
        let pairs = pairs(images);
        let count = pairs.len() * pairs.len().saturating_sub(1) / 2;
        if count > MOST {
            return Err(Error::config_hint(
                format!("a batch of {images} images has {count} quadruples, more than fit"),
                "use `sampler = \"random\"` with `quadruples = N`, or a smaller batch",
            ));
        }
        let mut all = Self { first: Vec::with_capacity(count), second: Vec::with_capacity(count) };
        for (i, first) in pairs.iter().enumerate() {
            for second in &pairs[i + 1..] {
                all.push(*first, *second);
            }
        }
        Ok(all)
    }

    /// `count` ordered pairs of different unordered pairs, uniformly. None in a batch of two.
    pub(in crate::transfer) fn random(images: usize, count: usize, draws: &mut Stream) -> Self {
        let pairs = pairs(images);
        let mut drawn = Self::none();
        if pairs.len() < 2 {
            return drawn;
        }
        for _ in 0..count {
            let first = draws.below(pairs.len());
            // Uniform over the others: the last stands in for the first.
            let second = match draws.below(pairs.len() - 1) {
                s if s == first => pairs.len() - 1,
                s => s,
            };
            drawn.push(pairs[first], pairs[second]);
        }
        drawn
    }

    /// `count` quadruples of four different images, uniformly. None in a batch of three.
    pub(in crate::transfer) fn disjoint(images: usize, count: usize, draws: &mut Stream) -> Self {
        let mut drawn = Self::none();
        if images < 4 {
            return drawn;
        }
        let place = |i: usize, j: usize| (i.min(j) * images + i.max(j)) as u32;
        for _ in 0..count {
            let mut q = [0; 4];
            for n in 0..4 {
                q[n] = draws.below(images);
                while q[..n].contains(&q[n]) {
                    q[n] = draws.below(images);
                }
            }
            drawn.push(place(q[0], q[1]), place(q[2], q[3]));
        }
        drawn
    }

    /// `count` quadruples of a pair of one class and a pair of two, each uniformly. None where the
    /// batch lacks pairs of either sort.
    pub(in crate::transfer) fn stratified(
        labels: &[u32],
        count: usize,
        draws: &mut Stream,
    ) -> Self {
        let images = labels.len();
        let alike = |p: &u32| labels[*p as usize / images] == labels[*p as usize % images];
        let (same, different): (Vec<u32>, Vec<u32>) = pairs(images).into_iter().partition(alike);
        let mut drawn = Self::none();
        if same.is_empty() || different.is_empty() {
            return drawn;
        }
        for _ in 0..count {
            let first = same[draws.below(same.len())];
            drawn.push(first, different[draws.below(different.len())]);
        }
        drawn
    }

    /// The triples of `triplet-relation`: every image i with every unordered pair {j, k} of others, as
    /// quadruples (i, j, i, k). None in a batch of two.
    ///
    /// # Errors
    /// The batch is too large for that.
    pub(in crate::transfer) fn all_triples(images: usize) -> Result<Self> {
        let count = images * images.saturating_sub(1) * images.saturating_sub(2) / 2;
        if count > MOST {
            return Err(Error::config_hint(
                format!("a batch of {images} images has {count} triples, more than fit"),
                "use `sampler = \"random\"` with `triples = N`, or a smaller batch",
            ));
        }
        let mut all = Self { first: Vec::with_capacity(count), second: Vec::with_capacity(count) };
        for i in 0..images {
            let others = || (0..images).filter(|o| *o != i);
            for j in others() {
                for k in others().filter(|k| *k > j) {
                    all.push((i * images + j) as u32, (i * images + k) as u32);
                }
            }
        }
        Ok(all)
    }

    /// `count` triples of three different images, uniformly. None in a batch of two.
    pub(in crate::transfer) fn random_triples(
        images: usize,
        count: usize,
        draws: &mut Stream,
    ) -> Self {
        let mut drawn = Self::none();
        if images < 3 {
            return drawn;
        }
        for _ in 0..count {
            let i = draws.below(images);
            // Uniform over the others: the last stands in for the anchor.
            let j = match draws.below(images - 1) {
                j if j == i => images - 1,
                j => j,
            };
            let mut k = draws.below(images);
            while k == i || k == j {
                k = draws.below(images);
            }
            drawn.push((i * images + j) as u32, (i * images + k) as u32);
        }
        drawn
    }

    /// d(q) = S[i, j] − S[k, l] for every quadruple; differentiable.
    pub(in crate::transfer) fn differences(&self, similarities: &Tensor) -> Result<Tensor> {
        let flat = similarities.flatten_all()?;
        let at = |places: &[u32]| {
            let places = Tensor::from_slice(places, places.len(), similarities.device())?;
            flat.index_select(&places, 0)
        };
        Ok((at(&self.first)? - at(&self.second)?)?)
    }
}
