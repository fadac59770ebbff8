use super::*;
use candle_core::{Device, Var};
use proptest::prelude::*;
use std::collections::BTreeSet;
use tetlo_core::rng::{Key, Purpose, Stream};

type Matrix = Vec<Vec<f64>>;

const SIMILARITIES: [Similarity; 3] = [Similarity::Cosine, Similarity::Dot, Similarity::Euclidean];

fn qrs(options: QrsOptions) -> Qrs {
    Qrs::from_options(options).unwrap()
}

fn all() -> QrsOptions {
    QrsOptions { sampler: Sampler::All, ..QrsOptions::default() }
}

fn draws(step: usize) -> Stream {
    Key::new(7, Purpose::Transfer).step(step).stream()
}

fn tensor(rows: &Matrix) -> Tensor {
    let flat: Vec<f64> = rows.concat();
    Tensor::from_vec(flat, (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

fn random(step: usize, rows: usize, columns: usize) -> Matrix {
    let mut stream = draws(step).clone();
    (0..rows).map(|_| (0..columns).map(|_| stream.normal()).collect()).collect()
}

fn value(loss: &Qrs, main: &Matrix, aux: &Matrix) -> f64 {
    let (main, aux) = (tensor(main), tensor(aux));
    let batch = TransferBatch::of_embeddings(&main, &aux, draws(0)).unwrap();
    loss.loss(&batch).unwrap().to_scalar().unwrap()
}

/// Loss and gradients in main and aux; a missing gradient is `None`.
fn gradients(loss: &Qrs, main: &Matrix, aux: &Matrix) -> (f64, Option<Matrix>, Option<Matrix>) {
    let main = Var::from_tensor(&tensor(main)).unwrap();
    let aux = Var::from_tensor(&tensor(aux)).unwrap();
    let batch = TransferBatch::of_embeddings(&main, &aux, draws(0)).unwrap();
    let value = loss.loss(&batch).unwrap();
    let all = value.backward().unwrap();
    let take = |v: &Var| all.get(v).map(|g| g.to_vec2().unwrap());
    (value.to_scalar().unwrap(), take(&main), take(&aux))
}

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0)
}

// The formulas, with plain loops.

fn similarity_by_loops(z: &Matrix, similarity: Similarity, center: bool) -> Matrix {
    let (n, d) = (z.len(), z[0].len());
    let mean = |c: usize| if center { z.iter().map(|r| r[c]).sum::<f64>() / n as f64 } else { 0.0 };
    let mean: Vec<f64> = (0..d).map(mean).collect();
    let z: Matrix = z.iter().map(|r| r.iter().zip(&mean).map(|(v, m)| v - m).collect()).collect();
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(a, b)| a * b).sum::<f64>();
    let pair = |x: &[f64], y: &[f64]| match similarity {
        Similarity::Cosine => dot(x, y) / (dot(x, x).sqrt().max(1e-8) * dot(y, y).sqrt().max(1e-8)),
        Similarity::Dot => dot(x, y) / d as f64,
        Similarity::Euclidean => {
            -x.iter().zip(y).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / d as f64
        }
    };
    z.iter().map(|x| z.iter().map(|y| pair(x, y)).collect()).collect()
}

fn loss_by_loops(loss: &Qrs, main: &Matrix, aux: &Matrix) -> f64 {
    let s_main = similarity_by_loops(main, loss.similarity, loss.center);
    let s_aux = similarity_by_loops(aux, loss.similarity, loss.center);
    let sigma = |x: f64| 1.0 / (1.0 + (-x).exp());
    let log_sigma = |x: f64| if x > 0.0 { -(-x).exp().ln_1p() } else { x - x.exp().ln_1p() };
    let n = main.len();
    let pairs: Vec<_> = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).collect();
    let (mut sum, mut count) = (0.0, 0);
    for (a, (i, j)) in pairs.iter().enumerate() {
        for (k, l) in &pairs[a + 1..] {
            let d_main = s_main[*i][*j] - s_main[*k][*l];
            let d_aux = s_aux[*i][*j] - s_aux[*k][*l];
            if loss.min_gap.is_some_and(|gap| d_main.abs() <= gap) {
                continue;
            }
            count += 1;
            let r = f64::from(u8::from(d_main > 0.0));
            let t = if loss.target == Target::Soft { sigma(d_main / loss.temperature) } else { r };
            let x = d_aux / loss.temperature;
            sum += match loss.form {
                Form::CrossEntropy => -t * log_sigma(x) - (1.0 - t) * log_sigma(-x),
                Form::Margin => (loss.margin - (2.0 * r - 1.0) * d_aux).max(0.0),
            };
        }
    }
    sum / f64::from(count.max(1))
}

