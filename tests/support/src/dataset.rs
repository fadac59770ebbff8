//! Data sets.

use crate::Suite;
use crate::options::NO_FILE;
use crate::report::{Report, ensure, refused};
use tetlo_core::data::Pixels;
use tetlo_core::kinds::Dataset;

impl Suite for dyn Dataset {
    fn suite(dataset: &Self, report: &mut Report<'_>) {
        report.check("loading it", || {
            let data = dataset.load()?.validated()?;
            ensure!(!data.name.is_empty() && !data.notice.is_empty(), "it has no name or notice");
            ensure!(data.classes >= 2, "{} classes", data.classes);
            ensure!(data.train.image_len() > 0, "empty images: {:?}", data.train.shape);
            let numbers = data.mean.iter().chain(&data.std);
            ensure!(numbers.clone().all(|v| v.is_finite()), "mean or std is not finite");
            for (split, images) in [("train", &data.train), ("test", &data.test)] {
                if let Pixels::F32(pixels) = &images.pixels {
                    ensure!(pixels.iter().all(|p| p.is_finite()), "a {split} pixel is not finite");
                }
                let missing = (0..data.classes as u32).find(|c| !images.labels.contains(c));
                if let Some(class) = missing {
                    ensure!(false, "the {split} split has no image of class {class}");
                }
            }
            let again = dataset.load()?;
            let images = again.train == data.train && again.test == data.test;
            let rest = again.mean == data.mean && again.std == data.std;
            ensure!(images && rest && again.name == data.name, "two loads differ");
            ensure!(dataset.content_hash()? == dataset.content_hash()?, "two hashes differ");
            Ok(())
        });
    }

    fn without_files(dataset: &Self, report: &mut Report<'_>) {
        report.check("a missing file", || {
            let message = refused("it", || dataset.load())?;
            ensure!(message.contains(NO_FILE), "the error must name it: {message}");
            Ok(())
        });
    }
}
