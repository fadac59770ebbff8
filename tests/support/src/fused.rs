//! Operations in a cell, fused and unfused: the kernels in `f32` on every instruction set that the
//! machine has, against the reference that runs one primitive after another in `f64`; and that
//! reference against central differences.

use crate::numbers::{draws, largest};
use crate::report::{Check, ensure};
use candle_core::{Device, Tensor, Var};
use std::ops::Range;
use tetlo_core::layout::Layout;
use tetlo_core::rng::Stream;
use tetlo_core::space::{NetworkBuilder, Recipe, Site, Step};
use tetlo_kernels::reference::{self, How, Inputs, Scalar};
use tetlo_kernels::{Export, Graph, Mode, Network, Weight, simd_paths};

/// Largest error of a part (values, statistics, gradient of a parameter, operation gradients),
/// relative to its largest entry or to 1, of a parameter to `LEAST` of the largest of all; where a
/// batch norm of few values amplifies rounding, `WORSE` times the error of the reference in `f32`, but
/// never more than `MOST`.
const TOLERANCE: f64 = 5e-5;
const LEAST: f64 = 1e-3;
const WORSE: f64 = 20.0;
const MOST: f64 = 1e-3;

/// Nearer than this to a kink of a rectifier or maximum, rounding decides the gradient.
const MARGIN: f64 = 3e-6;

/// Numbers that are tried: tensor code may have kinks that nobody can see from outside.
const TRIES: u64 = 4;

/// Height, width, images: even and odd sides, one image and more.
const SIZES: [(usize, usize, usize); 3] = [(8, 8, 1), (6, 4, 3), (5, 7, 2)];

/// The weights of an operation's neighbours come first.
const NEIGHBOURS: usize = 2;

/// A node that the operation shares with a separable convolution and a pool of the same state.
struct Cell {
    graph: Graph,
    weights: Layout,
}

impl Cell {
    /// `None` where the operation refuses the size.
    fn new(recipe: &Recipe, site: Site, (height, width): (usize, usize)) -> Check<Option<Self>> {
        let Site { channels, stride, affine } = site;
        let mut builder = NetworkBuilder::new((3, height, width));
        let input = builder.graph.input();
        let below = Step::Dense { name: "below".into(), out: channels, kernel: 3, stride: 1 };
        let state = builder.chain("", vec![below], &[input])?;
        // Masks of drop-path stand an image, as in derived networks.
        let weight = if affine { Weight::PerImage(NEIGHBOURS) } else { Weight::Shared(NEIGHBOURS) };
        let Ok(own) = builder.term("operation", recipe, &[state], weight) else { return Ok(None) };
        let norm = |name: &str| Step::BatchNorm { name: name.into(), affine };
        let separable = Recipe::Chain(vec![
            Step::Relu,
            Step::Depthwise { name: "1".into(), kernel: 3, stride, dilation: 1 },
            Step::Pointwise { name: "2".into(), out: channels, stride: 1 },
            norm("3"),
        ]);
        let pool = Recipe::Chain(vec![Step::MaxPool { stride }, norm("1")]);
        let mut terms: Vec<_> = own.into_iter().collect();
        terms.extend(builder.term("separable", &separable, &[state], Weight::Shared(0))?);
        terms.extend(builder.term("pool", &pool, &[state], Weight::Shared(1))?);
        let node = builder.graph.state(terms)?;
        builder.graph.export(Export::Map { states: vec![node], relu: false });
        Ok(Some(Self { graph: builder.graph.finish()?, weights: builder.weights }))
    }
}

/// The numbers of a pass.
struct Numbers {
    images: Vec<f32>,
    weights: Vec<f32>,
    ops: Vec<f32>,
    running: Vec<f32>,
    /// Gradient of the node.
    gradient: Vec<f32>,
    batch: usize,
    /// Key of the pass's draws.
    key: u64,
}

impl Numbers {
    fn new(cell: &Cell, batch: usize, seed: u64) -> Self {
        let draws = &mut draws(seed);
        let (c, h, w) = cell.graph.input_shape();
        let node: usize = cell.graph.export_shape(&cell.graph.exports()[0], batch).iter().product();
        let normal = |draws: &mut Stream, n: usize, middle: f64, spread: f64| -> Vec<f32> {
            (0..n).map(|_| (middle + spread * draws.normal()) as f32).collect()
        };
        // The usual initial values, moved a little so that shifts are not zero.
        let mut weights = cell.weights.initialise(draws);
        let moves = normal(draws, weights.len(), 0.0, 0.1);
        weights.iter_mut().zip(moves).for_each(|(w, m)| *w += m);
        Self {
            images: normal(draws, batch * c * h * w, 0.0, 1.0),
            weights,
            ops: normal(draws, cell.graph.ops(batch), 0.5, 0.2),
            running: (0..cell.graph.statistics()).map(|_| 0.5 + draws.uniform() as f32).collect(),
            gradient: normal(draws, node, 0.0, 1.0),
            batch,
            key: seed,
        }
    }
}

