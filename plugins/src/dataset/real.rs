//! Loaders on real files, where `TETLO_DATA` names the folder that has them.

use super::{Cifar10, CifarOptions, FashionMnist5k, Idx, IdxOptions};
use std::io::Write;
use std::path::PathBuf;
use tetlo_core::data::Pixels;
use tetlo_core::kinds::Dataset;
use tetlo_core::registry::FromOptions;

fn data(folder: &str) -> Option<PathBuf> {
    let path = std::env::var_os("TETLO_DATA").map(|d| PathBuf::from(d).join(folder));
    let found = path.filter(|p| p.is_dir());
    if found.is_none() {
        let line = format!("skipped: no real data, TETLO_DATA names no folder with `{folder}`\n");
        // Written to the stream itself: the harness would hide a print.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    found
}

#[test]
fn cifar10_records() {
    let Some(folder) = data("cifar10") else { return };
    let options = CifarOptions {
        train: vec![folder.join("train_first4000.bin.gz")],
        test: vec![folder.join("test_first1000.bin.gz")],
        path: None,
    };
    let data = Cifar10::from_options(options).unwrap().load().unwrap();
    let counts = |labels: &[u32]| -> Vec<usize> {
        (0..10).map(|c| labels.iter().filter(|l| **l == c).count()).collect()
    };
    let train = [396, 366, 420, 384, 422, 393, 414, 385, 407, 413];
    assert_eq!(counts(&data.train.labels), train);
    assert_eq!(counts(&data.test.labels), [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]);
    // Published statistics of the whole set: those of a part are near.
    let (mean, std) = tetlo_core::data::Data::channel_statistics(&data.train);
    for c in 0..3 {
        assert!((mean[c] - data.mean[c]).abs() < 0.01 && (std[c] - data.std[c]).abs() < 0.01);
    }
}

#[test]
fn fashion_mnist_holds_the_built_in_part() {
    let Some(folder) = data("fashion-mnist") else { return };
    let options = IdxOptions { path: Some(folder), ..IdxOptions::default() };
    let whole = Idx::from_options(options).unwrap().load().unwrap();
    assert_eq!((whole.train.len(), whole.test.len(), whole.classes), (60_000, 10_000, 10));
    let part = FashionMnist5k.load().unwrap();
    for (whole, part, each) in [(&whole.train, &part.train, 400), (&whole.test, &part.test, 100)] {
        let (Pixels::U8(all), Pixels::U8(some)) = (&whole.pixels, &part.pixels) else {
            panic!("no bytes")
        };
        let mut taken = [0; 10];
        let first = (0..whole.len()).filter(|i| {
            let n = &mut taken[whole.labels[*i] as usize];
            *n += 1;
            *n <= each
        });
        let mut expected: Vec<(u32, &[u8])> =
            first.map(|i| (whole.labels[i], &all[784 * i..784 * (i + 1)])).collect();
        let mut found: Vec<(u32, &[u8])> =
            part.labels.iter().copied().zip(some.chunks_exact(784)).collect();
        expected.sort_unstable();
        found.sort_unstable();
        assert!(found == expected);
    }
}