/// Every combination of options that decides the value over all quadruples.
fn every_formula() -> Vec<Qrs> {
    let mut list = Vec::new();
    for similarity in SIMILARITIES {
        for (form, target) in [
            (Form::CrossEntropy, Target::Soft),
            (Form::CrossEntropy, Target::Hard),
            (Form::CrossEntropy, Target::HardForward),
            (Form::Margin, Target::Hard),
            (Form::Margin, Target::HardForward),
        ] {
            for center in [false, true] {
                for min_gap in [None, Some(0.2)] {
                    let target = Some(target);
                    list.push(qrs(QrsOptions {
                        similarity,
                        target,
                        form,
                        center,
                        min_gap,
                        ..all()
                    }));
                }
            }
        }
    }
    list
}

#[test]
fn the_loss_equals_the_loops() {
    let (main, aux) = (random(1, 6, 4), random(2, 6, 3));
    for loss in every_formula() {
        let (fast, slow) = (value(&loss, &main, &aux), loss_by_loops(&loss, &main, &aux));
        assert!(slow > 0.0 && close(fast, slow, 1e-12), "{loss:?}: {fast} for {slow}");
    }
}

#[test]
fn gradients_equal_central_differences() {
    let (main, aux) = (random(3, 5, 4), random(4, 5, 3));
    let h = 1e-6;
    let numerical = |loss: &Qrs, which: usize, i: usize, c: usize| {
        let at = |step: f64| {
            let mut z = [main.clone(), aux.clone()];
            z[which][i][c] += step;
            value(loss, &z[0], &z[1])
        };
        (at(h) - at(-h)) / (2.0 * h)
    };
    for loss in every_formula() {
        let (_, of_main, of_aux) = gradients(&loss, &main, &aux);
        let of_aux = of_aux.unwrap();
        for (i, row) in of_aux.iter().enumerate() {
            for (c, g) in row.iter().enumerate() {
                assert!(close(*g, numerical(&loss, 1, i, c), 1e-7), "{loss:?}: aux {i} {c}");
            }
        }
        match loss.target {
            Target::Hard => assert_eq!(of_main, None, "{loss:?}"),
            // The gradient is not that of the value, on purpose: tested below.
            Target::HardForward => assert!(of_main.is_some()),
            Target::Soft => {
                for (i, row) in of_main.unwrap().iter().enumerate() {
                    for (c, g) in row.iter().enumerate() {
                        assert!(
                            close(*g, numerical(&loss, 0, i, c), 1e-7),
                            "{loss:?}: main {i} {c}"
                        );
                    }
                }
            }
        }
    }
}

/// Value and derivatives of the terms in `d_M` and `d_V`.
fn in_differences(loss: &Qrs, main: &[f64], aux: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let main = Var::new(main, &Device::Cpu).unwrap();
    let aux = Var::new(aux, &Device::Cpu).unwrap();
    let terms = loss.terms(&main, &aux).unwrap();
    let gradients = terms.sum_all().unwrap().backward().unwrap();
    let take = |v: &Var| match gradients.get(v) {
        Some(g) => g.to_vec1().unwrap(),
        None => vec![0.0; v.elem_count()],
    };
    (terms.to_vec1().unwrap(), take(&main), take(&aux))
}

