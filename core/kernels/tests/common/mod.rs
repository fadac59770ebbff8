//! Random graphs, and the comparison of a compiled network with the `f64` reference.
#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use candle_core::{Device, Tensor, Var};
use tetlo_kernels::reference::{self, Inputs, Scalar};
use tetlo_kernels::{
    Affine, AvgPool2x2, Export, Graph, GraphBuilder, Map, MaxPool2x2, Mode, Network, Primitive,
    StateId, Term, Weight,
};

/// A linear congruential generator: the tests need variety, not quality.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut r = Self(seed ^ 0x9E37_79B9_7F4A_7C15);
        r.below(2);
        r
    }
    pub fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
    /// Uniform in -1..1.
    pub fn value(&mut self) -> f32 {
        self.below(1 << 24) as f32 / 8_388_608.0 - 1.0
    }
    pub fn values(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| scale * self.value()).collect()
    }
}

/// Gives out places in the flat vectors.
#[derive(Default)]
pub struct Places {
    pub weights: usize,
    pub statistics: usize,
    pub affine: bool,
}

impl Places {
    pub fn weights(&mut self, len: usize) -> usize {
        self.weights += len;
        self.weights - len
    }
    pub fn norm(&mut self, channels: usize) -> Primitive {
        let affine = self
            .affine
            .then(|| Affine { gamma: self.weights(channels), beta: self.weights(channels) });
        self.statistics += 2 * channels;
        Primitive::BatchNorm { affine, statistics: self.statistics - 2 * channels }
    }
    pub fn pointwise(&mut self, from: usize, out: usize, stride: usize) -> Primitive {
        Primitive::Pointwise { out, stride, weight: self.weights(from * out) }
    }
    pub fn dense(&mut self, from: usize, out: usize, kernel: usize, stride: usize) -> Primitive {
        let weight = self.weights(from * out * kernel * kernel);
        Primitive::Dense { kernel, stride, out, weight }
    }
    pub fn depthwise(
        &mut self,
        c: usize,
        kernel: usize,
        stride: usize,
        dilation: usize,
    ) -> Primitive {
        Primitive::Depthwise { kernel, stride, dilation, weight: self.weights(c * kernel * kernel) }
    }
    pub fn reduce(&mut self, from: usize, out: usize) -> Primitive {
        let even = self.weights(out / 2 * from);
        let odd = self.weights((out - out / 2) * from);
        Primitive::FactorizedReduce { out, even, odd }
    }
}

pub const KINDS: usize = 23;