/// What a pass gives: the node, batch statistics, gradients of the weights (which the state below has
/// too) and of the operation weights.
struct Results([Vec<f64>; 4]);

const PARTS: [&str; 4] = ["values", "batch statistics", "weight gradients", "operation gradients"];

impl Results {
    /// Error of each part; of the weight gradients that of the worst parameter.
    fn errors(&self, expected: &Self, weights: &Layout) -> [f64; 4] {
        std::array::from_fn(|part| {
            let (found, expected) = (&self.0[part], &expected.0[part]);
            let least = LEAST * largest(expected).max(1.0);
            let of = |range: Range<usize>| {
                let (found, expected) = (&found[range.clone()], &expected[range]);
                error(found, expected, largest(expected).max(least))
            };
            if part != 2 {
                return error(found, expected, largest(expected).max(1.0));
            }
            let entries = weights.entries().iter();
            entries.map(|e| of(e.offset..e.offset + e.len())).fold(0.0, f64::max)
        })
    }
}

/// The largest difference in units of `scale`.
fn error(found: &[f64], expected: &[f64], scale: f64) -> f64 {
    let off = |(f, e): (&f64, &f64)| {
        let d = (f - e).abs() / scale;
        if d.is_nan() { f64::INFINITY } else { d }
    };
    found.iter().zip(expected).map(off).fold(0.0, f64::max)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|v| f64::from(*v)).collect()
}

/// The reference in precision `T`, and how near the pass comes to a kink.
fn unfused<T: Scalar>(graph: &Graph, numbers: &Numbers, train: bool) -> (Results, f64) {
    let cast = |v: &[f32]| -> Vec<T> { v.iter().map(|v| T::from_f64(f64::from(*v))).collect() };
    let (images, weights) = (cast(&numbers.images), cast(&numbers.weights));
    let (ops, running) = (cast(&numbers.ops), cast(&numbers.running));
    let inputs = Inputs {
        batch: numbers.batch,
        images: &images,
        weights: &weights,
        ops: &ops,
        running: (!train).then_some(&*running),
    };
    let how = How { key: numbers.key, ..How::default() };
    let forward = reference::forward_as(graph, &inputs, how);
    let gradients = reference::backward(graph, &inputs, &forward, &[cast(&numbers.gradient)]);
    let out = |v: &[T]| v.iter().map(|v| v.to_f64()).collect::<Vec<_>>();
    let statistics = if train { out(&forward.statistics) } else { vec![] };
    let margin = reference::margin(graph, &inputs, &forward);
    let (weights, ops) = (out(&gradients.weights), out(&gradients.ops));
    (Results([out(&forward.exports[0]), statistics, weights, ops]), margin)
}

fn fused(network: &Network, numbers: &Numbers, train: bool) -> Check<Results> {
    let flat = |v: &[f32]| Tensor::from_slice(v, v.len(), &Device::Cpu);
    let (c, h, w) = network.graph().input_shape();
    let images = flat(&numbers.images)?.reshape((numbers.batch, c, h, w))?;
    let weights = Var::from_tensor(&flat(&numbers.weights)?)?;
    let ops = Var::from_tensor(&flat(&numbers.ops)?)?;
    let running = flat(&numbers.running)?;
    let mode = if train { Mode::Train } else { Mode::Eval { running: &running } };
    let out = network.forward_with_key(&images, &weights, &ops, mode, numbers.key)?;
    let node = out.exports[0].flatten_all()?;
    let gradients = (&node * flat(&numbers.gradient)?)?.sum_all()?.backward()?;
    let values = |t: &Tensor| -> Check<Vec<f64>> { Ok(wide(&t.to_vec1::<f32>()?)) };
    let of = |var: &Var, what: &str| match gradients.get(var) {
        Some(gradient) => values(gradient),
        None => Err(crate::report::Failure(format!("no gradient of the {what}"))),
    };
    let statistics = out.statistics.map_or(Ok(vec![]), |s| values(&s))?;
    let (of_weights, of_ops) = (of(&weights, "weights")?, of(&ops, "operation weights")?);
    Ok(Results([values(&node)?, statistics, of_weights, of_ops]))
}