#[test]
fn hard_forward_has_the_stated_derivatives() {
    let tau = 0.3;
    let temperature = Some(tau);
    let make = |target| qrs(QrsOptions { target: Some(target), temperature, ..all() });
    let (main, aux) = ([0.4, -0.2, 0.0, 1.5], [-0.1, -0.6, 0.3, 0.0]);
    let sigma = |x: f64| 1.0 / (1.0 + (-x / tau).exp());
    let (hard, ..) = in_differences(&make(Target::Hard), &main, &aux);
    let (terms, of_main, of_aux) = in_differences(&make(Target::HardForward), &main, &aux);
    assert_eq!(terms, hard);
    for i in 0..4 {
        let (p_main, p_aux) = (sigma(main[i]), sigma(aux[i]));
        let r = f64::from(u8::from(main[i] > 0.0));
        assert!(close(of_aux[i], (p_aux - r) / tau, 1e-13));
        assert!(close(of_main[i], -aux[i] * p_main * (1.0 - p_main) / tau.powi(2), 1e-13));
    }
}

#[test]
fn soft_targets_have_the_stated_derivatives() {
    let tau = 0.5;
    let loss = qrs(QrsOptions { temperature: Some(tau), ..all() });
    let (main, aux) = ([0.4, -0.2, 0.0, 1.5], [-0.1, -0.6, 0.3, 0.0]);
    let sigma = |x: f64| 1.0 / (1.0 + (-x / tau).exp());
    let (_, of_main, of_aux) = in_differences(&loss, &main, &aux);
    for i in 0..4 {
        let (p_main, p_aux) = (sigma(main[i]), sigma(aux[i]));
        assert!(close(of_aux[i], (p_aux - p_main) / tau, 1e-13));
        assert!(close(of_main[i], -aux[i] * p_main * (1.0 - p_main) / tau.powi(2), 1e-13));
    }
}

#[test]
fn the_margin_has_no_slope_at_its_kink() {
    let loss = qrs(QrsOptions { form: Form::Margin, margin: Some(0.25), ..all() });
    let (terms, of_main, of_aux) =
        in_differences(&loss, &[1.0, 1.0, -1.0, 0.0], &[0.25, 0.0, 0.0, 0.5]);
    assert_eq!(terms, [0.0, 0.25, 0.25, 0.75]);
    assert_eq!(of_aux, [0.0, -1.0, 1.0, 1.0]);
    assert_eq!(of_main, [0.0; 4]);
}

#[test]
fn no_temperature_overflows() {
    let (main, aux) = (random(5, 4, 3), random(6, 4, 3));
    for temperature in [SMALLEST_TEMPERATURE, 1e-9, 1e-3, 1e3, 1e300] {
        for target in [Target::Soft, Target::Hard, Target::HardForward] {
            let options =
                QrsOptions { temperature: Some(temperature), target: Some(target), ..all() };
            let loss = qrs(options);
            let (value, of_main, of_aux) = gradients(&loss, &main, &aux);
            let finite = |m: &Matrix| m.iter().flatten().all(|g| g.is_finite());
            assert!(value.is_finite() && value > 0.0, "{loss:?}: {value}");
            assert!(of_main.as_ref().is_none_or(finite) && finite(&of_aux.unwrap()), "{loss:?}");
            let main = tensor(&main).to_dtype(DType::F32).unwrap();
            let aux = tensor(&aux).to_dtype(DType::F32).unwrap();
            let batch = TransferBatch::of_embeddings(&main, &aux, draws(0)).unwrap();
            let single: f32 = loss.loss(&batch).unwrap().to_scalar().unwrap();
            assert!(close(f64::from(single), value, 2e-5), "{loss:?}: {single} for {value}");
        }
    }
}