/// A chain of one kind from `from` to `out` channels, if that kind can do it.
pub fn chain(
    kind: usize,
    p: &mut Places,
    r: &mut Random,
    (from, h, w): (usize, usize, usize),
    out: usize,
    stride: usize,
) -> Option<Vec<Primitive>> {
    use Primitive::{AvgPool, MaxPool, Relu};
    let same = from == out;
    let (kernel, dilation) = (r.pick(&[3, 5, 7, 1]), r.pick(&[1, 2, 3]));
    Some(match kind {
        0 if same && stride == 1 => vec![],
        1 if same && stride == 1 => vec![Relu],
        2 if stride == 2 && h % 2 == 0 && w % 2 == 0 => {
            vec![Relu, p.reduce(from, out), p.norm(out)]
        }
        3 => vec![Relu, p.pointwise(from, out, stride), p.norm(out)],
        4 => vec![
            Relu,
            p.depthwise(from, kernel, stride, dilation),
            p.pointwise(from, out, 1),
            p.norm(out),
        ],
        5 => vec![
            Relu,
            p.depthwise(from, r.pick(&[3, 5]), stride, r.pick(&[1, 2])),
            p.pointwise(from, out, 1),
            p.norm(out),
            Relu,
            p.depthwise(out, r.pick(&[3, 5]), 1, r.pick(&[1, 2])),
            p.pointwise(out, out, 1),
            p.norm(out),
        ],
        6 if same => vec![MaxPool { stride }, p.norm(out)],
        7 if same => vec![AvgPool { stride }, p.norm(out)],
        8 if same => vec![MaxPool { stride }],
        9 if same => vec![AvgPool { stride }],
        10 => vec![p.dense(from, out, r.pick(&[1, 3, 5]), stride), p.norm(out)],
        11 => vec![
            Relu,
            p.dense(from, out, 3, stride),
            p.norm(out),
            Relu,
            p.dense(out, out, 3, 1),
            p.norm(out),
        ],
        12 => vec![p.pointwise(from, out, stride), p.norm(out)],
        13 => vec![p.dense(from, out, 3, stride)],
        14 => vec![p.pointwise(from, 5, 1), p.norm(5), p.pointwise(5, out, stride), p.norm(out)],
        15 => vec![p.dense(from, 20, 3, 1), Relu, p.dense(20, out, 3, stride)],
        16 => vec![
            Relu,
            p.pointwise(from, 17, 1),
            p.norm(17),
            Relu,
            p.depthwise(17, 3, stride, 1),
            p.pointwise(17, 9, 1),
            p.norm(9),
            p.pointwise(9, out, 1),
        ],
        17 => vec![p.depthwise(from, 3, stride, 2), p.pointwise(from, out, 1)],
        18 if same && stride == 2 && h % 2 == 0 && w % 2 == 0 => {
            vec![Primitive::Map(Map::AvgPool2x2(AvgPool2x2))]
        }
        19 if same && stride == 2 && h % 2 == 0 && w % 2 == 0 => {
            vec![Primitive::Map(Map::AvgPool2x2(AvgPool2x2)), p.norm(out)]
        }
        20 if same && stride == 1 => vec![p.norm(out)],
        21 if same && stride == 2 && h % 2 == 0 && w % 2 == 0 => {
            vec![Primitive::Map(Map::MaxPool2x2(MaxPool2x2))]
        }
        22 if same && stride == 2 && h % 2 == 0 && w % 2 == 0 => {
            vec![Primitive::Map(Map::MaxPool2x2(MaxPool2x2)), p.norm(out)]
        }
        _ => return None,
    })
}

/// Some channels of some states, in some order.
fn gather(b: &mut GraphBuilder, r: &mut Random, from: &[StateId]) -> StateId {
    let inputs: Vec<StateId> = (0..=r.below(3)).map(|_| r.pick(from)).collect();
    let channels: usize = inputs.iter().map(|s| b.shape(*s).0).sum();
    let mut order: Vec<usize> = (0..channels).collect();
    for i in (1..channels).rev() {
        order.swap(i, r.below(i + 1));
    }
    order.truncate(1 + r.below(channels));
    b.gather(&inputs, &order).unwrap()
}

