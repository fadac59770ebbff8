//! CIFAR-10 and CIFAR-100, the official binary files.

use super::files;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tetlo_core::data::{Data, Images, Pixels};
use tetlo_core::kinds::Dataset;
use tetlo_core::network::ImageShape;
use tetlo_core::registry::FromOptions;
use tetlo_core::{Error, Result};

const SHAPE: ImageShape = ImageShape { channels: 3, height: 32, width: 32 };
const PIXELS: usize = 3 * 32 * 32;

/// Options of `cifar10` and `cifar100`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct CifarOptions {
    /// Folder with the official binary files (plain or `.gz`): `data_batch_1.bin` … and
    /// `test_batch.bin`, or `train.bin` and `test.bin`. A folder that holds the official one will
    /// do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "path"))]
    pub path: Option<PathBuf>,
    /// In place of `path`: files of training records, in order.
    #[schemars(extend("format" = "path"))]
    pub train: Vec<PathBuf>,
    /// In place of `path`: files of test records, in order.
    #[schemars(extend("format" = "path"))]
    pub test: Vec<PathBuf>,
}

/// What tells the two data sets apart.
#[derive(Debug)]
struct Format {
    name: &'static str,
    notice: &'static str,
    classes: usize,
    /// Bytes before the pixels; the last one is the class.
    labels: usize,
    /// Folder that the official archive unpacks to.
    folder: &'static str,
    mean: [f32; 3],
    std: [f32; 3],
    train: usize,
    test: usize,
}

/// A record is a class (0 to 9), then 1,024 red, green and blue bytes each, by rows.
const CIFAR10: Format = Format {
    name: "cifar10",
    notice: "CIFAR-10 (Krizhevsky, 2009), research use",
    classes: 10,
    labels: 1,
    folder: "cifar-10-batches-bin",
    mean: [0.491_399_68, 0.482_158_27, 0.446_531_24],
    std: [0.247_032_33, 0.243_485_05, 0.261_587_68],
    train: 50_000,
    test: 10_000,
};

/// A record is a superclass (not used), a class (0 to 99), then the pixels as above.
const CIFAR100: Format = Format {
    name: "cifar100",
    notice: "CIFAR-100 (Krizhevsky, 2009), research use",
    classes: 100,
    labels: 2,
    folder: "cifar-100-binary",
    mean: [0.5071, 0.4865, 0.4409],
    std: [0.2673, 0.2564, 0.2762],
    train: 50_000,
    test: 10_000,
};

/// CIFAR-10 from the official binary files, any whole number of records. Mean and standard
/// deviation are those of all 50,000 training images (METHODS.md §3).
#[derive(Debug)]
pub struct Cifar10(CifarOptions);

/// CIFAR-100 with its 100 fine classes, likewise.
#[derive(Debug)]
pub struct Cifar100(CifarOptions);

fn checked(options: CifarOptions) -> Result<CifarOptions> {
    let lists = [options.train.is_empty(), options.test.is_empty()];
    match (&options.path, lists) {
        (Some(_), [true, true]) | (None, [false, false]) => Ok(options),
        _ => Err(Error::config_hint(
            "give either `path`, or both `train` and `test`",
            "`path` is the folder of the official binary version, from \
             https://www.cs.toronto.edu/~kriz/cifar.html",
        )),
    }
}

impl FromOptions for Cifar10 {
    type Options = CifarOptions;

    fn from_options(options: CifarOptions) -> Result<Self> {
        Ok(Self(checked(options)?))
    }
}

impl FromOptions for Cifar100 {
    type Options = CifarOptions;

    fn from_options(options: CifarOptions) -> Result<Self> {
        Ok(Self(checked(options)?))
    }
}

impl Dataset for Cifar10 {
    fn load(&self) -> Result<Data> {
        CIFAR10.load(&self.0)
    }

    fn content_hash(&self) -> Result<Option<String>> {
        CIFAR10.hash(&self.0).map(Some)
    }
}

impl Dataset for Cifar100 {
    fn load(&self) -> Result<Data> {
        CIFAR100.load(&self.0)
    }

    fn content_hash(&self) -> Result<Option<String>> {
        CIFAR100.hash(&self.0).map(Some)
    }
}

