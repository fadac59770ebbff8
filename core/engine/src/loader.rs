//! Batches of a split: order, augmentation and normalisation as a function of (key, epoch, index).

use candle_core::{Device, Tensor};
use tetlo_core::data::{Data, Images};
use tetlo_core::multilevel::Batch;
use tetlo_core::network::ImageShape;
use tetlo_core::rng::{Key, Purpose, Stream};
use tetlo_core::{Error, Result};

/// Random changes of training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Augmentation {
    /// Pixels of padding (black) before a random crop back to the size; 0: no crop.
    pub crop_padding: usize,
    /// Mirror half of the images.
    pub flip: bool,
    /// Side of the square that is set to the mean; 0: none.
    pub cutout: usize,
}

impl Augmentation {
    /// Checks that something of the images is left.
    ///
    /// # Errors
    /// A cut-out or a crop that can blank a whole image.
    pub fn check(self, image: ImageShape) -> Result<()> {
        let side = image.height.min(image.width);
        for (key, value) in [("cutout", self.cutout), ("crop-padding", self.crop_padding)] {
            if value >= side {
                return Err(Error::config_hint(
                    format!(
                        "`{key} = {value}` can blank whole images of {} × {}",
                        image.height, image.width
                    ),
                    format!("set `{key}` below {side}, or 0 for none"),
                ));
            }
        }
        Ok(())
    }
}

/// Gives the batches of one split. Holds no position: a batch is a pure function of its number, so a
/// resumed run reads the same batches.
#[derive(Debug)]
pub struct Loader<'a> {
    images: &'a Images,
    mean: &'a [f32],
    std: &'a [f32],
    indices: Vec<usize>,
    batch: usize,
    augmentation: Augmentation,
    key: Key,
}

impl<'a> Loader<'a> {
    /// Batches of the training images `indices`, shuffled anew each epoch, augmented.
    pub fn training(
        data: &'a Data,
        indices: Vec<usize>,
        batch: usize,
        augmentation: Augmentation,
        key: Key,
    ) -> Self {
        Self {
            images: &data.train,
            mean: &data.mean,
            std: &data.std,
            indices,
            batch,
            augmentation,
            key,
        }
    }

    /// Batches of the training images `indices` in order, as they are.
    pub fn plain(data: &'a Data, indices: Vec<usize>, batch: usize, key: Key) -> Self {
        Self::training(data, indices, batch, Augmentation::default(), key)
    }

    /// Batches of the test images in order, as they are.
    pub fn test(data: &'a Data, batch: usize, key: Key) -> Self {
        Self {
            images: &data.test,
            indices: (0..data.test.len()).collect(),
            ..Self::plain(data, vec![], batch, key)
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// No images?
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The batches of an epoch in random order. A last batch of one image is left out: batch
    /// statistics of one image say nothing.
    pub fn shuffled(&self, epoch: usize) -> Epoch<'_> {
        let mut order = self.indices.clone();
        self.key.purpose(Purpose::Shuffle).step(epoch).stream().shuffle(&mut order);
        let whole = order.len() / self.batch;
        let rest = usize::from(order.len() % self.batch > 1);
        Epoch { loader: self, order, batches: whole + rest, number: epoch }
    }

    /// All images in their order.
    pub fn in_order(&self) -> Epoch<'_> {
        let batches = self.indices.len().div_ceil(self.batch);
        Epoch { loader: self, order: self.indices.clone(), batches, number: 0 }
    }

    fn read(&self, indices: &[usize], mut draws: Stream) -> Result<Batch> {
        let shape = self.images.shape;
        let len = self.images.image_len();
        let mut pixels = vec![0f32; len * indices.len()];
        let mut image = vec![0f32; len];
        for (out, index) in pixels.chunks_mut(len).zip(indices) {
            self.images.read(*index, &mut image);
            let placement =
                Placement::draw(self.augmentation, shape.height, shape.width, &mut draws);
            let plane = shape.height * shape.width;
            for (c, (from, to)) in image.chunks(plane).zip(out.chunks_mut(plane)).enumerate() {
                placement.apply(from, to, shape.width, self.mean[c], self.std[c]);
            }
        }
        let dims = (indices.len(), shape.channels, shape.height, shape.width);
        let labels = indices.iter().map(|i| self.images.labels[*i]).collect();
        Ok(Batch { images: Tensor::from_vec(pixels, dims, &Device::Cpu)?, labels })
    }
}

