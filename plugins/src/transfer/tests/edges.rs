//! Where formulas divide by little or nothing, and what is refused.

use super::{Arrays, all_on, build, evaluate, normal, pair, value};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use tetlo_core::kinds::TransferLoss;

fn with(arrays: &Arrays, change: impl Fn(&Tensor) -> Tensor) -> Arrays {
    let float = |t: &Tensor| if t.dtype().is_float() { change(t) } else { t.clone() };
    arrays.iter().map(|(name, t)| (name.clone(), float(t))).collect()
}

#[track_caller]
fn finite(name: &str, loss: &dyn TransferLoss, arrays: &Arrays) {
    for dtype in [DType::F64, DType::F32] {
        let got = evaluate(loss, &with(arrays, |t| t.to_dtype(dtype).unwrap())).unwrap();
        assert!(got.loss.is_finite(), "{name} in {dtype:?}: {}", got.loss);
        for (array, gradient) in &got.gradients {
            // Not 1e12 of a division by a smallest norm either.
            let good = gradient.iter().all(|g| g.abs() < 1e9);
            assert!(good, "{name} in {dtype:?}: the gradient of {array} is {gradient:?}");
        }
    }
}

#[test]
fn small_batches_and_embeddings_without_a_difference() {
    for n in [2, 3, 5] {
        for (name, loss, arrays) in all_on(n) {
            finite(&name, loss.as_ref(), &arrays);
            // All images alike; all features zero; both models alike where the widths are.
            let first = |t: &Tensor| t.narrow(0, 0, 1).unwrap();
            let repeat = |t: &Tensor| Tensor::cat(&vec![first(t); t.dims()[0]], 0).unwrap();
            finite(&name, loss.as_ref(), &with(&arrays, repeat));
            finite(&name, loss.as_ref(), &with(&arrays, |t| t.zeros_like().unwrap()));
            for size in [1e-6, 1e2] {
                finite(&name, loss.as_ref(), &with(&arrays, |t| (t * size).unwrap()));
            }
        }
    }
    for name in ["qrs", "triplet-relation", "rkd-distance", "rkd-angle", "pkt", "none"] {
        let z = normal(&[6, 4], 1);
        // One image twice.
        let doubled = Tensor::cat(&[z.narrow(0, 0, 5).unwrap(), z.narrow(0, 4, 1).unwrap()], 0);
        finite(name, build(name, &Value::Null).as_ref(), &pair(z.clone(), doubled.unwrap()));
        finite(name, build(name, &Value::Null).as_ref(), &pair(z.clone(), z));
    }
}

#[test]
fn small_temperatures() {
    for (name, options) in [
        ("qrs", json!({"temperature": 1e-4})),
        ("triplet-relation", json!({"temperature": 1e-4})),
        ("triplet-relation", json!({"temperature": 1e-4, "target": "hard-forward"})),
        ("kd", json!({"temperature": 1e-4})),
        ("pseudo-label", json!({"temperature": 1e-4})),
        ("contrastive", json!({"temperature": 1e-4, "width": 3})),
        ("mistake-weights", json!({"temperature": 1e-4, "normalisation": "softmax"})),
    ] {
        for n in [2, 6] {
            let of = |(listed, ..): &(String, Box<dyn TransferLoss>, Arrays)| {
                listed.split(' ').next() == Some(name)
            };
            let (.., arrays) = all_on(n).into_iter().find(of).unwrap();
            finite(&format!("{name} {options}"), build(name, &options).as_ref(), &arrays);
        }
    }
}

#[test]
fn a_batch_of_one_is_refused() {
    for (name, loss, arrays) in all_on(1) {
        assert_eq!(loss.needs().batch, 2, "{name}");
        let error = evaluate(loss.as_ref(), &arrays).err().unwrap().to_string();
        assert_eq!(error, "needs a batch of at least 2 images, got 1", "{name}");
    }
}

#[test]
fn without_triples_there_is_nothing_to_learn() {
    let two = pair(normal(&[2, 4], 1), normal(&[2, 3], 2));
    for (name, options) in [
        ("triplet-relation", json!({"sampler": "all"})),
        ("triplet-relation", json!({})),
        ("rkd-angle", json!({})),
    ] {
        let got = evaluate(build(name, &options).as_ref(), &two).unwrap();
        assert!(got.loss.abs() < 1e-30, "{name}: {}", got.loss);
        assert!(got.gradients.values().flatten().all(|g| g.abs() < 1e-14), "{name}");
    }
}