/// A random graph, its number of operation weights for `batch` images, and its places.
pub fn random_graph(r: &mut Random, batch: usize) -> (Graph, usize, Places) {
    let (c, h, w) = (r.pick(&[1, 3, 16, 20]), 1 + r.below(9), 1 + r.below(9));
    let mut b = GraphBuilder::new(c, h, w);
    let mut p = Places::default();
    let mut states = vec![b.input()];
    let mut ops = 0;
    for _ in 0..=r.below(4) {
        let source = r.pick(&states);
        let (from, h, w) = b.shape(source);
        let stride = 1 + r.below(2);
        let out = if r.below(2) == 0 { from } else { r.pick(&[1, 3, 8, 16, 24, 36]) };
        let matching: Vec<StateId> =
            states.iter().copied().filter(|s| b.shape(*s).1 == h && b.shape(*s).2 == w).collect();
        let mut terms = Vec::new();
        for _ in 0..r.below(9) {
            let mut input = vec![r.pick(&matching)];
            if r.below(5) == 0 {
                input.push(r.pick(&matching));
            }
            let from = input.iter().map(|s| b.shape(*s).0).sum();
            p.affine = r.below(2) == 0;
            let kind = r.below(KINDS);
            let single =
                input.len() == 1 || ![0, 1, 6, 7, 8, 9, 18, 19, 20, 21, 22].contains(&kind);
            let Some(chain) = chain(kind, &mut p, r, (from, h, w), out, stride).filter(|_| single)
            else {
                continue;
            };
            let weight = match r.below(4) {
                0 => Weight::One,
                1 => {
                    ops += batch;
                    Weight::PerImage(ops - batch)
                }
                _ => {
                    ops += 1;
                    Weight::Shared(ops - 1)
                }
            };
            terms.push(Term { input, chain, weight });
        }
        let (ho, wo) = ((h - 1) / stride + 1, (w - 1) / stride + 1);
        states.push(b.state_with_shape(out, ho, wo, terms).unwrap());
        if r.below(3) == 0 {
            let (_, h, w) = b.shape(r.pick(&states));
            let same: Vec<StateId> = states
                .iter()
                .copied()
                .filter(|s| b.shape(*s).1 == h && b.shape(*s).2 == w)
                .collect();
            states.push(gather(&mut b, r, &same));
        }
    }
    let relu = r.below(2) == 0;
    let last = states[states.len() - 1];
    let pooled = b.export(Export::Pooled { states: vec![last], relu });
    let (channels, out) = (b.shape(last).0, 1 + r.below(5));
    let (weight, bias) = (p.weights(out * channels), p.weights(out));
    b.export(Export::Linear { of: pooled, out, weight, bias });
    let any = r.pick(&states);
    b.export(Export::Map { states: vec![any, any], relu: !relu });
    (b.finish().unwrap(), ops, p)
}

/// Operations on some channels of a state, whose sum is joined with others: what reads few channels
/// may run on several images in one register, of which the last lacks some.
pub fn partial_graph(r: &mut Random) -> Graph {
    let (c, part) = r.pick(&[(4, 1), (4, 2), (16, 4), (12, 3), (8, 4), (20, 8), (32, 8), (36, 12)]);
    let (h, w) = (1 + r.below(9), 1 + r.below(9));
    let mut b = GraphBuilder::new(3, h, w);
    let mut p = Places::default();
    let term = |input, chain, weight| Term { input: vec![input], chain, weight };
    let chain_below = vec![p.pointwise(3, c, 1), p.norm(c)];
    let mut states = vec![b.state(vec![term(b.input(), chain_below, Weight::One)]).unwrap()];
    let mut ops = 0;
    let stride = 1 + r.below(2);
    for node in 0..=1 + r.below(2) {
        let stride = if node == 0 { stride } else { 1 };
        let mut terms = Vec::new();
        let sources = if stride == 2 { 1 } else { states.len() };
        for source in 0..sources {
            if b.shape(states[source]) != b.shape(states[sources - 1]) {
                continue;
            }
            let input = b.gather(&[states[source]], &(0..part).collect::<Vec<_>>()).unwrap();
            let (_, h, w) = b.shape(input);
            for _ in 0..=r.below(5) {
                let kind = r.below(KINDS);
                p.affine = r.below(2) == 0;
                // Chains with wide stages in between make the state an unpacked one: now and then.
                if [14, 15, 16].contains(&kind) && r.below(4) > 0 {
                    continue;
                }
                if let Some(chain) = chain(kind, &mut p, r, (part, h, w), part, stride) {
                    ops += 1;
                    terms.push(term(input, chain, Weight::Shared(ops - 1)));
                }
            }
        }
        let (_, h, w) = b.shape(states[sources - 1]);
        let (ho, wo) = ((h - 1) / stride + 1, (w - 1) / stride + 1);
        let mixed = b.state_with_shape(part, ho, wo, terms).unwrap();
        let past = p.pointwise(c, c, stride);
        let past = b.state(vec![term(states[sources - 1], vec![past], Weight::One)]).unwrap();
        let shuffled: Vec<usize> = (0..c).map(|k| (k * 7 + 1) % c).collect();
        let channels: Vec<usize> =
            shuffled.iter().map(|k| if *k < part { *k } else { k + part }).collect();
        let coprime = shuffled.iter().collect::<std::collections::BTreeSet<_>>().len() == c;
        let channels =
            if coprime { channels } else { (0..part).chain(2 * part..c + part).collect() };
        states.push(b.gather(&[mixed, past], &channels).unwrap());
    }
    let last = states[states.len() - 1];
    b.export(Export::Pooled { states: vec![last], relu: false });
    b.export(Export::Map { states: vec![r.pick(&states)], relu: true });
    b.finish().unwrap()
}