#[test]
fn small_losses_keep_their_digits() {
    // x = 30 and 50: −log σ(x) = log(1 + e^−x) = e^−x − e^−2x/2 …; 1 + e^−50 rounds to 1.
    let loss = qrs(QrsOptions { target: Some(Target::Hard), temperature: Some(1.0), ..all() });
    for x in [30.0, 50.0, 700.0] {
        let (terms, _, of_aux) = in_differences(&loss, &[1.0], &[x]);
        let expected = (-x).exp().ln_1p();
        assert!((terms[0] / expected - 1.0).abs() < 1e-12, "{x}: {} for {expected}", terms[0]);
        assert!((of_aux[0] / -expected - 1.0).abs() < 1e-12, "{x}: slope {}", of_aux[0]);
    }
    // At 0 the smooth function's values: log 2, slope −1/2.
    let (terms, _, of_aux) = in_differences(&loss, &[1.0], &[0.0]);
    assert!(close(terms[0], 2f64.ln(), 1e-15) && close(of_aux[0], -0.5, 1e-15));
}

#[test]
fn embeddings_of_norm_zero_and_equal_images_are_finite() {
    let mut main = random(8, 5, 3);
    main[1] = vec![0.0; 3];
    main[3] = main[2].clone();
    let aux = vec![vec![0.0; 2]; 5];
    for loss in every_formula() {
        let (value, of_main, of_aux) = gradients(&loss, &main, &aux);
        assert!(value.is_finite() && close(value, loss_by_loops(&loss, &main, &aux), 1e-10));
        for gradient in [of_main, of_aux].into_iter().flatten() {
            assert!(gradient.iter().flatten().all(|g| g.is_finite()), "{loss:?}");
        }
    }
}

#[test]
fn without_quadruples_the_loss_is_zero_but_a_function_of_both() {
    let (main, aux) = (random(9, 2, 3), random(10, 2, 4));
    let four = (random(9, 4, 3), random(10, 4, 4));
    let sampler = |sampler| qrs(QrsOptions { sampler, ..QrsOptions::default() });
    for (loss, main, aux) in [
        (sampler(Sampler::All), &main, &aux),
        (sampler(Sampler::Random), &main, &aux),
        (sampler(Sampler::Disjoint), &main, &aux),
        (qrs(QrsOptions { min_gap: Some(2.5), ..all() }), &four.0, &four.1),
    ] {
        let (value, of_main, of_aux) = gradients(&loss, main, aux);
        assert!(value.abs() < f64::MIN_POSITIVE, "{loss:?}: {value}");
        for gradient in [of_main.unwrap(), of_aux.unwrap()] {
            assert!(gradient.iter().flatten().all(|g| g.abs() < f64::MIN_POSITIVE), "{loss:?}");
        }
    }
}

#[test]
fn one_image_and_missing_labels_are_refused() {
    let one = tensor(&random(1, 1, 3));
    let three = tensor(&random(1, 3, 3));
    let refusal = |loss: Qrs, z: &Tensor| {
        let batch = TransferBatch::of_embeddings(z, z, draws(0)).unwrap();
        loss.loss(&batch).unwrap_err().to_string()
    };
    assert!(refusal(qrs(all()), &one).contains("at least 2 images, got 1"));
    let stratified = QrsOptions { sampler: Sampler::Stratified, ..QrsOptions::default() };
    assert!(refusal(qrs(stratified), &three).contains("needs the labels"));
    let large = tensor(&random(1, 200, 1));
    assert!(refusal(qrs(all()), &large).contains("a batch of 200 images has 197995050"));
}