/// Compares an operation at a site.
pub(crate) fn compare(recipe: &Recipe, site: Site) -> Check {
    for (height, width, batch) in SIZES {
        let Some(cell) = Cell::new(recipe, site, (height, width))? else { continue };
        for train in [true, false] {
            let mode = if train { "training" } else { "evaluation" };
            let what = format!("{batch} images of {height} × {width} in {mode}");
            let mut wrong = None;
            for seed in 0..TRIES {
                let numbers = Numbers::new(&cell, batch, seed);
                let (expected, margin) = unfused::<f64>(&cell.graph, &numbers, train);
                if margin < MARGIN {
                    continue;
                }
                wrong = difference(&cell, &numbers, train, &expected)?;
                if wrong.is_none() {
                    break;
                }
            }
            ensure!(wrong.is_none(), "{what}: {}", wrong.unwrap_or_default());
        }
    }
    Ok(())
}

/// What differs between fused and unfused.
fn difference(
    cell: &Cell,
    numbers: &Numbers,
    train: bool,
    expected: &Results,
) -> Check<Option<String>> {
    for simd in simd_paths() {
        let Some(network) = Network::with_simd(cell.graph.clone(), simd) else { continue };
        let errors = fused(&network, numbers, train)?.errors(expected, &cell.weights);
        if errors.iter().all(|e| *e <= TOLERANCE) {
            continue;
        }
        let single = unfused::<f32>(&cell.graph, numbers, train).0.errors(expected, &cell.weights);
        for part in 0..4 {
            if errors[part] > TOLERANCE.max((WORSE * single[part]).min(MOST)) {
                return Ok(Some(format!(
                    "fused on {simd}, the {} are off those of one primitive after another by {:.1e}",
                    PARTS[part], errors[part]
                )));
            }
        }
    }
    Ok(None)
}

/// The reference's gradient in every parameter and in the operation weights against central
/// differences of its values, along random directions.
pub(crate) fn differentiate(recipe: &Recipe, site: Site) -> Check {
    const STEP: f64 = 1e-7;
    let (height, width, batch) = SIZES[1];
    let Some(cell) = Cell::new(recipe, site, (height, width))? else { return Ok(()) };
    let mut wrong = None;
    for seed in 0..5 * TRIES {
        let numbers = Numbers::new(&cell, batch, seed);
        let (exact, margin) = unfused::<f64>(&cell.graph, &numbers, true);
        if margin < 100.0 * STEP {
            continue;
        }
        let (images, gradient) = (wide(&numbers.images), wide(&numbers.gradient));
        let how = How { key: numbers.key, ..How::default() };
        let value = |weights: &[f64], ops: &[f64]| -> f64 {
            let inputs = Inputs { batch, images: &images, weights, ops, running: None };
            let out = reference::forward_as(&cell.graph, &inputs, how);
            out.exports[0].iter().zip(&gradient).map(|(o, g)| o * g).sum()
        };
        let start = [wide(&numbers.weights), wide(&numbers.ops)];
        let entries = cell.weights.entries().iter();
        let mut ranges: Vec<_> =
            entries.map(|e| (e.name.as_str(), 0, e.offset..e.offset + e.len())).collect();
        ranges.push(("the operation weights", 1, 0..numbers.ops.len()));
        let mut signs = draws(seed);
        wrong = None;
        for (name, which, range) in ranges {
            let mut moved = [start.clone(), start.clone()];
            let (mut expected, mut square) = (0.0, 0.0);
            for i in range {
                let d = if signs.below(2) == 0 { STEP } else { -STEP };
                moved[0][which][i] += d;
                moved[1][which][i] -= d;
                let term = exact.0[2 + which][i] * d;
                expected += term;
                square += term * term;
            }
            let [up, down] = moved.map(|[weights, ops]| value(&weights, &ops));
            let error = ((up - down) / 2.0 - expected).abs() / STEP;
            let bound = 1e-5 * square.sqrt() / STEP + 1e-7;
            if error > bound || error.is_nan() {
                wrong = Some(format!("the gradient of `{name}` is off differences by {error:.1e}"));
            }
        }
        if wrong.is_none() {
            return Ok(());
        }
    }
    ensure!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    Ok(())
}
