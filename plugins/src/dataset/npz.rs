//! `NumPy` archives.

use super::files;
use npyz::{DType, NpyFile, Order, TypeChar};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use tetlo_core::data::{Data, Images, Pixels};
use tetlo_core::kinds::Dataset;
use tetlo_core::network::ImageShape;
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

/// Options of `npz`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct NpzOptions {
    /// The file, with the arrays `train_x`, `train_y`, `test_x`, `test_y`.
    #[schemars(extend("format" = "path"))]
    pub path: PathBuf,
    /// Number of classes; 0: the largest training label and one.
    pub classes: usize,
}

/// Images (`train_x`, `test_x`: N × C × H × W, bytes or f32, in C order) and labels (`train_y`,
/// `test_y`: N, any integer type) in one `.npz` file.
///
/// Bytes are scaled to [0, 1], floats taken as they are. Mean and standard deviation are those of the
/// training images.
#[derive(Debug)]
pub struct Npz {
    options: NpzOptions,
}

impl FromOptions for Npz {
    type Options = NpzOptions;

    fn from_options(options: NpzOptions) -> Result<Self> {
        if options.path.as_os_str().is_empty() {
            return Err(Error::config("`path` is missing: the file to read"));
        }
        Ok(Self { options })
    }
}

impl Dataset for Npz {
    fn load(&self) -> Result<Data> {
        let path = &self.options.path;
        let mut archive = Archive::open(path)?;
        let train = archive.split("train")?;
        let test = archive.split("test")?;
        if train.shape != test.shape {
            return Err(files::bad(path, "the images of `train_x` and `test_x` differ in size"));
        }
        let classes = match self.options.classes {
            0 => train.labels.iter().max().map_or(0, |l| *l as usize + 1),
            n => n,
        };
        for (name, images) in [("train_y", &train), ("test_y", &test)] {
            if let Some(i) = images.labels.iter().position(|l| *l as usize >= classes) {
                let label = images.labels[i];
                let what = format!("`{name}[{i}]` is {label}, but there are {classes} classes");
                return Err(files::bad(path, what));
            }
        }
        let (mean, std) = Data::channel_statistics(&train);
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        Data {
            name: "npz".into(),
            notice: format!("read from {file}; its licence is the user's to know"),
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
        files::hash([&self.options.path]).map(Some)
    }
}

struct Archive<'a> {
    path: &'a Path,
    zip: npyz::zip::ZipArchive<Cursor<Vec<u8>>>,
}

/// An array's elements.
enum Values {
    Bytes(Vec<u8>),
    Floats(Vec<f32>),
    Integers(Vec<i128>),
}

impl<'a> Archive<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let bytes = files::read(path)?;
        let zip = npyz::zip::ZipArchive::new(Cursor::new(bytes))
            .map_err(|e| files::bad(path, format_args!("not a complete npz file: {e}")))?;
        Ok(Self { path, zip })
    }

    fn split(&mut self, split: &str) -> Result<Images> {
        let (x, y) = (format!("{split}_x"), format!("{split}_y"));
        let (shape, pixels) = self.array(&x)?;
        let [count, channels, height, width] = shape[..] else {
            return Err(self.bad(&x, format!("shape {shape:?}, expected N × C × H × W")));
        };
        let pixels = match pixels {
            Values::Bytes(bytes) => Pixels::U8(bytes),
            Values::Floats(floats) => {
                if let Some(i) = floats.iter().position(|v| !v.is_finite()) {
                    return Err(self.bad(&x, format!("value {i} is {}", floats[i])));
                }
                Pixels::F32(floats)
            }
            Values::Integers(_) => return Err(self.bad(&x, "expected uint8 or float32")),
        };
        if pixels.is_empty() {
            return Err(self.bad(&x, format!("is empty: shape {shape:?}")));
        }
        let (shape, labels) = self.array(&y)?;
        if shape != [count] {
            let what = format!("shape {shape:?} for the {count} images of `{x}`");
            return Err(self.bad(&y, what));
        }
        let labels: Vec<i128> = match labels {
            Values::Bytes(bytes) => bytes.into_iter().map(i128::from).collect(),
            Values::Integers(integers) => integers,
            Values::Floats(_) => return Err(self.bad(&y, "expected integers")),
        };
        let label = |(i, l): (usize, &i128)| {
            u32::try_from(*l).map_err(|_| self.bad(&y, format!("value {i} is {l}, no class")))
        };
        let labels = labels.iter().enumerate().map(label).collect::<Result<_>>()?;
        Ok(Images { shape: ImageShape { channels, height, width }, pixels, labels })
    }

    /// Shape and elements of an array, in C order.
    fn array(&mut self, name: &str) -> Result<(Vec<usize>, Values)> {
        let path = self.path;
        let bad = |what: String| files::bad(path, format_args!("`{name}`: {what}"));
        // To its end: only there is the checksum compared.
        let mut content = Vec::new();
        match self.zip.by_name(&format!("{name}.npy")) {
            Ok(mut entry) => entry.read_to_end(&mut content).map_err(|e| bad(e.to_string()))?,
            Err(npyz::zip::result::ZipError::FileNotFound) => {
                return Err(files::bad(path, format_args!("the array `{name}` is missing")));
            }
            Err(e) => return Err(bad(e.to_string())),
        };
        let file = NpyFile::new(content.as_slice()).map_err(|e| bad(e.to_string()))?;
        let shape: Vec<usize> = file.shape().iter().map(|d| *d as usize).collect();
        if file.order() == Order::Fortran && shape.len() > 1 {
            return Err(bad("stored column by column; save `numpy.ascontiguousarray(…)`".into()));
        }
        Ok((shape, values(file).map_err(bad)?))
    }

    fn bad(&self, array: &str, what: impl std::fmt::Display) -> Error {
        files::bad(self.path, format_args!("`{array}`: {what}"))
    }
}

