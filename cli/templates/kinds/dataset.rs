//! The data set `@PLUGIN@`, and with `src/main.rs` a tetlo that knows it.

use tetlo_core::Result;
use tetlo_core::data::{Data, Images, Pixels};
use tetlo_core::kinds::Dataset;
use tetlo_core::network::ImageShape;
use tetlo_core::registry::{FromOptions, NoOptions};
use tetlo_core::rng::{Key, Purpose, Stream};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 8,
    width: 8,
};
const CLASSES: usize = 2;

/// Stripes, across (class 0) or upright (class 1), of random phase, under noise.
///
/// One that reads files has an option for their path (`#[schemars(extend("format" = "path"))]`) and
/// gives their hash in `Dataset::content_hash`.
#[derive(Debug)]
pub struct MyPlugin;

impl FromOptions for MyPlugin {
    type Options = NoOptions;

    fn from_options(_: NoOptions) -> Result<Self> {
        Ok(Self)
    }
}

impl Dataset for MyPlugin {
    fn load(&self) -> Result<Data> {
        let mut draws = Key::new(0, Purpose::Sample).stream();
        let (train, test) = (images(256, &mut draws), images(64, &mut draws));
        let (mean, std) = Data::channel_statistics(&train);
        Data {
            name: "@PLUGIN@".into(),
            notice: "stripes made by a program".into(),
            synthetic: true,
            classes: CLASSES,
            train,
            test,
            mean,
            std,
        }
        .validated()
    }
}

fn images(count: usize, draws: &mut Stream) -> Images {
    let mut pixels = Vec::with_capacity(count * SHAPE.height * SHAPE.width);
    let labels: Vec<u32> = (0..count).map(|i| (i % CLASSES) as u32).collect();
    for label in &labels {
        let phase = draws.below(4);
        for y in 0..SHAPE.height {
            for x in 0..SHAPE.width {
                let along = if *label == 0 { y } else { x };
                let light = [1.0, 1.0, 0.0, 0.0][(along + phase) % 4];
                pixels.push((0.5 * light + 0.5 * draws.uniform()) as f32);
            }
        }
    }
    Images {
        shape: SHAPE,
        pixels: Pixels::F32(pixels),
        labels,
    }
}

tetlo_core::register_dataset!(
    "@PLUGIN@",
    MyPlugin,
    "stripes of two directions, 8 × 8, synthetic"
);
