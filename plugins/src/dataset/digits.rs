//! The built-in digits.

use super::files;
use tetlo_core::data::{Data, Images, Pixels};
use tetlo_core::kinds::Dataset;
use tetlo_core::network::ImageShape;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::{Error, Result};

const FILE: &[u8] = include_bytes!("../../data/digits.csv.gz");
const SHAPE: ImageShape = ImageShape { channels: 1, height: 8, width: 8 };
const PIXELS: usize = 64;
const TRAIN: usize = 1437;

/// UCI optical digits: 1,797 images of 8 × 8, pixels 0 to 16 scaled to [0, 1]; the first 1,437 train,
/// the last 360 test (there is no official split). Built in.
#[derive(Debug)]
pub struct Digits;

impl FromOptions for Digits {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Dataset for Digits {
    fn load(&self) -> Result<Data> {
        let bad = |what: String| Error::Data(format!("the built-in digits: {what}"));
        let bytes = files::unpack(FILE).map_err(|e| bad(e.to_string()))?;
        let text = std::str::from_utf8(&bytes).map_err(|e| bad(e.to_string()))?;
        let empty = || Images { shape: SHAPE, pixels: Pixels::F32(vec![]), labels: vec![] };
        let (mut train, mut test) = (empty(), empty());
        for (row, line) in text.lines().enumerate() {
            let values: Vec<u8> = line
                .split(',')
                .map(|v| v.trim().parse().map_err(|e| bad(format!("row {row}: {e}"))))
                .collect::<Result<_>>()?;
            let [pixels @ .., label] = values.as_slice() else {
                return Err(bad(format!("row {row} is empty")));
            };
            if pixels.len() != PIXELS {
                return Err(bad(format!("row {row} has {} values", values.len())));
            }
            let images = if row < TRAIN { &mut train } else { &mut test };
            if let Pixels::F32(all) = &mut images.pixels {
                all.extend(pixels.iter().map(|p| f32::from(*p) / 16.0));
            }
            images.labels.push(u32::from(*label));
        }
        let (mean, std) = Data::channel_statistics(&train);
        Data {
            name: "digits".into(),
            notice: "UCI Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998), CC BY 4.0"
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
    "digits",
    Digits,
    "UCI handwritten digits, 8 × 8 grey, 1,437 + 360 images, CC BY 4.0 (built in)"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_image_is_there() {
        let data = Digits.load().unwrap();
        assert_eq!((data.train.len(), data.test.len()), (1437, 360));
        let mut counts = [0; 10];
        for label in data.train.labels.iter().chain(&data.test.labels) {
            counts[*label as usize] += 1;
        }
        // The counts scikit-learn documents.
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        let mut first = [0f32; 64];
        data.train.read(0, &mut first);
        assert_eq!(first[..8], [0.0, 0.0, 5.0, 13.0, 9.0, 1.0, 0.0, 0.0].map(|v: f32| v / 16.0));
        let Pixels::F32(all) = &data.test.pixels else { panic!("bytes") };
        assert!(all.iter().all(|v| (0.0..=1.0).contains(v)) && all.contains(&1.0));
    }
}
