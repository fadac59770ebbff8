//! Activations.

use super::Scalar;

/// Images in `[image][channel][row][column]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Images<T> {
    /// (images, channels, height, width).
    pub shape: (usize, usize, usize, usize),
    /// The values.
    pub data: Vec<T>,
}

impl<T: Scalar> Images<T> {
    pub(crate) fn zeros(shape: (usize, usize, usize, usize)) -> Self {
        let (n, c, h, w) = shape;
        Self { shape, data: vec![T::default(); n * c * h * w] }
    }
    pub(crate) fn at(&self, n: usize, c: usize, y: usize, x: usize) -> usize {
        let (_, channels, h, w) = self.shape;
        ((n * channels + c) * h + y) * w + x
    }
    pub(super) fn map(&self, f: impl Fn(T) -> T) -> Self {
        Self { shape: self.shape, data: self.data.iter().map(|v| f(*v)).collect() }
    }
    /// `f` of each value of both.
    pub(super) fn zip_map(&self, other: &Self, f: impl Fn(T, T) -> T) -> Self {
        let data = self.data.iter().zip(&other.data).map(|(a, b)| f(*a, *b)).collect();
        Self { shape: self.shape, data }
    }
    pub(super) fn image_len(&self) -> usize {
        self.data.len() / self.shape.0
    }
    pub(super) fn concatenate(parts: &[&Self]) -> Self {
        if let [one] = parts {
            return (*one).clone();
        }
        let (n, _, h, w) = parts[0].shape;
        let mut data = Vec::new();
        for image in 0..n {
            for p in parts {
                let len = p.image_len();
                data.extend_from_slice(&p.data[image * len..(image + 1) * len]);
            }
        }
        Self { shape: (n, parts.iter().map(|p| p.shape.1).sum(), h, w), data }
    }
    /// The inverse of `concatenate`: adds the parts to `targets`.
    pub(super) fn split_into(&self, targets: &mut [Self], indices: impl Iterator<Item = usize>) {
        let (mut first, len) = (0, self.image_len());
        for index in indices {
            let target = &mut targets[index];
            let part = target.image_len();
            for image in 0..self.shape.0 {
                let from = &self.data[image * len + first..][..part];
                for (a, b) in target.data[image * part..][..part].iter_mut().zip(from) {
                    *a += *b;
                }
            }
            first += part;
        }
    }
}
