//! The built-in part of Fashion-MNIST.

use super::files;
use tetlo_core::data::{Data, Images, Pixels};
use tetlo_core::kinds::Dataset;
use tetlo_core::network::ImageShape;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::{Error, Result};

const FILE: &[u8] = include_bytes!("../../data/fashion_mnist_5k.bin.gz");
const SHAPE: ImageShape = ImageShape { channels: 1, height: 28, width: 28 };
const RECORD: usize = 1 + 28 * 28;
const TRAIN: usize = 4000;
const TEST: usize = 1000;

/// The first 400 training and 100 test images of each of Fashion-MNIST's ten classes, 28 × 28 grey.
/// Built in.
#[derive(Debug)]
pub struct FashionMnist5k;

impl FromOptions for FashionMnist5k {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Dataset for FashionMnist5k {
    fn load(&self) -> Result<Data> {
        let bad = |what: String| Error::Data(format!("the built-in Fashion-MNIST: {what}"));
        let bytes = files::unpack(FILE).map_err(|e| bad(e.to_string()))?;
        if bytes.len() != RECORD * (TRAIN + TEST) {
            return Err(bad(format!("{} bytes", bytes.len())));
        }
        let images = |records: &[u8]| {
            let (mut labels, mut pixels) = (Vec::new(), Vec::new());
            for record in records.chunks_exact(RECORD) {
                labels.push(u32::from(record[0]));
                pixels.extend_from_slice(&record[1..]);
            }
            Images { shape: SHAPE, pixels: Pixels::U8(pixels), labels }
        };
        let (train, test) = bytes.split_at(RECORD * TRAIN);
        let (train, test) = (images(train), images(test));
        let (mean, std) = Data::channel_statistics(&train);
        Data {
            name: "fashion-mnist-5k".into(),
            notice: "5,000 images of Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017), MIT, \
                     © 2017 Zalando SE"
                .into(),
            synthetic: false,
            classes: 10,
            train,
            test,
            mean,
            std,
        }
        .validated()
    }
}

tetlo_core::register_dataset!(
    "fashion-mnist-5k",
    FashionMnist5k,
    "a part of Fashion-MNIST, 28 × 28 grey, 4,000 + 1,000 images, MIT (built in)"
);

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn every_image_is_there() {
        let data = FashionMnist5k.load().unwrap();
        for (images, each) in [(&data.train, 400), (&data.test, 100)] {
            for class in 0..10 {
                assert_eq!(images.labels.iter().filter(|l| **l == class).count(), each);
            }
        }
        // Near those of all 60,000 training images, 0.2860 and 0.3530.
        assert!((data.mean[0] - 0.286).abs() < 0.005 && (data.std[0] - 0.353).abs() < 0.005);
    }

    #[test]
    fn the_file_is_the_documented_one() {
        let content = files::unpack(FILE).unwrap();
        let sum = Sha256::digest(&content);
        let start: Vec<String> = sum[..8].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(start.concat(), "98a451fe36067d30");
    }
}
