//! `bench`: what it prints, and what bad arguments get.

use crate::tetlo::tetlo_in;
use serde_json::Value;
use std::path::Path;

const FIELDS: [&str; 12] = [
    "ms_median",
    "ms_min",
    "ms_max",
    "steps",
    "threads",
    "peak_rss_mib",
    "buffers_mib",
    "gflops",
    "roofline_fraction",
    "fma_peak_gflops",
    "memory_gb_s",
    "batch",
];

fn bench(arguments: &[&str]) -> Value {
    let small = ["--image", "8", "--batch", "2", "--steps", "1", "--threads", "1"];
    let all = [&["bench"], arguments, &small, &["--format", "json"]].concat();
    tetlo_in(Path::new("."), &all).code(0).json()
}

/// All fields are there, and the fraction is that of the two rates.
#[track_caller]
fn complete(row: &Value) {
    let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name} in {row}"));
    for field in FIELDS {
        assert!(number(field) >= 0.0);
    }
    assert!(row["simd"].is_string());
    assert!(number("ms_min") <= number("ms_median") && number("ms_median") <= number("ms_max"));
    let fraction = number("gflops") / number("fma_peak_gflops");
    assert!((number("roofline_fraction") - fraction).abs() < 1e-9);
}

#[test]
fn every_benchmark_has_all_fields() {
    const SIZE: [&str; 4] = ["--channels", "4", "--layers", "3"];
    // Counted work of an image, in units of the convolutions' multiply-adds (METHODS.md §1.2).
    for (phase, order, units) in
        [("fwd", "1", 1.0), ("weight", "1", 3.0), ("step", "1", 5.0), ("step", "2", 13.0)]
    {
        let row = bench(&[&["supernet", "--phase", phase, "--order", order], &SIZE[..]].concat());
        complete(&row);
        let work = row["gflops"].as_f64().zip(row["ms_median"].as_f64()).map(|(g, ms)| g * ms);
        let macs = row["macs"].as_f64().expect("a number");
        let found = work.expect("numbers") * 1e6 / 2.0 / 2.0 / macs;
        assert!((found / units - 1.0).abs() < 2e-2, "{phase}, order {order}: {found}");
    }
    let row = bench(&[&["supernet", "--method", "tetlo"], &SIZE[..]].concat());
    complete(&row);
    assert_eq!((row["forwards"].as_u64(), row["backwards"].as_u64()), (Some(15), Some(11)));
    assert_eq!(row["auxiliary_params"].as_u64(), Some(78_042));

    let row = bench(&["derived", "--network", "resnet-20"]);
    complete(&row);
    assert_eq!(row["params"].as_u64(), Some(272_474));
    let plain = bench(&[&["derived"], &SIZE[..]].concat());
    let dropped =
        bench(&[&["derived", "--drop-path", "0.2", "--phase", "fwd"], &SIZE[..]].concat());
    complete(&plain);
    complete(&dropped);
    assert_eq!(plain["params"], dropped["params"]);

    let rows = bench(&["ops", "--channels", "4", "--stride", "1"]);
    let rows = rows.as_array().expect("a list");
    assert_eq!(rows.len(), 16, "8 operations, forward and backward");
    rows.iter().for_each(complete);

    let rows = bench(&[&["hypergrad"], &SIZE[..]].concat());
    let passes = |name: &str| {
        let row = rows.as_array()?.iter().find(|r| r["estimator"] == name)?;
        complete(row);
        row["passes"].as_u64()
    };
    assert_eq!((passes("first-order"), passes("central-difference")), (Some(1), Some(4)));
    let exact = rows.as_array().into_iter().flatten().find(|r| r["estimator"] == "exact");
    assert_eq!(exact.map(|r| &r["ran"]), Some(&Value::Bool(false)));
}

#[test]
fn bad_arguments_of_bench() {
    for (arguments, expected) in [
        ("supernet --batch 1", "must be at least 2"),
        ("supernet --method tetlo --order 2", "unknown key `order`"),
        ("supernet --method random", "black-box search"),
        ("supernet --method drats-1st", "drats-1st"),
        ("supernet --space drats", "unknown search-space `drats`"),
        ("supernet --set optimizer.options.ordr=2", "unknown key `ordr`"),
        ("supernet --device cuda:0", "not available"),
        ("derived --network resnet-9", "`depth` must be"),
        ("derived --network supernet", "architecture of its own"),
        ("derived --genotype nowhere.json", "neither a file"),
        ("derived --drop-path 1", "less than 1"),
        ("hypergrad --estimator exakt", "exakt"),
        ("ops --stride 3", "3"),
    ] {
        let all: Vec<&str> = ["bench"].into_iter().chain(arguments.split(' ')).collect();
        let ran = tetlo_in(Path::new("."), &all).code(2);
        assert!(ran.err().contains(expected), "{arguments}: {}", ran.err());
        assert!(ran.out().is_empty());
    }
}
