//! Images, labels and splits.

use crate::network::ImageShape;
use crate::rng::{Key, Purpose};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Pixel values, N × C × H × W.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// Bytes; 255 is 1.0.
    U8(Vec<u8>),
    /// Floats, used as they are.
    F32(Vec<f32>),
}

impl Pixels {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::F32(v) => v.len(),
        }
    }

    /// No values?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Labelled images.
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    /// Size of one image.
    pub shape: ImageShape,
    /// All pixels.
    pub pixels: Pixels,
    /// A class a image.
    pub labels: Vec<u32>,
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// No images?
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Values of one image.
    pub fn image_len(&self) -> usize {
        self.shape.channels * self.shape.height * self.shape.width
    }

    /// Copies image `index`, scaled to [0, 1] where stored as bytes, into `out`.
    pub fn read(&self, index: usize, out: &mut [f32]) {
        let range = index * self.image_len()..(index + 1) * self.image_len();
        match &self.pixels {
            Pixels::U8(v) => {
                for (o, p) in out.iter_mut().zip(&v[range]) {
                    *o = f32::from(*p) / 255.0;
                }
            }
            Pixels::F32(v) => out.copy_from_slice(&v[range]),
        }
    }
}

/// A data set in memory.
#[derive(Debug, Clone)]
pub struct Data {
    /// Its name.
    pub name: String,
    /// Licence and origin, one line.
    pub notice: String,
    /// Made by a program, not photographed or scanned: said wherever the data are named.
    pub synthetic: bool,
    /// Number of classes.
    pub classes: usize,
    /// Training images: searches split these, retraining uses them all.
    pub train: Images,
    /// Test images: seen by the evaluator once, at the end.
    pub test: Images,
    /// Mean of each channel, for normalisation.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub std: Vec<f32>,
}

impl Data {
    /// Checks that everything fits together.
    ///
    /// # Errors
    /// Says what does not.
    pub fn validated(self) -> Result<Self> {
        for (split, images) in [("train", &self.train), ("test", &self.test)] {
            if images.is_empty() {
                return Err(Error::Data(format!("{}: the {split} split is empty", self.name)));
            }
            if images.pixels.len() != images.len() * images.image_len() {
                return Err(Error::Data(format!(
                    "{}: {split} has {} labels but pixels for {} images",
                    self.name,
                    images.len(),
                    images.pixels.len() / images.image_len().max(1)
                )));
            }
            if let Some(l) = images.labels.iter().find(|l| **l as usize >= self.classes) {
                return Err(Error::Data(format!(
                    "{}: {split} has label {l}, but there are {} classes",
                    self.name, self.classes
                )));
            }
        }
        if self.train.shape != self.test.shape {
            return Err(Error::Data(format!(
                "{}: training images are {:?}, test images {:?}",
                self.name, self.train.shape, self.test.shape
            )));
        }
        let channels = self.train.shape.channels;
        if self.mean.len() != channels || self.std.len() != channels {
            return Err(Error::Data(format!(
                "{}: mean and std must have a value for each of the {channels} channels",
                self.name
            )));
        }
        if self.std.iter().any(|s| s.is_nan() || *s <= 0.0) {
            return Err(Error::Data(format!("{}: std must be positive", self.name)));
        }
        Ok(self)
    }

    /// Mean and standard deviation of each channel of the training images.
    pub fn channel_statistics(train: &Images) -> (Vec<f32>, Vec<f32>) {
        let plane = train.shape.height * train.shape.width;
        let channels = train.shape.channels;
        let (mut sum, mut squares) = (vec![0f64; channels], vec![0f64; channels]);
        let mut image = vec![0f32; train.image_len()];
        for i in 0..train.len() {
            train.read(i, &mut image);
            for (c, values) in image.chunks(plane).enumerate() {
                for v in values {
                    sum[c] += f64::from(*v);
                    squares[c] += f64::from(*v) * f64::from(*v);
                }
            }
        }
        let n = (train.len() * plane).max(1) as f64;
        let mean: Vec<f64> = sum.iter().map(|s| s / n).collect();
        let std =
            squares.iter().zip(&mean).map(|(q, m)| ((q / n - m * m).max(1e-12)).sqrt() as f32);
        (mean.iter().map(|m| *m as f32).collect(), std.collect())
    }
}

/// Where the transfer loss takes its images from (METHODS.md §1.2).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum TransferSplit {
    /// An independent batch of the training half.
    #[default]
    Train,
    /// A tenth of the training half that both cross entropies never see.
    HeldOut,
    /// Another batch of the validation half, labels unused.
    ValidUnlabelled,
}

/// Indices of the training images as a search divides them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchIndices {
    /// For the inner losses.
    pub train: Vec<usize>,
    /// For the objective.
    pub valid: Vec<usize>,
    /// For the transfer loss.
    pub transfer: Vec<usize>,
}

impl SearchIndices {
    /// Shuffles 0..n by the seed and divides it: `train_portion` for the inner losses, the rest for
    /// the objective; the transfer images by `split`.
    ///
    /// # Errors
    /// A part would be empty.
    pub fn divide(n: usize, train_portion: f64, split: TransferSplit, seed: u64) -> Result<Self> {
        let order = Key::new(seed, Purpose::Split).stream().permutation(n);
        let cut = (train_portion * n as f64).floor() as usize;
        let (mut train, valid) = (order[..cut].to_vec(), order[cut..].to_vec());
        let transfer = match split {
            TransferSplit::Train => train.clone(),
            TransferSplit::HeldOut => train.split_off(train.len() - train.len() / 10),
            TransferSplit::ValidUnlabelled => valid.clone(),
        };
        if train.is_empty() || valid.is_empty() || transfer.is_empty() {
            return Err(Error::config(format!(
                "{n} training images are too few to divide: {} for training, {} for validation, \
                 {} for transfer",
                train.len(),
                valid.len(),
                transfer.len()
            )));
        }
        Ok(Self { train, valid, transfer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_disjoint_and_complete() -> Result<()> {
        for split in [TransferSplit::Train, TransferSplit::HeldOut, TransferSplit::ValidUnlabelled]
        {
            let s = SearchIndices::divide(101, 0.5, split, 3)?;
            let mut all = [s.train.clone(), s.valid.clone()].concat();
            if split == TransferSplit::HeldOut {
                all.extend(&s.transfer);
                assert!(s.transfer.iter().all(|i| !s.train.contains(i)));
            }
            all.sort_unstable();
            assert_eq!(all, (0..101).collect::<Vec<_>>());
        }
        assert!(SearchIndices::divide(5, 0.5, TransferSplit::HeldOut, 0).is_err());
        assert!(SearchIndices::divide(5, 0.0, TransferSplit::Train, 0).is_err());
        Ok(())
    }

    #[test]
    fn channel_statistics_by_hand() {
        let images = Images {
            shape: ImageShape { channels: 2, height: 1, width: 2 },
            pixels: Pixels::F32(vec![0.0, 1.0, 2.0, 2.0, 1.0, 2.0, 4.0, 4.0]),
            labels: vec![0, 1],
        };
        // Channel 0: 0, 1, 1, 2: mean 1, variance 1/2. Channel 1: 2, 2, 4, 4: mean 3, variance 1.
        let (mean, std) = Data::channel_statistics(&images);
        assert_eq!(mean, vec![1.0, 3.0]);
        assert!((std[0] - 0.5f32.sqrt()).abs() < 1e-6 && (std[1] - 1.0).abs() < 1e-6);
    }
}