/// Dense 3x3 convolutions of stride 1 from two joined states of `from` channels together: a chain of
/// two, and one alone.
pub fn dense_graph(from: usize, out: usize, h: usize, w: usize) -> Graph {
    let mut p = Places { affine: w.is_multiple_of(2), ..Places::default() };
    let mut b = GraphBuilder::new(3, h, w);
    let images = b.input();
    let one = |input, chain| Term { input, chain, weight: Weight::One };
    let below = [from - 5, 5].map(|channels| {
        b.state(vec![one(vec![images], vec![p.dense(3, channels, 3, 1)])]).unwrap()
    });
    let two = vec![p.dense(from, out, 3, 1), p.norm(out), Primitive::Relu, p.dense(out, out, 3, 1)];
    let single = vec![p.dense(from, out, 3, 1), p.norm(out)];
    let terms = [two, single].map(|chain| one(below.to_vec(), chain));
    let state = b.state(terms.to_vec()).unwrap();
    b.export(Export::Map { states: vec![state], relu: false });
    b.finish().unwrap()
}

/// The vectors of one pass.
pub struct Data {
    pub batch: usize,
    pub images: Vec<f32>,
    pub weights: Vec<f32>,
    pub ops: Vec<f32>,
    pub running: Vec<f32>,
    /// Gradient of each export.
    pub exports: Vec<Vec<f32>>,
}

impl Data {
    pub fn random(graph: &Graph, r: &mut Random, batch: usize) -> Self {
        let (c, h, w) = graph.input_shape();
        let running = |r: &mut Random| r.value() + 1.5;
        Self {
            batch,
            images: r.values(batch * c * h * w, 1.0),
            weights: r.values(graph.weights().max(1), 0.5),
            ops: r.values(graph.ops(batch).max(1), 1.0),
            running: (0..graph.statistics().max(1)).map(|_| running(r)).collect(),
            exports: graph
                .exports()
                .iter()
                .map(|e| r.values(graph.export_shape(e, batch).iter().product(), 1.0))
                .collect(),
        }
    }

    pub fn images(&self, graph: &Graph) -> Tensor {
        let (c, h, w) = graph.input_shape();
        Tensor::from_slice(&self.images, (self.batch, c, h, w), &Device::Cpu).unwrap()
    }
}

pub fn flat(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap()
}

pub fn vector(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// What a pass gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub exports: Vec<Vec<f32>>,
    pub statistics: Vec<f32>,
    pub weights: Vec<f32>,
    pub ops: Vec<f32>,
}

impl Found {
    pub fn bits(&self) -> Vec<u32> {
        let all = self.exports.iter().chain([&self.statistics, &self.weights, &self.ops]);
        all.flatten().map(|v| v.to_bits()).collect()
    }
}

/// `sum over exports of <gradient, export>`.
pub fn loss(exports: &[Tensor], gradients: &[Vec<f32>]) -> Tensor {
    let parts = exports
        .iter()
        .zip(gradients)
        .map(|(e, g)| (e.flatten_all().unwrap() * flat(g)).unwrap().sum_all().unwrap());
    parts.reduce(|a, b| (a + b).unwrap()).unwrap()
}