impl Format {
    /// The files of training and of test records.
    fn files(&self, options: &CifarOptions) -> Result<[Vec<PathBuf>; 2]> {
        let Some(path) = &options.path else {
            return Ok([options.train.clone(), options.test.clone()]);
        };
        files::folder(path)?;
        for folder in [path.clone(), path.join(self.folder)] {
            let batches = batches(&folder)?;
            let train = if batches.is_empty() {
                files::find(&folder, &["train.bin"]).into_iter().collect()
            } else {
                batches
            };
            let test = files::find(&folder, &["test_batch.bin", "test.bin"]);
            match (train.is_empty(), test) {
                (true, None) => {}
                (false, Some(test)) => return Ok([train, vec![test]]),
                (true, Some(_)) => {
                    return Err(files::bad(
                        &folder,
                        "no training records (`data_batch_1.bin` … or `train.bin`)",
                    ));
                }
                (false, None) => {
                    return Err(files::bad(
                        &folder,
                        "no test records (`test_batch.bin` or `test.bin`)",
                    ));
                }
            }
        }
        Err(files::bad(
            path,
            "neither `data_batch_1.bin` … and `test_batch.bin` nor `train.bin` and `test.bin` are there",
        ))
    }

    fn hash(&self, options: &CifarOptions) -> Result<String> {
        files::hash(self.files(options)?.iter().flatten())
    }

    fn load(&self, options: &CifarOptions) -> Result<Data> {
        let [train, test] = self.files(options)?;
        let (train, test) = (self.read(&train)?, self.read(&test)?);
        let mut notice = self.notice.to_owned();
        if (train.len(), test.len()) != (self.train, self.test) {
            notice = format!("{notice}; a part: {} + {} images", train.len(), test.len());
        }
        Data {
            name: self.name.into(),
            notice,
            synthetic: false,
            classes: self.classes,
            train,
            test,
            mean: self.mean.to_vec(),
            std: self.std.to_vec(),
        }
        .validated()
    }

    fn read(&self, paths: &[PathBuf]) -> Result<Images> {
        let record = self.labels + PIXELS;
        let (mut labels, mut pixels) = (Vec::new(), Vec::new());
        for path in paths {
            let bytes = files::read(path)?;
            if bytes.is_empty() || bytes.len() % record != 0 {
                return Err(files::bad(
                    path,
                    format_args!(
                        "{} bytes are no whole number of {} records ({record} bytes each): cut off, \
                         or another format",
                        bytes.len(),
                        self.name
                    ),
                ));
            }
            for (i, r) in bytes.chunks_exact(record).enumerate() {
                let label = r[self.labels - 1];
                if usize::from(label) >= self.classes {
                    return Err(files::bad(
                        path,
                        format_args!(
                            "record {i} has class {label}, {} has 0 to {}",
                            self.name,
                            self.classes - 1
                        ),
                    ));
                }
                labels.push(u32::from(label));
                pixels.extend_from_slice(&r[self.labels..]);
            }
        }
        Ok(Images { shape: SHAPE, pixels: Pixels::U8(pixels), labels })
    }
}

/// `data_batch_1.bin`, `data_batch_2.bin` … of a folder, without a gap.
fn batches(folder: &Path) -> Result<Vec<PathBuf>> {
    let all = (1..=5).map(|i| files::find(folder, &[format!("data_batch_{i}.bin").as_str()]));
    let all: Vec<Option<PathBuf>> = all.collect();
    let there = all.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
    let named = |(i, path): (usize, &Option<PathBuf>)| {
        path.clone().ok_or_else(|| {
            files::bad(folder, format_args!("`data_batch_{}.bin` is missing", i + 1))
        })
    };
    all[..there].iter().enumerate().map(named).collect()
}