#[test]
fn triples_are_drawn_of_different_images() {
    use crate::transfer::qrs::Quadruples;
    let (n, mut draws) = (5, super::stream(1));
    let drawn = Quadruples::random_triples(n, 3000, &mut draws);
    let mut counts = std::collections::BTreeMap::new();
    for (first, second) in drawn.first.iter().zip(&drawn.second) {
        let (i, j) = (*first as usize / n, *first as usize % n);
        let (same, k) = (*second as usize / n, *second as usize % n);
        assert!(i == same && i != j && i != k && j != k, "{i} {j} {same} {k}");
        *counts.entry((i, j, k)).or_insert(0usize) += 1;
    }
    // 60 ordered triples, 50 of each on average: 4 standard deviations are 28.
    assert_eq!(counts.len(), 60);
    assert!(counts.values().all(|c| (22..=78).contains(c)), "{counts:?}");
    let all = Quadruples::all_triples(n).unwrap();
    assert_eq!(all.len(), 30);
    assert!(Quadruples::all_triples(500).unwrap_err().to_string().contains("500 images"));
}

#[test]
fn hard_labels_do_not_hide_a_number_that_is_none() {
    let mut main = super::numbers(&normal(&[3, 4], 1));
    main[5] = f64::NAN;
    let main = Tensor::from_vec(main, (3, 4), &Device::Cpu).unwrap();
    let arrays = pair(main, normal(&[3, 4], 2));
    assert!(value(build("pseudo-label", &json!({"target": "hard"})).as_ref(), &arrays).is_nan());
}

#[test]
fn what_reaches_the_main_model_is_said() {
    for (name, loss, arrays) in all_on(6) {
        let got = evaluate(loss.as_ref(), &arrays).unwrap();
        let reached = got.gradients["main"].iter().any(|g| *g != 0.0);
        assert_eq!(reached, loss.reaches_main(), "{name}");
    }
}

#[test]
fn options_that_do_not_fit_are_refused() {
    for (name, options, part) in [
        ("pseudo-label", json!({"temperature": 0.0}), "`temperature`"),
        ("contrastive", json!({"temperature": -1.0}), "`temperature`"),
        ("contrastive", json!({"width": 0}), "`width`"),
        ("triplet-relation", json!({"temperature": 0.0}), "`temperature`"),
        ("attention", json!({"power": 0.5}), "`power`"),
        ("hint", json!({"map": 1}), "`map` has no effect"),
        ("mistake-weights", json!({"temperature": 2.0}), "`temperature` has no effect"),
        ("rkd-angle", json!({"temperature": 2.0}), "temperature"),
    ] {
        let built = tetlo_core::registry::build::<dyn TransferLoss>(name, &options);
        let error = built.unwrap_err().to_string();
        assert!(error.contains(part), "{name}: {error}");
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let refused = |name: &str, options: &Value, arrays: &Arrays| {
        evaluate(build(name, options).as_ref(), arrays).err().unwrap().to_string()
    };
    let labels = Tensor::new(&[0i64, 4], &Device::Cpu).unwrap();
    let mut arrays = pair(normal(&[2, 3], 1), normal(&[2, 3], 2));
    arrays.insert("labels".to_owned(), labels);
    let error = refused("mistake-weights", &Value::Null, &arrays);
    assert_eq!(error, "the label 4 of image 1 is not one of 3 classes");
    let classes = pair(normal(&[2, 3], 1), normal(&[2, 4], 2));
    assert!(refused("pseudo-label", &Value::Null, &classes).contains("got 3 and 4"));
    let sides = pair(normal(&[2, 1, 3, 3], 1), normal(&[2, 1, 2, 2], 2));
    assert!(refused("attention", &Value::Null, &sides).contains("3 × 3 (main) and 2 × 2"));
    let maps = |main: usize, aux: usize| -> Arrays {
        let of = |whose: &'static str, n: usize| {
            (0..n).map(move |i| (format!("{whose}_maps_{i}"), normal(&[2, 1, 2, 2], i as u64)))
        };
        of("main", main).chain(of("aux", aux)).collect()
    };
    for name in ["attention", "similarity-preserving"] {
        let options = json!({"features": "map"});
        let options = if name == "attention" { &Value::Null } else { &options };
        let error = refused(name, options, &maps(3, 4));
        assert!(error.contains("has 3 feature maps, the auxiliary 4"), "{error}");
    }
    assert!(value(build("attention", &json!({"maps": "last"})).as_ref(), &maps(3, 4)) > 0.0);
    let hint = build("hint", &json!({"features": "map", "map": 2}));
    let few = super::seen(&maps(2, 3), "main", hint.needs());
    let error = hint.parameters(&few, &few).unwrap_err().to_string();
    assert!(error.contains("`map` is 2, but the main model has the maps 0 to 1"), "{error}");
}