/// The batches of one epoch.
#[derive(Debug)]
pub struct Epoch<'a> {
    loader: &'a Loader<'a>,
    order: Vec<usize>,
    batches: usize,
    number: usize,
}

impl Epoch<'_> {
    /// Number of batches.
    pub fn len(&self) -> usize {
        self.batches
    }

    /// No batch?
    pub fn is_empty(&self) -> bool {
        self.batches == 0
    }

    /// Batch `i`, counted round and round.
    pub fn batch(&self, i: usize) -> Result<Batch> {
        let size = self.loader.batch;
        let i = i % self.batches.max(1);
        let range = i * size..((i + 1) * size).min(self.order.len());
        let key = self.loader.key.purpose(Purpose::Augment).step(self.number);
        // A stream a batch: the role's upper half is the batch, the lower the loader's own role.
        let draws = key.role((i as u32 + 1) << 8 | key.role).stream();
        self.loader.read(&self.order[range], draws)
    }
}

/// Calls `work` with `make(0)`, `make(1)` …: the next item is made on a thread of its own meanwhile,
/// so that reading and augmenting images is off the critical path.
///
/// # Errors
/// The first one of `make` or `work`; nothing is called after it.
pub fn prefetched<T: Send>(
    count: usize,
    make: impl Fn(usize) -> Result<T> + Send,
    mut work: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let (send, receive) = std::sync::mpsc::sync_channel(1);
        let maker = scope.spawn(move || {
            // Sending fails when the receiver has gone: after an error of `work`.
            (0..count).try_for_each(|i| send.send(make(i)).ok());
        });
        let worked = receive.iter().enumerate().try_for_each(|(i, item)| work(i, item?));
        drop(receive);
        match maker.join() {
            Ok(()) => worked,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Where an augmented image comes from.
#[derive(Debug, Clone, Copy)]
struct Placement {
    down: isize,
    right: isize,
    mirrored: bool,
    /// Rows and columns that are blanked.
    hole: (usize, usize, usize, usize),
}

impl Placement {
    fn draw(a: Augmentation, height: usize, width: usize, draws: &mut Stream) -> Self {
        let pad = a.crop_padding as isize;
        let mut shift = || draws.below(2 * a.crop_padding + 1) as isize - pad;
        let (down, right) = if a.crop_padding > 0 { (shift(), shift()) } else { (0, 0) };
        let mirrored = a.flip && draws.below(2) == 1;
        let hole = if a.cutout > 0 {
            // The authors' Cutout: a centre anywhere, the square clipped at the border.
            let (y, x) = (draws.below(height), draws.below(width));
            let half = a.cutout / 2;
            let clip = |c: usize, n: usize| (c.saturating_sub(half), (c + half).min(n));
            let ((top, bottom), (left, end)) = (clip(y, height), clip(x, width));
            (top, bottom, left, end)
        } else {
            (0, 0, 0, 0)
        };
        Self { down, right, mirrored, hole }
    }

    /// Crop (black outside), mirror, normalise, cut out: the order of the authors' transforms.
    fn apply(&self, from: &[f32], to: &mut [f32], width: usize, mean: f32, std: f32) {
        let height = from.len() / width;
        let (top, bottom, left, end) = self.hole;
        for y in 0..height {
            for x in 0..width {
                let column = if self.mirrored { width - 1 - x } else { x };
                let (r, c) = (y as isize + self.down, column as isize + self.right);
                let inside = (0..height as isize).contains(&r) && (0..width as isize).contains(&c);
                let pixel = if inside { from[r as usize * width + c as usize] } else { 0.0 };
                let blank = (top..bottom).contains(&y) && (left..end).contains(&x);
                to[y * width + x] = if blank { 0.0 } else { (pixel - mean) / std };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tetlo_core::data::Pixels;

    fn data(n: usize) -> Data {
        let images = |n: usize| Images {
            shape: ImageShape { channels: 1, height: 2, width: 3 },
            pixels: Pixels::F32((0..n * 6).map(|v| v as f32).collect()),
            labels: (0..n as u32).collect(),
        };
        Data {
            name: "ramp".into(),
            notice: String::new(),
            synthetic: true,
            classes: n,
            train: images(n),
            test: images(2),
            mean: vec![1.0],
            std: vec![2.0],
        }
    }

    #[test]
    fn an_epoch_holds_every_image_once() -> Result<()> {
        let data = data(11);
        let key = Key::new(5, Purpose::Shuffle);
        let loader = Loader::training(&data, (0..11).collect(), 4, Augmentation::default(), key);
        let epoch = loader.shuffled(0);
        assert_eq!(epoch.len(), 3);
        let mut seen = vec![];
        for i in 0..3 {
            let batch = epoch.batch(i)?;
            for (row, label) in
                batch.images.flatten_from(1)?.to_vec2::<f32>()?.iter().zip(&batch.labels)
            {
                assert!((row[0] - (*label as f32 * 6.0 - 1.0) / 2.0).abs() < 1e-6);
            }
            seen.extend(batch.labels);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..11).collect::<Vec<_>>());
        assert_ne!(loader.shuffled(1).batch(0)?.labels, epoch.batch(0)?.labels);
        // 9 = 2·4 + 1: the last image alone is left out.
        let nine = Loader::training(&data, (0..9).collect(), 4, Augmentation::default(), key);
        assert_eq!(nine.shuffled(0).len(), 2);
        assert_eq!(nine.in_order().len(), 3);
        Ok(())
    }

    #[test]
    fn prefetching_keeps_the_order_and_stops_at_errors() -> Result<()> {
        let mut seen = vec![];
        prefetched(5, Ok, |i, item| {
            seen.push((i, item));
            Ok(())
        })?;
        assert_eq!(seen, (0..5).map(|i| (i, i)).collect::<Vec<_>>());
        let failing = |at: usize| {
            move |i: usize| if i == at { Err(Error::Invalid(format!("at {i}"))) } else { Ok(i) }
        };
        for (made, worked) in [(2, 9), (9, 2)] {
            let (make, work) = (failing(made), failing(worked));
            let mut done = 0;
            let result = prefetched(5, make, |i, _| {
                work(i)?;
                done += 1;
                Ok(())
            });
            assert_eq!(result.err().map(|e| e.to_string()), Some("at 2".to_owned()));
            assert_eq!(done, 2);
        }
        prefetched(0, Ok, |_, _| Err(Error::Invalid("no items".into())))
    }

    #[test]
    fn placements_by_hand() {
        let image = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]; // 2 × 3
        let mut out = [0f32; 6];
        let plain = Placement { down: 0, right: 0, mirrored: true, hole: (0, 0, 0, 0) };
        plain.apply(&image, &mut out, 3, 0.0, 1.0);
        assert_eq!(out.to_vec(), vec![2.0, 1.0, 0.0, 5.0, 4.0, 3.0]);
        let crop = Placement { down: 1, right: -1, mirrored: false, hole: (0, 0, 0, 0) };
        crop.apply(&image, &mut out, 3, 1.0, 2.0);
        // Row 1 moved up, one column in from the left; black outside: (0 − 1)/2.
        assert_eq!(out.to_vec(), vec![-0.5, 1.0, 1.5, -0.5, -0.5, -0.5]);
        let hole = Placement { down: 0, right: 0, mirrored: false, hole: (0, 1, 1, 3) };
        hole.apply(&image, &mut out, 3, 0.0, 1.0);
        assert_eq!(out.to_vec(), vec![0.0, 0.0, 0.0, 3.0, 4.0, 5.0]);
    }
}