#[test]
fn options_out_of_range_name_the_key() {
    let base = QrsOptions::default;
    for (options, key) in [
        (QrsOptions { temperature: Some(0.0), ..base() }, "`temperature`"),
        (QrsOptions { temperature: Some(f64::NAN), ..base() }, "`temperature`"),
        (QrsOptions { margin: Some(-1.0), ..base() }, "`margin`"),
        (QrsOptions { min_gap: Some(-0.1), ..base() }, "`min-gap`"),
        (QrsOptions { form: Form::Margin, target: Some(Target::Soft), ..base() }, "`target`"),
    ] {
        let message = Qrs::from_options(options).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
    let temperatures =
        SIMILARITIES.map(|similarity| qrs(QrsOptions { similarity, ..base() }).temperature);
    assert_eq!(temperatures.to_vec(), [0.1, 1.0, 1.0]);
}

#[test]
fn diagnostics_by_hand() {
    let (main, aux) = (random(11, 5, 4), random(12, 5, 3));
    let loss = qrs(all());
    let figures = |main: &Matrix, aux: &Matrix| {
        let (main, aux) = (tensor(main), tensor(aux));
        let batch = TransferBatch::of_embeddings(&main, &aux, draws(0)).unwrap();
        loss.diagnostics(&batch).unwrap()
    };
    let [("kl", kl), ("std_main", std_main), ("std_aux", std_aux)] = figures(&main, &aux)[..]
    else {
        panic!("other figures")
    };
    // KL = QRS − H(p_M), and QRS of a model with itself is H(p_M).
    assert!(close(kl, value(&loss, &main, &aux) - value(&loss, &main, &main), 1e-12));
    assert!(figures(&main, &main)[0].1.abs() < 1e-15);
    for (z, std) in [(&main, std_main), (&aux, std_aux)] {
        let s = similarity_by_loops(z, Similarity::Cosine, false);
        let off: Vec<f64> = (0..5)
            .flat_map(|i| (0..5).filter(move |j| *j != i).map(move |j| (i, j)))
            .map(|(i, j)| s[i][j])
            .collect();
        let mean = off.iter().sum::<f64>() / 20.0;
        let variance = off.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 20.0;
        assert!(close(std, variance.sqrt(), 1e-12));
    }
}

#[test]
fn all_are_all_unordered_pairs_of_pairs() {
    for images in 2..7 {
        let pairs = images * (images - 1) / 2;
        let quadruples = Quadruples::all(images).unwrap();
        let sets: BTreeSet<_> = quadruples
            .first
            .iter()
            .zip(&quadruples.second)
            .map(|(a, b)| (a.min(b), a.max(b)))
            .collect();
        assert_eq!(quadruples.len(), pairs * (pairs - 1) / 2);
        assert_eq!(sets.len(), quadruples.len());
    }
}

#[test]
fn samplers_keep_their_promises() {
    let labels = [0, 1, 0, 2, 1, 0, 2];
    let n = labels.len();
    let images = |p: u32| (p as usize / n, p as usize % n);
    let each = |q: &Quadruples| -> Vec<_> {
        q.first.iter().zip(&q.second).map(|(a, b)| (images(*a), images(*b))).collect()
    };
    let random = Quadruples::random(n, 4000, &mut draws(1));
    assert_eq!(random.len(), 4000);
    let mut seen = BTreeSet::new();
    for (first, second) in each(&random) {
        assert!(first.0 < first.1 && second.0 < second.1 && first != second);
        seen.insert((first, second));
    }
    // 21 · 20 ordered pairs of pairs; 4,000 draws miss one with probability 420·e^(−9.5) = 3 %, and
    // the stream is fixed.
    assert!(seen.len() > 410, "{}", seen.len());
    for ((i, j), (k, l)) in each(&Quadruples::disjoint(n, 500, &mut draws(2))) {
        assert_eq!(BTreeSet::from([i, j, k, l]).len(), 4);
    }
    for ((i, j), (k, l)) in each(&Quadruples::stratified(&labels, 500, &mut draws(3))) {
        assert!(i != j && labels[i] == labels[j] && labels[k] != labels[l]);
    }
    assert_eq!(Quadruples::stratified(&[1, 1, 1], 5, &mut draws(3)).len(), 0);
    assert_eq!(Quadruples::stratified(&[0, 1, 2], 5, &mut draws(3)).len(), 0);
    assert_eq!(Quadruples::disjoint(3, 5, &mut draws(3)).len(), 0);
}

#[test]
fn draws_are_four_an_image_and_follow_the_stream() {
    let z = tensor(&random(1, 6, 3));
    let loss = qrs(QrsOptions::default());
    let drawn = |step: usize| {
        loss.draw(&TransferBatch::of_embeddings(&z, &z, draws(step)).unwrap()).unwrap()
    };
    assert_eq!(drawn(0).len(), 24);
    assert_eq!(drawn(0), drawn(0));
    assert_ne!(drawn(0), drawn(1));
    let ten = qrs(QrsOptions { quadruples: 10, ..QrsOptions::default() });
    assert_eq!(
        ten.draw(&TransferBatch::of_embeddings(&z, &z, draws(0)).unwrap()).unwrap().len(),
        10
    );
}

#[test]
fn many_random_quadruples_approach_all() {
    let (main, aux) = (random(13, 6, 4), random(14, 6, 4));
    let sampled =
        value(&qrs(QrsOptions { quadruples: 40_000, ..QrsOptions::default() }), &main, &aux);
    let exact = value(&qrs(all()), &main, &aux);
    assert!((sampled - exact).abs() < 0.02 * exact, "{sampled} for {exact}");
}

/// Second derivatives are right only in a process that starts with this variable.
const DOUBLE_BACKWARD: &str = "CANDLE_GRAD_DO_NOT_DETACH";

#[test]
fn second_derivatives() {
    let name = "transfer::qrs::tests::second_derivatives";
    if std::env::var_os(DOUBLE_BACKWARD).is_none() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(DOUBLE_BACKWARD, "1")
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && output.contains("1 passed"), "{output}");
        return;
    }
    // ∂/∂main ⟨∂QRS/∂aux, v⟩ and ∂/∂aux of the same against differences of the first derivative.
    let (main, aux, v) = (random(15, 5, 3), random(16, 5, 3), random(17, 5, 3));
    let h = 1e-6;
    for loss in every_formula() {
        let with = |main: &Matrix, aux: &Matrix| -> f64 {
            let of_aux = gradients(&loss, main, aux).2.unwrap();
            of_aux.iter().flatten().zip(v.iter().flatten()).map(|(g, v)| g * v).sum()
        };
        let vars = [&main, &aux].map(|z| Var::from_tensor(&tensor(z)).unwrap());
        let batch = TransferBatch::of_embeddings(&vars[0], &vars[1], draws(0)).unwrap();
        let first = loss.loss(&batch).unwrap().backward().unwrap();
        let along = (first.get(&vars[1]).unwrap() * tensor(&v)).unwrap().sum_all().unwrap();
        let second = along.backward().unwrap();
        for which in 0..2 {
            // A straight-through target jumps, so its value's differences do not show its slope.
            if which == 0 && loss.target == Target::HardForward {
                continue;
            }
            let got: Option<Matrix> = second.get(&vars[which]).map(|g| g.to_vec2().unwrap());
            for i in 0..5 {
                for c in 0..3 {
                    let at = |step: f64| {
                        let mut z = [main.clone(), aux.clone()];
                        z[which][i][c] += step;
                        with(&z[0], &z[1])
                    };
                    let expected = (at(h) - at(-h)) / (2.0 * h);
                    let got = got.as_ref().map_or(0.0, |g| g[i][c]);
                    assert!(close(got, expected, 1e-6), "{loss:?}: {which}: {got} for {expected}");
                }
            }
        }
    }
}

