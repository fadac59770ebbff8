//! Times networks of dense convolutions through one candle operation: the NAS-Bench-201 supernet,
//! ResNet-20, and the network derived from the genotype DARTS_V2.
//! `dense_nets [nb201|resnet|derived] [channels batch image threads repetitions]`.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark")]

use std::time::Instant;

use candle_core::{D, Device, Result, Tensor, Var};
use tetlo_kernels::{
    Affine, Export, GraphBuilder, Mode, Network, Primitive, StateId, Term, Weight, set_threads,
};

/// Operation weights of an edge of NAS-Bench-201: none, identity, 1x1, 3x3, average.
const OPERATIONS: usize = 5;
const CLASSES: usize = 10;

type Chain = Vec<Primitive>;

/// Places of the parameters in the flat vectors.
#[derive(Default)]
struct Offsets {
    weights: usize,
    statistics: usize,
    affine: bool,
}

impl Offsets {
    fn weights(&mut self, len: usize) -> usize {
        self.weights += len;
        self.weights - len
    }
    fn norm(&mut self, channels: usize) -> Primitive {
        let affine = self
            .affine
            .then(|| Affine { gamma: self.weights(channels), beta: self.weights(channels) });
        self.statistics += 2 * channels;
        Primitive::BatchNorm { affine, statistics: self.statistics - 2 * channels }
    }
    fn dense(&mut self, from: usize, out: usize, kernel: usize, stride: usize) -> Chain {
        let weight = self.weights(from * out * kernel * kernel);
        vec![Primitive::Dense { kernel, stride, out, weight }, self.norm(out)]
    }
    fn rectified(&mut self, from: usize, out: usize, kernel: usize, stride: usize) -> Chain {
        let mut chain = vec![Primitive::Relu];
        chain.extend(self.dense(from, out, kernel, stride));
        chain
    }
    fn residual(&mut self, from: usize, out: usize, stride: usize) -> Chain {
        let mut chain = self.rectified(from, out, 3, stride);
        chain.extend(self.rectified(out, out, 3, 1));
        chain
    }
    fn reduce(&mut self, from: usize, out: usize) -> Chain {
        let even = self.weights(out / 2 * from);
        let odd = self.weights((out - out / 2) * from);
        vec![Primitive::Relu, Primitive::FactorizedReduce { out, even, odd }, self.norm(out)]
    }
    fn depthwise(&mut self, c: usize, stride: usize, dilation: usize) -> Chain {
        let weight = self.weights(c * 9);
        let pointwise = self.weights(c * c);
        vec![
            Primitive::Relu,
            Primitive::Depthwise { kernel: 3, stride, dilation, weight },
            Primitive::Pointwise { out: c, stride: 1, weight: pointwise },
            self.norm(c),
        ]
    }
    fn separable(&mut self, c: usize, stride: usize) -> Chain {
        let mut chain = self.depthwise(c, stride, 1);
        chain.extend(self.depthwise(c, 1, 1));
        chain
    }
}

struct Net {
    network: Network,
    weights: usize,
    ops: usize,
    features: usize,
}

fn term(input: StateId, chain: Chain, weight: Weight) -> Term {
    Term { input: vec![input], chain, weight }
}

fn one(input: StateId, chain: Chain) -> Term {
    term(input, chain, Weight::One)
}

fn finish(
    mut b: GraphBuilder,
    last: Vec<StateId>,
    o: &Offsets,
    ops: usize,
) -> tetlo_kernels::Result<Net> {
    let features = last.iter().map(|s| b.shape(*s).0).sum();
    b.export(Export::Pooled { states: last, relu: true });
    Ok(Net { network: Network::new(b.finish()?), weights: o.weights, ops, features })
}

