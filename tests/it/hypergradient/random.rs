//! Bounds on random arrays.

use super::{in_child, length, names_of, row, values};
use candle_core::{Device, Tensor};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::json;
use tetlo_core::multilevel::check::Arrays;
use tetlo_core::rng::{Key, Purpose};
use tetlo_engine::check::run;

/// Arrays of random sizes. Units and weights are not so small that the embeddings nearly vanish:
/// there a cosine bends within the length ε of the difference, whoever computes it.
fn random_arrays(seed: u64, [inputs, units, of_aux, of_aux3]: [usize; 4], images: usize) -> Arrays {
    const CLASSES: usize = 3;
    let mut stream = Key::new(seed, Purpose::Problem).stream();
    let mut arrays = Arrays::new();
    let mut put = |name: String, shape: &[usize], std: f64| {
        let n = shape.iter().product();
        let values: Vec<f64> = (0..n).map(|_| std * stream.normal()).collect();
        arrays.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    put("A".into(), &[units, 4], 1.0);
    let of_main = ["W1", "b1", "W2", "b2"];
    let of_others = ["V1", "c1", "V2", "c2"];
    for (model, units, names) in
        [("main", units, of_main), ("aux", of_aux, of_others), ("aux3", of_aux3, of_others)]
    {
        for (group, std) in [("", 0.8), ("momentum/", 0.1)] {
            put(format!("{group}{model}/{}", names[0]), &[inputs, units], std);
            put(format!("{group}{model}/{}", names[1]), &[units], std);
            put(format!("{group}{model}/{}", names[2]), &[units, CLASSES], std);
            put(format!("{group}{model}/{}", names[3]), &[CLASSES], std);
        }
    }
    for split in ["train", "valid", "transfer"] {
        put(format!("batch/{split}/x"), &[images, inputs], 1.0);
    }
    for split in ["train", "valid", "transfer"] {
        let labels: Vec<i64> = (0..images).map(|_| stream.below(CLASSES) as i64).collect();
        let labels = Tensor::from_vec(labels, images, &Device::Cpu).unwrap();
        arrays.insert(format!("batch/{split}/y"), labels);
    }
    arrays
}

#[test]
fn bounds_hold_on_random_problems() {
    if !in_child("random::bounds_hold_on_random_problems", false) {
        return;
    }
    let config = ProptestConfig {
        cases: 48,
        rng_seed: RngSeed::Fixed(3),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(
        seed in any::<u64>(),
        levels in 2usize..5,
        sizes in [3usize..6, 4..8, 4..8, 4..8],
        images in 4usize..9,
        tau in prop_oneof![Just(0.1), 0.1f64..2.0],
        lambda in 0.0f64..3.0,
        gamma in prop_oneof![Just(0.0), Just(1.0)],
        aux_ce in 0.0f64..2.0,
        eta in prop_oneof![Just(0.025), Just(0.5)],
        momentum in 0.0f64..0.9,
    )| {
        let options = json!({
            "levels": levels, "tau": tau, "lambda": lambda, "lambda3": lambda, "gamma": gamma,
            "aux-ce": aux_ce, "eta-w": eta, "eta-v": eta, "eta-v3": eta, "momentum": momentum,
            "weight-decay": 3e-4,
        });
        let report = run("smooth", &options, Some(random_arrays(seed, sizes, images)), 0).unwrap();
        prop_assert_eq!(&report.reference, &Vec::<String>::new());
        let mut lengths = 0.0;
        for term in names_of(&levels.into()) {
            let r = row(&report, levels, "central-difference", term);
            prop_assert_eq!(r.pass, Some(true), "{:?}", r);
            lengths += length(&values(&report.outputs, &format!("central-difference/term/{term}")));
        }
        // On random problems terms can cancel, and without the main term the total is as uncertain
        // as the others: its claim is for problems of the built-in kind.
        let total = row(&report, levels, "central-difference", "total");
        let error = match total.norm_ratio {
            Some(ratio) => {
                let total_length = length(&values(&report.outputs, "central-difference/grad/A"));
                total.rel_error.unwrap() * total_length / ratio
            }
            None => 0.0,
        };
        let bound = if gamma > 0.0 { 2e-4 } else { 1e-3 };
        prop_assert!(error <= bound * lengths, "{:?}", total);
    });
}