fn values<R: Read>(file: NpyFile<R>) -> Result<Values, String> {
    macro_rules! integers {
        ($t:ty) => {{
            let integers = file.into_vec::<$t>().map_err(|e| e.to_string())?;
            Ok(Values::Integers(integers.into_iter().map(i128::from).collect()))
        }};
    }
    let DType::Plain(kind) = file.dtype() else {
        return Err("structured arrays are not supported".into());
    };
    let text = |e: std::io::Error| e.to_string();
    match (kind.type_char(), kind.size_field()) {
        (TypeChar::Uint, 1) => Ok(Values::Bytes(file.into_vec().map_err(text)?)),
        (TypeChar::Float, 4) => Ok(Values::Floats(file.into_vec().map_err(text)?)),
        (TypeChar::Int, 1) => integers!(i8),
        (TypeChar::Int, 2) => integers!(i16),
        (TypeChar::Int, 4) => integers!(i32),
        (TypeChar::Int, 8) => integers!(i64),
        (TypeChar::Uint, 2) => integers!(u16),
        (TypeChar::Uint, 4) => integers!(u32),
        (TypeChar::Uint, 8) => integers!(u64),
        _ => Err(format!("type `{kind}` is not supported; save uint8, float32 or integers")),
    }
}

tetlo_core::register_dataset!(
    "npz",
    Npz,
    "images and labels from a NumPy archive (train_x, train_y, test_x, test_y)"
);

#[cfg(test)]
mod tests {
    use super::*;
    use npyz::WriterBuilder;
    use npyz::npz::NpzWriter;
    use tempfile::TempDir;

    /// An archive under construction.
    struct File {
        npz: NpzWriter<Cursor<Vec<u8>>>,
    }

    impl File {
        fn new() -> Self {
            Self { npz: NpzWriter::new(Cursor::new(Vec::new())) }
        }

        fn with<T: npyz::AutoSerialize + Copy>(
            mut self,
            name: &str,
            shape: &[u64],
            values: &[T],
        ) -> Self {
            let mut writer = self
                .npz
                .array(name, npyz::zip::write::FileOptions::default())
                .unwrap()
                .default_dtype()
                .shape(shape)
                .begin_nd()
                .unwrap();
            writer.extend(values.iter().copied()).unwrap();
            writer.finish().unwrap();
            self
        }

        fn bytes(mut self) -> Vec<u8> {
            self.npz.zip_writer().finish().unwrap().into_inner()
        }
    }

    /// Two training images of 1 × 1 × 2 as bytes, one test image as floats.
    fn images() -> File {
        File::new().with("train_x", &[2, 1, 1, 2], &[0u8, 255, 51, 102]).with(
            "test_x",
            &[1, 1, 1, 2],
            &[0.5f32, -1.0],
        )
    }