fn embedding(rows: usize) -> impl Strategy<Value = Matrix> {
    (2usize..5).prop_flat_map(move |columns| {
        prop::collection::vec(prop::collection::vec(-2.0..2.0f64, columns), rows)
    })
}

fn pair() -> impl Strategy<Value = (Matrix, Matrix)> {
    (3usize..7).prop_flat_map(|rows| (embedding(rows), embedding(rows)))
}

fn formula() -> impl Strategy<Value = Qrs> {
    (0usize..every_formula().len()).prop_map(|i| every_formula().swap_remove(i))
}

/// `d_M` within 1e-9 of a place where the loss jumps: an invariance may fail by rounding there.
fn near_a_jump(loss: &Qrs, main: &Matrix) -> bool {
    let s = tensor(&similarity_by_loops(main, loss.similarity, loss.center));
    let d = Quadruples::all(main.len()).unwrap().differences(&s).unwrap();
    let d: Vec<f64> = d.to_vec1().unwrap();
    d.iter().any(|d| d.abs() < 1e-9 || loss.min_gap.is_some_and(|g| (d.abs() - g).abs() < 1e-9))
}

/// Rotates the plane of coordinates 0 and `c` of every row.
fn rotated(z: &Matrix, angle: f64, c: usize) -> Matrix {
    let (sin, cos) = angle.sin_cos();
    let turn = |r: &Vec<f64>| {
        let mut out = r.clone();
        out[0] = cos * r[0] - sin * r[c];
        out[c] = sin * r[0] + cos * r[c];
        out
    };
    z.iter().map(turn).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_permutation_of_the_batch_changes_nothing(
        (main, aux) in pair(), loss in formula(), step in 0usize..1000,
    ) {
        prop_assume!(!near_a_jump(&loss, &main));
        let order = draws(step).clone().permutation(main.len());
        let permute = |z: &Matrix| order.iter().map(|i| z[*i].clone()).collect::<Matrix>();
        // The other orientation of a quadruple has the same loss, so the order of images is free.
        let (a, b) = (value(&loss, &main, &aux), value(&loss, &permute(&main), &permute(&aux)));
        prop_assert!(close(a, b, 1e-10), "{} {}", a, b);
    }

    #[test]
    fn cosines_ignore_scale_and_rotation(
        (main, aux) in pair(), loss in formula(), scale in 0.1..10.0f64, angle in 0.0..6.3f64,
    ) {
        prop_assume!(loss.similarity == Similarity::Cosine && !near_a_jump(&loss, &main));
        let change = |z: &Matrix| {
            let scaled = z.iter().map(|r| r.iter().map(|v| scale * v).collect()).collect();
            rotated(&scaled, angle, z[0].len() - 1)
        };
        let before = value(&loss, &main, &aux);
        prop_assert!(close(before, value(&loss, &change(&main), &aux), 1e-9));
        prop_assert!(close(before, value(&loss, &main, &change(&aux)), 1e-9));
    }

    #[test]
    fn swapping_the_images_of_a_pair_changes_nothing((main, aux) in pair(), loss in formula()) {
        let n = main.len();
        let straight = Quadruples::all(n).unwrap();
        let swap = |p: &u32| { let p = *p as usize; (p % n * n + p / n) as u32 };
        let firsts = Quadruples { first: straight.first.iter().map(swap).collect(), ..straight.clone() };
        let seconds = Quadruples { second: straight.second.iter().map(swap).collect(), ..straight.clone() };
        prop_assume!(!near_a_jump(&loss, &main));
        let mean = |quadruples: &Quadruples| -> f64 {
            let view = loss.view_of(&tensor(&main), &tensor(&aux), quadruples).unwrap();
            let terms = loss.terms(&view.main, &view.aux).unwrap();
            view.mean(&terms).unwrap().to_scalar().unwrap()
        };
        prop_assert!(close(mean(&straight), mean(&firsts), 1e-10));
        prop_assert!(close(mean(&straight), mean(&seconds), 1e-10));
    }

    #[test]
    fn the_minimum_is_where_both_models_agree((main, aux) in pair(), i in 0usize..3) {
        let loss = qrs(QrsOptions { similarity: SIMILARITIES[i], ..all() });
        let (least, _, of_aux) = gradients(&loss, &main, &main);
        prop_assert!(value(&loss, &main, &aux) >= least - 1e-12);
        prop_assert!(of_aux.unwrap().iter().flatten().all(|g| g.abs() < 1e-9));
    }

    #[test]
    fn hard_targets_give_the_main_model_nothing((main, aux) in pair(), loss in formula()) {
        prop_assume!(loss.target == Target::Hard);
        let view = loss.view_of(&tensor(&main), &tensor(&aux), &Quadruples::all(main.len()).unwrap());
        prop_assume!(view.unwrap().count > 0);
        prop_assert_eq!(gradients(&loss, &main, &aux).1, None);
    }
}