pub fn run(network: &Network, data: &Data, evaluate: bool) -> Found {
    let graph = network.graph();
    let weights = Var::from_tensor(&flat(&data.weights)).unwrap();
    let ops = Var::from_tensor(&flat(&data.ops)).unwrap();
    let running = flat(&data.running);
    let mode = if evaluate { Mode::Eval { running: &running } } else { Mode::Train };
    let out = network.forward(&data.images(graph), &weights, &ops, mode).unwrap();
    let gradients = loss(&out.exports, &data.exports).backward().unwrap();
    Found {
        exports: out.exports.iter().map(vector).collect(),
        statistics: out.statistics.map_or(vec![], |s| vector(&s)),
        weights: vector(gradients.get(&weights).unwrap()),
        ops: vector(gradients.get(&ops).unwrap()),
    }
}

pub struct Expected {
    pub exports: Vec<Vec<f64>>,
    pub statistics: Vec<f64>,
    pub weights: Vec<f64>,
    pub ops: Vec<f64>,
    /// Distance from the nearest jump of the gradient.
    pub margin: f64,
}

/// A vector in another precision.
fn cast<T: Scalar>(v: &[f32]) -> Vec<T> {
    v.iter().map(|v| T::from_f64(f64::from(*v))).collect()
}

/// The reference in precision `T`.
fn reference_in<T: Scalar>(graph: &Graph, data: &Data, evaluate: bool) -> Expected {
    let (images, weights, ops) = (cast::<T>(&data.images), cast(&data.weights), cast(&data.ops));
    let running = cast(&data.running);
    let inputs = Inputs {
        batch: data.batch,
        images: &images,
        weights: &weights,
        ops: &ops,
        running: evaluate.then_some(&*running),
    };
    let forward = reference::forward(graph, &inputs);
    let exports: Vec<Vec<T>> = data.exports.iter().map(|g| cast(g)).collect();
    let gradients = reference::backward(graph, &inputs, &forward, &exports);
    let wide = |v: &[T]| v.iter().map(|v| v.to_f64()).collect::<Vec<_>>();
    Expected {
        margin: reference::margin(graph, &inputs, &forward),
        statistics: if evaluate { vec![] } else { wide(&forward.statistics) },
        exports: forward.exports.iter().map(|e| wide(e)).collect(),
        weights: wide(&gradients.weights),
        ops: wide(&gradients.ops),
    }
}

pub fn expect(graph: &Graph, data: &Data, evaluate: bool) -> Expected {
    reference_in::<f64>(graph, data, evaluate)
}

/// How far the reference in single precision is off: batch norms of few values amplify rounding.
pub fn single_precision(
    graph: &Graph,
    data: &Data,
    evaluate: bool,
    expected: &Expected,
) -> [f64; 4] {
    let single = reference_in::<f32>(graph, data, evaluate);
    let narrow = |v: &[f64]| v.iter().map(|v| *v as f32).collect::<Vec<_>>();
    let found = Found {
        exports: single.exports.iter().map(|e| narrow(e)).collect(),
        statistics: narrow(&single.statistics),
        weights: narrow(&single.weights),
        ops: narrow(&single.ops),
    };
    differences(&found, expected)
}

/// Largest difference relative to the largest expected value (or 1).
pub fn difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0, |a: f64, e| a.max(e.abs()));
    let far = |(f, e): (&f32, &f64)| {
        let d = (f64::from(*f) - e).abs() / scale;
        if d.is_nan() { f64::INFINITY } else { d }
    };
    found.iter().zip(expected).map(far).fold(0.0, f64::max)
}

/// Largest difference of each part: exports, statistics, gradients of the weights and of the
/// operation weights.
pub fn differences(found: &Found, expected: &Expected) -> [f64; 4] {
    let exports = found.exports.iter().zip(&expected.exports);
    [
        exports.map(|(f, e)| difference(f, e)).fold(0.0, f64::max),
        difference(&found.statistics, &expected.statistics),
        difference(&found.weights, &expected.weights),
        difference(&found.ops, &expected.ops),
    ]
}
