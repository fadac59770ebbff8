//! What a loss must not notice (METHODS.md §1.1), on random batches.

use super::{Arrays, all_on, normal, value};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

/// The arrays named in `which` changed.
fn changed(arrays: &Arrays, which: &[&str], change: impl Fn(&Tensor) -> Tensor) -> Arrays {
    let one = |(name, t): (&String, &Tensor)| {
        (name.clone(), if which.contains(&name.as_str()) { change(t) } else { t.clone() })
    };
    arrays.iter().map(one).collect()
}

/// A batch of `n` images with other numbers for each seed.
fn shaken(n: usize, seed: u64) -> Vec<(String, Box<dyn tetlo_core::kinds::TransferLoss>, Arrays)> {
    let mut cases = all_on(n);
    for (.., arrays) in &mut cases {
        for (i, t) in arrays.values_mut().enumerate().filter(|(_, t)| t.dtype().is_float()) {
            *t = normal(t.dims(), 100 * seed + i as u64);
        }
    }
    cases
}

/// Does the loss, on embeddings, see angles, distances or similarities alone?
fn relational(name: &str) -> bool {
    let names =
        ["qrs", "triplet-relation", "similarity-preserving {}", "rkd-distance", "rkd-angle", "pkt"];
    names.iter().any(|n| name.starts_with(n))
}

/// Turns rows in the plane of the first two columns.
fn turned(z: &Tensor, angle: f64) -> Tensor {
    let d = z.dim(1).unwrap();
    let mut rotation = vec![0.0; d * d];
    (0..d).for_each(|i| rotation[i * d + i] = 1.0);
    (rotation[0], rotation[d + 1]) = (angle.cos(), angle.cos());
    (rotation[1], rotation[d]) = (angle.sin(), -angle.sin());
    z.matmul(&Tensor::from_vec(rotation, (d, d), &Device::Cpu).unwrap()).unwrap()
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1e-3)
}