/// Three stages of five cells with four nodes and six edges.
fn nb201(mut c: usize, image: usize) -> tetlo_kernels::Result<Net> {
    let (mut b, mut o) = (GraphBuilder::new(3, image, image), Offsets::default());
    let images = b.input();
    let mut state = b.state(vec![one(images, o.dense(3, c, 3, 1))])?;
    for stage in 0..3 {
        if stage > 0 {
            let shortcut = o.weights(2 * c * c);
            let shortcut = Primitive::Pointwise { out: 2 * c, stride: 2, weight: shortcut };
            let residual = o.residual(c, 2 * c, 2);
            state = b.state(vec![one(state, residual), one(state, vec![shortcut])])?;
            c *= 2;
        }
        for _ in 0..5 {
            let mut nodes = vec![state];
            let mut edge = 0;
            for node in 1..4 {
                let mut terms = Vec::new();
                for &source in &nodes[..node] {
                    let pool = vec![Primitive::AvgPool { stride: 1 }];
                    let chains = [vec![], o.rectified(c, c, 1, 1), o.rectified(c, c, 3, 1), pool];
                    for (op, chain) in chains.into_iter().enumerate() {
                        let weight = Weight::Shared(edge * OPERATIONS + op + 1);
                        terms.push(term(source, chain, weight));
                    }
                    edge += 1;
                }
                nodes.push(b.state(terms)?);
            }
            state = nodes[3];
        }
    }
    finish(b, vec![state], &o, 6 * OPERATIONS)
}

/// Three stages of three basic blocks; states are taken before their rectifier.
fn resnet(mut c: usize, image: usize) -> tetlo_kernels::Result<Net> {
    let mut b = GraphBuilder::new(3, image, image);
    let mut o = Offsets { affine: true, ..Offsets::default() };
    let images = b.input();
    let mut state = b.state(vec![one(images, o.dense(3, c, 3, 1))])?;
    for stage in 0..3 {
        for block in 0..3 {
            let reduce = stage > 0 && block == 0;
            let from = c;
            c *= if reduce { 2 } else { 1 };
            let stride = if reduce { 2 } else { 1 };
            let shortcut = if reduce { o.rectified(from, c, 1, 2) } else { vec![Primitive::Relu] };
            let residual = o.residual(from, c, stride);
            state = b.state(vec![one(state, residual), one(state, shortcut)])?;
        }
    }
    finish(b, vec![state], &o, 1)
}

#[derive(Clone, Copy)]
enum Op {
    Separable,
    Dilated,
    Skip,
    Max,
}

/// DARTS_V2, eight cells.
fn derived(mut c: usize, image: usize) -> tetlo_kernels::Result<Net> {
    use Op::{Dilated, Max, Separable, Skip};
    const NORMAL: [[(Op, usize); 2]; 4] = [
        [(Separable, 0), (Separable, 1)],
        [(Separable, 0), (Separable, 1)],
        [(Separable, 1), (Skip, 0)],
        [(Skip, 0), (Dilated, 2)],
    ];
    const REDUCE: [[(Op, usize); 2]; 4] =
        [[(Max, 0), (Max, 1)], [(Skip, 2), (Max, 1)], [(Max, 0), (Skip, 2)], [(Skip, 2), (Max, 1)]];
    let mut b = GraphBuilder::new(3, image, image);
    let mut o = Offsets { affine: true, ..Offsets::default() };
    let images = b.input();
    let stem = b.state(vec![one(images, o.dense(3, 3 * c, 3, 1))])?;
    let (mut before, mut last, mut reduced) = (vec![stem], vec![stem], false);
    for layer in 0..8 {
        let reduce = layer == 2 || layer == 5;
        c *= if reduce { 2 } else { 1 };
        let channels = |b: &GraphBuilder, s: &[StateId]| s.iter().map(|s| b.shape(*s).0).sum();
        let from = channels(&b, &before);
        let chain = if reduced { o.reduce(from, c) } else { o.rectified(from, c, 1, 1) };
        let join = |input: &[StateId], chain| {
            vec![Term { input: input.to_vec(), chain, weight: Weight::One }]
        };
        let mut states = vec![b.state(join(&before, chain))?];
        let chain = o.rectified(channels(&b, &last), c, 1, 1);
        states.push(b.state(join(&last, chain))?);
        for node in if reduce { REDUCE } else { NORMAL } {
            let mut terms = Vec::new();
            for (op, source) in node {
                let stride = if reduce && source < 2 { 2 } else { 1 };
                let chain = match op {
                    Separable => o.separable(c, stride),
                    Dilated => o.depthwise(c, stride, 2),
                    Skip if stride == 1 => vec![],
                    Skip => o.reduce(c, c),
                    Max => vec![Primitive::MaxPool { stride }],
                };
                terms.push(one(states[source], chain));
            }
            states.push(b.state(terms)?);
        }
        before = last;
        last = states.split_off(2);
        reduced = reduce;
    }
    finish(b, last, &o, 1)
}

/// Milliseconds of wall time, or (with `CPU_TIME` set, on Linux) of this thread: for machines that
/// are shared.
struct Clock(Instant, Option<f64>);