    fn load(bytes: &[u8]) -> Result<Data> {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("data.npz");
        std::fs::write(&path, bytes).unwrap();
        Npz::from_options(NpzOptions { path, classes: 0 })?.load()
    }

    #[test]
    fn every_integer_type_is_a_label() {
        macro_rules! check {
            ($($t:ty)*) => {$(
                let file = images().with("train_y", &[2], &[1 as $t, 0]).with("test_y", &[1], &[1 as $t]);
                let data = load(&file.bytes()).unwrap();
                assert_eq!((data.train.labels, data.test.labels), (vec![1, 0], vec![1]));
                assert_eq!(data.classes, 2);
            )*};
        }
        check!(i8 i16 i32 i64 u8 u16 u32 u64);
    }

    #[test]
    fn pixels_are_bytes_or_floats() {
        let file = images().with("train_y", &[2], &[1u8, 0]).with("test_y", &[1], &[1u8]);
        let data = load(&file.bytes()).unwrap();
        assert_eq!(data.train.pixels, Pixels::U8(vec![0, 255, 51, 102]));
        assert_eq!(data.test.pixels, Pixels::F32(vec![0.5, -1.0]));
        assert!((data.mean[0] - 0.4).abs() < 1e-6);
    }

    #[test]
    fn damage_is_named() {
        let labels =
            |file: File| file.with("train_y", &[2], &[1i64, 0]).with("test_y", &[1], &[1i64]);
        let x = |values: &[f32]| {
            File::new().with("train_x", &[1, 1, 1, 2], values).with("train_y", &[1], &[0u8])
        };
        for (bytes, part) in [
            (images().bytes(), "the array `train_y` is missing"),
            (
                images().with("train_y", &[2], &[-1i32, 0]).with("test_y", &[1], &[0i32]).bytes(),
                "`train_y`: value 0 is -1",
            ),
            (
                images().with("train_y", &[2], &[1i32, 0]).with("test_y", &[1], &[2i32]).bytes(),
                "`test_y[0]` is 2, but there are 2 classes",
            ),
            (
                images().with("train_y", &[3], &[1i32, 0, 1]).with("test_y", &[1], &[2i32]).bytes(),
                "`train_y`: shape [3] for the 2 images",
            ),
            (images().with("train_y", &[2], &[1f32, 0.0]).bytes(), "`train_y`: expected integers"),
            (x(&[0.0, f32::NAN]).bytes(), "`train_x`: value 1 is NaN"),
            (File::new().with("train_x", &[2, 2], &[0u8; 4]).bytes(), "expected N × C × H × W"),
            (File::new().with("train_x", &[0, 1, 2, 2], &[0u8; 0]).bytes(), "is empty"),
            (
                File::new().with("train_x", &[1, 1, 2, 1], &[0i64; 2]).bytes(),
                "expected uint8 or float32",
            ),
            (File::new().with("train_x", &[1, 1, 2, 1], &[0f64; 2]).bytes(), "is not supported"),
            (
                labels(File::new().with("train_x", &[2, 1, 1, 2], &[0u8; 4]).with(
                    "test_x",
                    &[1, 1, 1, 3],
                    &[0u8; 3],
                ))
                .bytes(),
                "differ in size",
            ),
            (vec![], "not a complete npz file"),
        ] {
            let message = load(&bytes).unwrap_err().to_string();
            assert!(message.contains("data.npz`") && message.contains(part), "{message}");
        }
        let whole = labels(images()).bytes();
        for length in [whole.len() / 2, whole.len() - 30] {
            let message = load(&whole[..length]).unwrap_err().to_string();
            assert!(message.contains("data.npz`: not a complete npz file"), "{message}");
        }
    }

    #[test]
    fn options_and_hash() {
        let error = Npz::from_options(NpzOptions::default()).unwrap_err().to_string();
        assert!(error.contains("`path`"), "{error}");
        let npz =
            Npz::from_options(NpzOptions { path: "/no/such.npz".into(), classes: 0 }).unwrap();
        assert!(npz.content_hash().unwrap_err().to_string().contains("/no/such.npz"));
    }

    #[test]
    fn the_hash_is_that_of_the_bytes() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("data.npz");
        std::fs::write(&path, b"abc").unwrap();
        let npz = Npz::from_options(NpzOptions { path, classes: 0 }).unwrap();
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(npz.content_hash().unwrap().as_deref(), Some(expected));
    }
}
