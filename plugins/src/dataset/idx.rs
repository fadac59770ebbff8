//! IDX files: the MNIST family.

use super::files;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tetlo_core::data::{Data, Images, Pixels};
use tetlo_core::kinds::Dataset;
use tetlo_core::network::ImageShape;
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

/// Unsigned bytes in one dimension, in three.
const LABELS: u32 = 0x0801;
const IMAGES: u32 = 0x0803;

/// Options of `idx`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct IdxOptions {
    /// Folder with the four usual files (plain or `.gz`): `train-images-idx3-ubyte`,
    /// `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub path: Option<PathBuf>,
    /// In place of `path`: the training images.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub train_images: Option<PathBuf>,
    /// In place of `path`: the training labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub train_labels: Option<PathBuf>,
    /// In place of `path`: the test images.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub test_images: Option<PathBuf>,
    /// In place of `path`: the test labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub test_labels: Option<PathBuf>,
    /// Number of classes; 0: the largest training label and one.
    pub classes: usize,
}

/// Grey images and labels in IDX files: MNIST, Fashion-MNIST, Kuzushiji-MNIST, EMNIST …
///
/// Mean and standard deviation are those of the training images.
#[derive(Debug)]
pub struct Idx {
    source: Source,
    classes: usize,
}

#[derive(Debug)]
enum Source {
    Folder(PathBuf),
    /// Training images and labels, test images and labels.
    Files([PathBuf; 4]),
}

impl FromOptions for Idx {
    type Options = IdxOptions;

    fn from_options(options: IdxOptions) -> Result<Self> {
        let IdxOptions { path, train_images, train_labels, test_images, test_labels, classes } =
            options;
        let source = match (path, train_images, train_labels, test_images, test_labels) {
            (Some(path), None, None, None, None) => Source::Folder(path),
            (None, Some(a), Some(b), Some(c), Some(d)) => Source::Files([a, b, c, d]),
            _ => {
                return Err(Error::config(
                    "give either `path`, or all of `train-images`, `train-labels`, `test-images` \
                     and `test-labels`",
                ));
            }
        };
        Ok(Self { source, classes })
    }
}

impl Idx {
    fn files(&self) -> Result<[PathBuf; 4]> {
        let folder = match &self.source {
            Source::Files(files) => return Ok(files.clone()),
            Source::Folder(folder) => folder,
        };
        files::folder(folder)?;
        // Some copies of MNIST have a dot in place of the last hyphen but one.
        let file = |name: &str| {
            let dotted = name.replacen("-idx", ".idx", 1);
            files::find(folder, &[name, dotted.as_str()]).ok_or_else(|| {
                files::bad(folder, format_args!("`{name}` (or `{name}.gz`) is not there"))
            })
        };
        Ok([
            file("train-images-idx3-ubyte")?,
            file("train-labels-idx1-ubyte")?,
            file("t10k-images-idx3-ubyte")?,
            file("t10k-labels-idx1-ubyte")?,
        ])
    }
}

impl Dataset for Idx {
    fn load(&self) -> Result<Data> {
        let [train_images, train_labels, test_images, test_labels] = self.files()?;
        let train = split(&train_images, &train_labels)?;
        let test = split(&test_images, &test_labels)?;
        let classes = match self.classes {
            0 => train.labels.iter().max().map_or(0, |l| *l as usize + 1),
            n => n,
        };
        for (path, images) in [(&train_labels, &train), (&test_labels, &test)] {
            if let Some(i) = images.labels.iter().position(|l| *l as usize >= classes) {
                let label = images.labels[i];
                return Err(files::bad(
                    path,
                    format_args!("label {i} is {label}, but there are {classes} classes"),
                ));
            }
        }
        if train.shape != test.shape {
            let ImageShape { height, width, .. } = train.shape;
            return Err(files::bad(
                &test_images,
                format_args!(
                    "images of {} × {}, those for training have {height} × {width}",
                    test.shape.height, test.shape.width
                ),
            ));
        }
        let (mean, std) = Data::channel_statistics(&train);
        Data {
            name: "idx".into(),
            notice: format!("read from {}; its licence is the user's to know", name(&train_images)),
            synthetic: false,
            classes,
            train,
            test,
            mean,
            std,
        }
        .validated()
    }

    fn content_hash(&self) -> Result<Option<String>> {
        files::hash(&self.files()?).map(Some)
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn split(images: &Path, labels: &Path) -> Result<Images> {
    let (dimensions, pixels) = array(images, IMAGES, "images")?;
    let (counts, values) = array(labels, LABELS, "labels")?;
    let (count, height, width) = (dimensions[0], dimensions[1], dimensions[2]);
    if counts[0] != count {
        return Err(files::bad(
            labels,
            format_args!("{} labels for the {count} images of `{}`", counts[0], images.display()),
        ));
    }
    if pixels.is_empty() {
        return Err(files::bad(images, "no images"));
    }
    Ok(Images {
        shape: ImageShape { channels: 1, height, width },
        pixels: Pixels::U8(pixels),
        labels: values.into_iter().map(u32::from).collect(),
    })
}

/// The dimensions and bytes of an IDX file: magic number, big-endian dimensions, data.
fn array(path: &Path, magic: u32, what: &str) -> Result<(Vec<usize>, Vec<u8>)> {
    let bytes = files::read(path)?;
    let dimensions = (magic & 0xff) as usize;
    let header = 4 * (1 + dimensions);
    let words: Vec<u32> = bytes
        .chunks_exact(4)
        .take(1 + dimensions)
        .map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]))
        .collect();
    match words.first() {
        Some(m) if *m == magic => {}
        Some(m) => {
            return Err(files::bad(
                path,
                format_args!("starts with {m:#010x}, an IDX file of {what} with {magic:#010x}"),
            ));
        }
        None => return Err(files::bad(path, "too short for an IDX file")),
    }
    if words.len() <= dimensions {
        return Err(files::bad(path, "cut off in its header"));
    }
    let shape: Vec<usize> = words[1..].iter().map(|d| *d as usize).collect();
    let expected = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let found = bytes.len() - header;
    if expected != Some(found) {
        let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
        return Err(files::bad(
            path,
            format_args!(
                "the header promises {} bytes of {what}, {found} are there",
                sizes.join(" × ")
            ),
        ));
    }
    Ok((shape, bytes[header..].to_vec()))
}