impl Clock {
    fn cpu() -> Option<f64> {
        std::env::var_os("CPU_TIME")?;
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        Some(text.split(' ').next()?.parse::<f64>().ok()? / 1e6)
    }
    fn start() -> Self {
        Self(Instant::now(), Self::cpu())
    }
    fn elapsed(&self) -> f64 {
        match (self.1, Self::cpu()) {
            (Some(start), Some(now)) => now - start,
            _ => self.0.elapsed().as_secs_f64() * 1e3,
        }
    }
}

/// Uniform in -1..1.
fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut s = seed;
    move || {
        s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (s >> 40) as f32 / 8_388_608.0 - 1.0
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> Result<()> {
    let which = std::env::args().nth(1).unwrap_or_else(|| "nb201".to_owned());
    let given: Vec<usize> = std::env::args().skip(2).filter_map(|a| a.parse().ok()).collect();
    let arg = |i: usize, default| given.get(i).copied().unwrap_or(default);
    let (c, batch, image) = (arg(0, 16), arg(1, 32), arg(2, 32));
    set_threads(arg(3, 1));
    let repetitions = arg(4, 5);
    let net = match which.as_str() {
        "resnet" => resnet(c, image),
        "derived" => derived(c, image),
        _ => nb201(c, image),
    }?;
    let (device, mut r) = (&Device::Cpu, random(1));
    let mut random = |n: usize, scale: f32| (0..n).map(|_| scale * r()).collect::<Vec<f32>>();
    let head =
        Tensor::from_vec(random(net.features * CLASSES, 0.15), (net.features, CLASSES), device)?;
    let mut weights = Var::from_vec(random(net.weights, 0.15), net.weights, device)?;
    let ops: Vec<f32> = random(net.ops, 0.01).iter().map(|r| 0.2 + r).collect();
    let ops = Var::from_vec(ops, net.ops, device)?;
    let images = random(batch * 3 * image * image, 1.0);
    let images = Tensor::from_vec(images, (batch, 3, image, image), device)?;
    let labels: Vec<u32> = (0..batch as u32).map(|i| i * 7 % CLASSES as u32).collect();
    let labels = Tensor::from_vec(labels, (batch, 1), device)?;

    let loss = |weights: &Tensor, ops: &Tensor| -> Result<Tensor> {
        let features = net.network.forward(&images, weights, ops, Mode::Train)?.exports[0].clone();
        let logits = features.matmul(&head)?;
        let logits = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
        let log_sum = logits.exp()?.sum_keepdim(D::Minus1)?.log()?;
        logits.broadcast_sub(&log_sum)?.gather(&labels, 1)?.mean_all()?.neg()
    };
    let mut momentum = vec![0.0f32; net.weights];
    let mut times: [Vec<f64>; 4] = Default::default();
    let mut last = 0.0;
    for repetition in 0..=repetitions {
        let clock = Clock::start();
        loss(&weights.detach(), &ops.detach())?.to_scalar::<f32>()?;
        let forward = clock.elapsed();
        let mut arch = 0.0;
        if net.ops > 1 {
            let clock = Clock::start();
            loss(&weights.detach(), &ops)?.backward()?;
            arch = clock.elapsed();
        }
        let clock = Clock::start();
        let value = loss(&weights, &ops.detach())?;
        let gradients = value.backward()?;
        last = value.to_scalar::<f32>()?;
        let gradient = gradients.get(&weights).unwrap().to_vec1::<f32>()?;
        let mut values = weights.to_vec1::<f32>()?;
        let norm = gradient.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let scale = (5.0 / (norm + 1e-6)).min(1.0) as f32;
        for ((w, g), m) in values.iter_mut().zip(&gradient).zip(&mut momentum) {
            *m = 0.9 * *m + scale * g + 3e-4 * *w;
            *w -= 0.025 * *m;
        }
        weights = Var::from_vec(values, net.weights, device)?;
        let weight = clock.elapsed();
        if repetition > 0 {
            for (times, time) in times.iter_mut().zip([forward, arch, weight, arch + weight]) {
                times.push(time);
            }
        }
    }
    let [forward, arch, weight, step] = times.each_mut().map(|t| median(t));
    println!(
        "{which} {} batch {batch} weights {} forward {forward:.1} arch {arch:.1} weight {weight:.1} \
         step {step:.1} ms, loss {last:.5}",
        net.network.simd(),
        net.weights,
    );
    Ok(())
}