const SIDES: [&[&str]; 2] = [&["main"], &["aux"]];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_order_of_the_images(n in 2usize..7, seed in 0u64..1000) {
        for (name, loss, arrays) in shaken(n, seed) {
            let order: Vec<u32> = (0..n as u32).map(|i| (i * (n as u32 - 1) + seed as u32) % n as u32).collect();
            let order = Tensor::new(order, &Device::Cpu).unwrap();
            let images = ["main", "aux", "labels"];
            let other = changed(&arrays, &images, |t| t.index_select(&order, 0).unwrap());
            let (a, b) = (value(loss.as_ref(), &arrays), value(loss.as_ref(), &other));
            prop_assert!(close(a, b, 1e-10), "{}: {} and {}", name, a, b);
        }
    }

    #[test]
    fn rotations(n in 2usize..7, seed in 0u64..1000, angle in 0.1..6.0f64) {
        for (name, loss, arrays) in shaken(n, seed).into_iter().filter(|c| relational(&c.0)) {
            for side in SIDES {
                let other = changed(&arrays, side, |z| turned(z, angle));
                let (a, b) = (value(loss.as_ref(), &arrays), value(loss.as_ref(), &other));
                prop_assert!(close(a, b, 1e-9), "{}, {:?}: {} and {}", name, side, a, b);
            }
        }
    }

    #[test]
    fn scales(n in 2usize..7, seed in 0u64..1000, scale in 0.2..5.0f64) {
        let blind = |name: &str| {
            (relational(name) && !name.contains("euclidean"))
                || ["attention", "contrastive", "similarity-preserving"].iter().any(|b| name.starts_with(b))
        };
        for (name, loss, arrays) in shaken(n, seed).into_iter().filter(|c| blind(&c.0)) {
            // The ε of pkt is not scaled.
            let tolerance = if name.starts_with("pkt") { 1e-4 } else { 1e-9 };
            for side in SIDES {
                let other = changed(&arrays, side, |z| (z * scale).unwrap());
                let (a, b) = (value(loss.as_ref(), &arrays), value(loss.as_ref(), &other));
                prop_assert!(close(a, b, tolerance), "{}, {:?}: {} and {}", name, side, a, b);
            }
        }
    }

    #[test]
    fn translations(n in 2usize..7, seed in 0u64..1000) {
        let blind = |name: &str| name.starts_with("rkd") || name.contains("euclidean");
        for (name, loss, arrays) in shaken(n, seed).into_iter().filter(|c| blind(&c.0)) {
            for side in SIDES {
                let other = changed(&arrays, side, |z| {
                    z.broadcast_add(&normal(&[1, z.dim(1).unwrap()], seed + 7)).unwrap()
                });
                let (a, b) = (value(loss.as_ref(), &arrays), value(loss.as_ref(), &other));
                prop_assert!(close(a, b, 1e-9), "{}, {:?}: {} and {}", name, side, a, b);
            }
        }
    }

    #[test]
    fn constants_added_to_the_logits_of_an_image(n in 2usize..7, seed in 0u64..1000) {
        let blind = ["kd", "pseudo-label", "mistake-weights"];
        let on_logits = |name: &str| blind.iter().any(|b| name.starts_with(b));
        for (name, loss, arrays) in shaken(n, seed).into_iter().filter(|c| on_logits(&c.0)) {
            for side in SIDES {
                let other = changed(&arrays, side, |z| z.broadcast_add(&normal(&[n, 1], seed + 7)).unwrap());
                let (a, b) = (value(loss.as_ref(), &arrays), value(loss.as_ref(), &other));
                prop_assert!(close(a, b, 1e-9), "{}, {:?}: {} and {}", name, side, a, b);
            }
        }
    }

    /// Attention does not see the order or signs of channels; turned by an orthogonal matrix with p = 2.
    #[test]
    fn channels_of_a_map(n in 2usize..5, seed in 0u64..1000) {
        for (name, loss, arrays) in shaken(n, seed).into_iter().filter(|c| c.0.starts_with("attention")) {
            let other = changed(&arrays, &["main"], |map| {
                let c = map.dim(1).unwrap() as u32;
                let order: Vec<u32> = (0..c).rev().collect();
                map.index_select(&Tensor::new(order, &Device::Cpu).unwrap(), 1).unwrap().neg().unwrap()
            });
            let (a, b) = (value(loss.as_ref(), &arrays), value(loss.as_ref(), &other));
            prop_assert!(close(a, b, 1e-10), "{}: {} and {}", name, a, b);
        }
    }

    /// Two equal models: nothing to learn, where the loss is a distance.
    #[test]
    fn the_least_is_where_both_models_agree(n in 2usize..7, seed in 0u64..1000) {
        let distances = ["kd", "similarity-preserving", "rkd", "attention", "pkt"];
        let is = |name: &str| distances.iter().any(|d| name.starts_with(d));
        for (name, loss, mut arrays) in shaken(n, seed).into_iter().filter(|c| is(&c.0)) {
            let apart = value(loss.as_ref(), &arrays);
            arrays.insert("main".to_owned(), arrays["aux"].clone());
            let found = super::evaluate(loss.as_ref(), &arrays).unwrap();
            prop_assert!(found.loss.abs() < 1e-12 && apart > -1e-12, "{}: {}", name, found.loss);
            // The ε of pkt moves its least place a little.
            let bound = if name.starts_with("pkt") { 1e-4 } else { 1e-9 };
            prop_assert!(found.gradients["aux"].iter().all(|g| g.abs() < bound), "{}", name);
        }
    }
}

#[test]
fn the_changes_change_something() {
    // Hints notice rotations and scales, so the tests above do not pass for nothing.
    let (_, loss, arrays) = shaken(5, 1).into_iter().find(|c| c.0.starts_with("hint {}")).unwrap();
    let before = value(loss.as_ref(), &arrays);
    for other in [
        changed(&arrays, &["aux"], |z| turned(z, 1.0)),
        changed(&arrays, &["aux"], |z| (z * 2.0).unwrap()),
    ] {
        assert!(!close(before, value(loss.as_ref(), &other), 1e-3));
    }
}