tetlo_core::register_dataset!(
    "idx",
    Idx,
    "grey images in IDX files (MNIST, Fashion-MNIST, Kuzushiji-MNIST …)"
);

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn file(magic: u32, dimensions: &[u32], data: &[u8]) -> Vec<u8> {
        let words = std::iter::once(magic).chain(dimensions.iter().copied());
        words.flat_map(u32::to_be_bytes).chain(data.iter().copied()).collect()
    }

    /// Three training images of 1 × 2 and one test image.
    fn folder() -> TempDir {
        let dir = TempDir::new().unwrap();
        let write =
            |name: &str, bytes: Vec<u8>| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("train-images-idx3-ubyte", file(IMAGES, &[3, 1, 2], &[0, 255, 51, 0, 0, 102]));
        write("train-labels.idx1-ubyte", file(LABELS, &[3], &[0, 2, 1]));
        write("t10k-images-idx3-ubyte", file(IMAGES, &[1, 1, 2], &[9, 8]));
        write("t10k-labels-idx1-ubyte", file(LABELS, &[1], &[2]));
        dir
    }

    fn load(dir: &TempDir) -> Result<Data> {
        let path = Some(dir.path().to_owned());
        Idx::from_options(IdxOptions { path, ..IdxOptions::default() })?.load()
    }

    #[test]
    fn the_four_files_are_read() {
        let dir = folder();
        let data = load(&dir).unwrap();
        assert_eq!(data.train.labels, [0, 2, 1]);
        assert_eq!((data.classes, data.test.labels[0]), (3, 2));
        let mut image = [0f32; 2];
        data.train.read(1, &mut image);
        assert_eq!(image.map(|v| (v * 255.0).round() as u8), [51, 0]);
        // (255 + 51 + 102)/255/6.
        assert!((data.mean[0] - 1.6 / 6.0).abs() < 1e-6);
        let at = |name: &str| Some(dir.path().join(name));
        let named = Idx::from_options(IdxOptions {
            train_images: at("train-images-idx3-ubyte"),
            train_labels: at("train-labels.idx1-ubyte"),
            test_images: at("t10k-images-idx3-ubyte"),
            test_labels: at("t10k-labels-idx1-ubyte"),
            classes: 5,
            path: None,
        });
        let named = named.unwrap();
        assert_eq!(named.load().unwrap().classes, 5);
        assert!(named.content_hash().unwrap().is_some_and(|h| h.len() == 64));
    }

    #[test]
    fn damage_is_named() {
        for (name, bytes, part) in [
            ("train-images-idx3-ubyte", file(LABELS, &[3], &[0; 3]), "starts with 0x00000801"),
            (
                "train-images-idx3-ubyte",
                file(IMAGES, &[3, 1, 2], &[0; 5]),
                "promises 3 × 1 × 2 bytes",
            ),
            ("train-images-idx3-ubyte", file(IMAGES, &[3, 1, 2], &[0; 7]), "7 are there"),
            ("train-images-idx3-ubyte", file(IMAGES, &[u32::MAX; 3], &[0]), "1 are there"),
            ("train-images-idx3-ubyte", file(IMAGES, &[3], &[]), "cut off in its header"),
            ("train-images-idx3-ubyte", vec![0, 0], "too short"),
            ("train-images-idx3-ubyte", vec![0x1f, 0x8b, 8], "gzip data are damaged"),
            ("train-labels.idx1-ubyte", file(LABELS, &[2], &[0, 1]), "2 labels for the 3 images"),
            ("t10k-labels-idx1-ubyte", file(LABELS, &[1], &[3]), "label 0 is 3, but there are 3"),
            ("t10k-images-idx3-ubyte", file(IMAGES, &[1, 2, 1], &[0; 2]), "images of 2 × 1"),
        ] {
            let dir = folder();
            std::fs::write(dir.path().join(name), bytes).unwrap();
            let message = load(&dir).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(part), "{message}");
        }
        let dir = folder();
        std::fs::remove_file(dir.path().join("t10k-labels-idx1-ubyte")).unwrap();
        assert!(load(&dir).unwrap_err().to_string().contains("`t10k-labels-idx1-ubyte`"));
    }

    #[test]
    fn the_files_are_given_one_way() {
        let some = || Some(PathBuf::from("f"));
        for options in [
            IdxOptions::default(),
            IdxOptions { train_images: some(), ..IdxOptions::default() },
            IdxOptions { path: some(), test_labels: some(), ..IdxOptions::default() },
        ] {
            let message = Idx::from_options(options).unwrap_err().to_string();
            assert!(message.contains("either `path`"), "{message}");
        }
    }
}
