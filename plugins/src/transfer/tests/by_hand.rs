//! Values worked by hand.

use super::{Arrays, build, evaluate, pair, value};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};

fn matrix<const N: usize, const D: usize>(rows: [[f64; D]; N]) -> Tensor {
    Tensor::new(&rows, &Device::Cpu).unwrap()
}

#[track_caller]
fn equal(plugin: &str, options: &Value, arrays: &Arrays, expected: f64) {
    let found = value(build(plugin, options).as_ref(), arrays);
    assert!((found - expected).abs() < 1e-9, "{plugin} {options}: {found} for {expected}");
}

fn sigma(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// −p log q − (1 − p) log(1 − q).
fn cross_entropy(p: f64, q: f64) -> f64 {
    -p * q.ln() - (1.0 - p) * (1.0 - q).ln()
}

#[test]
fn similarity_mse() {
    // The mean of all rows is 0. Cosines of (1, 0), (0, 1), (−1, −1): 0, −√½, −√½; of 2, −1, −1:
    // −1, −1, 1. Each difference stands twice among nine entries.
    let main = matrix([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]);
    let aux = matrix([[2.0], [-1.0], [-1.0]]);
    let root = 0.5f64.sqrt();
    let expected = 2.0 * (1.0 + (1.0 - root).powi(2) + (1.0 + root).powi(2)) / 9.0;
    equal("similarity-mse", &Value::Null, &pair(main, aux), expected);
}

#[test]
fn triplet_relation() {
    // −‖·‖² on a line. Main at 0, 1, 3: S01 = −1, S02 = −9, S12 = −4. Auxiliary at 0, 2, 1: S01 = −4,
    // S02 = −1, S12 = −1. Triples (0; 1, 2), (1; 0, 2), (2; 0, 1) have d_M = 8, 3, −5 and
    // d_V = −3, −3, 0.
    let arrays = pair(matrix([[0.0], [1.0], [3.0]]), matrix([[0.0], [2.0], [1.0]]));
    let options = json!({"similarity": "euclidean", "sampler": "all", "temperature": 2.0});
    let terms = [(8.0, -3.0), (3.0, -3.0), (-5.0, 0.0)];
    let of = |(m, v): (f64, f64)| cross_entropy(sigma(m / 2.0), sigma(v / 2.0));
    equal("triplet-relation", &options, &arrays, terms.map(of).iter().sum::<f64>() / 3.0);
    let hard = json!({"similarity": "euclidean", "sampler": "all", "temperature": 2.0,
                      "target": "hard"});
    let expected = (2.0 * -sigma(-1.5).ln() - 0.5f64.ln()) / 3.0;
    equal("triplet-relation", &hard, &arrays, expected);
}

#[test]
fn pseudo_label() {
    // T = 2: p = (3/4, 1/4), q = (1/2, 1/2): log 2. And p = (1/2, 1/2), q = (1/5, 4/5).
    let arrays =
        pair(matrix([[2.0 * 3f64.ln(), 0.0], [7.0, 7.0]]), matrix([[1.0, 1.0], [0.0, 4f64.ln()]]));
    let second = cross_entropy(0.5, 0.2);
    equal("pseudo-label", &json!({"temperature": 2.0}), &arrays, f64::midpoint(2f64.ln(), second));
    // Hard: the first class for both (of equal ones the first).
    equal("pseudo-label", &json!({"target": "hard"}), &arrays, f64::midpoint(2f64.ln(), 5f64.ln()));
}

#[test]
fn similarity_preserving() {
    // G_M = diag(1, 4), rows of norm 1: the identity. G_V: all 1, rows divided by √2.
    let arrays = pair(matrix([[1.0, 0.0], [0.0, 2.0]]), matrix([[1.0], [1.0]]));
    let root = 0.5f64.sqrt();
    let expected = (2.0 * (1.0 - root).powi(2) + 2.0 * 0.5) / 4.0;
    equal("similarity-preserving", &Value::Null, &arrays, expected);
}

#[test]
fn rkd_distance() {
    // Main at 0, 1, 3: distances 1, 3, 2, mean 2: ½, 3/2, 1. Auxiliary at 0, 1, 2: 1, 2, 1, mean 4/3:
    // ¾, 3/2, ¾. Differences −¼, 0, ¼; each twice among nine entries, with ½ x².
    let arrays = pair(matrix([[0.0], [1.0], [3.0]]), matrix([[0.0], [1.0], [2.0]]));
    equal("rkd-distance", &Value::Null, &arrays, 2.0 * 2.0 * 0.5 / 16.0 / 9.0);
    // Of two images the relative distance is always 1.
    let two = pair(matrix([[0.0], [5.0]]), matrix([[1.0], [3.0]]));
    equal("rkd-distance", &Value::Null, &two, 0.0);
}

#[test]
fn rkd_angle() {
    // Main on a line at 0, 1, 3: cosines 1, −1, 1 at the three images. Auxiliary: a right angle at
    // the first, 45° at the others: 0, √½, √½. Differences 1, 1 + √½, 1 − √½; each twice among 27.
    let arrays = pair(matrix([[0.0], [1.0], [3.0]]), matrix([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]));
    let root = 0.5f64.sqrt();
    let sum = 0.5 + (1.0 + root - 0.5) + 0.5 * (1.0 - root).powi(2);
    equal("rkd-angle", &Value::Null, &arrays, 2.0 * sum / 27.0);
}

#[test]
fn hint() {
    // P = (1, 2)ᵀ: projections (1, 2) and (−1, −2); differences (0, 2) and (0, −2) of (1, 0), (−1, 0).
    let arrays = pair(matrix([[1.0, 0.0], [-1.0, 0.0]]), matrix([[1.0], [-1.0]]));
    let projector = ("projector.weight".to_owned(), matrix([[1.0], [2.0]]));
    let arrays: Arrays = arrays.into_iter().chain([projector]).collect();
    equal("hint", &Value::Null, &arrays, 2.0);
    equal("hint", &json!({"reduction": "mean"}), &arrays, 1.0);
    // ∂/∂P = mean of (P z − z_M) zᵀ = (0, 2).
    let got = evaluate(build("hint", &Value::Null).as_ref(), &arrays).unwrap();
    assert_eq!(got.gradients["projector.weight"], [0.0, 2.0]);
}

#[test]
fn attention() {
    // Two places. Main: one channel (3, 4): squares 9, 16, norm √337. Auxiliary: channels (1, 0) and
    // (0, 1): 1, 1, norm √2.
    let map = |channels: usize, values: &[f64]| {
        let map = Tensor::from_slice(values, (1, channels, 1, 2), &Device::Cpu).unwrap();
        Tensor::cat(&[&map, &map], 0).unwrap()
    };
    let arrays = pair(map(1, &[3.0, 4.0]), map(2, &[1.0, 0.0, 0.0, -1.0]));
    let (norm, root) = (337f64.sqrt(), 0.5f64.sqrt());
    let expected = f64::midpoint((9.0 / norm - root).powi(2), (16.0 / norm - root).powi(2));
    equal("attention", &Value::Null, &arrays, expected);
    // p = 1: (3, 4)/5.
    let expected = f64::midpoint((0.6 - root).powi(2), (0.8 - root).powi(2));
    equal("attention", &json!({"power": 1.0}), &arrays, expected);
}

#[test]
fn pkt() {
    // Cosines: main 0, so K = (1, ½), P = (2/3, 1/3) in each row; auxiliary −1, so P = (1, 0).
    let arrays = pair(matrix([[1.0, 0.0], [0.0, 1.0]]), matrix([[1.0], [-1.0]]));
    let e = 1e-7;
    // Norms of 1 + ε: K of an image with itself is (1/(1 + ε)² + 1)/2, with the other its complement.
    let own = f64::midpoint(1.0, 1.0 / (1.0f64 + e).powi(2));
    let (main, aux) = (own / (own + 0.5), own);
    let term = |p: f64, q: f64| p * ((p + e) / (q + e)).ln();
    equal(
        "pkt",
        &Value::Null,
        &arrays,
        f64::midpoint(term(main, aux), term(1.0 - main, 1.0 - aux)),
    );
}

#[test]
fn contrastive() {
    // Projected to a line u = (1, −1), v = (1, 1): rows of s are (1, −1)/τ twice.
    let arrays: Arrays = pair(matrix([[2.0], [-3.0]]), matrix([[5.0], [7.0]]))
        .into_iter()
        .chain(["main", "aux"].map(|m| (format!("{m}.projector.weight"), matrix([[2.0]]))))
        .collect();
    let own = -(sigma(4.0).ln() + sigma(-4.0).ln()) / 2.0;
    let one_way = json!({"temperature": 0.5, "width": 1, "symmetric": false});
    equal("contrastive", &one_way, &arrays, own);
    // The other way each row is constant: log 2.
    let both = json!({"temperature": 0.5, "width": 1});
    equal("contrastive", &both, &arrays, f64::midpoint(own, 2f64.ln()));
}

#[test]
fn mistake_weights() {
    // The teacher gives the labels 0, 1 the probabilities ½ and ¼: losses log 2 and 2 log 2, weights
    // 2/3 and 4/3; the student ½ and 1/5.
    let main = matrix([[0.0, 0.0], [3f64.ln(), 0.0]]);
    let aux = matrix([[1.0, 1.0], [4f64.ln(), 0.0]]);
    let labels = Tensor::new(&[0i64, 1], &Device::Cpu).unwrap();
    let arrays: Arrays =
        pair(main, aux).into_iter().chain([("labels".to_owned(), labels)]).collect();
    let expected = f64::midpoint(2.0 / 3.0 * 2f64.ln(), 4.0 / 3.0 * 5f64.ln());
    equal("mistake-weights", &Value::Null, &arrays, expected);
    // Softmax at T = ½: 2^(2·1) to 2^(2·2), so 1/5 and 4/5, times two images.
    let softmax = json!({"normalisation": "softmax", "temperature": 0.5});
    equal("mistake-weights", &softmax, &arrays, 0.2 * 2f64.ln() + 0.8 * 5f64.ln());
}

#[test]
fn none() {
    let arrays = pair(matrix([[1.0], [2.0]]), matrix([[3.0], [4.0]]));
    let got = evaluate(build("none", &Value::Null).as_ref(), &arrays).unwrap();
    assert_eq!((got.loss, &got.gradients["aux"]), (0.0, &vec![0.0; 2]));
}