tetlo_core::register_dataset!(
    "cifar10",
    Cifar10,
    "CIFAR-10 from the official binary files, 32 × 32 colour, 10 classes"
);
tetlo_core::register_dataset!(
    "cifar100",
    Cifar100,
    "CIFAR-100 from the official binary files, 32 × 32 colour, 100 classes"
);

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;
    use tempfile::TempDir;

    fn records(labels: &[&[u8]]) -> Vec<u8> {
        labels
            .iter()
            .flat_map(|l| l.iter().copied().chain((0..PIXELS).map(|p| (p / 1024) as u8)))
            .collect()
    }

    fn write(folder: &Path, name: &str, bytes: &[u8]) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn at(folder: &TempDir) -> CifarOptions {
        CifarOptions { path: Some(folder.path().into()), ..CifarOptions::default() }
    }

    fn refusal(options: CifarOptions) -> String {
        Cifar10::from_options(options).and_then(|d| d.load()).unwrap_err().to_string()
    }

    #[test]
    fn batches_are_read_in_order() {
        let dir = TempDir::new().unwrap();
        // The official archive's folder inside `path`, one file packed.
        let inner = dir.path().join("cifar-10-batches-bin");
        write(&inner, "data_batch_1.bin", &records(&[&[3], &[1]]));
        write(&inner, "data_batch_2.bin.gz", &gzip(&records(&[&[9]])));
        write(&inner, "test_batch.bin", &records(&[&[0]]));
        let data = Cifar10::from_options(at(&dir)).unwrap().load().unwrap();
        assert_eq!(data.train.labels, [3, 1, 9]);
        assert!(data.notice.ends_with("3 + 1 images"), "{}", data.notice);
        let mut image = vec![0f32; PIXELS];
        data.train.read(2, &mut image);
        let channels = [0, 1024, 2048].map(|at| (image[at] * 255.0).round() as u8);
        assert_eq!(channels, [0, 1, 2]);
        // The same files by name.
        let files = |names: &[&str]| names.iter().map(|n| inner.join(n)).collect();
        let named = CifarOptions {
            path: None,
            train: files(&["data_batch_1.bin", "data_batch_2.bin.gz"]),
            test: files(&["test_batch.bin"]),
        };
        let named = Cifar10::from_options(named).unwrap();
        assert_eq!(named.load().unwrap().train, data.train);
        let hash = Cifar10::from_options(at(&dir)).unwrap().content_hash().unwrap();
        assert_eq!(named.content_hash().unwrap(), hash);
        write(&inner, "test_batch.bin", &records(&[&[1]]));
        assert_ne!(named.content_hash().unwrap(), hash);
    }

    #[test]
    fn fine_classes_of_cifar100() {
        let dir = TempDir::new().unwrap();
        write(dir.path(), "train.bin", &records(&[&[19, 99], &[0, 3]]));
        write(dir.path(), "test.bin", &records(&[&[1, 0]]));
        let data = Cifar100::from_options(at(&dir)).unwrap().load().unwrap();
        assert_eq!(data.train.labels, [99, 3]);
        assert_eq!((data.classes, data.mean[0]), (100, 0.5071));
    }

    #[test]
    fn damage_is_named() {
        let dir = TempDir::new().unwrap();
        let path = dir.path();
        let missing = CifarOptions { path: Some(path.join("no")), ..CifarOptions::default() };
        assert!(refusal(missing).contains("no`: cannot be read"));
        assert!(refusal(at(&dir)).contains("neither `data_batch_1.bin`"));
        write(path, "test_batch.bin", &records(&[&[0]]));
        assert!(refusal(at(&dir)).contains("no training records"));
        write(path, "data_batch_2.bin", &records(&[&[0]]));
        assert!(refusal(at(&dir)).contains("`data_batch_1.bin` is missing"));
        let mut cut = records(&[&[0], &[1]]);
        cut.pop();
        write(path, "data_batch_1.bin", &cut);
        let message = refusal(at(&dir));
        assert!(message.contains("data_batch_1.bin`: 6145 bytes are no whole number"), "{message}");
        write(path, "data_batch_1.bin", &[]);
        assert!(refusal(at(&dir)).contains("0 bytes"));
        write(path, "data_batch_1.bin", &records(&[&[0], &[10]]));
        assert!(refusal(at(&dir)).contains("record 1 has class 10, cifar10 has 0 to 9"));
        let packed = gzip(&records(&[&[0]]));
        write(path, "data_batch_1.bin", &packed[..packed.len() - 9]);
        assert!(refusal(at(&dir)).contains("damaged or cut off"));
        std::fs::remove_file(path.join("test_batch.bin")).unwrap();
        assert!(refusal(at(&dir)).contains("no test records"));
    }

    #[test]
    fn the_files_are_given_one_way() {
        let list = vec![PathBuf::from("a.bin")];
        for options in [
            CifarOptions::default(),
            CifarOptions { train: list.clone(), ..CifarOptions::default() },
            CifarOptions { path: Some("d".into()), train: list.clone(), test: list },
        ] {
            assert!(refusal(options).contains("either `path`, or both `train` and `test`"));
        }
    }
}
